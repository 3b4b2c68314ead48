//! What waits for its delivery, and how the vCPU notices that the guest is ready for it.
//!
//! One event fits into an entry; which one is that of `pending.rs` in the crate's root, with its double faults. What has
//! to wait is delivered as soon as the guest is ready: for that the vCPU asks for the window itself.
//!
//! NMIs are blocked from the delivery of one until the guest has executed IRET; one whose delivery was interrupted blocks none
//! yet. The CPU only tells that the guest is about to execute IRET: the vCPU lets it execute that one instruction (APM vol. 2, "NMI
//! Intercept"; CPUs with virtual NMIs are treated alike). For an NMI that has to wait although none are blocked, because another event
//! fills the entry, nothing tells when that is delivered: it comes at the next exit, and there is one at the latest when the handler
//! lets interrupts in or executes its own IRET.

use super::event::{Delivery, Interrupted};
use super::intercepts::Wanted;
use crate::event::Event;
use crate::pending::{Open, Pending as Queue};

/// Whether the guest takes NMIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NmiBlocking {
    /// It does.
    #[default]
    Open,
    /// It does not before its next IRET.
    Blocked,
    /// It executes that IRET now, as the only instruction.
    Stepping(Step),
}

/// What single-stepping has changed in the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Where the IRET is.
    pub(super) rip: u64,
    /// RFLAGS.TF was set by the guest itself.
    pub(super) trap_flag: bool,
    /// DR6.
    pub(super) dr6: u64,
}

/// What one entry does about events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// What it delivers.
    pub(super) delivery: Option<Delivery>,
    /// What it asks for.
    pub(super) wanted: Wanted,
}

/// The events of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    queue: Queue,
    /// What the last exit interrupted.
    interrupted: Option<Event>,
    /// What the entry delivers that was planned last.
    injected: Option<Event>,
    pub(super) blocking: NmiBlocking,
    /// The hypervisor asked for them.
    pub(super) interrupt_window: bool,
    pub(super) nmi_window: bool,
}

impl Pending {
    /// Adds `event`, which is good; in protected mode a double fault has an error code.
    pub(super) fn add(&mut self, event: Event, protected: bool) {
        self.queue.add(event, protected);
    }

    /// Whether an external interrupt would be delivered at the next entry, if the guest takes it.
    pub(super) fn has_room_for_interrupts(&self) -> bool {
        self.queue.has_room_for_interrupts()
    }

    /// Whether the guest has shut down; asking ends that.
    pub(super) fn take_shutdown(&mut self) -> bool {
        self.queue.take_shutdown()
    }

    /// Whether the window that the hypervisor asked for is open already, and nothing goes before. The CPU has no such window.
    pub(super) fn is_nmi_window_open(&self) -> bool {
        let nothing_waits = !self.queue.is_occupied() && !self.queue.waits_for_nmis();
        self.nmi_window && self.blocking == NmiBlocking::Open && nothing_waits
    }

    /// The event whose delivery the last exit interrupted, which is not delivered again.
    pub(super) fn take_interrupted(&mut self) -> Option<Event> {
        let event = self.interrupted.take()?;
        self.queue.withdraw(event);
        Some(event)
    }

    /// What the next entry does, to a guest that would take an external interrupt if `takes_interrupts`.
    pub(super) fn plan(&mut self, takes_interrupts: bool) -> Plan {
        // What an earlier plan took out that did not come to an entry.
        self.has_not_run();
        let nmis = self.blocking == NmiBlocking::Open;
        self.injected = self.queue.deliver(Open { interrupts: takes_interrupts, nmis });
        let delivers_nmi = self.injected == Some(Event::Nmi);
        let nmi_waits = self.queue.waits_for_nmis();
        // Something else fills the entry.
        let postponed = nmi_waits && nmis && !delivers_nmi;
        let blocked = delivers_nmi || self.blocking == NmiBlocking::Blocked;
        Plan {
            delivery: self.injected.map(Delivery::of),
            wanted: Wanted {
                interrupt_window: self.interrupt_window || self.queue.waits_for_interrupts() || postponed,
                // Also where no NMI waits yet: the next one has to know whether the guest is still in the handler.
                iret: blocked || postponed,
                step: matches!(self.blocking, NmiBlocking::Stepping(_)),
            },
        }
    }

    /// What the entry had delivered.
    pub(super) fn injected(&self) -> Option<Event> {
        self.injected
    }

    /// The guest was not entered: what was to be delivered still is.
    pub(super) fn has_not_run(&mut self) {
        if let Some(event) = self.injected.take() {
            self.queue.interrupted(event);
        }
    }

    /// The guest has run, and left with this delivery interrupted.
    pub(super) fn has_run(&mut self, interrupted: Option<Interrupted>) {
        if self.injected.take() == Some(Event::Nmi) {
            self.blocking = NmiBlocking::Blocked;
        }
        self.interrupted = interrupted.map(|interrupted| interrupted.event);
        let Some(Interrupted { event, again: true }) = interrupted else { return };
        if event == Event::Nmi {
            self.blocking = NmiBlocking::Open;
        }
        self.queue.interrupted(event);
    }

    /// Forgets all events; what the hypervisor asked for stays.
    pub(super) fn forget(&mut self) {
        let Self { interrupt_window, nmi_window, .. } = *self;
        *self = Self { interrupt_window, nmi_window, ..Self::default() };
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
