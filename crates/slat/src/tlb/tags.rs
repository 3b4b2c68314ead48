//! Tags (VMID, ASID, VPID): more spaces than a CPU can tell apart share its tags by generations.
//!
//! A space gets a tag when a CPU first enters it. When none is left a new generation begins: every tag is free again,
//! and every CPU drops all that it knows before it enters a space of the new generation. A tag that a CPU is using at
//! that moment is kept for its space. **Invariants.** No CPU enters a space under a tag under which it remembers
//! another one. While a CPU may run a space, the [`Tag`] of the space is the one under which it runs it, so that an
//! invalidation under that tag reaches it.

#![expect(unsafe_code, reason = "keeps the pool in frames of the host")]

use crate::addr::{HostPhysAddr, PAGE_SIZE};
use crate::frame::OwnedFrames;
use crate::hal::Hal;
use crate::sync::{AtomicBool, AtomicU64, Ordering, spin_loop};
use core::fmt;
use thiserror::Error;

/// Bits of a tag; the generation stands above.
const TAG_BITS: u32 = 16;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
const GENERATION: u64 = 1 << TAG_BITS;

/// The tag of one space (or, for VPIDs, of one vCPU), with the generation that it belongs to.
#[derive(Debug)]
pub struct Tag(AtomicU64);

impl Tag {
    /// No tag yet: tag 0, of no generation.
    #[must_use]
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// As without loom, whose atomics are no constants.
    #[must_use]
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A tag that no pool gave.
    pub(crate) fn fixed(tag: u16) -> Self {
        Self(AtomicU64::new(tag.into()))
    }

    /// The number that the hardware knows.
    #[must_use]
    #[inline]
    pub fn number(&self) -> u16 {
        (self.0.load(Ordering::Acquire) & TAG_MASK) as u16
    }
}

impl Default for Tag {
    fn default() -> Self {
        Self::new()
    }
}

/// What a CPU has to do to enter a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Activation {
    /// The tag to enter it under.
    pub tag: u16,
    /// Whether this CPU must first drop everything that it remembers of any guest, under whatever tag.
    pub flush: bool,
}

/// Why there is no pool, or no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TagError {
    /// Tags of more than 16 bits.
    #[error("tags of {0} bits: no CPU has more than 16")]
    TooWide(u32),
    /// The pool was made for fewer CPUs.
    #[error("CPU {cpu} of a pool for {cpus}")]
    NoSuchCpu {
        /// The index that was given.
        cpu: usize,
        /// Number of CPUs of the pool.
        cpus: usize,
    },
    /// No frames for the pool.
    #[error("out of memory for the tags")]
    OutOfMemory,
}

/// The tags of a machine, shared by the spaces that run on its CPUs.
///
/// Arm and RISC-V: one pool for all CPUs and all spaces, because a broadcast (or a remote fence) names one VMID. AMD,
/// and Intel's VPIDs: either that, or a pool of one CPU for each CPU, with a [`Tag`] for each pair of guest and CPU.
///
/// Tag 0 is never given: VPID 0 and ASID 0 belong to the host, and spaces without a pool may have VMID 0. Where there
/// are not more tags than CPUs, every space has tag 0 and every change of the space on a CPU drops everything.
///
/// Entering the space that the CPU ran last costs two loads and a compare-exchange; a space of an older generation takes
/// a lock, and one roll-over costs one pass over the tags and CPUs.
pub struct TagPool<H: Hal> {
    hal: H,
    memory: HostPhysAddr,
    frames: usize,
    /// Tags that the CPUs have, tag 0 included; 1 if they are not used.
    tags: usize,
    cpus: usize,
    generation: AtomicU64,
    /// Guards the words of the bitmap, and what a CPU keeps and owes.
    lock: AtomicBool,
}

/// What the pool knows of a CPU, a word each.
#[derive(Clone, Copy)]
enum OfCpu {
    /// The tag that it runs, with its generation; 0 if the generation changed since, or if it runs none.
    Active,
    /// The tag that it ran when the generation last changed.
    Kept,
    /// Not 0 if it must drop everything before it enters a space.
    Flush,
}

const WORDS_OF_CPU: usize = 3;

