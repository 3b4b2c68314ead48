//! RISC-V in HS-mode. Fences work on the hart that executes them; registers are those of the hart at hand.

#![expect(unsafe_code, reason = "executes system instructions")]

use crate::format::gstage::{self, Fence, HgatpProbe, Instruction, instructions};
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

/// Executes one instruction of the G-stage's maintenance on this hart. All but [`Instruction::HfenceGvma`] need Svinval.
pub fn execute(instruction: Instruction) {
    match instruction {
        Instruction::HfenceGvma(operands) => fence(operands),
        // SAFETY: a fence changes no memory.
        Instruction::SfenceWInval => unsafe {
            asm!(".option push", ".option arch, +svinval", "sfence.w.inval", ".option pop", options(nostack));
        },
        // SAFETY: as above.
        Instruction::SfenceInvalIr => unsafe {
            asm!(
                ".option push",
                ".option arch, +svinval",
                "sfence.inval.ir",
                ".option pop",
                options(nostack)
            );
        },
        Instruction::HinvalGvma(operands) => invalidate_unordered(operands),
    }
}

/// Executes one HINVAL.GVMA on this hart.
fn invalidate_unordered(operands: Fence) {
    // x0 in a register that holds 0 would be another instruction, so each form has its own.
    match (operands.address, operands.vmid.map(u64::from)) {
        // SAFETY: forgetting a translation is always allowed.
        (Some(address), Some(vmid)) => unsafe {
            asm!(".option push", ".option arch, +h, +svinval", "hinval.gvma {}, {}", ".option pop", in(reg) address,
                in(reg) vmid, options(nostack));
        },
        // SAFETY: as above.
        (Some(address), None) => unsafe {
            asm!(".option push", ".option arch, +h, +svinval", "hinval.gvma {}, x0", ".option pop", in(reg) address,
                options(nostack));
        },
        // SAFETY: as above.
        (None, Some(vmid)) => unsafe {
            asm!(".option push", ".option arch, +h, +svinval", "hinval.gvma x0, {}", ".option pop", in(reg) vmid,
                options(nostack));
        },
        // SAFETY: as above.
        (None, None) => unsafe {
            asm!(
                ".option push",
                ".option arch, +h, +svinval",
                "hinval.gvma x0, x0",
                ".option pop",
                options(nostack)
            );
        },
    }
}

/// What this hart has of hgatp: modes and VMIDLEN. hgatp is as before when this returns, and the hart has dropped all of
/// the G-stage, which it may have fetched by the values that were tried.
///
/// To be called before any guest is entered, with interrupts off that could enter one.
#[must_use]
pub fn probe_hgatp() -> HgatpProbe {
    let mut before = None;
    let probe = HgatpProbe::probe(|value| {
        let (old, new): (u64, u64);
        // SAFETY: hgatp (CSR 680H) has no effect on HS-mode; what is fetched by it meanwhile is dropped below.
        unsafe {
            asm!("csrrw {old}, 0x680, {value}", "csrr {new}, 0x680", value = in(reg) value, old = out(reg) old,
                new = lateout(reg) new, options(nostack));
        }
        before.get_or_insert(old);
        new
    });
    if let Some(before) = before {
        // SAFETY: as above; the value is one that the register held.
        unsafe { asm!("csrw 0x680, {}", in(reg) before, options(nostack)) };
    }
    fence(Fence { address: None, vmid: None });
    probe
}

/// The bits of this hart's henvcfg that guests can be given: STCE (63), PBMTE (62), ADUE (61), as far as M-mode has turned
/// them on. henvcfg is as before when this returns. Only for harts that have the register (privileged architecture 1.12,
/// which every hart with Sstc, Svpbmt or Svadu has); elsewhere the access traps.
#[must_use]
pub fn probe_henvcfg() -> u64 {
    gstage::probe_henvcfg(|value| {
        let new: u64;
        // SAFETY: henvcfg (CSR 60AH) has an effect on guests only, none of which runs; its value is restored.
        unsafe {
            asm!("csrrw {old}, 0x60a, {value}", "csrr {new}, 0x60a", "csrw 0x60a, {old}", value = in(reg) value,
                old = out(reg) _, new = out(reg) new, options(nostack));
        }
        new
    })
}

pub(crate) fn invalidate(invalidation: &Invalidation<'_>) {
    assert!(invalidation.table == TableKind::Gstage, "slat: not a table of this machine");
    instructions(invalidation).for_each(execute);
}

/// Orders the stores to the table before what follows. A hart that still remembers the invalid entry faults again,
/// and the answer to that fault fences (supervisor chapter, "Supervisor Memory-Management Fence Instruction", on invalid
/// entries), unless the answer to the first fault did ([`gstage::Capabilities::fence_new_entries`]).
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
