//! Objects in memory of a guest.

#![expect(unsafe_code, reason = "declares and uses which types can be made of any bytes")]

use super::{AccessError, GuestMemory};
use crate::addr::GuestPhysAddr;
use crate::flags::MappingFlags;
use crate::format::Format;
use crate::hal::Hal;
use crate::isa;
use crate::isa::racing::Word;
use crate::space::CustomBackend;
use core::mem::{MaybeUninit, transmute_copy};

/// A type that can be read from and written to memory of a guest. Implemented for the integers and for arrays.
///
/// ```
/// use slat::GuestObject;
///
/// /// A descriptor of a virtqueue.
/// #[derive(Clone, Copy)]
/// #[repr(C)]
/// struct Descriptor {
///     address: u64,
///     length: u32,
///     flags: u16,
///     next: u16,
/// }
/// // SAFETY: integers without a gap between or behind them.
/// unsafe impl GuestObject for Descriptor {}
/// ```
///
/// # Safety
/// The implementor promises that
/// 1. every pattern of its bytes is a value: whatever a guest writes can be read;
/// 2. it has no padding and no uninitialised bytes: what is written to a guest tells nothing of the host's memory;
/// 3. it has neither references nor pointers, nor a lock or a cell that others reach.
pub unsafe trait GuestObject: Copy + 'static {}

macro_rules! objects {
    ($($type:ty)*) => {
        $(
            // SAFETY: an integer.
            unsafe impl GuestObject for $type {}
        )*
    };
}

objects!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

// SAFETY: an array has no padding between its elements.
unsafe impl<T: GuestObject, const N: usize> GuestObject for [T; N] {}

/// Whether one access moves an object of `size` bytes at `gpa`.
#[inline(always)]
const fn is_word(size: usize, gpa: GuestPhysAddr) -> bool {
    matches!(size, 1 | 2 | 4 | 8) && gpa.is_aligned(size as u64)
}

impl<H: Hal, F: Format, B: CustomBackend, I: Fn(GuestPhysAddr, &mut [u8])> GuestMemory<'_, H, F, B, I> {
    /// Reads the object at `gpa`, which need not be aligned. One access if it has 1, 2, 4 or 8 bytes and is; then a page
    /// that is there costs one walk and no look at the region.
    ///
    /// # Errors
    /// [`AccessError`].
    #[inline]
    pub fn read_obj<T: GuestObject>(&self, gpa: GuestPhysAddr) -> Result<T, AccessError> {
        if is_word(size_of::<T>(), gpa) {
            if let Some(from) = self.plain_pointer(gpa, MappingFlags::READ) {
                // SAFETY: aligned, so that all of it lies in the page of the guest that was found.
                return Ok(unsafe { load(from) });
            }
        }
        self.read_parts(gpa)
    }

    #[inline(never)]
    fn read_parts<T: GuestObject>(&self, gpa: GuestPhysAddr) -> Result<T, AccessError> {
        let mut object = MaybeUninit::<T>::uninit();
        let to = object.as_mut_ptr().cast::<u8>();
        self.each_run(gpa, size_of::<T>() as u64, MappingFlags::READ, |from, done, size| {
            // SAFETY: the run is memory of the guest that is reached atomically only; `done + size` is within the object.
            unsafe { isa::read(from, to.wrapping_add(done as usize), size as usize) };
        })?;
        // SAFETY: all bytes have been read, and promise 1 of the type makes an object of whatever they are.
        Ok(unsafe { object.assume_init() })
    }

    /// Writes `object` to `gpa`, which need not be aligned. One access if it has 1, 2, 4 or 8 bytes and is; then a page
    /// that is there costs one walk and no look at the region.
    ///
    /// # Errors
    /// [`AccessError`]; the bytes before it have been written.
    #[inline]
    pub fn write_obj<T: GuestObject>(&self, gpa: GuestPhysAddr, object: T) -> Result<(), AccessError> {
        if is_word(size_of::<T>(), gpa) {
            if let Some(to) = self.plain_pointer(gpa, MappingFlags::WRITE) {
                // SAFETY: aligned, so that all of it lies in the page of the guest that was found.
                unsafe { store(to, object) };
                return Ok(());
            }
        }
        self.write_parts(gpa, &object)
    }

    #[inline(never)]
    fn write_parts<T: GuestObject>(&self, gpa: GuestPhysAddr, object: &T) -> Result<(), AccessError> {
        let from = core::ptr::from_ref(object).cast::<u8>();
        self.each_run(gpa, size_of::<T>() as u64, MappingFlags::WRITE, |to, done, size| {
            // SAFETY: as in `read_parts`; by promise 2 of the type all bytes of the object are initialised.
            unsafe { isa::write(from.wrapping_add(done as usize), to, size as usize) };
        })
    }
}

/// The bytes of `from` as another type of the same size.
#[inline(always)]
fn same_bytes<T: GuestObject, U: GuestObject>(from: T) -> U {
    assert!(size_of::<T>() == size_of::<U>(), "not a word of that size");
    // SAFETY: as many bytes, all of them initialised (promise 2 of the one type), and every pattern is a value (promise 1 of
    // the other).
    unsafe { transmute_copy(&from) }
}

/// Reads an object of 1, 2, 4 or 8 bytes by one access.
///
/// # Safety
/// It lies in memory of a guest, aligned to its size.
#[inline(always)]
pub(super) unsafe fn load<T: GuestObject>(from: *const u8) -> T {
    match size_of::<T>() {
        // SAFETY: the caller's promise.
        1 => same_bytes(unsafe { u8::load(from) }),
        // SAFETY: the caller's promise.
        2 => same_bytes(unsafe { u16::load(from) }),
        // SAFETY: the caller's promise.
        4 => same_bytes(unsafe { u32::load(from) }),
        // SAFETY: the caller's promise.
        _ => same_bytes(unsafe { u64::load(from) }),
    }
}

/// Writes an object of 1, 2, 4 or 8 bytes by one access.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(super) unsafe fn store<T: GuestObject>(to: *mut u8, object: T) {
    match size_of::<T>() {
        // SAFETY: the caller's promise.
        1 => unsafe { same_bytes::<T, u8>(object).store(to) },
        // SAFETY: the caller's promise.
        2 => unsafe { same_bytes::<T, u16>(object).store(to) },
        // SAFETY: the caller's promise.
        4 => unsafe { same_bytes::<T, u32>(object).store(to) },
        // SAFETY: the caller's promise.
        _ => unsafe { same_bytes::<T, u64>(object).store(to) },
    }
}
