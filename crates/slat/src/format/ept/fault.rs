//! From the VMCS fields of an EPT violation to what the guest did (Intel SDM vol. 3C, "Exit Qualification for EPT
//! Violations").

use super::Ept;
use crate::addr::{GuestPhysAddr, GuestVirtAddr};
use crate::fault::{FaultCause, NestedPageFaultInfo};
use crate::flags::MappingFlags;

// Bits of the exit qualification.
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 2;
/// What the entries allow together: read, write, execute (with mode-based execute control: by the guest's kernel).
const ALLOWED: u64 = 7 << 3;
/// Execute by the guest's user mode; undefined without mode-based execute control.
const ALLOWED_USER: u64 = 1 << 6;
const LINEAR_VALID: u64 = 1 << 7;
/// The access was to the translation of the linear address, and not to an entry of the guest's page tables.
const FINAL: u64 = 1 << 8;

/// What an exit with reason 48 leaves in the VMCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Violation {
    /// Exit qualification.
    pub qualification: u64,
    /// Guest-physical address.
    pub gpa: u64,
    /// Guest-linear address.
    pub linear: u64,
}

impl Ept {
    /// What the guest did. A walk of the guest's page tables is a write where accessed and dirty flags are on. Whether a
    /// fetch was one of user mode is not in these fields.
    #[must_use]
    pub fn decode_fault(&self, violation: &Violation) -> NestedPageFaultInfo {
        let Violation { qualification, gpa, linear } = *violation;
        let has = |bit: u64| qualification & bit != 0;
        let user = if self.capabilities().mode_based_execute { ALLOWED_USER } else { 0 };
        NestedPageFaultInfo {
            gpa: GuestPhysAddr::new(gpa),
            gva: has(LINEAR_VALID).then_some(GuestVirtAddr::new(linear)),
            access: match (has(FETCH), has(WRITE)) {
                (true, _) => MappingFlags::EXECUTE,
                (false, true) => MappingFlags::WRITE,
                (false, false) => MappingFlags::READ,
            },
            cause: if has(ALLOWED | user) { FaultCause::Permission } else { FaultCause::NotPresent },
            walk: has(LINEAR_VALID) && !has(FINAL),
            width: None,
        }
    }
}