impl<H: Hal> TagPool<H> {
    /// A pool of tags of `tag_bits` bits (0 to 16; see [`Format::tag_bits`](crate::format::Format::tag_bits)) for CPUs
    /// 0 to `cpus - 1`. Takes one run of frames: 8 KiB for 16 bits, and 24 bytes for each CPU.
    ///
    /// # Errors
    /// [`TagError::TooWide`], [`TagError::OutOfMemory`], [`TagError::NoSuchCpu`] for no CPUs at all.
    pub fn new(hal: H, tag_bits: u32, cpus: usize) -> Result<Self, TagError> {
        if tag_bits > TAG_BITS {
            return Err(TagError::TooWide(tag_bits));
        }
        if cpus == 0 {
            return Err(TagError::NoSuchCpu { cpu: 0, cpus });
        }
        let tags = 1usize << tag_bits;
        let tags = if tags - 1 > cpus { tags } else { 1 };
        let words = cpus.checked_mul(WORDS_OF_CPU).and_then(|words| words.checked_add(tags.div_ceil(64)));
        let bytes =
            words.and_then(|words| words.checked_mul(size_of::<u64>())).ok_or(TagError::OutOfMemory)?;
        let frames = bytes.div_ceil(PAGE_SIZE as usize);
        let mut run = OwnedFrames::alloc(&hal, frames, 1).ok_or(TagError::OutOfMemory)?;
        run.zero_table();
        let memory = run.into_raw();
        let generation = AtomicU64::new(GENERATION);
        let pool = Self { hal, memory, frames, tags, cpus, generation, lock: AtomicBool::new(false) };
        // A CPU may remember guests from before the pool.
        (0..cpus).for_each(|cpu| pool.of_cpu(cpu, OfCpu::Flush).store(1, Ordering::Relaxed));
        pool.take(0);
        Ok(pool)
    }

