//! The instructions of VMX, those among them that the recording has to see.

#![expect(unsafe_code, reason = "passes instructions on to the CPU")]

use crate::arch::x86_64::bare::vendor::Host;
use core::cell::Cell;
use slat::HostPhysAddr;
use slat_hv_protocol::recording::Event;
use slat_x86::GeneralRegisters;
use slat_x86::vmx::{HostRegisters, Instructions, InveptType, InvvpidType, Processor, VmxError, field};

/// The CPU at hand, whose invalidations and entries are recorded. Each vCPU has one.
pub(in crate::arch::x86_64) struct Recorded {
    host: Host,
    /// EPTP and VPID of the vCPU.
    root: Cell<u64>,
    tag: Cell<u32>,
}

impl Recorded {
    /// For a vCPU that has no root yet.
    pub(super) fn new(host: Host) -> Self {
        Self { host, root: Cell::new(0), tag: Cell::new(0) }
    }
}

// SAFETY: every function is that of the CPU at hand.
unsafe impl Instructions for Recorded {
    fn rdmsr(&self, index: u32) -> u64 {
        Processor.rdmsr(index)
    }

    unsafe fn wrmsr(&self, index: u32, value: u64) {
        // SAFETY: the caller's promise.
        unsafe { Processor.wrmsr(index, value) };
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        Processor.cpuid(leaf, subleaf)
    }

    fn cr0(&self) -> u64 {
        Processor.cr0()
    }

    fn cr4(&self) -> u64 {
        Processor.cr4()
    }

    unsafe fn set_cr0_cr4(&self, cr0: u64, cr4: u64) {
        // SAFETY: the caller's promise.
        unsafe { Processor.set_cr0_cr4(cr0, cr4) };
    }

    fn host_registers(&self) -> HostRegisters {
        Processor.host_registers()
    }

    unsafe fn vmxon(&self, region: HostPhysAddr) -> Result<(), VmxError> {
        // SAFETY: the caller's promise.
        unsafe { Processor.vmxon(region) }
    }

    unsafe fn vmxoff(&self) -> Result<(), VmxError> {
        // SAFETY: the caller's promise.
        unsafe { Processor.vmxoff() }
    }

    unsafe fn vmclear(&self, vmcs: HostPhysAddr) -> Result<(), VmxError> {
        // SAFETY: the caller's promise.
        unsafe { Processor.vmclear(vmcs) }
    }

    unsafe fn vmptrld(&self, vmcs: HostPhysAddr) -> Result<(), VmxError> {
        // SAFETY: the caller's promise.
        unsafe { Processor.vmptrld(vmcs) }
    }

    fn vmptrst(&self) -> u64 {
        Processor.vmptrst()
    }

    fn vmread(&self, encoding: u32) -> Result<u64, VmxError> {
        Processor.vmread(encoding)
    }

    fn vmwrite(&self, encoding: u32, value: u64) -> Result<(), VmxError> {
        Processor.vmwrite(encoding, value)?;
        if encoding == field::EPT_POINTER.encoding() {
            self.root.set(value);
        } else if encoding == field::VPID.encoding() {
            self.tag.set(value as u32);
        }
        Ok(())
    }

    fn end_nmi(&self) {
        Processor.end_nmi();
    }

    fn invept(&self, kind: InveptType) -> Result<(), VmxError> {
        let (kind_number, eptp) = match kind {
            InveptType::SingleContext(eptp) => (1, eptp),
            InveptType::AllContexts => (2, 0),
        };
        self.host.maintenance().record_outside(Event::Invept { kind: kind_number, eptp });
        Processor.invept(kind)
    }

    fn invvpid(&self, kind: InvvpidType) -> Result<(), VmxError> {
        let (kind_number, vpid, linear) = match kind {
            InvvpidType::Address(vpid, linear) => (0, vpid, linear),
            InvvpidType::SingleContext(vpid) => (1, vpid, 0),
            InvvpidType::AllContexts => (2, 0, 0),
            InvvpidType::SingleContextRetainingGlobals(vpid) => (3, vpid, 0),
        };
        self.host.maintenance().record_outside(Event::Invvpid { kind: kind_number, vpid, linear });
        Processor.invvpid(kind)
    }

    unsafe fn enter(
        &self,
        general: &mut GeneralRegisters,
        cr2: &mut u64,
        launched: bool,
    ) -> Result<(), VmxError> {
        self.host.maintenance().record_entry(self.root.get(), self.tag.get(), Event::Enter);
        // SAFETY: the caller's promise.
        unsafe { Processor.enter(general, cr2, launched) }
    }
}
