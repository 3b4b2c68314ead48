//! What the hardware says about a fault, as a sentence.

mod arm;
mod riscv;
mod x86;

use crate::access::{Access, AccessKind};
use crate::fields::Fields;
use core::fmt;

/// The registers in which the hardware reports a fault, raw. `Display` makes a sentence of them.
///
/// ```
/// use slat_inspect::FaultRegisters;
///
/// let fault = FaultRegisters::EptViolation { qualification: 0x182, gpa: 0x1234, linear: Some(0xffff_8000_0000_1234) };
/// assert_eq!(
///     fault.to_string(),
///     "EPT violation: a write to GPA 0x1234 (linear address 0xffff800000001234); \
///      an entry on the way is not present or allows nothing"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultRegisters {
    /// Intel, exit reason 48.
    EptViolation {
        /// Exit qualification.
        qualification: u64,
        /// Guest-physical address.
        gpa: u64,
        /// Guest-linear address; it counts only if bit 7 of the qualification says so.
        linear: Option<u64>,
    },
    /// Intel, exit reason 49, which has no qualification.
    EptMisconfiguration {
        /// Guest-physical address.
        gpa: u64,
    },
    /// AMD, exit code 400h.
    NestedPageFault {
        /// EXITINFO1.
        exitinfo1: u64,
        /// EXITINFO2, the guest physical address.
        exitinfo2: u64,
    },
    /// x86 \#PF.
    PageFault {
        /// The error code.
        error_code: u64,
        /// CR2.
        cr2: u64,
    },
    /// Arm, an abort taken to EL2.
    Abort {
        /// ESR_EL2.
        esr: u64,
        /// FAR_EL2, if it is known.
        far: Option<u64>,
        /// HPFAR_EL2, if it is known.
        hpfar: Option<u64>,
    },
    /// RISC-V, a trap to HS-mode (or to S-mode, where htval and htinst are 0).
    Trap {
        /// scause.
        scause: u64,
        /// stval.
        stval: u64,
        /// htval.
        htval: u64,
        /// htinst.
        htinst: u64,
    },
}

impl FaultRegisters {
    /// The address that the fault is about, in the address space of its tables: GPA or IPA of a second-stage fault, the virtual
    /// address of another. `None` where the registers do not say.
    #[must_use]
    pub fn address(&self) -> Option<u64> {
        match *self {
            Self::EptViolation { gpa, .. } | Self::EptMisconfiguration { gpa } => Some(gpa),
            Self::NestedPageFault { exitinfo2, .. } => Some(exitinfo2),
            Self::PageFault { cr2, .. } => Some(cr2),
            Self::Abort { esr, far, hpfar } => arm::address(esr, far, hpfar),
            Self::Trap { scause, stval, htval, htinst } => riscv::address(scause, stval, htval, htinst),
        }
    }

    /// The access that faulted, if the registers say. One that reads and writes counts as a write.
    #[must_use]
    pub fn access(&self) -> Option<Access> {
        match *self {
            Self::EptViolation { qualification, .. } => x86::violation_access(qualification),
            Self::EptMisconfiguration { .. } => None,
            Self::NestedPageFault { exitinfo1: code, .. } | Self::PageFault { error_code: code, .. } => {
                Some(x86::error_code_access(code))
            }
            Self::Abort { esr, .. } => arm::access(esr),
            Self::Trap { scause, htinst, .. } => riscv::access(scause, htinst),
        }
    }

    /// Whether the access was the guest's page walk, on behalf of another one.
    #[must_use]
    pub fn is_of_walk(&self) -> bool {
        match *self {
            Self::EptViolation { qualification, .. } => qualification & 0x180 == 0x80,
            Self::NestedPageFault { exitinfo1, .. } => exitinfo1 >> 33 & 1 != 0,
            Self::Abort { esr, .. } => arm::is_of_walk(esr),
            Self::Trap { htinst, .. } => riscv::is_pseudo(htinst),
            _ => false,
        }
    }

    /// The registers field by field; nothing where there is no more to them than an address.
    #[must_use]
    pub fn fields(&self) -> Fields<'static> {
        let (specs, raw) = match *self {
            Self::EptViolation { qualification, .. } => (x86::QUALIFICATION, qualification),
            Self::EptMisconfiguration { .. } => (&[][..], 0),
            Self::NestedPageFault { exitinfo1, .. } => (x86::EXITINFO1, exitinfo1),
            Self::PageFault { error_code, .. } => (x86::ERROR_CODE, error_code),
            Self::Abort { esr, .. } => (arm::fields_of(esr), esr),
            Self::Trap { scause, .. } => (riscv::SCAUSE, scause),
        };
        Fields::of_registers([specs, &[]], [raw, 0])
    }
}

impl fmt::Display for FaultRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::EptViolation { qualification, gpa, linear } => {
                x86::violation(f, qualification, gpa, linear)
            }
            Self::EptMisconfiguration { gpa } => write!(
                f,
                "EPT misconfiguration at GPA {gpa:#x}: an entry on the way is present and has a value that no entry may have; \
                 which access it was is not reported"
            ),
            Self::NestedPageFault { exitinfo1, exitinfo2 } => x86::nested(f, exitinfo1, exitinfo2),
            Self::PageFault { error_code, cr2 } => x86::page_fault(f, error_code, cr2),
            Self::Abort { esr, far, hpfar } => arm::abort(f, esr, far, hpfar),
            Self::Trap { scause, stval, htval, htinst } => riscv::trap(f, [scause, stval, htval, htinst]),
        }
    }
}

/// `a` or `an`, and the access.
fn noun(kind: AccessKind) -> &'static str {
    match kind {
        AccessKind::Read => "a read from",
        AccessKind::Write => "a write to",
        AccessKind::Execute => "an instruction fetch from",
    }
}

/// Words in a row: `a`, `a and b`, `a, b and c`.
struct List<'a>(&'a [(bool, &'a str)]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.iter().filter(|(shown, _)| *shown).count();
        let words = self.0.iter().filter(|(shown, _)| *shown).map(|(_, word)| *word);
        for (index, word) in words.enumerate() {
            let separator = match index {
                0 => "",
                index if index + 1 == count => " and ",
                _ => ", ",
            };
            write!(f, "{separator}{word}")?;
        }
        Ok(())
    }
}
