//! From scause, stval, htval and htinst of a guest-page fault to what the guest did (RISC-V privileged manual,
//! "Guest-Page Faults", "Transformed Instruction or Pseudoinstruction for mtinst or htinst").

use crate::addr::{GuestPhysAddr, GuestVirtAddr};
use crate::fault::{FaultCause, NestedPageFaultInfo};
use crate::flags::MappingFlags;
use thiserror::Error;

// Exception codes of scause.
const INSTRUCTION: u64 = 20;
const LOAD: u64 = 21;
const STORE: u64 = 23;

// htinst of an implicit access of VS-stage translation: read or write of 32 or 64 bits.
const WALK_READS: [u64; 2] = [0x2000, 0x3000];
const WALK_WRITES: [u64; 2] = [0x2020, 0x3020];

/// The registers that a guest-page fault leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trap {
    /// scause.
    pub scause: u64,
    /// stval: the guest virtual address.
    pub stval: u64,
    /// htval: the guest-physical address, shifted right by 2.
    pub htval: u64,
    /// htinst.
    pub htinst: u64,
}

/// The trap is something else than a guest-page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("scause {0:#x} is no guest-page fault")]
pub struct NotAGuestPageFault(pub u64);

/// What the guest did. The hardware does not tell a missing translation from a missing permission: the cause is always
/// [`FaultCause::NotPresent`].
///
/// # Errors
/// [`NotAGuestPageFault`] if the trap is another one.
pub fn decode_fault(trap: &Trap) -> Result<NestedPageFaultInfo, NotAGuestPageFault> {
    let Trap { scause, stval, htval, htinst } = *trap;
    let original = match scause {
        INSTRUCTION => MappingFlags::EXECUTE,
        LOAD => MappingFlags::READ,
        STORE => MappingFlags::WRITE,
        _ => return Err(NotAGuestPageFault(scause)),
    };
    let (walk, access) = match htinst {
        read if WALK_READS.contains(&read) => (true, MappingFlags::READ),
        write if WALK_WRITES.contains(&write) => (true, MappingFlags::WRITE),
        _ => (false, original),
    };
    // stval has the two lowest bits, but belongs to the access and not to the walk on its behalf.
    let low = if walk { 0 } else { stval & 3 };
    Ok(NestedPageFaultInfo {
        gpa: GuestPhysAddr::new(htval << 2 | low),
        gva: Some(GuestVirtAddr::new(stval)),
        access,
        cause: FaultCause::NotPresent,
        walk,
        width: None,
    })
}
