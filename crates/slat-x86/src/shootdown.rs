//! Which CPUs a change of a second-level table has to reach.
//!
//! Neither vendor broadcasts: INVEPT and the flush at a VMRUN drop what the CPU remembers that executes them. So each
//! address space has a *generation*, which every invalidation raises, and for each CPU a word: the generation up to which
//! the CPU has dropped everything, and whether it is inside the guest.
//!
//! Protocol. A CPU calls [`enter`](SpaceCpus::enter) with interrupts masked (NMIs are not), right before the entry; if that
//! says so it drops the space's translations first; [`leave`](SpaceCpus::leave) right after the exit. Whoever has changed the
//! table calls [`invalidate`](SpaceCpus::invalidate), which kicks those that are inside with an older generation and waits until they have left.
//! **Invariant:** when it returns, no CPU is inside with what it remembered before the change, nor will be: one that is
//! outside learns of the new generation when it enters. While it is outside it uses nothing of what it remembers, so
//! the frames may be reused at once (Intel: guest-physical mappings are used in VMX non-root operation only; AMD: those of
//! an ASID likewise).
//!
//! Why nothing is missed: the CPU that enters first says that it is inside and then reads the generation; the one that
//! invalidates first raises the generation and then looks who is inside. Between the two stands a sequentially consistent
//! fence, on both sides, so at least one of the two sees what the other did. `loom_tests.rs` goes through all interleavings.

use crate::sync::{AtomicU64, Ordering, fence, spin_loop};
use thiserror::Error;

/// Bit 0 of a CPU's word: it is inside.
const INSIDE: u64 = 1;
/// The generation stands above it. The first one of a space is 1, so that 0 is older: a CPU may remember what another space
/// had at the same root.
const FIRST: u64 = 1 << 1;

/// So many looks at a CPU that has not left, and it is kicked again.
const KICK_AGAIN: u32 = 1 << 14;

/// The space was made for fewer CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("CPU {cpu} of a space for {cpus}")]
pub struct NoSuchCpu {
    /// The index that was given.
    pub cpu: usize,
    /// For how many CPUs the space was made.
    pub cpus: usize,
}

/// What a CPU has to do before it enters the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Entry {
    /// Whether it must drop what it remembers of the space.
    pub flush: bool,
}

/// Who runs one address space, on a machine of up to `CPUS` CPUs.
#[derive(Debug)]
pub struct SpaceCpus<const CPUS: usize> {
    generation: AtomicU64,
    cpus: [AtomicU64; CPUS],
}

impl<const CPUS: usize> SpaceCpus<CPUS> {
    /// Nobody has run the space yet.
    #[must_use]
    pub fn new() -> Self {
        Self { generation: AtomicU64::new(FIRST), cpus: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// CPU `cpu`, on which this runs, is about to enter the guest. Until it [leaves](Self::leave) it counts as inside. A kick
    /// that arrives between this and the entry may be spent in the host, where NMIs cannot be held off (Intel; on AMD the
    /// global interrupt flag does); it is repeated until the CPU has left.
    ///
    /// # Errors
    /// [`NoSuchCpu`].
    pub fn enter(&self, cpu: usize) -> Result<Entry, NoSuchCpu> {
        let word = self.word(cpu)?;
        let known = word.load(Ordering::Relaxed) & !INSIDE;
        // Whoever reads it has seen what the CPU did in the guest before, as at `leave`.
        word.store(known | INSIDE, Ordering::Release);
        fence(Ordering::SeqCst);
        // What was changed before the generation was raised is seen by the guest's walks.
        let generation = self.generation.load(Ordering::Acquire);
        if known == generation {
            return Ok(Entry { flush: false });
        }
        // The caller flushes before the guest runs, and whoever invalidates from here on finds the CPU inside.
        word.store(generation | INSIDE, Ordering::Release);
        Ok(Entry { flush: true })
    }

    /// Whether nobody has invalidated since CPU `cpu` entered. To be asked after the exit.
    ///
    /// # Errors
    /// [`NoSuchCpu`].
    pub fn is_current(&self, cpu: usize) -> Result<bool, NoSuchCpu> {
        let known = self.word(cpu)?.load(Ordering::Relaxed) & !INSIDE;
        Ok(known == self.generation.load(Ordering::Acquire))
    }

    /// CPU `cpu` has left the guest.
    ///
    /// # Errors
    /// [`NoSuchCpu`].
    pub fn leave(&self, cpu: usize) -> Result<(), NoSuchCpu> {
        let word = self.word(cpu)?;
        // What it did in the guest comes before.
        word.store(word.load(Ordering::Relaxed) & !INSIDE, Ordering::Release);
        Ok(())
    }

    /// The table was changed: no CPU uses what it remembers of the space when this returns. `kick` makes another CPU leave
    /// its guest soon (an NMI by IPI); it is called for each that has to, and again
    /// if that takes long. CPU `this` is the one on which this runs,
    /// outside of the guest.
    ///
    /// Costs one atomic addition, and for each CPU one load; for a CPU that is inside with an older generation the kick
    /// and the wait. Several may do so at once.
    ///
    /// # Errors
    /// [`NoSuchCpu`]; nothing has changed then.
    pub fn invalidate(&self, this: usize, mut kick: impl FnMut(usize)) -> Result<(), NoSuchCpu> {
        self.word(this)?;
        let generation = self.generation.fetch_add(FIRST, Ordering::AcqRel) + FIRST;
        fence(Ordering::SeqCst);
        let others = || self.cpus.iter().enumerate().filter(|(cpu, _)| *cpu != this);
        let is_behind = |word: &AtomicU64| {
            let value = word.load(Ordering::Acquire);
            value & INSIDE != 0 && value & !INSIDE < generation
        };
        // All are on their way out before any is waited for.
        others().filter(|(_, word)| is_behind(word)).for_each(|(cpu, _)| kick(cpu));
        for (cpu, word) in others() {
            let mut looks: u32 = 0;
            while is_behind(word) {
                spin_loop();
                looks = looks.wrapping_add(1);
                if looks % KICK_AGAIN == 0 {
                    kick(cpu);
                }
            }
        }
        Ok(())
    }

    /// How often the space was invalidated.
    #[must_use]
    pub fn invalidations(&self) -> u64 {
        (self.generation.load(Ordering::Relaxed) - FIRST) / FIRST
    }

    fn word(&self, cpu: usize) -> Result<&AtomicU64, NoSuchCpu> {
        self.cpus.get(cpu).ok_or(NoSuchCpu { cpu, cpus: CPUS })
    }
}

impl<const CPUS: usize> Default for SpaceCpus<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
