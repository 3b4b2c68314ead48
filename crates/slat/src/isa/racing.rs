//! Copying memory that guests and other CPUs may change meanwhile.
//!
//! No plain access of Rust code may race with another one, so this side of a race consists of relaxed atomic accesses, each
//! of the largest word that the alignment of the guest's address allows: aligned words of 1, 2, 4 and 8 bytes are moved
//! by one access. (A guest is no Rust code; other CPUs of the host reach its memory by the same functions.) Everything goes
//! upwards, as if byte after byte, also where a range overlaps its own copy.

#![expect(unsafe_code, reason = "reads and writes memory by pointers")]

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Bytes of the largest word that can begin at `address` and has no more than `left` bytes (at least 1) and no more than
/// `1 << most`.
#[inline]
fn word(address: usize, left: usize, most: u32) -> usize {
    1 << address.trailing_zeros().min(left.ilog2()).min(most)
}

/// The logarithm of the largest word.
const LARGEST: u32 = 3;

/// A word that one access moves.
pub(crate) trait Word: Copy {
    /// # Safety
    /// `from` is aligned to the word and valid for reads and writes; others reach it by atomic accesses at most.
    unsafe fn load(from: *const u8) -> Self;

    /// # Safety
    /// As [`load`](Self::load).
    unsafe fn store(self, to: *mut u8);

    /// The word whose bytes are all `byte`.
    fn repeated(byte: u8) -> Self;
}

macro_rules! word {
    ($word:ty, $atomic:ty) => {
        impl Word for $word {
            #[inline(always)]
            unsafe fn load(from: *const u8) -> Self {
                // SAFETY: the caller's promise. The reference lives no longer than this access, and one to an atomic says
                // nothing of what stands there.
                unsafe { <$atomic>::from_ptr(from.cast_mut().cast()).load(Ordering::Relaxed) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut u8) {
                // SAFETY: as in `load`.
                unsafe { <$atomic>::from_ptr(to.cast()).store(self, Ordering::Relaxed) }
            }

            fn repeated(byte: u8) -> Self {
                Self::from_ne_bytes([byte; size_of::<Self>()])
            }
        }
    };
}

word!(u8, AtomicU8);
word!(u16, AtomicU16);
word!(u32, AtomicU32);
word!(u64, AtomicU64);

/// What happens to one word.
trait Step {
    /// # Safety
    /// The words at the offset lie inside of both memories, aligned for whichever of them belongs to a guest.
    unsafe fn step<W: Word>(&self, offset: usize);
}

/// Does the `bytes` bytes from `address` on in steps, each of an aligned word of up to `1 << most` bytes.
///
/// # Safety
/// Each step is allowed for every such word of these bytes.
#[inline]
unsafe fn steps(address: usize, bytes: usize, most: u32, step: &impl Step) {
    let mut done = 0;
    while done < bytes {
        let size = word(address.wrapping_add(done), bytes - done, most);
        match size {
            // SAFETY: an aligned word inside of the `bytes` bytes; the rest is the caller's promise.
            1 => unsafe { step.step::<u8>(done) },
            // SAFETY: as above.
            2 => unsafe { step.step::<u16>(done) },
            // SAFETY: as above.
            4 => unsafe { step.step::<u32>(done) },
            _ => {
                // What follows is aligned as well.
                while bytes - done >= 16 {
                    // SAFETY: as above.
                    unsafe { step.step::<u64>(done) };
                    done += 8;
                }
                // SAFETY: as above.
                unsafe { step.step::<u64>(done) };
            }
        }
        done += size;
    }
}

struct Read(*const u8, *mut u8);
struct Write(*const u8, *mut u8);
struct Between(*const u8, *mut u8);
struct Fill(*mut u8, u8);

impl Step for Read {
    #[inline(always)]
    unsafe fn step<W: Word>(&self, offset: usize) {
        // SAFETY: the caller's promise.
        let word = unsafe { W::load(self.0.wrapping_add(offset)) };
        // SAFETY: the caller's promise; the target is ours and needs no alignment.
        unsafe { self.1.wrapping_add(offset).cast::<W>().write_unaligned(word) }
    }
}

impl Step for Write {
    #[inline(always)]
    unsafe fn step<W: Word>(&self, offset: usize) {
        // SAFETY: the caller's promise; the source is ours and needs no alignment.
        let word = unsafe { self.0.wrapping_add(offset).cast::<W>().read_unaligned() };
        // SAFETY: the caller's promise.
        unsafe { word.store(self.1.wrapping_add(offset)) }
    }
}

impl Step for Between {
    #[inline(always)]
    unsafe fn step<W: Word>(&self, offset: usize) {
        // SAFETY: the caller's promise.
        let word = unsafe { W::load(self.0.wrapping_add(offset)) };
        // SAFETY: the caller's promise.
        unsafe { word.store(self.1.wrapping_add(offset)) }
    }
}

impl Step for Fill {
    #[inline(always)]
    unsafe fn step<W: Word>(&self, offset: usize) {
        // SAFETY: the caller's promise.
        unsafe { W::repeated(self.1).store(self.0.wrapping_add(offset)) }
    }
}

/// Copies `bytes` bytes of a guest to memory of ours.
///
/// # Safety
/// `from` is valid for reads and writes, others reach it by atomic accesses at most; `to` is valid for writes and ours
/// alone.
#[inline]
pub(crate) unsafe fn read(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: every word lies inside of both (the caller's promise).
    unsafe { steps(from as usize, bytes, LARGEST, &Read(from, to)) }
}

/// Copies `bytes` bytes of ours to memory of a guest.
///
/// # Safety
/// `to` is valid for reads and writes, others reach it by atomic accesses at most; `from` is valid for reads and ours.
#[inline]
pub(crate) unsafe fn write(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: every word lies inside of both (the caller's promise).
    unsafe { steps(to as usize, bytes, LARGEST, &Write(from, to)) }
}

/// Copies `bytes` bytes from a guest to a guest, upwards.
///
/// # Safety
/// Both are valid for reads and writes, and others reach them by atomic accesses at most.
#[inline]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // What is aligned in one is aligned in the other up to their distance, which is a multiple of the word then: where the
    // ranges overlap, a word is written before it is read again.
    let most = (from as usize ^ to as usize).trailing_zeros().min(LARGEST);
    // SAFETY: every word lies inside of both (the caller's promise), and is aligned in both.
    unsafe { steps(from as usize, bytes, most, &Between(from, to)) }
}

/// Fills `bytes` bytes of a guest with `byte`.
///
/// # Safety
/// `to` is valid for reads and writes, and others reach it by atomic accesses at most.
#[inline]
pub(crate) unsafe fn fill(to: *mut u8, byte: u8, bytes: usize) {
    // SAFETY: every word lies inside (the caller's promise).
    unsafe { steps(to as usize, bytes, LARGEST, &Fill(to, byte)) }
}

#[cfg(all(test, not(loom)))]
mod tests;
