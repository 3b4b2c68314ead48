//! Events as EVENTINJ and EXITINTINFO have them (APM vol. 2, "Event Injection" and "EXITINTINFO Pseudo-Code").

use crate::event::Event;

const EXTERNAL: u64 = 0 << 8;
const NMI: u64 = 2 << 8;
const EXCEPTION: u64 = 3 << 8;
const SOFTWARE: u64 = 4 << 8;
const TYPE: u64 = 7 << 8;
const HAS_ERROR_CODE: u64 = 1 << 11;
const VALID: u64 = 1 << 31;

/// An event as the VMCB takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// EVENTINJ.
    pub(super) info: u64,
    /// Software events return behind their instruction, which has so many bytes; 0 for all others, and if RIP is behind it
    /// already.
    pub(super) length: u8,
}

impl Delivery {
    /// How to deliver `event`, which passes [`Event::check`].
    pub(super) const fn of(event: Event) -> Self {
        match event {
            Event::ExternalInterrupt(vector) => Self { info: VALID | EXTERNAL | vector as u64, length: 0 },
            Event::Nmi => Self { info: VALID | NMI | 2, length: 0 },
            Event::Exception { vector, error_code: None } => {
                Self { info: VALID | EXCEPTION | vector as u64, length: 0 }
            }
            Event::Exception { vector, error_code: Some(code) } => Self {
                info: VALID | EXCEPTION | HAS_ERROR_CODE | vector as u64 | (code as u64) << 32,
                length: 0,
            },
            Event::SoftwareInterrupt { vector, length } => {
                Self { info: VALID | SOFTWARE | vector as u64, length }
            }
            // INT1 is delivered as the exception, which comes behind the instruction.
            Event::PrivilegedSoftwareException { length } => Self { info: VALID | EXCEPTION | 1, length },
            Event::SoftwareException { vector, length } => {
                Self { info: VALID | EXCEPTION | vector as u64, length }
            }
        }
    }

    pub(super) const fn is_nmi(self) -> bool {
        self.info & TYPE == NMI
    }

    /// Whether it is the event of an instruction.
    pub(super) const fn is_software(self) -> bool {
        self.info & TYPE == SOFTWARE || self.info & TYPE == EXCEPTION && matches!(self.info & 0xff, 3 | 4)
    }
}

/// An event whose delivery an exit has interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interrupted {
    /// What it is.
    pub(super) event: Event,
    /// How to deliver it again; `None` for the event of an instruction, on which RIP still is: it is executed again.
    pub(super) again: Option<Delivery>,
}

/// What EXITINTINFO says; `None` if no delivery was interrupted. `injected` is what the entry had delivered itself.
///
/// QEMU calls external interrupts exceptions (type 3), and NMIs too: exceptions end at 31, and 2 is the NMI's.
pub(super) const fn interrupted(info: u64, injected: Option<Delivery>) -> Option<Interrupted> {
    if info & VALID == 0 {
        return None;
    }
    let vector = info as u8;
    let event = match info & TYPE {
        EXTERNAL => Event::ExternalInterrupt(vector),
        NMI => Event::Nmi,
        EXCEPTION if vector == 2 => Event::Nmi,
        EXCEPTION if vector > 31 => Event::ExternalInterrupt(vector),
        EXCEPTION if vector == 3 || vector == 4 => Event::SoftwareException { vector, length: 1 },
        EXCEPTION => {
            let error_code = if info & HAS_ERROR_CODE != 0 { Some((info >> 32) as u32) } else { None };
            Event::Exception { vector, error_code }
        }
        SOFTWARE => Event::SoftwareInterrupt { vector, length: 2 },
        // No such type.
        _ => return None,
    };
    let delivery = Delivery::of(event);
    if !delivery.is_software() {
        return Some(Interrupted { event, again: Some(delivery) });
    }
    // An event that was injected has no instruction to execute again.
    let again = match injected {
        Some(delivery) if delivery.is_software() && delivery.info & 0xff == info & 0xff => Some(delivery),
        _ => None,
    };
    Some(Interrupted { event, again })
}

#[cfg(test)]
mod tests;
