//! Several guests on one machine: each has a space and vCPUs of its own; the harts, the tags and the pool of frames are shared.
//!
//! **Protocol.** Every hart calls [`Guests::serve`] and stays there until all guests have ended. What it runs is the
//! [scheduler](crate::schedule)'s business; before each slice it activates the tag of the guest's space, which drops what the hart
//! remembers if tags have new owners. The hart that gets the [`Total`] writes the report; the others have nothing more to do.
//!
//! **A guest that [stops](Slice::Paused)**, or has done so and [is watched](Verdict::Watch), is handed to whoever was named for that ([`Guests::with_keeper`]), on the hart on which it
//! stopped; its vCPU counts as running meanwhile, so that nobody else touches it. It may be forked into one of the places that were
//! kept free.
//!
//! A guest's end concerns nobody else: its vCPUs on other harts are kicked out, and the hart on which the last one leaves gives its
//! frames back, so that no hart ever waits for another one.

use crate::pool::{Host, Maintenance, Pool};
use crate::run::{Machine, Outcome, Slice, Space};
use crate::schedule::{Next, Outlook, Parked, Scheduler};
use crate::vcpu::{Replica, Vcpu};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::iter::Sum;
use core::sync::atomic::{AtomicUsize, Ordering};
use slat::TagPool;
use slat::format::Format;
use slat_hv_protocol::pause::OwnFrames;
use slat_hv_protocol::{End, GuestReport, Report};
use spin::{Mutex, RwLock};

/// What a hart gives: a clock, an alarm and sleep. Times are in ticks of the clock, which all harts share.
pub trait Hart {
    /// The time.
    fn now(&self) -> u64;
    /// From that time on, a vCPU on this hart leaves its guest with [`Exit::Preempted`](crate::vcpu::Exit::Preempted). Replaces what
    /// was set before.
    fn preempt_at(&mut self, time: u64);
    /// Sleeps until the hart is kicked, or until that time if there is one. It may be over earlier, and is at once if the hart was
    /// kicked since it slept last.
    fn sleep(&mut self, until: Option<u64>);
}

/// One guest.
struct Guest<'a, H: Host, F: Format, V> {
    machine: Machine<'a, H, F>,
    /// Each is locked by the hart that runs it, and by nobody else.
    vcpus: Vec<Mutex<V>>,
}

/// A guest, and the place for another one.
type Both<'g, 'a, H, F, V> = [&'g Guest<'a, H, F, V>; 2];

/// All guests.
pub struct Guests<'a, H: Host, F: Format, V> {
    guests: Vec<Guest<'a, H, F, V>>,
    scheduler: &'a Scheduler,
    /// vCPUs of each guest.
    each: usize,
    /// Ticks of a slice.
    slice: u64,
    /// `None` once they were given back.
    tags: RwLock<Option<TagPool<H>>>,
    /// What came of those that have ended, in that order.
    ended: Mutex<Vec<(usize, Outcome)>>,
    /// Those that were started or are about to be; the others are places kept free.
    begun: AtomicUsize,
    keeper: Option<Keeper<'a, H, F, V>>,
    /// The guest that is watched, or [`NOBODY`].
    watched: AtomicUsize,
}

const NOBODY: usize = usize::MAX;

/// What becomes of a guest that has stopped or is watched, by its number.
pub type Keeper<'a, H, F, V> = fn(&Guests<'a, H, F, V>, usize) -> Verdict;

/// What becomes of a guest that has stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    GoesOn,
    /// It goes on, and is handed over again after each slice.
    Watch,
    /// It ends.
    Ends(End),
}

/// What came of all guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// All of them together.
    pub outcome: Outcome,
    /// Each by itself, in the order of their numbers.
    pub guests: Vec<GuestReport>,
}

impl<'a, H: Host, F: Format, V: Vcpu> Guests<'a, H, F, V> {
    /// `each` vCPUs of each guest run on the harts of `tags`, for `slice` ticks at a time, as `scheduler` says, which was made for so many.
    /// The machines are in slices and [share](Machine::sharing) what comes back; none of their vCPUs was started yet.
    pub fn new(
        scheduler: &'a Scheduler,
        each: usize,
        slice: u64,
        tags: TagPool<H>,
        guests: impl IntoIterator<Item = (Machine<'a, H, F>, Vec<V>)>,
    ) -> Self {
        let guests = guests.into_iter().map(|(machine, vcpus)| {
            let vcpus = vcpus.into_iter().map(Mutex::new).collect();
            Guest { machine, vcpus }
        });
        let (tags, ended) = (RwLock::new(Some(tags)), Mutex::default());
        let guests: Vec<_> = guests.collect();
        let begun = AtomicUsize::new(guests.len());
        Self {
            guests,
            scheduler,
            each,
            slice,
            tags,
            ended,
            begun,
            keeper: None,
            watched: AtomicUsize::new(NOBODY),
        }
    }

    /// The same guests, the last `places` of which are [places](Machine::place) for forks, and `keeper` for those that stop.
    #[must_use]
    pub fn with_keeper(self, places: usize, keeper: Keeper<'a, H, F, V>) -> Self {
        let begun = AtomicUsize::new(self.guests.len().saturating_sub(places));
        Self { begun, keeper: Some(keeper), ..self }
    }

    /// Starts the first vCPU of every guest.
    pub fn start(&self) {
        let begun = self.begun.load(Ordering::Acquire);
        (0..begun).for_each(|guest| self.scheduler.start(guest.saturating_mul(self.each)));
    }

    /// The machine of guest `index`, if there is one.
    pub fn machine(&self, index: usize) -> Option<&Machine<'a, H, F>> {
        self.guests.get(index).map(|guest| &guest.machine)
    }

