//! Under loom, with all that a weak memory allows: what vCPUs leave in a CPU (`seats.rs`); and here which CPUs a change has to
//! reach, in every interleaving of CPUs that enter and leave with one that changes a table.
//!
//! Run by `cargo xtask test`, or `RUSTFLAGS="--cfg loom" cargo test -p slat-x86 --release --lib loom_tests`. The table is one entry
//! that names a frame. A frame is memory that loom watches: a guest that reads it while the host, which has taken
//! it back, writes to it is a race, and loom says so. Loom's atomics that are sequentially consistent are not, its fences
//! are; so the protocol has fences.

mod seats;

use crate::SpaceCpus;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// What a CPU does wrong, on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    None,
    /// It enters with what it remembers although it has been told to drop it.
    FlushForgotten,
    /// It says that it has left before it has.
    LeftTooEarly,
    /// The frame is reused although nobody was told.
    NotInvalidated,
    /// The frame is reused before those that are inside have left.
    NotWaited,
}

/// Two frames, and a table with one entry: which of them is mapped.
#[derive(Debug)]
struct Machine {
    cpus: SpaceCpus<3>,
    entry: AtomicUsize,
    frames: [UnsafeCell<usize>; 4],
}

impl Machine {
    fn new() -> Self {
        Self {
            cpus: SpaceCpus::new(),
            entry: AtomicUsize::new(0),
            frames: core::array::from_fn(|_| UnsafeCell::new(0)),
        }
    }

    /// A CPU runs the guest `times` times, which reads through the table by what the CPU remembers.
    fn run_guest(&self, cpu: usize, times: usize, mistake: Mistake) {
        let mut remembered = None;
        for _ in 0..times {
            let flush = self.cpus.enter(cpu).expect("exists").flush;
            if flush && mistake != Mistake::FlushForgotten {
                remembered = None;
            }
            // A walk is ordered by nothing of its own.
            let walked = *remembered.get_or_insert_with(|| self.entry.load(Ordering::Relaxed));
            if mistake == Mistake::LeftTooEarly {
                self.cpus.leave(cpu).expect("exists");
            }
            // Loom finds a write of the host at the same time.
            self.frames[walked].with(|_| ());
            if mistake != Mistake::LeftTooEarly {
                self.cpus.leave(cpu).expect("exists");
            }
        }
    }

    /// The host maps another frame and reuses the one that was mapped.
    fn change(&self, cpu: usize, frame: usize, mistake: Mistake) {
        let before = self.entry.swap(frame, Ordering::Relaxed);
        match mistake {
            Mistake::NotInvalidated => {}
            Mistake::NotWaited => {
                let reuse = |_| self.frames[before].with_mut(|_| ());
                self.cpus.invalidate(cpu, reuse).expect("exists");
            }
            _ => self.cpus.invalidate(cpu, |_| ()).expect("exists"),
        }
        self.frames[before].with_mut(|_| ());
    }
}

/// Interleavings with so many involuntary switches from one CPU to another.
fn explore(switches: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(switches);
    model.check(run);
}

/// A change and a CPU that runs the guest `times` times.
fn check(times: usize, mistake: Mistake) {
    explore(3, move || {
        let machine = Arc::new(Machine::new());
        let guest = {
            let machine = machine.clone();
            thread::spawn(move || machine.run_guest(1, times, mistake))
        };
        machine.change(0, 1, mistake);
        guest.join().expect("the guest ends");
    });
}

#[test]
fn no_cpu_uses_what_was_taken_away() {
    check(3, Mistake::None);
}

#[test]
fn each_of_two_changes_is_seen() {
    explore(3, || {
        let machine = Arc::new(Machine::new());
        let guest = {
            let machine = machine.clone();
            thread::spawn(move || machine.run_guest(1, 2, Mistake::None))
        };
        machine.change(0, 1, Mistake::None);
        machine.change(0, 2, Mistake::None);
        guest.join().expect("the guest ends");
    });
}

#[test]
fn two_cpus_run_the_guest() {
    explore(2, || {
        let machine = Arc::new(Machine::new());
        let guests = [1, 2].map(|cpu| {
            let machine = machine.clone();
            thread::spawn(move || machine.run_guest(cpu, 1, Mistake::None))
        });
        machine.change(0, 1, Mistake::None);
        guests.into_iter().for_each(|guest| guest.join().expect("the guest ends"));
    });
}

#[test]
fn both_change_and_run() {
    explore(2, || {
        let machine = Arc::new(Machine::new());
        let other = {
            let machine = machine.clone();
            thread::spawn(move || {
                machine.run_guest(1, 1, Mistake::None);
                machine.change(1, 1, Mistake::None);
            })
        };
        machine.run_guest(0, 1, Mistake::None);
        machine.change(0, 2, Mistake::None);
        machine.run_guest(0, 1, Mistake::None);
        other.join().expect("the guest ends");
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_flush_that_is_forgotten_is_found() {
    check(2, Mistake::FlushForgotten);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn leaving_too_early_is_found() {
    check(1, Mistake::LeftTooEarly);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_change_of_which_nobody_is_told_is_found() {
    check(1, Mistake::NotInvalidated);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn waiting_for_nobody_is_found() {
    check(1, Mistake::NotWaited);
}
