//! A development host: VMX is off, and every instruction of it fails as without a current VMCS.

#![expect(unsafe_code, reason = "the functions of bare metal have contracts, and these are in their place")]

use crate::state::GeneralRegisters;
use crate::vmx::{HostRegisters, Instructions, InveptType, InvvpidType, Processor, VmxError};
use slat::HostPhysAddr;

// SAFETY: nothing is executed.
unsafe impl Instructions for Processor {
    fn rdmsr(&self, _index: u32) -> u64 {
        0
    }
    unsafe fn wrmsr(&self, _index: u32, _value: u64) {}
    fn cpuid(&self, _leaf: u32, _subleaf: u32) -> [u32; 4] {
        [0; 4]
    }
    fn cr0(&self) -> u64 {
        0
    }
    fn cr4(&self) -> u64 {
        0
    }
    unsafe fn set_cr0_cr4(&self, _cr0: u64, _cr4: u64) {}
    fn host_registers(&self) -> HostRegisters {
        HostRegisters::default()
    }
    unsafe fn vmxon(&self, _region: HostPhysAddr) -> Result<(), VmxError> {
        Err(VmxError::Invalid)
    }
    unsafe fn vmxoff(&self) -> Result<(), VmxError> {
        Err(VmxError::Invalid)
    }
    unsafe fn vmclear(&self, _vmcs: HostPhysAddr) -> Result<(), VmxError> {
        Err(VmxError::Invalid)
    }
    unsafe fn vmptrld(&self, _vmcs: HostPhysAddr) -> Result<(), VmxError> {
        Err(VmxError::Invalid)
    }
    fn vmptrst(&self) -> u64 {
        u64::MAX
    }
    fn vmread(&self, _encoding: u32) -> Result<u64, VmxError> {
        Err(VmxError::Invalid)
    }
    fn vmwrite(&self, _encoding: u32, _value: u64) -> Result<(), VmxError> {
        Err(VmxError::Invalid)
    }
    fn end_nmi(&self) {}
    fn invept(&self, _kind: InveptType) -> Result<(), VmxError> {
        Err(VmxError::Invalid)
    }
    fn invvpid(&self, _kind: InvvpidType) -> Result<(), VmxError> {
        Err(VmxError::Invalid)
    }
    unsafe fn enter(
        &self,
        _general: &mut GeneralRegisters,
        _cr2: &mut u64,
        _launched: bool,
    ) -> Result<(), VmxError> {
        Err(VmxError::Invalid)
    }
}
