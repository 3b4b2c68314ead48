//! Who is bound to a CPU, and what a vCPU has left there that was dropped elsewhere.
//!
//! Protocol. The seat of a CPU is one word: *off*; *free*; *taken* by the vCPU that is bound; or the address of what such
//! a vCPU has *left*. But for the last one it says in which *session* that is: how often the extension was turned on.
//!
//! | who | where | from | to |
//! |---|---|---|---|
//! | [`turn_on`](Seat::turn_on) | the CPU | off *n* | free *n* + 1 |
//! | [`take`](Seat::take) | the CPU | free *n* | taken *n* |
//! | [`free`](Seat::free) | the CPU | taken *n* | free *n* |
//! | [`leave`](Seat::leave) | any other | taken *n* | left |
//! | [`reap`](Seat::reap) | the CPU | left | free *n* |
//! | [`turn_off`](Seat::turn_off) | the CPU | any | off *n* |
//!
//! Each is a single atomic exchange, none waits. At most one vCPU is bound, so at most one thing is left.
//!
//! **Invariant:** what is left is taken away exactly once, by the CPU that it is left in. Whoever cannot leave it because the
//! session is over keeps it, and knows that the CPU has given it up: `turn_off` comes behind that. A session does not
//! come back. `loom_tests/seats.rs` goes through all interleavings.

use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use core::ptr::without_provenance_mut;

/// The lowest two bits of the word; 0 is an address.
const KIND: usize = 3;
const OFF: usize = 1;
const FREE: usize = 2;
const TAKEN: usize = 3;

/// From one [`turn_on`](Seat::turn_on) of a CPU to its [`turn_off`](Seat::turn_off).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session(usize);

/// Why a seat was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// The extension is off.
    Off,
    /// Another vCPU sits there, or has left something.
    Occupied,
}

/// The seat of one CPU; a `T` is what can be left there. It only passes the address on.
#[derive(Debug)]
pub(crate) struct Seat<T> {
    state: AtomicPtr<T>,
    /// What the CPU is called, and the session that it is in: written by the CPU, before the word.
    identity: AtomicU64,
    session: AtomicUsize,
}

impl<T> Seat<T> {
    /// Nobody has turned the CPU on yet.
    pub(crate) fn new() -> Self {
        const { assert!(align_of::<T>() > KIND) };
        Self {
            state: AtomicPtr::new(without_provenance_mut(OFF)),
            identity: AtomicU64::new(0),
            session: AtomicUsize::new(0),
        }
    }

    fn word(kind: usize, session: Session) -> *mut T {
        without_provenance_mut(session.0 << 2 | kind)
    }

    fn change(&self, from: *mut T, to: *mut T) -> Result<(), *mut T> {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    /// The CPU, which can be told from all others by `identity`, has turned its extension on; `None` if one with this seat
    /// has already.
    pub(crate) fn turn_on(&self, identity: u64) -> Option<Session> {
        let state = self.state.load(Ordering::Acquire);
        if state.addr() & KIND != OFF {
            return None;
        }
        // A pointer has two bits less; sessions do not get that far.
        let session = Session((state.addr() >> 2).wrapping_add(1) & usize::MAX >> 2);
        self.change(state, Self::word(OFF, session)).ok()?;
        // Nobody looks at these while the word says that it is off.
        self.identity.store(identity, Ordering::Relaxed);
        self.session.store(session.0, Ordering::Relaxed);
        self.change(Self::word(OFF, session), Self::word(FREE, session)).ok()?;
        Some(session)
    }

    /// The CPU has given up everything that a vCPU may have in it, and turned the extension off. What was left until now is
    /// the caller's.
    pub(crate) fn turn_off(&self, session: Session) -> Option<*mut T> {
        let state = self.state.swap(Self::word(OFF, session), Ordering::AcqRel);
        (state.addr() & KIND == 0).then_some(state)
    }

    /// The identity of the CPU while it is on.
    pub(crate) fn identity(&self) -> Option<u64> {
        let on = self.state.load(Ordering::Acquire).addr() & KIND != OFF;
        on.then(|| self.identity.load(Ordering::Relaxed))
    }

    /// Seats a vCPU. On the CPU itself.
    pub(crate) fn take(&self) -> Result<Session, Unavailable> {
        let state = self.state.load(Ordering::Acquire);
        match state.addr() & KIND {
            FREE => {
                let session = Session(state.addr() >> 2);
                let taken = self.change(state, Self::word(TAKEN, session));
                taken.map(|()| session).map_err(|_| Unavailable::Occupied)
            }
            OFF => Err(Unavailable::Off),
            _ => Err(Unavailable::Occupied),
        }
    }

    /// Whether the vCPU that took it in `session` sits there.
    pub(crate) fn is_taken(&self, session: Session) -> bool {
        self.state.load(Ordering::Acquire) == Self::word(TAKEN, session)
    }

    /// The vCPU that took it in `session` gets up. On the CPU itself; nothing changes in another session.
    pub(crate) fn free(&self, session: Session) {
        // If it fails the session is over.
        let _ = self.change(Self::word(TAKEN, session), Self::word(FREE, session));
    }

    /// Leaves `what` to the CPU in the name of the vCPU that took the seat in `session`; `false` if the session is over: then it
    /// stays the caller's, and nothing of the vCPU is in the CPU any more.
    pub(crate) fn leave(&self, session: Session, what: *mut T) -> bool {
        self.change(Self::word(TAKEN, session), what).is_ok()
    }

    /// What was left, which is the caller's from now on. On the CPU itself.
    pub(crate) fn reap(&self) -> Option<*mut T> {
        let state = self.state.load(Ordering::Acquire);
        if state.addr() & KIND != 0 {
            return None;
        }
        let session = Session(self.session.load(Ordering::Relaxed));
        self.change(state, Self::word(FREE, session)).ok()?;
        Some(state)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
