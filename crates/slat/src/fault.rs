//! What an exit for a nested page fault says, in the same words on every ISA.

use crate::addr::{GuestPhysAddr, GuestVirtAddr};
use crate::device::{AccessWidth, DeviceAccess};
use crate::flags::{LeafSize, MappingFlags};
use core::fmt;

/// Why the hardware refused an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCause {
    /// No translation.
    NotPresent,
    /// A translation without the permission.
    Permission,
    /// The access flag was clear.
    AccessFlag,
    /// An address was wider than the table or the CPU allows.
    AddressSize,
}

/// A nested page fault: an access of the guest that second-level translation refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedPageFaultInfo {
    /// The guest-physical address; exact to the page only when `walk` is set.
    pub gpa: GuestPhysAddr,
    /// The guest virtual address of the access, where the hardware reports it.
    pub gva: Option<GuestVirtAddr>,
    /// What the guest tried: `READ`, `WRITE` or `EXECUTE`, with `USER` where the hardware tells a fetch of user mode.
    pub access: MappingFlags,
    /// Why it was refused.
    pub cause: FaultCause,
    /// Whether the guest's own page-table walk faulted, and not the access itself.
    pub walk: bool,
    /// How many bytes the access moves, where the hardware reports that.
    pub width: Option<AccessWidth>,
}

impl fmt::Display for NestedPageFaultInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            access if access.contains(MappingFlags::EXECUTE) => "fetch",
            access if access.contains(MappingFlags::WRITE) => "write",
            _ => "read",
        };
        let cause = match self.cause {
            FaultCause::NotPresent => "not present",
            FaultCause::Permission => "no permission",
            FaultCause::AccessFlag => "access flag",
            FaultCause::AddressSize => "address size",
        };
        write!(f, "{access} of GPA {:#x}", self.gpa)?;
        if let Some(gva) = self.gva {
            write!(f, " (GVA {gva:#x})")?;
        }
        write!(f, ", {cause}{}", if self.walk { ", in the guest's table walk" } else { "" })
    }
}

/// What the space did about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// A frame was taken and mapped by a leaf of this size.
    Populated(LeafSize),
    /// The page was mapped already, with the permission asked for: another CPU was faster, or a TLB entry was old
    /// (it is gone now). Re-enter the guest.
    Spurious,
    /// The page was mapped already, and the leaf lacked the accessed or dirty flag that this access needs, where the
    /// hardware does not set it ([`Format::marks_by_fault`](crate::format::Format::marks_by_fault)): it is set now. Or a
    /// [scan](crate::AddrSpace::scan_idle) waited for the next access to the page, where the hardware has no such flag.
    /// Re-enter the guest.
    Marked,
    /// The page was shared with a fork or a snapshot, and the guest writes to it: it has a copy of its own now, in a leaf of
    /// this size. Re-enter the guest.
    Copied(LeafSize),
    /// The page was mapped already, without the permission to write that its region has: because writes are logged, or
    /// because it was shared and nobody else has it any more. It has the permission now. Re-enter the guest.
    MadeWritable,
    /// The page lies below tables that are shared with a fork or a snapshot; the space has its own copies of them now.
    /// Re-enter the guest.
    Unshared,
    /// The page is being replaced at this moment. Re-enter the guest.
    Retry,
    /// The backend is still fetching the page ([`BackendError::NotYet`](crate::BackendError::NotYet)). Let something else
    /// run, then re-enter the guest.
    Wait,
    /// The address lies in a region of [`map_trap`](crate::AddrSpace::map_trap): the emulator of the device answers, and
    /// the guest goes on behind the instruction.
    Trap(DeviceAccess),
}

#[cfg(all(test, not(loom)))]
mod tests;
