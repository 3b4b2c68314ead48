//! What a vCPU has left in a CPU that was dropped on another one.
//!
//! The CPU may write to the frame of the vCPU for as long as that is active there; whoever gives the frame back writes to it,
//! too. Each frame has to be given back once.

use super::explore;
use crate::seat::{Seat, Session};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// What is done wrong, on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    None,
    /// The frame of a dropped vCPU is given back at once.
    GivenBackAtOnce,
    /// The CPU says that it is off before it has given the frame up.
    OffTooEarly,
    /// The CPU does not look for what was left when it is turned off.
    NotLooked,
}

/// The frame of a vCPU.
#[derive(Debug)]
struct Frame {
    contents: UnsafeCell<u64>,
    given_back: AtomicUsize,
}

impl Frame {
    fn new() -> Self {
        Self { contents: UnsafeCell::new(0), given_back: AtomicUsize::new(0) }
    }

    /// The CPU writes to it.
    fn written(&self) {
        self.contents.with_mut(|_| ());
    }

    /// Goes back to the host, which writes to it.
    fn give_back(&self) {
        self.contents.with_mut(|_| ());
        self.given_back.fetch_add(1, Ordering::Relaxed);
    }
}

/// A CPU, and the frames of two vCPUs.
struct Machine {
    seat: Seat<u64>,
    frames: [Frame; 2],
    /// What stands for a frame in the seat: its address.
    places: [u64; 2],
}

impl Machine {
    fn new() -> Self {
        Self { seat: Seat::new(), frames: [Frame::new(), Frame::new()], places: [0; 2] }
    }

    fn place(&self, frame: usize) -> *mut u64 {
        (&raw const self.places[frame]).cast_mut()
    }

    fn frame_at(&self, place: *mut u64) -> &Frame {
        let index = (0..2).find(|index| self.place(*index) == place);
        &self.frames[index.expect("the address of a frame")]
    }

    /// A vCPU is dropped on another CPU than its own.
    fn drop_elsewhere(&self, frame: usize, session: Session, mistake: Mistake) {
        let left = self.seat.leave(session, self.place(frame));
        if !left || mistake == Mistake::GivenBackAtOnce {
            self.frames[frame].give_back();
        }
    }

    /// The CPU is turned off, with `active` still in it perhaps.
    fn turn_off(&self, session: Session, active: usize, mistake: Mistake) {
        if let Some(place) = self.seat.reap() {
            self.frame_at(place).written();
            self.frame_at(place).give_back();
        } else if mistake != Mistake::OffTooEarly {
            self.frames[active].written();
        }
        let left = self.seat.turn_off(session);
        if mistake == Mistake::OffTooEarly && left.is_none() {
            self.frames[active].written();
        }
        if let Some(place) = left.filter(|_| mistake != Mistake::NotLooked) {
            self.frame_at(place).give_back();
        }
    }

    fn given_back(&self) -> [usize; 2] {
        [0, 1].map(|frame| self.frames[frame].given_back.load(Ordering::Relaxed))
    }
}

/// A CPU that is turned off while its vCPU is dropped elsewhere.
fn turned_off(mistake: Mistake) {
    explore(3, move || {
        let machine = Arc::new(Machine::new());
        let session = machine.seat.turn_on(0).expect("off");
        assert_eq!(machine.seat.take(), Ok(session));
        let other = {
            let machine = machine.clone();
            thread::spawn(move || machine.drop_elsewhere(0, session, mistake))
        };
        machine.turn_off(session, 0, mistake);
        other.join().expect("it ends");
        assert_eq!(machine.given_back(), [1, 0], "lost, or given back twice");
    });
}

#[test]
fn what_is_left_is_given_back_once() {
    turned_off(Mistake::None);
}

#[test]
fn the_next_vcpu_is_bound_or_finds_the_cpu_occupied() {
    explore(3, || {
        let machine = Arc::new(Machine::new());
        let session = machine.seat.turn_on(0).expect("off");
        assert_eq!(machine.seat.take(), Ok(session));
        let other = {
            let machine = machine.clone();
            thread::spawn(move || machine.drop_elsewhere(0, session, Mistake::None))
        };
        machine.frames[0].written();
        let reaped = machine.seat.reap();
        if let Some(place) = reaped {
            machine.frame_at(place).written();
            machine.frame_at(place).give_back();
        }
        assert_eq!(machine.seat.take().is_ok(), reaped.is_some());
        let last = usize::from(reaped.is_some());
        machine.turn_off(session, last, Mistake::None);
        other.join().expect("it ends");
        assert_eq!(machine.given_back(), [1, 0]);
    });
}

/// Turned off and on again, with another vCPU that is dropped elsewhere, too.
#[test]
fn a_session_that_is_over_does_not_come_back() {
    explore(3, || {
        let machine = Arc::new(Machine::new());
        let first = machine.seat.turn_on(0).expect("off");
        assert_eq!(machine.seat.take(), Ok(first));
        let other = {
            let machine = machine.clone();
            thread::spawn(move || machine.drop_elsewhere(0, first, Mistake::None))
        };
        machine.turn_off(first, 0, Mistake::None);
        let second = machine.seat.turn_on(0).expect("off");
        assert_eq!(machine.seat.take(), Ok(second));
        machine.frames[1].written();
        let third = {
            let machine = machine.clone();
            thread::spawn(move || machine.drop_elsewhere(1, second, Mistake::None))
        };
        machine.turn_off(second, 1, Mistake::None);
        other.join().expect("it ends");
        third.join().expect("it ends");
        assert_eq!(machine.given_back(), [1, 1]);
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn giving_a_frame_back_that_the_cpu_may_write_to_is_found() {
    turned_off(Mistake::GivenBackAtOnce);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_cpu_that_is_off_too_early_is_found() {
    turned_off(Mistake::OffTooEarly);
}

#[test]
#[should_panic(expected = "lost, or given back twice")]
fn a_frame_that_nobody_looks_for_is_found() {
    turned_off(Mistake::NotLooked);
}
