//! VMX operation of one physical CPU: on from [`VmxCpu::on`] to its drop.

#![expect(unsafe_code, reason = "enters and leaves VMX operation")]

use super::capabilities::{Capabilities, msr};
use super::instructions::{Instructions, Processor, VmxError};
use crate::frame::Frames;
use crate::host_cpus::{Binding, HostCpus};
use crate::resident;
use core::marker::PhantomData;
use slat::{Hal, HostPhysAddr};
use thiserror::Error;

pub(crate) const CR4_VMXE: u64 = 1 << 13;
/// IA32_FEATURE_CONTROL: locked, and VMX outside of SMX.
const LOCKED: u64 = 1 << 0;
const OUTSIDE_SMX: u64 = 1 << 2;
/// What VMPTRST stores where no VMCS is current.
pub(crate) const NONE_CURRENT: u64 = u64::MAX;

/// Why a CPU did not enter VMX operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OnError {
    /// CR4.VMXE is set: somebody has turned VMX on already.
    #[error("VMX is on already")]
    AlreadyOn,
    /// IA32_FEATURE_CONTROL of this very CPU is locked without VMX.
    #[error("the firmware has turned VMX off (IA32_FEATURE_CONTROL {0:#x} is locked)")]
    LockedOff(u64),
    /// CR0 or CR4 of the host cannot be what VMX operation needs.
    #[error("VMX operation needs CR0 {cr0:#x} and CR4 {cr4:#x}")]
    ControlRegisters {
        /// What CR0 would have to be.
        cr0: u64,
        /// What CR4 would have to be.
        cr4: u64,
    },
    /// There is no such CPU in the table, or one of this number has turned VMX on.
    #[error("the table has no CPU {0} that is off")]
    Number(usize),
    /// The host has no frame left.
    #[error("out of memory for the VMXON region")]
    OutOfMemory,
    /// The frame lies above 4 GiB, where this CPU cannot have it (IA32_VMX_BASIC bit 48).
    #[error("the VMXON region {0:#x} lies above 4 GiB")]
    Region(HostPhysAddr),
    /// VMXON failed.
    #[error(transparent)]
    Refused(#[from] VmxError),
}

/// VMX operation of the CPU on which this was made. Dropping it leaves VMX operation, with no VMCS active on the CPU, and
/// gives the region back, and what dropped vCPUs have left there; CR0 and CR4 are what they were before. vCPUs are to be
/// unbound first: one that is not can never be used again, takes the host's registers along that it keeps, and can only be dropped.
///
/// It cannot be sent to another thread, because it means one CPU: whoever lets threads move between CPUs keeps this one in place.
#[derive(Debug)]
pub struct VmxCpu<H: Hal, P: Instructions = Processor> {
    cpu: P,
    region: Frames<H>,
    before: (u64, u64),
    cpus: HostCpus<H>,
    on: Binding,
    this_cpu: PhantomData<*const ()>,
}

/// What a CPU is called by the hardware: its APIC IDs (SDM vol. 2A, "CPUID - CPU Identification", leaves 01H and 0BH).
pub(super) fn identity(cpu: &impl Instructions) -> u64 {
    const TOPOLOGY: u32 = 0xb;
    let [highest, ..] = cpu.cpuid(0, 0);
    let [_, ebx, ..] = cpu.cpuid(1, 0);
    let extended = if highest >= TOPOLOGY { cpu.cpuid(TOPOLOGY, 0)[3] } else { 0 };
    u64::from(extended) << 8 | u64::from(ebx >> 24)
}

impl<H: Hal, P: Instructions> VmxCpu<H, P> {
    /// Enters VMX operation on this CPU: sets IA32_FEATURE_CONTROL where nobody has locked it, CR4.VMXE and what else of CR0
    /// and CR4 must be set, and lets the host use XSAVE (CR4.OSXSAVE, OSFXSR; CR0.TS and EM are cleared).
    ///
    /// In `cpus`, which its vCPUs know too, it is CPU `number`. Takes one frame of `hal`.
    ///
    /// # Errors
    /// [`OnError`]; nothing has changed then, but that IA32_FEATURE_CONTROL may have been set and locked.
    ///
    /// # Safety
    /// The host runs at privilege level 0 in 64-bit mode on the identity of this CPU until the value is dropped: neither it
    /// nor the vCPUs that are bound meanwhile are used on another CPU in its name. Nothing in the host relies on CR0.TS or EM.
    pub unsafe fn on(
        hal: H,
        cpu: P,
        capabilities: &Capabilities,
        cpus: &HostCpus<H>,
        number: usize,
    ) -> Result<Self, OnError> {
        if cpu.cr4() & CR4_VMXE != 0 {
            return Err(OnError::AlreadyOn);
        }
        let on = cpus.turn_on(number, identity(&cpu)).ok_or(OnError::Number(number))?;
        // SAFETY: the caller's promise.
        match unsafe { enter_operation(hal, &cpu, capabilities) } {
            Ok((region, before)) => {
                Ok(Self { cpu, region, before, cpus: cpus.clone(), on, this_cpu: PhantomData })
            }
            Err(error) => {
                cpus.turn_off(on);
                Err(error)
            }
        }
    }

