//! From ESR_EL2, FAR_EL2, HPFAR_EL2 and SPSR_EL2 to what the guest did.
//!
//! HPFAR_EL2 holds the faulting page except on a permission fault of the final access, where it is UNKNOWN (Arm
//! ARM, HPFAR_EL2). Then the guest's own translation has to be asked: `AT S1E1R` on the faulting virtual address
//! gives PAR_EL1, and [`Fault::with_par`] completes the answer.

use crate::addr::{GuestPhysAddr, GuestVirtAddr, PAGE_SIZE};
use crate::device::{AccessWidth, DataAccess};
use crate::fault::{FaultCause, NestedPageFaultInfo};
use crate::flags::MappingFlags;
use thiserror::Error;

const EC_INSTRUCTION_ABORT_LOWER: u64 = 0x20;
const EC_DATA_ABORT_LOWER: u64 = 0x24;

/// ESR_EL2.ISS of aborts: WnR, S1PTW, CM.
const ISS_WNR: u64 = 1 << 6;
const ISS_S1PTW: u64 = 1 << 7;
const ISS_CM: u64 = 1 << 8;

/// ESR_EL2.ISS of data aborts: whether bits 23:14 describe the access; SSE; SF.
const ISS_ISV: u64 = 1 << 24;
const ISS_SSE: u64 = 1 << 21;
const ISS_SF: u64 = 1 << 15;

/// What tells a data abort that was decoded: class, ISV, and no table walk.
const DECODED_BITS: u64 = 0x3f << 26 | ISS_ISV | ISS_S1PTW;
const DECODED: u64 = EC_DATA_ABORT_LOWER << 26 | ISS_ISV;

/// The registers that an exception to EL2 leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Syndrome {
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2: the guest virtual address.
    pub far: u64,
    /// HPFAR_EL2.
    pub hpfar: u64,
    /// SPSR_EL2: the mode that the access was made in.
    pub spsr: u64,
}

impl Syndrome {
    /// The load or store that led to a data abort, as the hardware has decoded it (Arm ARM, ESR_EL2 "ISS encoding for an
    /// exception from a Data Abort": ISV, SAS, SSE, SRT, SF). `None` where the hardware did not: on other
    /// exceptions, on table walks and cache maintenance, and on instructions that move several registers, or vectors, or
    /// write back, or are exclusive or atomic.
    ///
    /// The register is numbered as AArch64 sees it, also for a guest in AArch32 state.
    #[must_use]
    pub fn data_access(&self) -> Option<DataAccess> {
        let Self { esr, .. } = *self;
        let decoded = esr & DECODED_BITS == DECODED;
        let register = (esr >> 16 & 0x1f) as u8;
        decoded.then_some(DataAccess {
            width: AccessWidth::from_size(esr >> 22),
            register: (register != 31).then_some(register),
            sign_extend: esr & ISS_SSE != 0,
            sixty_four: esr & ISS_SF != 0,
        })
    }
}

/// The exception is something else than a stage-2 fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotAStage2Fault {
    /// Not an abort from a lower exception level.
    #[error("exception class {0:#x} is no abort from a lower exception level")]
    Class(u64),
    /// An abort with another status: external abort, TLB conflict, alignment.
    #[error("fault status {0:#x} is not one of stage-2 translation")]
    Status(u64),
}

/// A stage-2 fault; its page may still have to be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The page, or `None` when HPFAR_EL2 does not hold it.
    page: Option<GuestPhysAddr>,
    /// The virtual address of the access.
    pub gva: GuestVirtAddr,
    /// What the guest tried.
    pub access: MappingFlags,
    /// Why the hardware refused.
    pub cause: FaultCause,
    /// Whether the guest's own table walk faulted, and not the access itself.
    pub walk: bool,
    /// How many bytes the access moves, where the hardware reports that.
    pub width: Option<AccessWidth>,
}

impl Fault {
    /// The complete description, if HPFAR_EL2 was valid; `None` means: ask the guest's stage 1.
    #[must_use]
    pub fn info(&self) -> Option<NestedPageFaultInfo> {
        self.page.map(|page| self.complete(page))
    }

    /// The complete description from the PAR_EL1 that `AT S1E1R` of [`gva`](Self::gva) left; `None` if that
    /// translation failed (PAR_EL1.F), which means that the guest changed its tables meanwhile: re-enter it.
    #[must_use]
    pub fn with_par(&self, par: u64) -> Option<NestedPageFaultInfo> {
        const FAILED: u64 = 1;
        const PA: u64 = 0x000f_ffff_ffff_f000;
        (par & FAILED == 0).then(|| self.complete(GuestPhysAddr::new(par & PA)))
    }

    fn complete(&self, page: GuestPhysAddr) -> NestedPageFaultInfo {
        // On a walk FAR_EL2 belongs to the access, not to the descriptor: its low bits say nothing.
        let offset = if self.walk { 0 } else { self.gva.as_u64() & (PAGE_SIZE - 1) };
        let gpa = GuestPhysAddr::new(page.as_u64() | offset);
        NestedPageFaultInfo {
            gpa,
            gva: Some(self.gva),
            access: self.access,
            cause: self.cause,
            walk: self.walk,
            width: self.width,
        }
    }
}

/// Decodes an exception taken to EL2 (Arm ARM, ESR_EL2 "ISS encoding for an exception from a Data Abort / an
/// Instruction Abort", HPFAR_EL2).
///
/// # Errors
/// [`NotAStage2Fault`] if the exception is another one.
pub fn decode_fault(syndrome: &Syndrome) -> Result<Fault, NotAStage2Fault> {
    let Syndrome { esr, far, hpfar, spsr } = *syndrome;
    let class = esr >> 26 & 0x3f;
    let fetch = match class {
        EC_INSTRUCTION_ABORT_LOWER => true,
        EC_DATA_ABORT_LOWER => false,
        _ => return Err(NotAStage2Fault::Class(class)),
    };
    let status = esr & 0x3f;
    let cause = match status {
        0b00_0000..=0b00_0011 | 0b10_1001 => FaultCause::AddressSize,
        0b00_0100..=0b00_0111 | 0b10_1011 => FaultCause::NotPresent,
        0b00_1000..=0b00_1011 => FaultCause::AccessFlag,
        0b00_1100..=0b00_1111 => FaultCause::Permission,
        _ => return Err(NotAStage2Fault::Status(status)),
    };
    let walk = esr & ISS_S1PTW != 0;
    // WnR of cache maintenance and address translation instructions is 1. All of them make do with a readable page,
    // except DC IVAC, which needs a writable one: that is what a permission fault of theirs means.
    let maintenance = esr & ISS_CM != 0 && !walk && cause != FaultCause::Permission;
    let write = !fetch && esr & ISS_WNR != 0 && !maintenance;
    let access = match (fetch && !walk, write) {
        (true, _) if spsr & 0xf == 0 => MappingFlags::EXECUTE | MappingFlags::USER,
        (true, _) => MappingFlags::EXECUTE,
        (false, true) => MappingFlags::WRITE,
        (false, false) => MappingFlags::READ,
    };
    // FIPA, bits 43:4, is IPA[51:12].
    let page = GuestPhysAddr::new((hpfar >> 4 & 0xff_ffff_ffff) << 12);
    let valid = walk || cause != FaultCause::Permission;
    let width = syndrome.data_access().map(|access| access.width);
    Ok(Fault { page: valid.then_some(page), gva: GuestVirtAddr::new(far), access, cause, walk, width })
}
