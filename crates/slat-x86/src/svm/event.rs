//! Events as EVENTINJ and EXITINTINFO have them (APM vol. 2, "Event Injection" and "EXITINTINFO Pseudo-Code").

use crate::event::Event;

const EXTERNAL: u64 = 0 << 8;
const NMI: u64 = 2 << 8;
const EXCEPTION: u64 = 3 << 8;
const SOFTWARE: u64 = 4 << 8;
const TYPE: u64 = 7 << 8;
const VECTOR: u64 = 0xff;
const HAS_ERROR_CODE: u64 = 1 << 11;
const VALID: u64 = 1 << 31;

/// An event as the VMCB takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// EVENTINJ.
    pub(super) info: u64,
    /// Events of instructions return behind these, which have so many bytes; 0 for all others.
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

    /// Whether it is an exception that the CPU itself only raises for an instruction: INT3 or INTO.
    const fn looks_like_software(self) -> bool {
        self.info & TYPE == EXCEPTION && matches!(self.info & VECTOR, 3 | 4)
    }

    /// Whether it is vector 1.
    pub(super) const fn is_debug(self) -> bool {
        self.info & (TYPE | VECTOR) == EXCEPTION | 1
    }

    /// Whether `info`, of EXITINTINFO, may be about this one.
    const fn is_named(self, info: u64) -> bool {
        self.info & (TYPE | VECTOR) == info & (TYPE | VECTOR)
    }
}

/// An event whose delivery an exit has interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interrupted {
    /// What it is.
    pub(super) event: Event,
    /// Whether to deliver it again; not the event of an instruction, on which RIP still is: it is executed again.
    pub(super) again: bool,
}

/// What EXITINTINFO says; `None` if no delivery was interrupted. `injected` is what the entry had delivered itself: an event of an
/// instruction that has none in the guest to be executed again.
///
/// QEMU calls external interrupts exceptions (type 3), and NMIs too: exceptions end at 31, and 2 is the NMI's.
pub(super) fn interrupted(info: u64, injected: Option<Event>) -> Option<Interrupted> {
    if info & VALID == 0 {
        return None;
    }
    // Of a breakpoint or overflow exception that was injected there is no instruction either.
    let without_instruction = injected.filter(|event| {
        let delivery = Delivery::of(*event);
        delivery.is_named(info) && (delivery.length != 0 || delivery.looks_like_software())
    });
    if let Some(event) = without_instruction {
        return Some(Interrupted { event, again: true });
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
    Some(Interrupted { event, again: Delivery::of(event).length == 0 })
}

#[cfg(all(test, not(loom)))]
mod tests;
