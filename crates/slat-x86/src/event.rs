//! What can be delivered to a guest, and what its delivery is called on both vendors.

use thiserror::Error;

/// An interrupt or exception for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An external interrupt with this vector. Only deliverable while the guest takes interrupts.
    ExternalInterrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// A hardware exception, with its error code if it has one.
    Exception {
        /// 0 to 31.
        vector: u8,
        /// Pushed behind the return address by vectors 8, 10 to 14, 17 and 21, and by no other.
        error_code: Option<u32>,
    },
    /// `INT n`, whose delivery was interrupted.
    SoftwareInterrupt {
        /// The `n`.
        vector: u8,
        /// Length of the instruction in bytes, 1 to 15: the guest is to return behind it.
        length: u8,
    },
    /// `INT1`, whose delivery was interrupted.
    PrivilegedSoftwareException {
        /// Length of the instruction in bytes, 1 to 15.
        length: u8,
    },
    /// `INT3` or `INTO`, whose delivery was interrupted.
    SoftwareException {
        /// 3 or 4.
        vector: u8,
        /// Length of the instruction in bytes, 1 to 15.
        length: u8,
    },
}

/// The event cannot be delivered as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadEvent {
    /// Not the vector of a hardware exception (0 to 31, but for 2, which is the NMI).
    #[error("vector {0} is not one of an exception")]
    Vector(u8),
    /// An error code where the exception has none, or none where it has one.
    #[error("exception {0} {with} an error code", with = if *.1 { "does not have" } else { "has" })]
    ErrorCode(u8, bool),
    /// The length of the instruction is not 1 to 15.
    #[error("an instruction of {0} bytes")]
    Length(u8),
    /// An external interrupt, while the guest does not take any: ask for the interrupt window.
    #[error("the guest takes no external interrupts now")]
    Masked,
}

impl Event {
    /// The invalid opcode exception.
    pub const UNDEFINED: Self = Self::Exception { vector: 6, error_code: None };
    /// The general protection exception with error code 0.
    pub const GENERAL_PROTECTION: Self = Self::Exception { vector: 13, error_code: Some(0) };

    /// A page fault with this error code. CR2 is the caller's to set.
    #[must_use]
    pub const fn page_fault(error_code: u32) -> Self {
        Self::Exception { vector: 14, error_code: Some(error_code) }
    }

    /// Whether exception `vector` pushes an error code in protected mode (SDM vol. 3A, "Protected-Mode Exceptions and
    /// Interrupts").
    #[must_use]
    pub const fn has_error_code(vector: u8) -> bool {
        matches!(vector, 8 | 10..=14 | 17 | 21)
    }

    /// Whether both vendors deliver this: an entry with anything else would fail. In real mode (`protected` is false) no
    /// exception has an error code.
    ///
    /// # Errors
    /// [`BadEvent`].
    pub const fn check(self, protected: bool) -> Result<(), BadEvent> {
        match self {
            Self::ExternalInterrupt(_) | Self::Nmi => Ok(()),
            Self::Exception { vector, error_code } => {
                if vector > 31 || vector == 2 {
                    return Err(BadEvent::Vector(vector));
                }
                if error_code.is_some() != (Self::has_error_code(vector) && protected) {
                    return Err(BadEvent::ErrorCode(vector, error_code.is_some()));
                }
                Ok(())
            }
            Self::SoftwareException { vector, .. } if vector != 3 && vector != 4 => {
                Err(BadEvent::Vector(vector))
            }
            Self::SoftwareInterrupt { length, .. }
            | Self::PrivilegedSoftwareException { length }
            | Self::SoftwareException { length, .. } => {
                if length == 0 || length > 15 {
                    Err(BadEvent::Length(length))
                } else {
                    Ok(())
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
