//! From EXITINFO1 and EXITINFO2 of a nested page fault to what the guest did (AMD64 APM vol. 2, "Nested versus Guest
//! Page Faults, Fault Ordering").

use crate::addr::GuestPhysAddr;
use crate::fault::{FaultCause, NestedPageFaultInfo};
use crate::flags::MappingFlags;
use thiserror::Error;

// Bits of EXITINFO1: those of a page fault's error code, and where the walk was.
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const RESERVED: u64 = 1 << 3;
const FETCH: u64 = 1 << 4;
const IN_GUEST_WALK: u64 = 1 << 33;

/// A bit is set in the nested table that must not be: no access of a guest can bring that about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a reserved bit is set in the nested page table (EXITINFO1 {0:#x})")]
pub struct ReservedBit(pub u64);

/// What the guest did, from the VMCB of an exit with code 400h. A walk of the guest's page tables is a write.
///
/// # Errors
/// [`ReservedBit`] if the table itself is wrong.
pub fn decode_fault(exitinfo1: u64, exitinfo2: u64) -> Result<NestedPageFaultInfo, ReservedBit> {
    let has = |bit: u64| exitinfo1 & bit != 0;
    if has(RESERVED) {
        return Err(ReservedBit(exitinfo1));
    }
    let walk = has(IN_GUEST_WALK);
    Ok(NestedPageFaultInfo {
        gpa: GuestPhysAddr::new(exitinfo2),
        gva: None,
        access: match (has(FETCH) && !walk, has(WRITE)) {
            (true, _) => MappingFlags::EXECUTE,
            (false, true) => MappingFlags::WRITE,
            (false, false) => MappingFlags::READ,
        },
        cause: if has(PRESENT) { FaultCause::Permission } else { FaultCause::NotPresent },
        walk,
        width: None,
    })
}
