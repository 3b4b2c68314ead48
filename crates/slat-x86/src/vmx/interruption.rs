//! Events as the VMCS has them: interruption information, of the same shape for entries, exits and IDT-vectoring (SDM vol.
//! 3C, "VM-Entry Controls for Event Injection", "Information for VM Exits That Occur During Event Delivery").

use crate::event::Event;

const VALID: u32 = 1 << 31;
const ERROR_CODE_VALID: u32 = 1 << 11;
/// In an exit's information: IRET had ended the blocking of NMIs.
pub(crate) const NMI_UNBLOCKED: u32 = 1 << 12;

/// The fields of an event to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interruption {
    pub(crate) information: u32,
    pub(crate) error_code: u32,
    /// Only of events that an instruction raised.
    pub(crate) instruction_length: u32,
}

/// The fields that make an entry deliver `event`.
pub(crate) fn encode(event: Event) -> Interruption {
    let (kind, vector, error_code, instruction_length) = match event {
        Event::ExternalInterrupt(vector) => (0, vector, None, 0),
        Event::Nmi => (2, 2, None, 0),
        Event::Exception { vector, error_code } => (3, vector, error_code, 0),
        Event::SoftwareInterrupt { vector, length } => (4, vector, None, length),
        Event::PrivilegedSoftwareException { length } => (5, 1, None, length),
        Event::SoftwareException { vector, length } => (6, vector, None, length),
    };
    let with_error_code = if error_code.is_some() { ERROR_CODE_VALID } else { 0 };
    Interruption {
        information: VALID | with_error_code | kind << 8 | u32::from(vector),
        error_code: error_code.unwrap_or(0),
        instruction_length: instruction_length.into(),
    }
}

/// The event that these fields are about, if they are about any.
pub(crate) fn decode(fields: Interruption) -> Option<Event> {
    let Interruption { information, error_code, instruction_length } = fields;
    if information & VALID == 0 {
        return None;
    }
    let vector = information as u8;
    // No instruction is longer than 15 bytes.
    let length = (instruction_length & 0xf) as u8;
    match information >> 8 & 7 {
        0 => Some(Event::ExternalInterrupt(vector)),
        2 => Some(Event::Nmi),
        3 => {
            let error_code = (information & ERROR_CODE_VALID != 0).then_some(error_code);
            Some(Event::Exception { vector, error_code })
        }
        4 => Some(Event::SoftwareInterrupt { vector, length }),
        5 => Some(Event::PrivilegedSoftwareException { length }),
        6 => Some(Event::SoftwareException { vector, length }),
        // 1 is reserved, 7 "other event", which is never interrupted.
        _ => None,
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
