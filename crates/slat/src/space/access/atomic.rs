//! Atomic accesses: for what a host and a guest agree on meanwhile, the indices of a ring or a lock.

#![expect(unsafe_code, reason = "makes atomics of words in memory of a guest")]

use super::{AccessError, AccessRefusal, GuestMemory, GuestObject};
use crate::addr::GuestPhysAddr;
use crate::flags::MappingFlags;
use crate::format::Format;
use crate::hal::Hal;
use crate::space::CustomBackend;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

mod sealed {
    /// What the hardware does to one word.
    pub trait Atomic: Copy {
        /// # Safety
        /// `at` is aligned to the word and valid for reads and writes; others reach it by atomic accesses at most.
        unsafe fn load(at: *mut u8) -> Self;
        /// # Safety
        /// As [`load`](Self::load).
        unsafe fn store(at: *mut u8, value: Self);
        /// # Safety
        /// As [`load`](Self::load).
        unsafe fn swap(at: *mut u8, value: Self) -> Self;
        /// # Safety
        /// As [`load`](Self::load).
        unsafe fn compare_exchange(at: *mut u8, expected: Self, value: Self) -> Result<Self, Self>;
    }
}

/// A word that can be accessed atomically: `u8`, `u16`, `u32` or `u64`.
pub trait AtomicWord: GuestObject + sealed::Atomic {}

macro_rules! word {
    ($word:ty, $atomic:ty) => {
        impl AtomicWord for $word {}

        // SAFETY of all four: the caller's promise. The reference lives no longer than the access, and one to an atomic says
        // nothing of what stands there.
        impl sealed::Atomic for $word {
            unsafe fn load(at: *mut u8) -> Self {
                // SAFETY: see above.
                unsafe { <$atomic>::from_ptr(at.cast()).load(Ordering::Acquire) }
            }

            unsafe fn store(at: *mut u8, value: Self) {
                // SAFETY: see above.
                unsafe { <$atomic>::from_ptr(at.cast()).store(value, Ordering::Release) }
            }

            unsafe fn swap(at: *mut u8, value: Self) -> Self {
                // SAFETY: see above.
                unsafe { <$atomic>::from_ptr(at.cast()).swap(value, Ordering::AcqRel) }
            }

            unsafe fn compare_exchange(at: *mut u8, expected: Self, value: Self) -> Result<Self, Self> {
                // SAFETY: see above.
                let word = unsafe { <$atomic>::from_ptr(at.cast()) };
                word.compare_exchange(expected, value, Ordering::AcqRel, Ordering::Acquire)
            }
        }
    };
}

word!(u8, AtomicU8);
word!(u16, AtomicU16);
word!(u32, AtomicU32);
word!(u64, AtomicU64);

impl<H: Hal, F: Format, B: CustomBackend, I: Fn(GuestPhysAddr, &mut [u8])> GuestMemory<'_, H, F, B, I> {
    /// Reads the word at `gpa` (a multiple of its size), and sees what was written before whatever wrote it (acquire).
    ///
    /// # Errors
    /// [`AccessError`] with nothing done; [`AccessRefusal::Unaligned`] and [`AccessRefusal::NotCoherent`] are among the
    /// reasons.
    #[inline]
    pub fn atomic_load<T: AtomicWord>(&self, gpa: GuestPhysAddr) -> Result<T, AccessError> {
        let at = self.word::<T>(gpa, MappingFlags::READ)?;
        // SAFETY: `word` found an aligned word in memory of the guest.
        Ok(unsafe { T::load(at) })
    }

    /// Writes the word at `gpa` (a multiple of its size) after everything written before (release).
    ///
    /// # Errors
    /// As [`atomic_load`](Self::atomic_load).
    #[inline]
    pub fn atomic_store<T: AtomicWord>(&self, gpa: GuestPhysAddr, value: T) -> Result<(), AccessError> {
        let at = self.word::<T>(gpa, MappingFlags::WRITE)?;
        // SAFETY: as in `atomic_load`.
        unsafe { T::store(at, value) };
        Ok(())
    }

    /// Writes the word at `gpa` (a multiple of its size) and returns what stood there, in one step (acquire and release).
    ///
    /// # Errors
    /// As [`atomic_load`](Self::atomic_load).
    pub fn atomic_swap<T: AtomicWord>(&self, gpa: GuestPhysAddr, value: T) -> Result<T, AccessError> {
        let at = self.word::<T>(gpa, MappingFlags::READ | MappingFlags::WRITE)?;
        // SAFETY: as in `atomic_load`.
        Ok(unsafe { T::swap(at, value) })
    }

    /// Writes the word at `gpa` (a multiple of its size) if it is `expected`, in one step (acquire and release). Returns
    /// what stood there: as `Ok` if it was that and `value` stands there now, as `Err` if it was something else and still
    /// does. The page counts as written to either way.
    ///
    /// # Errors
    /// As [`atomic_load`](Self::atomic_load).
    pub fn atomic_compare_exchange<T: AtomicWord>(
        &self,
        gpa: GuestPhysAddr,
        expected: T,
        value: T,
    ) -> Result<Result<T, T>, AccessError> {
        let at = self.word::<T>(gpa, MappingFlags::READ | MappingFlags::WRITE)?;
        // SAFETY: as in `atomic_load`.
        Ok(unsafe { T::compare_exchange(at, expected, value) })
    }

    /// The host's pointer to the word at `gpa`.
    #[inline]
    fn word<T: AtomicWord>(&self, gpa: GuestPhysAddr, access: MappingFlags) -> Result<*mut u8, AccessError> {
        let refused = |reason| AccessError { gpa, done: 0, reason };
        let size = size_of::<T>() as u64;
        if !gpa.is_aligned(size) {
            return Err(refused(AccessRefusal::Unaligned));
        }
        if let Some(pointer) = self.plain_pointer(gpa, access) {
            return Ok(pointer);
        }
        // Aligned, it neither wraps nor crosses a page.
        let run = self.run_after(gpa, 0, size, access)?;
        if run.upkeep.is_coherent() { Ok(run.pointer) } else { Err(refused(AccessRefusal::NotCoherent)) }
    }
}
