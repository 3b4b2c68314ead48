//! Whose turn it is.
//!
//! **Invariant:** one CPU has the turn, and no other thread does anything but wait for it. So nothing here races, and what
//! happens next depends on a seeded draw alone.

use crate::world::{State, Status, Trap};
use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Most actions in a row of one CPU while there are others.
const ROW: u64 = 16;

/// In slices, one in so many draws is the end of one: often, so that tags change hands.
const SLICE: u64 = 48;

/// The machine, the guest, and the turn.
pub(crate) struct World {
    state: Mutex<State>,
    passed: Condvar,
}

thread_local! {
    /// The world and the CPU of this thread, for functions that have no argument.
    static HERE: RefCell<Option<(Arc<World>, usize)>> = const { RefCell::new(None) };
}

impl World {
    pub(crate) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), passed: Condvar::new() }
    }

    /// For the CPU that has the turn.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut self.lock())
    }

    /// For a hook of the hypervisor on the CPU that has the turn: after it, other CPUs go on.
    pub(crate) fn hook<R>(&self, work: impl FnOnce(&mut State, usize) -> R) -> R {
        let mut state = self.lock();
        // Before and after the guest there is no turn, and CPU 0 is as good as any.
        let here = state.turn.unwrap_or(0);
        state.time += 1;
        let done = work(&mut state, here);
        state.go_on_elsewhere(here);
        done
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the machine in its hands")
    }

    /// Runs the guest until `cpu` leaves it.
    pub(crate) fn run(&self, cpu: usize) -> Trap {
        let mut state = self.lock();
        state.cpus[cpu].status = Status::Guest;
        state.check_changes();
        loop {
            if let Some(trap) = state.cpus[cpu].trap.take() {
                state.enter_hypervisor(cpu);
                return trap;
            }
            if let Some(trap) = interrupt(&mut state, cpu) {
                state.enter_hypervisor(cpu);
                return trap;
            }
            let next = draw(&mut state).unwrap_or(cpu);
            let row = 1 + if state.cpus.len() > 1 { state.random.below(ROW) } else { 0 };
            if state.cpus[next].status == Status::Guest {
                for _ in 0..row {
                    if state.cpus[next].trap.is_some() {
                        break;
                    }
                    state.step(next, true);
                }
                if state.cpus[next].trap.is_none() {
                    continue;
                }
            }
            if next != cpu {
                state = self.pass(state, cpu, next);
            }
        }
    }

    /// Makes `cpu` leave its guest, or not sleep.
    pub(crate) fn kick(&self, cpu: usize) {
        self.lock().cpus[cpu].kicked = true;
    }

    /// Waits for an interrupt, which comes when it is `cpu`'s turn again.
    pub(crate) fn sleep(&self, cpu: usize) {
        let mut state = self.lock();
        state.cpus[cpu].status = Status::Asleep;
        if let Some(next) = draw(&mut state).filter(|next| *next != cpu) {
            state = self.pass(state, cpu, next);
        }
        state.cpus[cpu].status = Status::Hypervisor;
        state.cpus[cpu].kicked = false;
    }

    /// Tells a CPU to begin.
    pub(crate) fn power_on(&self, cpu: usize) {
        self.lock().cpus[cpu].status = Status::Starting;
    }

    /// Waits until `cpu` is told to begin and has the turn; `false` when the run is over.
    pub(crate) fn await_power(&self, cpu: usize) -> bool {
        let state = self.lock();
        let waits = |state: &mut State| !(state.turn == Some(cpu) || state.finished || state.panicked);
        let mut state = self.passed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        if state.finished || state.panicked {
            return false;
        }
        state.enter_hypervisor(cpu);
        true
    }

    /// `cpu` goes off, and any other one may have the turn.
    pub(crate) fn leave(&self, cpu: usize) {
        let mut state = self.lock();
        state.cpus[cpu].status = Status::Off;
        state.turn = draw(&mut state);
        self.passed.notify_all();
    }

    /// The run is over: whoever is off need not wait any longer.
    pub(crate) fn finish(&self) {
        self.lock().finished = true;
        self.passed.notify_all();
    }

    /// A thread panics: nobody else may go on.
    fn give_up(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).panicked = true;
        self.passed.notify_all();
    }

    fn pass<'w>(&'w self, mut state: MutexGuard<'w, State>, from: usize, to: usize) -> MutexGuard<'w, State> {
        state.turn = Some(to);
        self.passed.notify_all();
        // The run can end without a CPU that sleeps: it wakes up then, and finds that out.
        let waits = |state: &mut State| !(state.turn == Some(from) || state.finished || state.panicked);
        let state = self.passed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        assert!(!state.panicked, "another CPU's thread has panicked");
        state
    }
}

/// In slices, an interrupt that makes `cpu` leave its guest.
fn interrupt(state: &mut State, cpu: usize) -> Option<Trap> {
    if !state.in_slices {
        return None;
    }
    if std::mem::take(&mut state.cpus[cpu].kicked) {
        return Some(Trap::Kick);
    }
    state.random.one_in(SLICE).then_some(Trap::Timer)
}

/// One of the CPUs that could have the turn, if there is one.
fn draw(state: &mut State) -> Option<usize> {
    let is_ready = |status| matches!(status, Status::Guest | Status::Starting | Status::Asleep);
    let ready: Vec<usize> = (0..state.cpus.len()).filter(|cpu| is_ready(state.cpus[*cpu].status)).collect();
    match ready[..] {
        [] => None,
        [only] => Some(only),
        _ => Some(state.random.choose(&ready)),
    }
}

/// The CPU of this thread.
pub(crate) fn here() -> usize {
    HERE.with_borrow(|here| here.as_ref().map_or(0, |(_, cpu)| *cpu))
}

/// Lets other CPUs go on until it is this thread's turn again: what a CPU does that waits for all others.
pub(crate) fn let_others_go_on() {
    HERE.with_borrow(|here| {
        if let Some((world, cpu)) = here {
            world.sleep(*cpu);
        }
    });
}

/// The thread of a CPU, as long as it lives.
pub(crate) struct Thread(Arc<World>);

impl Thread {
    pub(crate) fn new(world: Arc<World>, cpu: usize) -> Self {
        HERE.set(Some((world.clone(), cpu)));
        Self(world)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up();
        }
    }
}
