//! Which virtual CPU runs on which hart: a work-conserving round robin, without an ISA and without a clock of its own.
//!
//! **Protocol.** A hart asks for its [`next`](Scheduler::next) vCPU, runs it for a slice of time, says what has become of it
//! ([`done`](Scheduler::done)), and asks again. One that has nothing to run sleeps until it is kicked or until the time that it
//! was told. A kick is remembered by the hart: one that comes just before it sleeps, or before it enters its guest, ends that at
//! once. Whoever has an event for a vCPU makes it visible to the vCPU first and calls [`wake`](Scheduler::wake) then.
//!
//! **Invariants.** A vCPU is on one hart at most. While vCPUs are ready, no hart sleeps unless as many others are on their way
//! to fetch them. While vCPUs wait for a time, some hart is awake, or sleeps no longer than until the first of these times.
//! An event is never lost: whatever comes after a vCPU was handed to a hart makes it ready again, also if it had decided to wait before
//! that. Ready vCPUs run in the order in which they became ready, so nobody waits for more than one slice of each other one.
//!
//! **Cost.** Every call takes one lock; `next` looks at each vCPU once, `done` at those of one guest, `wake` at each vCPU and hart
//! only if somebody sleeps.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use spin::Mutex;

/// Most harts.
pub const HARTS_MAX: usize = 64;

/// What a hart does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It runs this vCPU for a slice of time, and then calls [`Scheduler::done`].
    Run(usize),
    /// It sleeps until it is kicked, or until this time if there is one, and asks again. It may also ask earlier.
    Sleep {
        /// In ticks, as the caller counts them.
        until: Option<u64>,
    },
    /// There is nothing to run any more, and never will be.
    Over,
}

/// Why a vCPU left its hart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parked {
    /// It could go on at once.
    Ready,
    /// It waits for an event, or until this time if there is one.
    WaitsUntil(Option<u64>),
    /// It was turned off.
    Off,
}

