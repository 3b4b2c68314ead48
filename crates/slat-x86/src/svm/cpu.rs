//! SVM on one CPU: on while a [`SvmCpu`] lives (APM vol. 2, "Enabling SVM" and "VM_HSAVE_PA MSR").

#![expect(unsafe_code, reason = "turns SVM on and off")]

use super::capabilities::{Capabilities, EFER, VM_CR, VM_CR_SVMDIS};
use super::control::EFER_SVME;
use crate::frame::Frames;
use crate::host_cpus::{Binding, HostCpus};
use crate::isa::common as isa;
use crate::resident;
use core::marker::PhantomData;
use slat::{Hal, HostPhysAddr};
use thiserror::Error;

const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Why SVM was not turned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TurnOnError {
    /// Somebody has turned it on before.
    #[error("SVM is on already")]
    On,
    /// There is no such CPU in the table, or one of this number has turned SVM on.
    #[error("the table has no CPU {0} that is off")]
    Number(usize),
    /// No frame for the CPU's host state-save area.
    #[error("out of memory for the host state-save area")]
    OutOfMemory,
}

/// SVM is on on this CPU, which keeps the host's state in a frame of this; dropping it turns SVM off, and gives back the frame and what
/// dropped vCPUs have left here. vCPUs are to be unbound first: one that is not takes the host's registers along that it keeps, and can
/// only be dropped. It stays on its CPU.
#[derive(Debug)]
pub struct SvmCpu<H: Hal> {
    /// Lives as long as VM_HSAVE_PA points there.
    save_area: Frames<H>,
    cpus: HostCpus<H>,
    on: Binding,
    _on_this_cpu: PhantomData<*mut ()>,
}

impl<H: Hal> SvmCpu<H> {
    /// Turns SVM on on the CPU on which this runs, and lets it use XSAVE (CR4.OSXSAVE) where it has that. In `cpus`, which its
    /// vCPUs know too, it is CPU `number`. Takes one frame.
    ///
    /// # Errors
    /// [`TurnOnError`]; nothing has changed then.
    ///
    /// # Safety
    /// The host runs at privilege level 0 and reads `capabilities` from this very CPU. It does not rely on CR0.TS or CR0.EM
    /// being set. It does not turn SVM off by itself, and the value is dropped on this same CPU, when no guest will run
    /// on it any more.
    pub unsafe fn turn_on(
        hal: H,
        capabilities: &Capabilities,
        cpus: &HostCpus<H>,
        number: usize,
    ) -> Result<Self, TurnOnError> {
        // SAFETY: every CPU in 64-bit mode has it.
        let efer = unsafe { isa::rdmsr(EFER) };
        if efer & EFER_SVME != 0 {
            return Err(TurnOnError::On);
        }
        let save_area = Frames::zeroed(hal, 1).ok_or(TurnOnError::OutOfMemory)?;
        let on = cpus.turn_on(number, save_area.address().as_u64()).ok_or(TurnOnError::Number(number))?;
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
        Ok(Self { save_area, cpus: cpus.clone(), on, _on_this_cpu: PhantomData })
    }

    /// Where the CPU keeps the host's state.
    pub fn save_area(&self) -> HostPhysAddr {
        self.save_area.address()
    }

    /// Clears up what a vCPU has left in this CPU that was bound to it and dropped on another one, and gives its frames back. Whether
    /// there was something. Costs an atomic load if not.
    ///
    /// Binding a vCPU does that, too; to be called by a CPU to which none will be bound for a while.
    pub fn reap(&self) -> bool {
        // SAFETY: this value stays on its CPU.
        unsafe { reap(&self.cpus, self.on.cpu) }
    }
}

/// As [`SvmCpu::reap`].
///
/// # Safety
/// This runs on CPU `number` of `cpus`.
pub(super) unsafe fn reap<H: Hal>(cpus: &HostCpus<H>, number: usize) -> bool {
    let Some(mut remains) = cpus.reap(number) else { return false };
    // SAFETY: loaded on this CPU.
    unsafe { remains.resident.unload() };
    true
}

impl<H: Hal> Drop for SvmCpu<H> {
    fn drop(&mut self) {
        self.reap();
        // SAFETY: the register exists while SVM is on; no guest will run.
        unsafe { isa::wrmsr(VM_HSAVE_PA, 0) };
        // SAFETY: every CPU in 64-bit mode has it.
        let efer = unsafe { isa::rdmsr(EFER) };
        // SAFETY: no guest will run on this CPU, promised whoever turned SVM on; and this is that CPU.
        unsafe { isa::wrmsr(EFER, efer & !EFER_SVME) };
        // From here on a vCPU that is dropped gives its frames back itself.
        if let Some(mut remains) = self.cpus.turn_off(self.on) {
            // SAFETY: loaded on this CPU.
            unsafe { remains.resident.unload() };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::capabilities::tests::epyc;
    use super::{HostCpus, SvmCpu, TurnOnError};
    use slat::test_util::HeapHal;

    #[test]
    #[expect(unsafe_code, reason = "on a development host the registers do not exist")]
    fn the_save_area_goes_back() {
        let hal = HeapHal::default();
        let cpus = HostCpus::new(&hal, 1).expect("a frame");
        // SAFETY: nothing can be turned on here.
        let turn_on = |number| unsafe { SvmCpu::turn_on(&hal, &epyc(), &cpus, number) };
        let cpu = turn_on(0).expect("a frame");
        assert_eq!(hal.in_use(), 2);
        for number in [0, 1] {
            assert_eq!(turn_on(number).err(), Some(TurnOnError::Number(number)));
        }
        assert_eq!(hal.in_use(), 2);
        drop(cpu);
        assert_eq!(hal.in_use(), 1);
        hal.fail_after(Some(0));
        assert_eq!(turn_on(0).err(), Some(TurnOnError::OutOfMemory));
        hal.fail_after(None);
        drop(turn_on(0).expect("it is still off"));
    }
}
