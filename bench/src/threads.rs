//! Faults by several threads in one space. Contenders that cannot do that stand behind a spin lock, as their users
//! would put them.

use crate::contender::Contender;
use crate::frames;
use crate::measure::Sample;
use crate::work::Sizes;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

const PAGE: u64 = 4096;

struct Shared<C> {
    taken: AtomicBool,
    space: UnsafeCell<C>,
}

// SAFETY: `space` is reached by `&mut` only while `taken` is held, or only by `&` if the contender says that it is
// made for that. Some contenders hold raw pointers to frames, which all threads reach alike.
unsafe impl<C> Sync for Shared<C> {}

impl<C: Contender> Shared<C> {
    fn fault(&self, gpa: u64) {
        if C::CONCURRENT {
            // SAFETY: no thread makes a `&mut` of this contender.
            return unsafe { &*self.space.get() }.fault_shared(gpa);
        }
        while self.taken.swap(true, Ordering::Acquire) {
            while self.taken.load(Ordering::Relaxed) {
                spin_loop();
            }
        }
        // SAFETY: the lock is held.
        unsafe { &mut *self.space.get() }.fault(gpa);
        self.taken.store(false, Ordering::Release);
    }
}

/// Lets each of `count` threads populate a range of its own; wall time from the first start to the last end.
pub(crate) fn fault<C: Contender>(sizes: &Sizes, count: usize) -> Sample {
    frames::take_share(0, 3);
    let bytes = sizes.per_thread * PAGE;
    let mut space = C::new();
    space.declare(0, count as u64 * bytes);
    let shared = Shared { taken: AtomicBool::new(false), space: UnsafeCell::new(space) };
    let waiting = AtomicUsize::new(count);
    let populate = |index: usize| {
        frames::take_share(1 + index, 3);
        let first = index as u64 * bytes;
        waiting.fetch_sub(1, Ordering::AcqRel);
        while waiting.load(Ordering::Acquire) > 0 {
            spin_loop();
        }
        let start = Instant::now();
        for gpa in (first..first + bytes).step_by(PAGE as usize) {
            shared.fault(gpa);
        }
        (start, Instant::now())
    };
    let times: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                let populate = &populate;
                scope.spawn(move || populate(index))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread that faults does not panic"))
            .collect()
    });
    let start = times.iter().map(|(start, _)| *start).min().expect("there is a thread");
    let end = times.iter().map(|(_, end)| *end).max().expect("there is a thread");
    let space = shared.space.into_inner();
    for index in 1..=count as u64 {
        assert!(space.translate(index * bytes - PAGE).is_some(), "{}: the last page is there", C::NAME);
    }
    Sample { nanoseconds: (end - start).as_nanos() as f64, units: count as u64 * sizes.per_thread }
}
