//! What comes of a walk of the guest's tables, other than an address.

use crate::addr::{GuestPhysAddr, GuestVirtAddr};
use crate::fault::NestedPageFaultInfo;
use core::fmt;
use thiserror::Error;

/// The fault that the guest must get: its own tables refuse the access. In the terms of its ISA, ready for injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestPageFault {
    /// x86: \#PF (vector 14).
    X86 {
        /// The error code: bit 0 P, 1 W/R, 2 U/S, 3 RSVD, 4 I/D (SDM volume 3A, "Page-Fault Exceptions").
        error_code: u32,
        /// The value of CR2.
        cr2: GuestVirtAddr,
    },
    /// x86: the address is not canonical. The guest gets \#GP(0), or \#SS(0) for an access by its stack segment.
    X86NonCanonical(GuestVirtAddr),
    /// Arm: a data abort or an instruction abort, to EL1.
    Arm(ArmFault),
    /// RISC-V: a page fault, or an access fault, to VS-mode.
    Riscv {
        /// The value of vscause: 12 instruction, 13 load, 15 store page fault; 1, 5, 7 the access faults.
        scause: u64,
        /// The value of vstval.
        stval: GuestVirtAddr,
    },
}

/// An abort of an Arm guest that its EL1 takes (Arm ARM, "ESR_EL1", "ISS encoding for an exception from a Data Abort").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArmFault {
    /// The fault status code, 6 bits: 0b0000LL address size, 0b0001LL translation, 0b0010LL access flag, 0b0011LL
    /// permission, 0b0101LL external abort on the walk; LL is Arm's lookup level.
    pub status: u8,
    /// WnR: a write was refused. Of an atomic access it is clear if its read would have been refused too.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// EL0 made the access.
    pub user: bool,
    /// The value of FAR_EL1.
    pub far: GuestVirtAddr,
}

impl ArmFault {
    /// The value of ESR_EL1: the exception class, IL (the instruction has 32 bits), WnR and the fault status code.
    #[must_use]
    pub const fn esr(&self) -> u64 {
        let class = match (self.fetch, self.user) {
            (true, true) => 0x20,
            (true, false) => 0x21,
            (false, true) => 0x24,
            (false, false) => 0x25,
        };
        class << 26 | 1 << 25 | (self.write as u64) << 6 | self.status as u64
    }
}

impl fmt::Display for GuestPageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X86 { error_code, cr2 } => write!(f, "page fault {error_code:#x} at {cr2:#x}"),
            Self::X86NonCanonical(gva) => write!(f, "{gva:#x} is not canonical"),
            Self::Arm(fault) => write!(f, "abort with ESR {:#x} at {:#x}", fault.esr(), fault.far),
            Self::Riscv { scause, stval } => write!(f, "exception {scause} at {stval:#x}"),
        }
    }
}

/// A way of paging that the walk does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnsupportedPaging {
    /// Arm: a translation granule other than 4 KiB.
    #[error("the translation granule is not 4 KiB")]
    Granule,
    /// Arm: 52-bit addresses with the 4 KiB granule (TCR_EL1.DS, FEAT_LPA2).
    #[error("descriptors hold addresses of 52 bits")]
    WideDescriptors,
    /// Arm: tables in big-endian byte order (SCTLR_EL1.EE).
    #[error("the tables are big-endian")]
    BigEndian,
    /// RISC-V: a MODE of vsatp other than Bare, Sv39, Sv48 and Sv57.
    #[error("vsatp has MODE {0}")]
    Mode(u8),
}

/// Why a guest virtual address has no translation for an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GuestWalkError {
    /// The guest's own tables refuse the access: inject this.
    #[error("the guest's own fault: {0}")]
    Guest(GuestPageFault),
    /// Second-level translation refuses the access, or one of the walk's own (`walk` is set): answer it as an exit of
    /// the hardware, by [`handle_page_fault`](crate::AddrSpace::handle_page_fault), and try again. `gpa` is exact, `gva` is
    /// there. An access of the walk may have to read and write at once (see
    /// [`translate_virt`](crate::AddrSpace::translate_virt)).
    #[error("a nested fault: {0}")]
    Nested(NestedPageFaultInfo),
    /// An entry of the guest's tables at `gpa` lies in no memory that the host reaches by atomic accesses: in a trap region, in
    /// device memory, in linear memory without a pointer ([`Hal::linear_to_virt`](crate::Hal::linear_to_virt)), or past the
    /// caches on a format where that needs maintenance. `fault` is what the guest may get: on Arm an external abort on the walk, on RISC-V an
    /// access fault, as the manuals say; x86 has none for this, so a page fault with RSVD, for a bus without memory reads as
    /// all ones.
    #[error("the guest's table entry at {gpa:#x} is in no memory")]
    NotMemory {
        /// Of the entry.
        gpa: GuestPhysAddr,
        /// What the guest may get.
        fault: GuestPageFault,
    },
    /// The guest's other CPUs changed the entries again and again while they were to be marked. Re-enter the guest, or try
    /// again later: this call has given up so that a guest cannot hold the host.
    #[error("the guest keeps changing its tables")]
    Contended,
    /// The guest pages in a way that the walk does not know.
    #[error("unsupported paging: {0}")]
    Unsupported(UnsupportedPaging),
}