    /// Number of CPUs.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// What CPU `cpu`, on which this runs, has to do to enter the space of `tag` next. From then on until the CPU
    /// activates another tag or [`deactivate`](Self::deactivate)s it, the tag keeps its number.
    ///
    /// A tag belongs to the first pool that it meets, and to no other.
    ///
    /// # Errors
    /// [`TagError::NoSuchCpu`].
    pub fn activate(&self, cpu: usize, tag: &Tag) -> Result<Activation, TagError> {
        self.check(cpu)?;
        let active = self.of_cpu(cpu, OfCpu::Active);
        let last = active.load(Ordering::Relaxed);
        let value = tag.0.load(Ordering::Acquire);
        // Whoever begins a generation takes the active tag away after having changed it: then the exchange fails.
        let current = last != 0 && value & !TAG_MASK == self.generation.load(Ordering::Acquire);
        let undisturbed = current
            && self.tags > 1
            && active.compare_exchange(last, value, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if undisturbed {
            return Ok(Activation { tag: (value & TAG_MASK) as u16, flush: false });
        }
        Ok(self.activate_slowly(cpu, tag))
    }

    /// CPU `cpu` runs no space any more: its root register points to none, so that it does not even walk ahead.
    ///
    /// # Errors
    /// [`TagError::NoSuchCpu`].
    pub fn deactivate(&self, cpu: usize) -> Result<(), TagError> {
        self.check(cpu)?;
        let _guard = self.lock();
        self.of_cpu(cpu, OfCpu::Active).store(0, Ordering::Relaxed);
        self.of_cpu(cpu, OfCpu::Kept).store(0, Ordering::Relaxed);
        Ok(())
    }

    /// CPU `cpu` has not dropped what the last [`activate`](Self::activate) told it to drop, for it did not enter the space
    /// (AMD: VMRUN failed): it is told again.
    ///
    /// # Errors
    /// [`TagError::NoSuchCpu`].
    pub fn owe_flush(&self, cpu: usize) -> Result<(), TagError> {
        self.check(cpu)?;
        let _guard = self.lock();
        // The quick way of `activate` does not look at what is owed.
        self.of_cpu(cpu, OfCpu::Active).store(0, Ordering::Relaxed);
        self.of_cpu(cpu, OfCpu::Kept).store(0, Ordering::Relaxed);
        self.of_cpu(cpu, OfCpu::Flush).store(1, Ordering::Relaxed);
        Ok(())
    }

    fn check(&self, cpu: usize) -> Result<(), TagError> {
        if cpu < self.cpus { Ok(()) } else { Err(TagError::NoSuchCpu { cpu, cpus: self.cpus }) }
    }

    #[cold]
    fn activate_slowly(&self, cpu: usize, tag: &Tag) -> Activation {
        let _guard = self.lock();
        let mut value = tag.0.load(Ordering::Relaxed);
        let known = value & !TAG_MASK;
        if self.tags == 1 {
            // Generations are names: each space has its own.
            if known == 0 {
                value = self.generation.fetch_add(GENERATION, Ordering::Relaxed);
                tag.0.store(value, Ordering::Release);
            }
        } else if known != self.generation.load(Ordering::Relaxed) {
            value = self.renew(value);
            tag.0.store(value, Ordering::Release);
        }
        let active = self.of_cpu(cpu, OfCpu::Active);
        let other = self.tags == 1 && active.load(Ordering::Relaxed) != value;
        let flush = self.of_cpu(cpu, OfCpu::Flush).swap(0, Ordering::Relaxed) != 0;
        active.store(value, Ordering::Release);
        Activation { tag: (value & TAG_MASK) as u16, flush: flush || other }
    }

    /// The tag, in this generation, of a space that had `old` in an earlier one, or none.
    fn renew(&self, old: u64) -> u64 {
        if old & !TAG_MASK != 0 && self.is_kept(old) {
            return self.generation.load(Ordering::Relaxed) | old & TAG_MASK;
        }
        let number = self.free_tag().unwrap_or_else(|| {
            self.roll_over();
            // More tags than CPUs, and a CPU keeps one at most.
            self.free_tag().unwrap_or_else(|| unreachable!("a generation begins with free tags"))
        });
        self.take(number);
        self.generation.load(Ordering::Relaxed) | number as u64
    }

    /// Whether a CPU kept the tag over the change of generations; all that did so hold it in this one from now on.
    fn is_kept(&self, old: u64) -> bool {
        let renewed = self.generation.load(Ordering::Relaxed) | old & TAG_MASK;
        let mut found = false;
        for kept in (0..self.cpus).map(|cpu| self.of_cpu(cpu, OfCpu::Kept)) {
            if kept.load(Ordering::Relaxed) == old {
                kept.store(renewed, Ordering::Relaxed);
                found = true;
            }
        }
        found
    }

    fn roll_over(&self) {
        self.generation.fetch_add(GENERATION, Ordering::AcqRel);
        (0..self.tags.div_ceil(64)).for_each(|word| self.word(word).store(0, Ordering::Relaxed));
        self.take(0);
        for cpu in 0..self.cpus {
            let kept = self.of_cpu(cpu, OfCpu::Kept);
            let active = self.of_cpu(cpu, OfCpu::Active).swap(0, Ordering::AcqRel);
            // A CPU that entered no space since the last change still runs the one from before.
            let running = if active == 0 { kept.load(Ordering::Relaxed) } else { active };
            kept.store(running, Ordering::Relaxed);
            self.take((running & TAG_MASK) as usize);
            self.of_cpu(cpu, OfCpu::Flush).store(1, Ordering::Relaxed);
        }
    }

    fn free_tag(&self) -> Option<usize> {
        (0..self.tags.div_ceil(64)).find_map(|index| {
            let free = (!self.word(index).load(Ordering::Relaxed)).trailing_zeros() as usize;
            (free < 64 && index * 64 + free < self.tags).then_some(index * 64 + free)
        })
    }

    fn take(&self, number: usize) {
        self.word(number / 64).fetch_or(1 << (number % 64), Ordering::Relaxed);
    }

    fn of_cpu(&self, cpu: usize, what: OfCpu) -> &AtomicU64 {
        self.word(self.tags.div_ceil(64) + cpu * WORDS_OF_CPU + what as usize)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.frames * PAGE_SIZE as usize / size_of::<u64>(), "a word behind the pool");
        let words = self.hal.phys_to_virt(self.memory).cast::<AtomicU64>();
        // SAFETY: inside the run of frames, which is taken as long as the pool lives.
        let word = unsafe { words.add(index) };
        // SAFETY: as above; frames are aligned, and every access to the pool's memory is through this.
        unsafe { &*word }
    }

    fn lock(&self) -> Guard<'_> {
        while self.lock.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spin_loop();
        }
        Guard(&self.lock)
    }
}

struct Guard<'p>(&'p AtomicBool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<H: Hal> Drop for TagPool<H> {
    fn drop(&mut self) {
        // SAFETY: `new` took the run from this host, and nobody else knows of it.
        unsafe { self.hal.dealloc_frames(self.memory, self.frames) };
    }
}

impl<H: Hal> fmt::Debug for TagPool<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.generation.load(Ordering::Relaxed) >> TAG_BITS;
        f.debug_struct("TagPool")
            .field("tags", &self.tags)
            .field("cpus", &self.cpus)
            .field("generation", &generation)
            .finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
