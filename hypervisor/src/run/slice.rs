//! The vCPUs of several guests on one set of harts, and one pool for all of them.
//!
//! **Memory.** The guests may have more memory together than the pool has frames. Nothing is set aside for anybody: whoever asks when
//! nothing is left is the one that ends, and what it had goes back to the pool. **Policy:** no guest ends for want of a frame while
//! the frames of another one that ends are still on their way back, or came back since it asked: it gives up its slice and asks
//! again. So of several guests that run out at the same moment one ends, and nobody else is touched.

use super::{Machine, Outcome, RAM, Space, Stop};
use crate::cpus::Enter;
use crate::pool::Host;
use crate::vcpu::Vcpu;
use alloc::format;
use alloc::string::{String, ToString};
use slat::format::Format;
use slat::{GuestPhysAddr, PAGE_SIZE};
use slat_hv_protocol::End;
use spin::Mutex;

/// What the guests of one pool know of the frames that come back to it.
#[derive(Debug, Default)]
pub struct Reclaim(Mutex<Returns>);

#[derive(Debug, Default)]
struct Returns {
    /// Guests that have ended and whose frames are not back yet.
    closing: u64,
    /// Guests whose frames are back.
    closed: u64,
}

/// Why a vCPU left its hart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slice {
    /// It could go on at once.
    Preempted,
    /// It waits for an interrupt, or until its timer goes off.
    Waits {
        /// As [`Vcpu::next_timer`] has it.
        until: Option<u64>,
    },
    /// The guest is to be stopped for a while.
    Paused,
    /// The guest has turned it off, or had not turned it on.
    Off,
    /// The guest has ended. The one hart that gets an end calls [`Machine::close_slices`] with it: all vCPUs are out of the guest.
    Ended(Option<End>),
}

impl<'a, H: Host, F: Format> Machine<'a, H, F> {
    /// The same machine, as guest `number` of several whose spaces take their frames from one pool.
    #[must_use]
    pub fn sharing(self, number: u32, reclaim: &'a Reclaim) -> Self {
        Self { number: Some(number), reclaim: Some(reclaim), ..self }
    }

    /// The mistake of [`Mistake::SharedFrame`](slat_hv_protocol::Mistake::SharedFrame): the page at `gpa` of this guest is the one of
    /// `other` there, too.
    ///
    /// # Errors
    /// One line if the page is not in the RAM of both.
    pub fn share_page_with(&self, other: &Self, gpa: u64) -> Result<(), String> {
        let gpa = GuestPhysAddr::new(gpa);
        let failed = |error: &dyn core::fmt::Display| format!("a page cannot be shared: {error}");
        let own = self.space.read();
        let own = own.as_ref().ok_or("the guest has ended")?;
        own.populate(gpa, PAGE_SIZE).map_err(|error| failed(&error))?;
        let hpa = own.translate(gpa).ok_or("the page is not there")?;
        let mut space = other.space.write();
        let space = space.as_mut().ok_or("the other guest has ended")?;
        space.unmap(gpa, PAGE_SIZE).map_err(|error| failed(&error))?;
        space.map_linear(gpa, hpa, PAGE_SIZE, RAM).map_err(|error| failed(&error))
    }

