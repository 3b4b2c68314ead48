//! What the walks of all ISAs share: how they reach the guest's tables, and what they find.

use super::fault::{GuestPageFault, GuestWalkError};
use crate::addr::{GuestPhysAddr, GuestVirtAddr};
use crate::fault::{FaultCause, NestedPageFaultInfo};
use crate::flags::MappingFlags;

/// `READ`, `WRITE` and `EXECUTE`: what is asked of a page, and what it allows.
pub(crate) const RIGHTS: MappingFlags =
    MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE);

/// An entry of a guest's table, seen from the memory that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// 4 bytes: x86 32-bit paging.
    Short,
    /// 8 bytes.
    Long,
    /// 8 bytes that a register is loaded from, and that the CPU never marks: a PDPTE of x86 PAE paging.
    Pdpte,
}

/// Why an entry cannot be read or marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableFault {
    /// Second-level translation refuses this access of the walk.
    Nested { access: MappingFlags, cause: FaultCause },
    /// There is no memory of the guest's.
    NotMemory,
}

impl TableFault {
    /// As the error of a walk for `gva` that needed the entry at `gpa`.
    pub(super) fn error(
        self,
        gpa: GuestPhysAddr,
        gva: GuestVirtAddr,
        fault: GuestPageFault,
    ) -> GuestWalkError {
        match self {
            Self::Nested { access, cause } => {
                let gva = Some(gva);
                GuestWalkError::Nested(NestedPageFaultInfo {
                    gpa,
                    gva,
                    access,
                    cause,
                    walk: true,
                    width: None,
                })
            }
            Self::NotMemory => GuestWalkError::NotMemory { gpa, fault },
        }
    }
}

/// The memory in which the guest's tables lie. Addresses are multiples of the size of the entry.
pub(crate) trait TableMemory {
    /// Reads an entry, atomically.
    fn load(&self, gpa: GuestPhysAddr, kind: EntryKind) -> Result<u64, TableFault>;

    /// Writes `new` if the entry still is `old`; says whether it did.
    fn compare_exchange(
        &self,
        gpa: GuestPhysAddr,
        kind: EntryKind,
        old: u64,
        new: u64,
    ) -> Result<bool, TableFault>;
}

/// A mark that the CPU leaves in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) entry: GuestPhysAddr,
    pub(crate) old: u64,
    pub(crate) new: u64,
    /// What the guest may get if the entry is in no memory.
    pub(crate) fault: GuestPageFault,
}

/// Where the guest's own translation leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstStage {
    /// Of the byte.
    pub(crate) gpa: GuestPhysAddr,
    /// Of the leaf, counted from 0.
    pub(crate) level: u8,
    /// Of the guest's page, in bytes.
    pub(crate) page_size: u64,
    /// What it allows in the mode of the access.
    pub(crate) allowed: MappingFlags,
    /// The page is one of user mode.
    pub(crate) user: bool,
    pub(crate) kind: EntryKind,
    /// By level.
    pub(crate) marks: [Option<Mark>; 5],
}

impl FirstStage {
    /// The translation is off.
    pub(super) fn flat(gpa: u64) -> Self {
        Self {
            gpa: GuestPhysAddr::new(gpa),
            level: 0,
            page_size: crate::addr::PAGE_SIZE,
            allowed: RIGHTS,
            user: true,
            kind: EntryKind::Long,
            marks: [None; 5],
        }
    }

    /// Leaves the marks, from the root down as the CPU does; whether no entry has changed meanwhile.
    pub(super) fn leave_marks<M: TableMemory>(
        &self,
        memory: &M,
        gva: GuestVirtAddr,
    ) -> Result<bool, GuestWalkError> {
        for mark in self.marks.iter().rev().flatten() {
            let done = memory.compare_exchange(mark.entry, self.kind, mark.old, mark.new);
            if !done.map_err(|fault| fault.error(mark.entry, gva, mark.fault))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The lowest `count` bits, 0 to 63.
pub(super) const fn ones(count: u32) -> u64 {
    (1 << count) - 1
}

/// Bit `n` of a value.
pub(super) const fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 != 0
}

/// Whether `address` repeats its bit `width - 1` in all bits above.
pub(super) const fn is_sign_extended(address: u64, width: u32) -> bool {
    let above = (address as i64) >> (width - 1);
    above == 0 || above == -1
}

/// `READ`, `WRITE` and `EXECUTE`, each if it is allowed.
pub(super) fn rights(read: bool, write: bool, execute: bool) -> MappingFlags {
    let mut allowed = MappingFlags::empty();
    allowed.set(MappingFlags::READ, read);
    allowed.set(MappingFlags::WRITE, write);
    allowed.set(MappingFlags::EXECUTE, execute);
    allowed
}