    /// What `look` finds of vCPU `cpu` of guest `index`, which is on no hart; `None` if there is no such one.
    pub fn with_vcpu<R>(&self, index: usize, cpu: usize, look: impl FnOnce(&V) -> R) -> Option<R> {
        self.guests.get(index)?.vcpus.get(cpu).map(|vcpu| look(&vcpu.lock()))
    }

    /// Forks guest `index`, which has stopped, into the next place that is free; the number of the fork, and how long the library took
    /// for its space, by `clock`. The fork does not [go on](Self::resume) yet.
    ///
    /// # Errors
    /// One line: there is no place, or no frame, or the guest has ended. Nothing has changed then.
    pub fn fork(&self, index: usize, clock: impl Fn() -> u64) -> Result<(usize, u64), String>
    where
        H: Clone,
        V: Replica,
    {
        let (number, [parent, child]) = self.next_place(index)?;
        let took = parent.machine.fork_into(&child.machine, clock)?;
        self.begin(number, parent, child);
        Ok((number, took))
    }

    /// Guest `index`, which has stopped, goes on as the next place that is free, to which its memory has been
    /// [moved](Machine::copy_round); the number of that. It does not [go on](Self::resume) yet.
    ///
    /// # Errors
    /// One line: there is no place.
    pub fn take_place(&self, index: usize) -> Result<usize, String>
    where
        V: Replica,
    {
        let (number, [parent, child]) = self.next_place(index)?;
        parent.machine.end_move(&child.machine);
        self.begin(number, parent, child);
        Ok(number)
    }

    /// Guest `index` and the next place that is free, with its number.
    fn next_place(&self, index: usize) -> Result<(usize, Both<'_, 'a, H, F, V>), String> {
        let number = self.begun.load(Ordering::Acquire);
        match (self.guests.get(index), self.guests.get(number)) {
            (Some(parent), Some(child)) => Ok((number, [parent, child])),
            _ => Err("there is no place for another guest".to_string()),
        }
    }

    /// The vCPUs of `child` become those of `parent`, and its end is waited for from now on.
    fn begin(&self, number: usize, parent: &Guest<'a, H, F, V>, child: &Guest<'a, H, F, V>)
    where
        V: Replica,
    {
        for (own, original) in child.vcpus.iter().zip(&parent.vcpus) {
            own.lock().take_after(&original.lock());
        }
        self.begun.store(number + 1, Ordering::Release);
    }

    /// Lets the vCPUs of guest `index` run, which has got its place.
    pub fn resume(&self, index: usize) {
        let first = index.saturating_mul(self.each);
        (first..first.saturating_add(self.each)).for_each(|id| self.scheduler.start(id));
    }

