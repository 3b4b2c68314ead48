//! x86-64: VMX root operation on bare metal; zeroing everywhere.

#![expect(unsafe_code, reason = "executes system instructions and zeroes memory")]

#[cfg(target_os = "none")]
pub use privileged::{InveptError, invept};
#[cfg(target_os = "none")]
pub(crate) use privileged::{invalidate, maintain_cache, publish};

use super::racing;
use core::arch::asm;

/// Zeroes `bytes` bytes from `start` on past the caches: a frame that a guest will use later would only push useful
/// lines out. (Intel SDM vol. 1, "Programming with Non-temporal Data"; MOVNTI needs no vector registers.)
///
/// The stores are weakly ordered: a store fence or an atomic read-modify-write comes before anything that lets
/// others see the memory.
///
/// # Safety
/// The memory is valid for writes and nobody else uses it.
pub unsafe fn zero(start: *mut u8, bytes: usize) {
    if start as usize % 64 != 0 || bytes % 64 != 0 {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::write_bytes(start, 0, bytes) };
        return;
    }
    // SAFETY: whole lines inside the memory that the caller gave us.
    unsafe {
        asm!(
            "2:",
            "cmp {at}, {end}",
            "jae 3f",
            "movnti [{at}], {zero}",
            "movnti [{at} + 8], {zero}",
            "movnti [{at} + 16], {zero}",
            "movnti [{at} + 24], {zero}",
            "movnti [{at} + 32], {zero}",
            "movnti [{at} + 40], {zero}",
            "movnti [{at} + 48], {zero}",
            "movnti [{at} + 56], {zero}",
            "add {at}, 64",
            "jmp 2b",
            "3:",
            at = inout(reg) start => _,
            end = in(reg) start.wrapping_add(bytes),
            zero = in(reg) 0u64,
            options(nostack),
        );
    }
}

/// Orders what [`zero`] did before every store that follows.
pub(crate) fn order_zeroing() {
    // SAFETY: a fence.
    unsafe { asm!("sfence", options(nostack, preserves_flags)) };
}

/// Below so many bytes, words are faster than a string instruction.
const STRING_FROM: usize = 128;

/// As [`racing::copy`], by REP MOVSB: it moves whole lines where the CPU can, and is byte after byte to whoever looks,
/// also where the ranges overlap. (Intel SDM vol. 1, "Fast-String Operation".) Rust knows nothing of the accesses of an
/// assembly block, so others may race with them as with those of a guest.
///
/// # Safety
/// As [`racing::copy`].
#[inline]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    if bytes < STRING_FROM {
        // SAFETY: the same contract.
        return unsafe { racing::copy(from, to, bytes) };
    }
    // SAFETY: the caller's promise; the ABI has the direction flag clear.
    unsafe { move_string(from, to, bytes) };
}

/// As [`racing::read`], by REP MOVSB.
///
/// # Safety
/// As [`racing::read`].
#[inline]
pub(crate) unsafe fn read(from: *const u8, to: *mut u8, bytes: usize) {
    if bytes < STRING_FROM {
        // SAFETY: the same contract.
        return unsafe { racing::read(from, to, bytes) };
    }
    // SAFETY: the caller's promise.
    unsafe { move_string(from, to, bytes) };
}

/// As [`racing::write`], by REP MOVSB.
///
/// # Safety
/// As [`racing::write`].
#[inline]
pub(crate) unsafe fn write(from: *const u8, to: *mut u8, bytes: usize) {
    if bytes < STRING_FROM {
        // SAFETY: the same contract.
        return unsafe { racing::write(from, to, bytes) };
    }
    // SAFETY: the caller's promise.
    unsafe { move_string(from, to, bytes) };
}

/// As [`racing::fill`], by REP STOSB.
///
/// # Safety
/// As [`racing::fill`].
#[inline]
pub(crate) unsafe fn fill(to: *mut u8, byte: u8, bytes: usize) {
    if bytes < STRING_FROM {
        // SAFETY: the same contract.
        return unsafe { racing::fill(to, byte, bytes) };
    }
    // SAFETY: the caller's promise; the ABI has the direction flag clear.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, inout("rcx") bytes => _, in("al") byte,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// `from` is valid for reads of `bytes` bytes, and `to` for writes.
#[inline]
unsafe fn move_string(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; the ABI has the direction flag clear.
    unsafe {
        asm!("rep movsb", inout("rsi") from => _, inout("rdi") to => _, inout("rcx") bytes => _,
            options(nostack, preserves_flags));
    }
}

/// What only runs in VMX root operation.
#[cfg(target_os = "none")]
mod privileged {
    use crate::hal::CacheActions;
    use crate::tlb::{Invalidation, Scope, TableKind, TlbFeatures};
    use core::arch::asm;
    use thiserror::Error;

    /// INVEPT failed: the CPU does not offer the type (IA32_VMX_EPT_VPID_CAP bits 20, 25, 26), or is not in VMX root
    /// operation with a current VMCS.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
    #[error("INVEPT of type {0} failed")]
    pub struct InveptError(u64);

    /// Drops what this CPU derived from the EPT that `eptp` points to, or (`None`) from any EPT. (Intel SDM vol. 3C,
    /// "INVEPT: Invalidate Translations Derived from EPT".)
    ///
    /// # Errors
    /// [`InveptError`] if the CPU refuses.
    pub fn invept(eptp: Option<u64>) -> Result<(), InveptError> {
        let kind: u64 = if eptp.is_some() { 1 } else { 2 };
        let descriptor: [u64; 2] = [eptp.unwrap_or(0), 0];
        let failed: u8;
        // SAFETY: forgetting translations is always allowed; the descriptor is readable memory of the right size.
        // CF or ZF says that it failed, and is taken before anything can change it.
        unsafe {
            asm!("invept {kind}, [{descriptor}]", "setbe {failed}", kind = in(reg) kind,
                descriptor = in(reg) descriptor.as_ptr(), failed = lateout(reg_byte) failed, options(nostack));
        }
        if failed == 0 { Ok(()) } else { Err(InveptError(kind)) }
    }

    pub(crate) fn invalidate(invalidation: &Invalidation<'_>) {
        match invalidation.table {
            TableKind::Ept => {
                let one = invalidation.scope != Scope::AllSpaces;
                let single = one && invalidation.features.contains(TlbFeatures::SINGLE_CONTEXT);
                let done = invept(single.then_some(invalidation.root));
                // Going on would mean that a guest keeps reaching memory that is given away.
                done.unwrap_or_else(|error| panic!("slat: {error}"));
            }
            TableKind::Npt => panic!("slat: NPT has no instruction: override Hal::invalidate"),
            TableKind::Stage2 | TableKind::Gstage => panic!("slat: not a table of this machine"),
        }
    }

    /// x86 orders stores before the table walks of a later VM entry by itself.
    pub(crate) fn publish() {}

    /// x86 keeps its caches coherent.
    pub(crate) fn maintain_cache(_start: *mut u8, _bytes: usize, _actions: CacheActions) {}
}
