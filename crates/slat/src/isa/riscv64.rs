//! RISC-V in HS-mode. Fences work on the hart that executes them.

#![expect(unsafe_code, reason = "executes system instructions")]

use crate::format::gstage::{Fence, fences};
use crate::hal::CacheActions;
use crate::tlb::{Invalidation, TableKind};
use core::arch::asm;

/// Executes one HFENCE.GVMA on this hart.
pub fn fence(fence: Fence) {
    match (fence.address, fence.vmid.map(u64::from)) {
        // SAFETY: a fence changes no memory, and forgetting a translation is always allowed.
        (Some(address), Some(vmid)) => unsafe {
            asm!(".option push", ".option arch, +h", "hfence.gvma {}, {}", ".option pop", in(reg) address,
                in(reg) vmid, options(nostack));
        },
        // SAFETY: as above.
        (Some(address), None) => unsafe {
            asm!(".option push", ".option arch, +h", "hfence.gvma {}, x0", ".option pop", in(reg) address,
                options(nostack));
        },
        // SAFETY: as above.
        (None, Some(vmid)) => unsafe {
            asm!(".option push", ".option arch, +h", "hfence.gvma x0, {}", ".option pop", in(reg) vmid,
                options(nostack));
        },
        // SAFETY: as above.
        (None, None) => unsafe {
            asm!(".option push", ".option arch, +h", "hfence.gvma x0, x0", ".option pop", options(nostack));
        },
    }
}

pub(crate) fn invalidate(invalidation: &Invalidation<'_>) {
    assert!(invalidation.table == TableKind::Gstage, "slat: not a table of this machine");
    fences(invalidation).for_each(fence);
}

/// Orders the stores to the table before what follows. A hart that still remembers the invalid entry faults again,
/// and the answer to that fault fences (privileged manual, "Svvptc" and the note on invalid PTEs).
pub(crate) fn publish() {
    // SAFETY: a fence.
    unsafe { asm!("fence rw, rw", options(nostack)) };
}

/// Makes the stores to new code visible to this hart's fetches.
pub(crate) fn maintain_cache(_start: *mut u8, _bytes: usize, actions: CacheActions) {
    if actions.contains(CacheActions::INVALIDATE_INSTRUCTIONS) {
        // SAFETY: a fence.
        unsafe { asm!("fence.i", options(nostack)) };
    }
}