    /// On any hart: runs vCPU `cpu` until its time is over or it has nothing to do; nothing of the guest is loaded then. The CPUs are
    /// [in slices](crate::cpus::Cpus::in_slices). `load` says what to load for the space, which other
    /// harts may be using; if it has nothing the guest ends. What ends
    /// the time ([`Exit::Preempted`](crate::vcpu::Exit::Preempted)) is set up by the caller.
    pub fn slice<V: Vcpu>(
        &self,
        cpu: usize,
        vcpu: &mut V,
        load: impl FnOnce(&Space<'a, H, F>) -> Option<V::Root>,
    ) -> Slice {
        let entry = match self.cpus.enter(cpu) {
            Enter::Begin(entry) => Some(entry),
            Enter::Resume => None,
            Enter::Off => return Slice::Off,
            // Who is the last one out was told so when it left.
            Enter::Ended => return Slice::Ended(None),
        };
        // It is inside: the space cannot go.
        let root = self.space.read().as_ref().and_then(load);
        let stop = match root {
            Some(root) => {
                vcpu.set_root(root);
                if let Some(entry) = entry {
                    vcpu.set_entry(GuestPhysAddr::new(entry.address), entry.argument);
                }
                vcpu.bind();
                let stop = self.go_on(cpu, vcpu);
                vcpu.unbind();
                stop
            }
            None => {
                let description = "the hart cannot load its table".to_string();
                Stop::Ended(End::Unsupported { description })
            }
        };
        match &stop {
            Stop::Off => self.cpus.leave(cpu),
            Stop::Ended(end) => {
                self.announce(end.clone());
                self.cpus.pause(cpu);
            }
            Stop::Stopped | Stop::Waits | Stop::Preempted | Stop::Paused => self.cpus.pause(cpu),
        }
        if self.cpus.is_last_out() {
            return Slice::Ended(self.end.lock().take());
        }
        match stop {
            _ if self.cpus.is_ending() => Slice::Ended(None),
            Stop::Waits => Slice::Waits { until: vcpu.next_timer() },
            Stop::Paused => Slice::Paused,
            Stop::Off => Slice::Off,
            Stop::Preempted | Stop::Stopped | Stop::Ended(_) => Slice::Preempted,
        }
    }

    /// Ends the guest from outside while none of its vCPUs is on a hart; the end to close it with, unless it has ended already.
    #[must_use]
    pub fn give_up(&self, end: End) -> Option<End> {
        self.announce(end);
        if self.cpus.is_last_out() { self.end.lock().take() } else { None }
    }

    /// Gives everything back after [`Slice::Ended`] with this end.
    ///
    /// # Errors
    /// As [`Self::close`]; nothing was given back then.
    pub fn close_slices(&self, end: End) -> Result<Outcome, String> {
        let outcome = self.close(end, || ());
        if let Some(reclaim) = self.reclaim {
            let mut returns = reclaim.0.lock();
            returns.closing = returns.closing.saturating_sub(1);
            returns.closed += 1;
        }
        outcome
    }

    /// Announces the end of a guest in slices, unless another vCPU did.
    fn announce(&self, end: End) {
        let mut returns = self.reclaim.map(|reclaim| reclaim.0.lock());
        self.announce_to(returns.as_deref_mut(), end);
    }

    fn announce_to(&self, returns: Option<&mut Returns>, end: End) {
        let mut first = self.end.lock();
        if self.cpus.end() {
            *first = Some(self.of_this_guest(end));
            if let Some(returns) = returns {
                returns.closing += 1;
            }
        }
    }

    fn of_this_guest(&self, end: End) -> End {
        let Some(number) = self.number else { return end };
        let named = |description: String| format!("guest {number}: {description}");
        match end {
            End::Fault { description } => End::Fault { description: named(description) },
            End::Unsupported { description } => End::Unsupported { description: named(description) },
            End::OutOfMemory { description } => End::OutOfMemory { description: named(description) },
            End::PowerOff
            | End::Reset
            | End::ScreenShows
            | End::ConsoleShows
            | End::Saved
            | End::Moved
            | End::Quit => end,
        }
    }

    /// How often frames of guests that ended came back to the pool.
    pub(super) fn returns(&self) -> u64 {
        self.reclaim.map_or(0, |reclaim| reclaim.0.lock().closed)
    }

    /// What becomes of a vCPU for which there was no frame, although frames had come back `returns` times before it asked.
    pub(super) fn starved(&self, description: String, returns: u64) -> Stop {
        let end = End::OutOfMemory { description };
        let Some(reclaim) = self.reclaim else { return Stop::Ended(end) };
        let mut state = reclaim.0.lock();
        if state.closing > 0 || state.closed != returns {
            return Stop::Preempted;
        }
        // Before anybody else is asked whether it has to end; the second announcement, by whoever gets this, changes nothing.
        self.announce_to(Some(&mut *state), end.clone());
        Stop::Ended(end)
    }

    /// What the pool has left, for a message.
    pub(super) fn left_over(&self) -> String {
        let left = self.space.read().as_ref().map(|space| space.hal().frames_left());
        left.map_or("".to_string(), |left| format!("; {left} frames of 4 KiB are left"))
    }
}

#[cfg(test)]
pub(super) mod tests;