    /// Where the VMXON region lies.
    pub fn region(&self) -> HostPhysAddr {
        self.region.address()
    }

    /// Clears up what a vCPU has left in this CPU that was bound to it and dropped on another one, and gives its frames back. Whether
    /// there was something. Costs an atomic load if not.
    ///
    /// Binding a vCPU does that, too; to be called by a CPU to which none will be bound for a while.
    pub fn reap(&self) -> bool {
        // SAFETY: VMX is on, for this value says so, and this is its CPU.
        unsafe { reap(&self.cpu, &self.cpus, self.on.cpu) }
    }
}

/// As [`VmxCpu::reap`].
///
/// # Safety
/// This runs on CPU `number` of `cpus`, in VMX operation.
pub(super) unsafe fn reap<H: Hal>(cpu: &impl Instructions, cpus: &HostCpus<H>, number: usize) -> bool {
    let Some(mut remains) = cpus.reap(number) else { return false };
    if let Some(vmcs) = &remains.vmcs {
        // SAFETY: the vCPU was bound to this CPU, so it is active here. One that is current can be cleared.
        let _ = unsafe { cpu.vmclear(vmcs.address()) };
    }
    // SAFETY: loaded on this CPU.
    unsafe { remains.resident.unload() };
    true
}

/// CR0 and CR4.
type ControlRegisters = (u64, u64);

/// Enters VMX operation; the region, and what CR0 and CR4 were before.
///
/// # Safety
/// As [`VmxCpu::on`].
unsafe fn enter_operation<H: Hal>(
    hal: H,
    cpu: &impl Instructions,
    capabilities: &Capabilities,
) -> Result<(Frames<H>, ControlRegisters), OnError> {
    let (cr0, cr4) = (cpu.cr0(), cpu.cr4());
    let raw = capabilities.raw();
    let new_cr0 = (cr0 | raw.cr0_fixed0) & raw.cr0_fixed1;
    let new_cr4 = (cr4 | raw.cr4_fixed0 | CR4_VMXE) & raw.cr4_fixed1;
    // Only CR0.NE and CR4.VMXE can be set without the host noticing.
    if new_cr0 & !(1 << 5) != cr0 & !(1 << 5) || new_cr4 & !CR4_VMXE != cr4 || new_cr4 & CR4_VMXE == 0 {
        return Err(OnError::ControlRegisters { cr0: new_cr0, cr4: new_cr4 });
    }
    let mut region = Frames::zeroed(hal, 1).ok_or(OnError::OutOfMemory)?;
    check_region(capabilities, region.address()).map_err(OnError::Region)?;
    region.set_word(0, u64::from(capabilities.revision()));
    let feature_control = cpu.rdmsr(msr::FEATURE_CONTROL);
    if feature_control & LOCKED == 0 {
        // SAFETY: the register is there, for CPUID has VMX, and unlocked; the bits are defined.
        unsafe { cpu.wrmsr(msr::FEATURE_CONTROL, feature_control | LOCKED | OUTSIDE_SMX) };
    } else if feature_control & OUTSIDE_SMX == 0 {
        return Err(OnError::LockedOff(feature_control));
    }
    // SAFETY: the CPU says that it takes these in VMX operation; see above for what changes.
    unsafe { cpu.set_cr0_cr4(new_cr0, new_cr4) };
    // SAFETY: the region is ours and has the revision; the registers were set.
    if let Err(error) = unsafe { cpu.vmxon(region.address()) } {
        // SAFETY: what they were.
        unsafe { cpu.set_cr0_cr4(cr0, cr4) };
        return Err(error.into());
    }
    // SAFETY: the caller's promise, and CPUID.
    unsafe { resident::prepare_cpu(capabilities.xsave()) };
    // No translation of an earlier life of the CPU counts. The types were asked for.
    let _ = cpu.invept(super::InveptType::AllContexts);
    Ok((region, (cr0, cr4)))
}

/// Whether the CPU can have a region there.
pub(crate) fn check_region(capabilities: &Capabilities, address: HostPhysAddr) -> Result<(), HostPhysAddr> {
    if capabilities.regions_below_4g() && address.as_u64() >> 32 != 0 { Err(address) } else { Ok(()) }
}

impl<H: Hal, P: Instructions> Drop for VmxCpu<H, P> {
    fn drop(&mut self) {
        self.reap();
        let current = self.cpu.vmptrst();
        if current != NONE_CURRENT {
            // A vCPU is still bound, or was dropped elsewhere right now.
            // SAFETY: VMX is on, and the VMCS is active here: it is current.
            let _ = unsafe { self.cpu.vmclear(HostPhysAddr::new(current)) };
        }
        // SAFETY: VMX is on, for this value says so; no VMCS is active.
        let off = unsafe { self.cpu.vmxoff() };
        // From here on a vCPU that is dropped gives its frames back itself.
        if let Some(mut remains) = self.cpus.turn_off(self.on) {
            // SAFETY: loaded on this CPU.
            unsafe { remains.resident.unload() };
        }
        if off.is_ok() {
            // SAFETY: what they were before.
            unsafe { self.cpu.set_cr0_cr4(self.before.0, self.before.1) };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
