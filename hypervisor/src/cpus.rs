//! The guest's CPUs: which are on, and which may have the guest's table loaded.
//!
//! **Pinned** ([`Cpus::new`]): vCPU n runs on physical CPU n and nowhere else, so turning one on or off is turning the other on
//! or off. A CPU is *inside* from before it is powered on until it has unloaded the guest's table for good; while it waits for an
//! interrupt it has unloaded the table too, and is not inside. **In slices** ([`Cpus::in_slices`]): a vCPU runs on whatever hart a
//! scheduler gives it, and is inside from [`Cpus::enter`] to [`Cpus::pause`] or [`Cpus::leave`].
//!
//! **Invariant:** once the end has been announced nobody gets inside any more, so when [`Cpus::wait_for_all`] or
//! [`Cpus::is_last_out`] has seen that nobody is, the table may be freed. A CPU that sleeps then need not wake up.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

/// What a CPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Off, as far as the guest can tell; the physical CPU may be about to go off.
    Off,
    /// Asked to come up with this entry; not there yet.
    Starting(Entry),
    /// It may have the guest's table loaded.
    Running,
    /// It waits for an interrupt, without the guest's table.
    Waiting,
    /// It goes off, and may still have the guest's table loaded.
    Stopping,
}

impl State {
    /// Whether the guest goes on by this CPU.
    fn is_on(self) -> bool {
        matches!(self, Self::Starting(_) | Self::Running | Self::Waiting)
    }
}

/// Where a CPU begins. Both numbers are the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Guest-physical address of the first instruction.
    pub address: u64,
    /// What it finds in its first register.
    pub argument: u64,
}

/// Whether a CPU is on, for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Off.
    Off,
    /// On, or going off.
    On,
    /// Coming up.
    Pending,
}

/// Why a CPU was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// It does not exist.
    NoSuchCpu,
    /// It is on.
    AlreadyOn,
    /// It is being started.
    Pending,
    /// The entry lies outside of the guest's RAM, or is no address of an instruction.
    BadAddress,
    /// The machine did not start it.
    Failed,
}

/// Whether a vCPU may run a slice of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enter {
    /// It was turned on, and begins there.
    Begin(Entry),
    /// It goes on where it was.
    Resume,
    /// It is off.
    Off,
    /// The guest has ended.
    Ended,
}

/// The CPUs of one guest.
pub struct Cpus {
    count: usize,
    ram: Range<u64>,
    /// What addresses of instructions are multiples of.
    alignment: u64,
    in_slices: bool,
    power_on: Box<dyn Fn(usize) -> bool + Send + Sync>,
    states: Mutex<Vec<State>>,
    /// Written while `states` is locked, so that whoever holds the lock can rely on it.
    ending: AtomicBool,
    /// Somebody was told to be the last one out.
    closing: AtomicBool,
}

