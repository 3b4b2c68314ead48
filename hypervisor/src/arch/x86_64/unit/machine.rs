//! Unit guests that need no extension: what all the others rely on.

use super::context::Bench;
use super::{UnitGuest, ensure, ensure_eq, nothing};
use crate::arch::x86_64::bare::{kick, nmis, this_cpu};
use alloc::string::{String, ToString};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};
use slat::{Hal as _, PAGE_SIZE};

pub(super) const GUESTS: &[UnitGuest<Bench>] = &[
    UnitGuest { name: "cpu-and-memory", needs: nothing, run: cpu_and_memory },
    UnitGuest { name: "second-cpu", needs: nothing, run: second_cpu },
];

/// Frames can be taken, written, and given back.
fn cpu_and_memory(bench: &Bench) -> Result<(), String> {
    ensure_eq!(this_cpu(), 0, "this CPU");
    let start = bench.host.alloc_frames(4, 4).ok_or("no frames")?;
    ensure_eq!(start.as_u64() % (4 * PAGE_SIZE), 0, "alignment");
    let words = bench.host.phys_to_virt(start).cast::<u64>();
    // SAFETY: the frames were just taken: 2048 words.
    let words = unsafe { core::slice::from_raw_parts_mut(words, 4 * PAGE_SIZE as usize / 8) };
    (0..).zip(words.iter_mut()).for_each(|(index, word): (u64, _)| *word = !index);
    let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(!*word));
    // SAFETY: taken above, and no longer used.
    unsafe { bench.host.dealloc_frames(start, 4) };
    ensure_eq!(sum, 2047 * 2048 / 2, "the sum of what was written");
    Ok(())
}

/// The other CPU comes up, works beside this one, and is interrupted by a kick.
fn second_cpu(bench: &Bench) -> Result<(), String> {
    const ROUNDS: u64 = 10;
    let (ours, theirs) = (AtomicU64::new(0), AtomicU64::new(0));
    let follow = |own: &AtomicU64, other: &AtomicU64| {
        for round in 1..=ROUNDS {
            own.store(round, Ordering::Release);
            while other.load(Ordering::Acquire) < round {
                spin_loop();
            }
        }
    };
    let work = || {
        follow(&theirs, &ours);
        this_cpu()
    };
    let (cpu, ()) = bench.beside(work, || follow(&ours, &theirs))?;
    ensure_eq!(cpu, 1, "the other CPU");
    let before = nmis(1);
    let work = || {
        ours.store(0, Ordering::Release);
        // Counts from some time after the kick on.
        (0..100_000_000_u64).any(|_| {
            spin_loop();
            nmis(1) > before + 1
        })
    };
    let kicks = || {
        while ours.load(Ordering::Acquire) != 0 {
            spin_loop();
        }
        kick(1);
        kick(1);
        for _ in 0..1000 {
            kick(1);
        }
    };
    let (noticed, ()) = bench.beside(work, kicks)?;
    ensure!(noticed, "the other CPU does not notice that it is kicked");
    let gone = bench.beside(|| 0, || 0).map_err(|error| error.to_string())?;
    ensure_eq!(gone, (0, 0), "work after that");
    Ok(())
}