    /// Runs guests on `hart`, which this runs on, until all have ended. `root` makes what a vCPU loads of the value of the root register;
    /// `tell` is called with what came of a guest when its frames are back, if there are several. `Some` for the hart on which the
    /// last guest was closed.
    ///
    /// # Errors
    /// One line if a guest could not be closed; then its frames are lost, and so is the run.
    pub fn serve(
        &self,
        hart: usize,
        clock: &mut impl Hart,
        root: impl Fn(&Space<'a, H, F>, u64) -> V::Root,
        tell: impl Fn(GuestReport),
    ) -> Option<Result<Total, String>> {
        loop {
            match self.scheduler.next(hart, clock.now()) {
                Next::Over => return None,
                Next::Sleep { until } => {
                    self.rest(hart);
                    clock.sleep(until);
                }
                Next::Run(id) => {
                    let Some((guest, end)) = self.run(hart, id, clock, &root) else { continue };
                    match self.close(guest, end, &tell) {
                        Ok(None) => {}
                        last => return last.transpose(),
                    }
                }
            }
        }
    }

    /// Runs vCPU `id` for a slice; which guest has to be closed, and with what end.
    fn run(
        &self,
        hart: usize,
        id: usize,
        clock: &mut impl Hart,
        root: impl Fn(&Space<'a, H, F>, u64) -> V::Root,
    ) -> Option<(usize, End)> {
        let (index, cpu) = (id.checked_div(self.each)?, id.checked_rem(self.each)?);
        let guest = self.guests.get(index);
        let slice = match guest.and_then(|guest| Some((guest, guest.vcpus.get(cpu)?))) {
            Some((guest, vcpu)) => {
                clock.preempt_at(clock.now().saturating_add(self.slice));
                let load = |space: &Space<'a, H, F>| {
                    let tags = self.tags.read();
                    let register = space.activate(tags.as_ref()?, hart).ok()?;
                    Some(root(space, register))
                };
                guest.machine.slice(cpu, &mut *vcpu.lock(), load)
            }
            None => Slice::Off,
        };
        let slice = match slice {
            Slice::Paused => self.keep(index, Slice::Preempted),
            Slice::Preempted | Slice::Waits { .. } if self.watched.load(Ordering::Acquire) == index => {
                self.keep(index, slice)
            }
            slice => slice,
        };
        let parked = match slice {
            Slice::Preempted | Slice::Paused => Parked::Ready,
            Slice::Waits { until } => Parked::WaitsUntil(until),
            Slice::Off | Slice::Ended(_) => Parked::Off,
        };
        if matches!(slice, Slice::Ended(_)) {
            self.scheduler.retire(index);
        }
        let outlook = self.scheduler.done(hart, id, parked);
        let end = match (slice, outlook) {
            (Slice::Ended(end), _) => end,
            (_, Outlook::Stuck) => {
                let description = "all its CPUs wait for an interrupt, and none can come".to_string();
                let end = guest?.machine.give_up(End::Unsupported { description });
                self.scheduler.retire(index);
                end
            }
            (_, Outlook::Alive) => None,
        };
        Some((index, end?))
    }

    /// Asks what becomes of guest `index`, which would have gone on with `slice`.
    fn keep(&self, index: usize, slice: Slice) -> Slice {
        let Some(keeper) = self.keeper else { return slice };
        match keeper(self, index) {
            Verdict::GoesOn => {
                self.watched.store(NOBODY, Ordering::Release);
                slice
            }
            Verdict::Watch => {
                self.watched.store(index, Ordering::Release);
                slice
            }
            Verdict::Ends(end) => Slice::Ended(self.machine(index).and_then(|machine| machine.give_up(end))),
        }
    }

    /// Gives the frames of a guest back; all of it together if it was the last one.
    fn close(&self, index: usize, end: End, tell: impl Fn(GuestReport)) -> Result<Option<Total>, String> {
        let Some(guest) = self.guests.get(index) else { return Ok(None) };
        let outcome = guest.machine.close_slices(end).inspect_err(|_| self.scheduler.end())?;
        if self.guests.len() > 1 {
            tell(report(index, &outcome));
        }
        let mut ended = self.ended.lock();
        ended.push((index, outcome));
        if ended.len() < self.begun.load(Ordering::Acquire) {
            return Ok(None);
        }
        self.scheduler.end();
        // What was meant for a place and did not come to it.
        let places = self.guests.get(ended.len()..).unwrap_or_default();
        places.iter().for_each(|place| place.machine.abandon());
        drop(self.tags.write().take());
        let mut guests: Vec<_> = ended.iter().map(|(index, outcome)| report(*index, outcome)).collect();
        guests.sort_by_key(|report| report.guest);
        let outcomes = core::mem::take(&mut *ended);
        let outcome = outcomes.into_iter().map(|(_, outcome)| outcome).sum();
        Ok(Some(Total { outcome, guests: if self.guests.len() > 1 { guests } else { Vec::new() } }))
    }

    /// The hart runs nobody.
    fn rest(&self, hart: usize) {
        if let Some(tags) = self.tags.read().as_ref() {
            // Fails for harts without tags only, which run nobody at all.
            let _ = tags.deactivate(hart);
        }
    }
}

fn report(index: usize, outcome: &Outcome) -> GuestReport {
    GuestReport {
        guest: index as u32,
        end: outcome.end.clone(),
        faults: outcome.faults,
        leaves: outcome.leaves,
        table_pages: outcome.table_pages,
        exits: outcome.exits,
        firmware_calls: outcome.firmware_calls,
        own: OwnFrames { tables: outcome.table_pages, memory: outcome.owned_frames },
    }
}

impl Total {
    /// The report of the run, see [`Outcome::report`].
    pub fn report<M: Maintenance>(self, pool: &Pool<M>, invalidations: BTreeMap<String, u64>) -> Report {
        Report { guests: self.guests, ..self.outcome.report(pool, invalidations) }
    }
}

/// The outcomes of several guests together: the first end that is no power-off, sums of everything else; what is text is dropped
/// unless there is but one. Those of none at all are a power-off after nothing.
impl Sum for Outcome {
    fn sum<I: Iterator<Item = Self>>(outcomes: I) -> Self {
        outcomes.reduce(Outcome::and).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