impl Cpus {
    /// `count` CPUs, but at least one, for a guest with `ram`; CPU 0 is running. `power_on` makes a physical CPU begin,
    /// and tells whether it will.
    #[must_use]
    pub fn new(
        count: usize,
        ram: Range<u64>,
        power_on: impl Fn(usize) -> bool + Send + Sync + 'static,
    ) -> Self {
        let mut states = vec![State::Running];
        states.resize(count.max(1), State::Off);
        Self {
            count: states.len(),
            ram,
            alignment: 4,
            in_slices: false,
            power_on: Box::new(power_on),
            states: Mutex::new(states),
            ending: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }

    /// `count` CPUs, but at least one, that run in slices of time on any hart; CPU 0 is turned on, to begin at `entry`. `power_on`
    /// tells the scheduler that a CPU was turned on, and whether it will run. Instructions begin at multiples of 2.
    #[must_use]
    pub fn in_slices(
        count: usize,
        ram: Range<u64>,
        entry: Entry,
        power_on: impl Fn(usize) -> bool + Send + Sync + 'static,
    ) -> Self {
        let mut cpus = Self { alignment: 2, in_slices: true, ..Self::new(count, ram, power_on) };
        cpus.states.get_mut().fill(State::Off);
        if let Some(first) = cpus.states.get_mut().first_mut() {
            *first = State::Starting(entry);
        }
        cpus
    }

    /// How many there are, on or off.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether `cpu` is on; `None` if there is no such CPU.
    #[must_use]
    pub fn power(&self, cpu: usize) -> Option<Power> {
        Some(match self.states.lock().get(cpu).copied()? {
            State::Off => Power::Off,
            State::Starting(_) => Power::Pending,
            State::Running | State::Waiting | State::Stopping => Power::On,
        })
    }

    /// Starts `cpu` at `entry`.
    ///
    /// # Errors
    /// [`StartError`]; nothing has changed then.
    pub fn start(&self, cpu: usize, entry: Entry) -> Result<(), StartError> {
        match self.power(cpu).ok_or(StartError::NoSuchCpu)? {
            Power::On => return Err(StartError::AlreadyOn),
            Power::Pending => return Err(StartError::Pending),
            Power::Off => {}
        }
        if !self.ram.contains(&entry.address) || entry.address % self.alignment != 0 {
            return Err(StartError::BadAddress);
        }
        // It counts as inside from now on, or the end could come between here and its first look at the states.
        self.change(cpu, |state| match state {
            State::Off => Ok(State::Starting(entry)),
            State::Starting(_) => Err(StartError::Pending),
            State::Running | State::Waiting | State::Stopping => Err(StartError::AlreadyOn),
        })?;
        // Not under the lock: a CPU that is about to go off may have to be waited for.
        if (self.power_on)(cpu) {
            return Ok(());
        }
        self.leave(cpu);
        Err(StartError::Failed)
    }

    /// On `cpu` itself, which has come up: where it begins, or `None` if nobody asked for it.
    pub fn begin(&self, cpu: usize) -> Option<Entry> {
        let mut states = self.states.lock();
        let state = states.get_mut(cpu)?;
        let State::Starting(entry) = *state else { return None };
        *state = State::Running;
        Some(entry)
    }

    /// On the hart that is to run `cpu` for a slice: whether it may, and from where on. If so, it is inside until it pauses or
    /// leaves.
    pub fn enter(&self, cpu: usize) -> Enter {
        let mut states = self.states.lock();
        let Some(state) = states.get_mut(cpu) else { return Enter::Off };
        let enter = match *state {
            _ if self.is_ending() => return Enter::Ended,
            State::Off | State::Stopping => return Enter::Off,
            State::Starting(entry) => Enter::Begin(entry),
            State::Running | State::Waiting => Enter::Resume,
        };
        *state = State::Running;
        enter
    }

    /// On a hart that has just left: whether the end was announced and nobody is inside any more. Only one hart is ever told so,
    /// and it closes the guest.
    #[must_use]
    pub fn is_last_out(&self) -> bool {
        let states = self.states.lock();
        let inside = states.iter().any(|state| self.is_inside(*state));
        self.is_ending() && !inside && !self.closing.swap(true, Ordering::AcqRel)
    }

    /// Become what `original`, as many in slices with none of them inside, are: they go on from there.
    pub fn take_after(&self, original: &Self) {
        let states = original.states.lock().clone();
        *self.states.lock() = states;
    }

    /// Whether they run in slices.
    #[must_use]
    pub fn are_in_slices(&self) -> bool {
        self.in_slices
    }

    /// On `cpu` itself: announces that it goes off. `false` if it may not, because nobody could turn it on again.
    #[must_use]
    pub fn stop(&self, cpu: usize) -> bool {
        let mut states = self.states.lock();
        let others = states.iter().enumerate().any(|(other, state)| other != cpu && state.is_on());
        if let Some(state) = states.get_mut(cpu).filter(|_| others) {
            *state = State::Stopping;
        }
        others
    }

    /// On `cpu` itself, which has unloaded the guest's table: it is off, or the run has ended for it.
    pub fn leave(&self, cpu: usize) {
        if let Some(state) = self.states.lock().get_mut(cpu) {
            *state = State::Off;
        }
    }

    /// On `cpu` itself, which has unloaded the guest's table in order to wait for an interrupt.
    pub fn pause(&self, cpu: usize) {
        if let Some(state) = self.states.lock().get_mut(cpu) {
            *state = State::Waiting;
        }
    }

    /// On `cpu` itself, whose wait is over: whether it may go on with the guest. If not, the run has ended.
    #[must_use]
    pub fn resume(&self, cpu: usize) -> bool {
        let resumed = self.change(cpu, |_| Ok(State::Running));
        resumed.is_ok()
    }

    /// Announces the end of the run; whether the caller was the first to do so, and has to see to it.
    #[must_use]
    pub fn end(&self) -> bool {
        let _states = self.states.lock();
        !self.ending.swap(true, Ordering::AcqRel)
    }

    /// Whether the end was announced.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Waits until nobody is inside, calling `wake` before each look; `false` if that took more than `patience` looks.
    #[must_use]
    pub fn wait_for_all(&self, patience: u64, wake: fn()) -> bool {
        (0..patience).any(|_| {
            wake();
            spin_loop();
            !self.states.lock().iter().any(|state| self.is_inside(*state))
        })
    }

    /// A pinned CPU that is started may be there at any moment; one in slices is not before [`enter`](Self::enter), which the end
    /// forbids.
    fn is_inside(&self, state: State) -> bool {
        match state {
            State::Running | State::Stopping => true,
            State::Starting(_) => !self.in_slices,
            State::Off | State::Waiting => false,
        }
    }

    /// Gives `cpu` another state, unless the end was announced.
    fn change(
        &self,
        cpu: usize,
        next: impl FnOnce(State) -> Result<State, StartError>,
    ) -> Result<(), StartError> {
        let mut states = self.states.lock();
        let state = states.get_mut(cpu).ok_or(StartError::NoSuchCpu)?;
        if self.is_ending() {
            return Err(StartError::Failed);
        }
        *state = next(*state)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
