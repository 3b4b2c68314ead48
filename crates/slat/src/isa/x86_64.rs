//! x86-64: VMX root operation on bare metal; zeroing everywhere.

#![expect(unsafe_code, reason = "executes system instructions and zeroes memory")]

#[cfg(target_os = "none")]
pub use privileged::{InveptError, invept};
#[cfg(target_os = "none")]
pub(crate) use privileged::{invalidate, maintain_cache, publish};

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
