//! Walking the guest's own page tables in software: from a guest virtual address to a guest-physical one, as the guest's CPU
//! would.
//!
//! [`AddrSpace::translate_virt`](crate::AddrSpace::translate_virt) does both stages. What the CPU needs to know of the guest,
//! [`GuestPageWalkInfo`] has, from the registers that an exit leaves behind.
//!
//! **Invariant:** every walk ends after as many entries as the guest's paging mode has levels, at the most five, and is begun
//! anew at most 8 times (`ATTEMPTS`), whatever is in the tables. All numbers in them are the guest's: nothing is done with an
//! entry's address but to ask second-level translation for it.
//!
//! Left out: protection keys, shadow stacks, linear-address masking and AMD's stricter reserved bits (x86); 16 and 64 KiB
//! granules, 52-bit addresses, permission indirection and overlays, E0PD, NV and MTE (Arm); pointer masking, shadow stacks
//! and RV32 (RISC-V).

mod arm;
mod fault;
mod instruction;
mod riscv;
mod walk;
mod x86;

pub use arm::ArmPaging;
pub use fault::{ArmFault, GuestPageFault, GuestWalkError, UnsupportedPaging};
pub use instruction::{FetchError, InstructionBytes};
pub use riscv::RiscvPaging;
pub(crate) use walk::{EntryKind, FirstStage, RIGHTS, TableFault, TableMemory};
pub use x86::X86Paging;

use crate::addr::{GuestPhysAddr, GuestVirtAddr, HostPhysAddr};
use crate::flags::MappingFlags;

/// How often a walk is begun anew because an entry changed while it was to be marked.
pub(crate) const ATTEMPTS: usize = 8;

/// The paging registers of a guest's CPU, by ISA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestPaging {
    /// x86: all modes.
    X86(X86Paging),
    /// Arm EL1&0 stage 1.
    Arm(ArmPaging),
    /// RISC-V VS-stage.
    Riscv(RiscvPaging),
}

/// What a walk of the guest's tables has to know of the guest's CPU: its paging registers at the exit, and whether the walk
/// marks entries as the CPU would.
///
/// The mode of the access (user or not, write, fetch) is no part of it: the `access` of each call says that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPageWalkInfo {
    /// The registers.
    pub paging: GuestPaging,
    /// Sets the accessed and dirty marks in the guest's entries where the CPU would: when the access is then carried out in
    /// the guest's name. Off, the walk changes nothing.
    pub set_marks: bool,
}

impl GuestPageWalkInfo {
    /// An x86 guest with these registers, on a CPU with every feature: see [`X86Paging::new`]. Sets no marks.
    #[must_use]
    pub const fn x86(cr0: u64, cr3: u64, cr4: u64, efer: u64, rflags: u64) -> Self {
        Self { paging: GuestPaging::X86(X86Paging::new(cr0, cr3, cr4, efer, rflags)), set_marks: false }
    }

    /// An Arm guest with these registers, on a CPU with every feature: see [`ArmPaging::new`]. Sets no marks.
    #[must_use]
    pub const fn arm(sctlr: u64, tcr: u64, ttbr0: u64, ttbr1: u64, spsr: u64) -> Self {
        Self { paging: GuestPaging::Arm(ArmPaging::new(sctlr, tcr, ttbr0, ttbr1, spsr)), set_marks: false }
    }

    /// A RISC-V guest with these registers: see [`RiscvPaging::new`]. Sets no marks.
    #[must_use]
    pub const fn riscv(vsatp: u64, vsstatus: u64, henvcfg: u64) -> Self {
        Self { paging: GuestPaging::Riscv(RiscvPaging::new(vsatp, vsstatus, henvcfg)), set_marks: false }
    }

    /// The same, setting marks.
    #[must_use]
    pub const fn setting_marks(self) -> Self {
        Self { set_marks: true, ..self }
    }

    /// The guest's own translation of `gva`, marks included.
    pub(crate) fn first_stage<M: TableMemory>(
        &self,
        memory: &M,
        gva: GuestVirtAddr,
        access: MappingFlags,
    ) -> Result<FirstStage, GuestWalkError> {
        for _ in 0..ATTEMPTS {
            let found = match &self.paging {
                GuestPaging::X86(paging) => x86::walk(paging, memory, gva, access)?,
                GuestPaging::Arm(paging) => arm::walk(paging, memory, gva, access)?,
                GuestPaging::Riscv(paging) => riscv::walk(paging, memory, gva, access)?,
            };
            if !self.set_marks || found.leave_marks(memory, gva)? {
                return Ok(found);
            }
        }
        Err(GuestWalkError::Contended)
    }

    /// Whether second-level translation takes the access for one of user mode: by Intel's manual what counts for a fetch is
    /// whose the page is ("Mode-Based Execute Control for EPT"), elsewhere who makes it.
    pub(crate) fn second_access(&self, found: &FirstStage, access: MappingFlags) -> MappingFlags {
        let user = match self.paging {
            GuestPaging::X86(_) => found.user,
            _ => access.contains(MappingFlags::USER),
        };
        let mut second = access & RIGHTS;
        second.set(MappingFlags::USER, user);
        second
    }
}

/// Where a guest virtual address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestTranslation {
    /// The guest-physical address of the byte.
    pub gpa: GuestPhysAddr,
    /// The host physical address of the byte.
    pub hpa: HostPhysAddr,
    /// What both stages allow in the mode of the access, as `READ`, `WRITE` and `EXECUTE`; `USER` if the guest's page is one
    /// of user mode (x86 U/S, Arm AP\[1\], RISC-V U; always, if its paging is off); the second level's memory type.
    pub flags: MappingFlags,
    /// Size of the guest's own page in bytes, 4 KiB to 256 TiB; 4 KiB if its paging is off. The second level's may be
    /// another.
    pub page_size: u64,
    /// Level of the guest's leaf, counted from the leaf: 0 for 4 KiB pages.
    pub level: u8,
}

#[cfg(all(test, not(loom)))]
mod tests;
