//! EPT violations: what the guest did, beyond what slat's own decoder says (SDM vol. 3C, "Exit Qualification for EPT
//! Violations").

use super::exit::Fields;
use crate::exit::NestedPageFault;
use slat::MappingFlags;
use slat::format::ept::{Ept, Violation};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const GRANTED_SHIFT: u32 = 3;
const LINEAR_VALID: u64 = 1 << 7;
const NMI_UNBLOCKED: u64 = 1 << 12;

/// The fault of an exit with reason 48.
pub(crate) fn decode(fields: &Fields, ept: &Ept) -> NestedPageFault {
    let Fields { qualification, physical, linear, interrupted, .. } = *fields;
    let info = ept.decode_fault(&Violation { qualification, gpa: physical, linear });
    let has = |bit: u64| qualification & bit != 0;
    let mut granted = MappingFlags::empty();
    granted.set(MappingFlags::READ, has(1 << GRANTED_SHIFT));
    granted.set(MappingFlags::WRITE, has(1 << (GRANTED_SHIFT + 1)));
    granted.set(MappingFlags::EXECUTE, has(1 << (GRANTED_SHIFT + 2)));
    NestedPageFault {
        info,
        granted,
        // With accessed and dirty flags on, walks of the guest's tables set both.
        read_and_write: has(READ) && has(WRITE) && has(LINEAR_VALID) && !info.walk,
        nmi_unblocked: is_nmi_unblocked(fields),
        interrupted,
    }
}

/// Whether IRET had ended the blocking of NMIs before the exit: bit 12 of the qualification of violations and of exits for
/// a full log, undefined if the exit interrupted the delivery of an event or the CPU does not track NMIs.
pub(crate) fn is_nmi_unblocked(fields: &Fields) -> bool {
    fields.qualification & NMI_UNBLOCKED != 0 && fields.interrupted.is_none() && fields.virtual_nmis
}
