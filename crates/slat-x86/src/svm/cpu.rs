//! SVM on one CPU: on while a [`SvmCpu`] lives (APM vol. 2, "Enabling SVM" and "VM_HSAVE_PA MSR").

#![expect(unsafe_code, reason = "turns SVM on and off")]

use super::capabilities::{Capabilities, EFER, VM_CR, VM_CR_SVMDIS};
use super::control::EFER_SVME;
use crate::frame::Frames;
use crate::isa::common as isa;
use crate::resident;
use core::marker::PhantomData;
use slat::Hal;
use thiserror::Error;

const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Why SVM was not turned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TurnOnError {
    /// Somebody has turned it on before.
    #[error("SVM is on already")]
    On,
    /// No frame for the CPU's host state-save area.
    #[error("out of memory for the host state-save area")]
    OutOfMemory,
}

/// SVM is on on this CPU, which keeps the host's state in a frame of this; dropping it turns SVM off and gives the frame back.
/// It stays on its CPU.
#[derive(Debug)]
pub struct SvmCpu<H: Hal> {
    /// Lives as long as VM_HSAVE_PA points there.
    _save_area: Frames<H>,
    _on_this_cpu: PhantomData<*mut ()>,
}

impl<H: Hal> SvmCpu<H> {
    /// Turns SVM on on the CPU on which this runs, and lets it use XSAVE (CR4.OSXSAVE) where it has that. Takes one frame.
    ///
    /// # Errors
    /// [`TurnOnError`]; nothing has changed then.
    ///
    /// # Safety
    /// The host runs at privilege level 0 and reads `capabilities` from this very CPU. It does not rely on CR0.TS or CR0.EM
    /// being set. It does not turn SVM off by itself, and the value is dropped on this same CPU, when no guest will run
    /// on it any more.
    pub unsafe fn turn_on(hal: H, capabilities: &Capabilities) -> Result<Self, TurnOnError> {
        // SAFETY: every CPU in 64-bit mode has it.
        let efer = unsafe { isa::rdmsr(EFER) };
        if efer & EFER_SVME != 0 {
            return Err(TurnOnError::On);
        }
        let save_area = Frames::zeroed(hal, 1).ok_or(TurnOnError::OutOfMemory)?;
        if capabilities.to_be_unlocked {
            // SAFETY: a CPU with SVM has it.
            let vm_cr = unsafe { isa::rdmsr(VM_CR) };
            // SAFETY: it is not locked, say the capabilities, and SVM that may be turned on changes nothing yet.
            unsafe { isa::wrmsr(VM_CR, vm_cr & !VM_CR_SVMDIS) };
        }
        // SAFETY: the caller promises that nobody minds, and the capabilities know of XSAVE.
        unsafe { resident::prepare_cpu(capabilities.components != 0) };
        // SAFETY: the CPU has SVM, which is not disabled (any more).
        unsafe { isa::wrmsr(EFER, efer | EFER_SVME) };
        // SAFETY: an aligned frame that lives until SVM is off.
        unsafe { isa::wrmsr(VM_HSAVE_PA, save_area.address().as_u64()) };
        Ok(Self { _save_area: save_area, _on_this_cpu: PhantomData })
    }
}

impl<H: Hal> Drop for SvmCpu<H> {
    fn drop(&mut self) {
        // SAFETY: the register exists while SVM is on; no guest will run.
        unsafe { isa::wrmsr(VM_HSAVE_PA, 0) };
        // SAFETY: every CPU in 64-bit mode has it.
        let efer = unsafe { isa::rdmsr(EFER) };
        // SAFETY: no guest will run on this CPU, promised whoever turned SVM on; and this is that CPU.
        unsafe { isa::wrmsr(EFER, efer & !EFER_SVME) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::tests::epyc;
    use super::{SvmCpu, TurnOnError};
    use slat::test_util::HeapHal;

    #[test]
    #[expect(unsafe_code, reason = "on a development host the registers do not exist")]
    fn the_save_area_goes_back() {
        let hal = HeapHal::default();
        // SAFETY: nothing can be turned on here.
        let cpu = unsafe { SvmCpu::turn_on(&hal, &epyc()) }.expect("a frame");
        assert_eq!(hal.in_use(), 1);
        drop(cpu);
        assert_eq!(hal.in_use(), 0);
        hal.fail_after(Some(0));
        // SAFETY: as above.
        let refused = unsafe { SvmCpu::turn_on(&hal, &epyc()) };
        assert_eq!(refused.err(), Some(TurnOnError::OutOfMemory));
    }
}