/// What can become of a guest one of whose vCPUs was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outlook {
    /// It goes on.
    Alive,
    /// Each of its vCPUs is off or waits for an event for ever: if only they can cause events for each other, nothing will ever
    /// happen any more.
    Stuck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Off,
    /// In the queue.
    Ready,
    /// On this hart.
    Running(usize),
    Waiting(Option<u64>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Task {
    place: Place,
    /// An event came since it was handed to its hart.
    event: bool,
    /// It was started since then.
    started: bool,
    /// Never to run again.
    retired: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Hart {
    /// It is about to ask what to run.
    Coming,
    Running,
    Asleep {
        until: Option<u64>,
    },
}

/// The harts to be kicked once the lock is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kicks(u64);

impl Kicks {
    fn add(&mut self, hart: usize) {
        self.0 |= 1_u64.checked_shl(hart as u32).unwrap_or(0);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    tasks: Vec<Task>,
    /// vCPUs of each guest, which have consecutive numbers.
    each: usize,
    queue: VecDeque<usize>,
    harts: Vec<Hart>,
    over: bool,
}

/// The vCPUs of all guests and the harts of the machine.
pub struct Scheduler {
    state: Mutex<State>,
    kick: Box<dyn Fn(usize) + Send + Sync>,
}

impl Scheduler {
    /// `guests` guests with `each` vCPUs, all of them off: vCPU n of guest g is `g * each + n`. The machine has `harts` harts, 1 to
    /// [`HARTS_MAX`] (other numbers are rounded to that), and `kick` kicks one: it must not call the scheduler.
    pub fn new(
        guests: usize,
        each: usize,
        harts: usize,
        kick: impl Fn(usize) + Send + Sync + 'static,
    ) -> Self {
        Self { state: Mutex::new(State::new(guests, each, harts)), kick: Box::new(kick) }
    }

    /// vCPU `id` is turned on: it will run. Nothing happens if it is on, or does not exist.
    pub fn start(&self, id: usize) {
        self.change(|state| state.start(id));
    }

    /// On `hart`: what it does next, at the time `now`. A hart that does not exist has nothing to do.
    pub fn next(&self, hart: usize, now: u64) -> Next {
        let mut next = Next::Over;
        self.change(|state| next = state.next(hart, now));
        next
    }

    /// On `hart`, which ran vCPU `id` until now. Of a vCPU that it did not run nothing changes.
    pub fn done(&self, hart: usize, id: usize, parked: Parked) -> Outlook {
        let mut outlook = Outlook::Alive;
        self.change(|state| outlook = state.done(hart, id, parked));
        outlook
    }

    /// There is an event for vCPU `id`, which can see it already. One that waits becomes ready; one that runs is made to leave its
    /// guest, and will not wait without having looked again. To one that is off nothing happens.
    pub fn wake(&self, id: usize) {
        let mut kicks = Kicks::default();
        self.change(|state| state.wake(id, &mut kicks));
        self.kick_all(kicks);
    }

    /// No vCPU of `guest` is handed to a hart any more, and harts that run one are kicked; they call [`done`](Self::done) as ever.
    pub fn retire(&self, guest: usize) {
        let mut kicks = Kicks::default();
        self.change(|state| state.retire(guest, &mut kicks));
        self.kick_all(kicks);
    }

    /// From now on every hart gets [`Next::Over`].
    pub fn end(&self) {
        let harts = {
            let mut state = self.state.lock();
            state.over = true;
            state.harts.len()
        };
        (0..harts).for_each(|hart| (self.kick)(hart));
    }

    /// Changes the state and kicks whoever has to take notice.
    fn change(&self, work: impl FnOnce(&mut State)) {
        let kicks = {
            let mut state = self.state.lock();
            work(&mut state);
            state.settle()
        };
        self.kick_all(kicks);
    }

    fn kick_all(&self, kicks: Kicks) {
        (0..HARTS_MAX).filter(|hart| kicks.0 >> hart & 1 != 0).for_each(|hart| (self.kick)(hart));
    }
}

impl State {
    fn new(guests: usize, each: usize, harts: usize) -> Self {
        let off = Task { place: Place::Off, event: false, started: false, retired: false };
        let tasks = vec![off; guests.saturating_mul(each)];
        let queue = VecDeque::with_capacity(tasks.len());
        Self { tasks, each, queue, harts: vec![Hart::Coming; harts.clamp(1, HARTS_MAX)], over: false }
    }

    fn start(&mut self, id: usize) {
        let Some(task) = self.tasks.get_mut(id).filter(|task| !task.retired) else { return };
        match task.place {
            Place::Off => self.make_ready(id),
            // It may be about to go off.
            Place::Running(_) => task.started = true,
            Place::Ready | Place::Waiting(_) => {}
        }
    }

    fn next(&mut self, hart: usize, now: u64) -> Next {
        if self.over || hart >= self.harts.len() {
            return Next::Over;
        }
        for id in 0..self.tasks.len() {
            if matches!(self.tasks.get(id), Some(Task { place: Place::Waiting(Some(at)), .. }) if *at <= now)
            {
                self.make_ready(id);
            }
        }
        let first = self.queue.pop_front();
        let (state, next) = match first {
            Some(id) => (Hart::Running, Next::Run(id)),
            None => {
                let until = self.first_time();
                (Hart::Asleep { until }, Next::Sleep { until })
            }
        };
        if let Some(task) = first.and_then(|id| self.tasks.get_mut(id)) {
            *task = Task { place: Place::Running(hart), event: false, started: false, ..*task };
        }
        self.set_hart(hart, state);
        next
    }

    fn done(&mut self, hart: usize, id: usize, parked: Parked) -> Outlook {
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.place == Place::Running(hart)) else {
            return Outlook::Alive;
        };
        let Task { event, started, retired, .. } = *task;
        match parked {
            _ if retired => task.place = Place::Off,
            Parked::WaitsUntil(until) if !event => task.place = Place::Waiting(until),
            Parked::Off if !started => task.place = Place::Off,
            Parked::Ready | Parked::WaitsUntil(_) | Parked::Off => self.make_ready(id),
        }
        self.set_hart(hart, Hart::Coming);
        let guest = id.checked_div(self.each).map(|guest| self.vcpus(guest)).unwrap_or_default();
        let tasks = self.tasks.get(guest).unwrap_or_default();
        let is_dead = |task: &Task| matches!(task.place, Place::Off | Place::Waiting(None));
        match !retired && tasks.iter().all(is_dead) {
            true => Outlook::Stuck,
            false => Outlook::Alive,
        }
    }

    fn wake(&mut self, id: usize, kicks: &mut Kicks) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        match task.place {
            Place::Waiting(_) => self.make_ready(id),
            Place::Running(hart) => {
                task.event = true;
                kicks.add(hart);
            }
            // It looks before it waits.
            Place::Ready | Place::Off => {}
        }
    }

    fn retire(&mut self, guest: usize, kicks: &mut Kicks) {
        let vcpus = self.vcpus(guest);
        self.queue.retain(|id| !vcpus.contains(id));
        for task in self.tasks.get_mut(vcpus).unwrap_or_default() {
            task.retired = true;
            match task.place {
                Place::Running(hart) => kicks.add(hart),
                Place::Off | Place::Ready | Place::Waiting(_) => task.place = Place::Off,
            }
        }
    }

    /// The numbers of a guest's vCPUs; none if there is no such guest.
    fn vcpus(&self, guest: usize) -> Range<usize> {
        let end = guest.checked_add(1).and_then(|next| next.checked_mul(self.each));
        match end.filter(|end| *end <= self.tasks.len()) {
            Some(end) => end - self.each..end,
            None => 0..0,
        }
    }

    /// The queue has room for every vCPU, and each is in it once at most.
    fn make_ready(&mut self, id: usize) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.place = Place::Ready;
            self.queue.push_back(id);
        }
    }

    fn set_hart(&mut self, hart: usize, state: Hart) {
        if let Some(hart) = self.harts.get_mut(hart) {
            *hart = state;
        }
    }

    /// The first time for which a vCPU waits.
    fn first_time(&self) -> Option<u64> {
        let times = self.tasks.iter().filter_map(|task| match task.place {
            Place::Waiting(until) => until,
            _ => None,
        });
        times.min()
    }

    /// Makes the invariants about sleeping harts hold; the harts that have to be kicked for it.
    fn settle(&mut self) -> Kicks {
        let mut kicks = Kicks::default();
        let is_asleep = |hart: &&mut Hart| matches!(hart, Hart::Asleep { .. });
        let mut coming = self.harts.iter().filter(|hart| **hart == Hart::Coming).count();
        for (index, hart) in self.harts.iter_mut().enumerate() {
            if coming < self.queue.len() && is_asleep(&hart) {
                *hart = Hart::Coming;
                coming += 1;
                kicks.add(index);
            }
        }
        // Whoever comes looks at the times itself.
        let Some(first) = self.first_time().filter(|_| coming == 0) else { return kicks };
        let watches = |hart: &Hart| matches!(hart, Hart::Asleep { until: Some(until) } if *until <= first);
        if self.harts.iter().any(watches) {
            return kicks;
        }
        if let Some((index, hart)) = self.harts.iter_mut().enumerate().find(|(_, hart)| is_asleep(hart)) {
            *hart = Hart::Coming;
            kicks.add(index);
        }
        kicks
    }
}

#[cfg(test)]
mod tests;
