//! The vCPU on CPUs made of maps.

mod binding;
mod controls;
mod events;
mod exits;
mod orphans;

use super::super::capabilities::RawCapabilities;
use super::super::capabilities::tests::TIGERLAKE;
use super::super::double::Double;
use super::super::{EptMemoryType, EptPointer, VmxConfig, VmxCpu, VmxVcpu, field};
use crate::HostCpus;
use crate::state::CpuState;
use crate::vcpu::Vcpu;
use slat::HostPhysAddr;
use slat::format::ept::Ept;
use slat::test_util::HeapHal;

pub(super) type TestVcpu<'a> = VmxVcpu<&'a HeapHal, &'a Double>;

pub(super) type TestCpus<'a> = HostCpus<&'a HeapHal>;

/// The table of both CPUs: one frame.
pub(super) fn cpus(hal: &HeapHal) -> TestCpus<'_> {
    HostCpus::new(hal, 2).expect("a frame")
}

/// VMX on, on the CPU at hand.
#[expect(unsafe_code, reason = "the double has no privilege levels")]
pub(super) fn on<'a>(
    hal: &'a HeapHal,
    cpu: &'a Double,
    cpus: &TestCpus<'a>,
) -> VmxCpu<&'a HeapHal, &'a Double> {
    // SAFETY: nothing is executed.
    unsafe { VmxCpu::on(hal, cpu, &cpu.capabilities(), cpus, cpu.this()) }.expect("VMX")
}

pub(super) fn pointer(cpu: &Double, root: u64) -> EptPointer {
    let capabilities = cpu.capabilities();
    let flags = capabilities.accessed_dirty();
    EptPointer::new(&capabilities, HostPhysAddr::new(root), 4, EptMemoryType::WriteBack, flags)
        .expect("a root")
}

pub(super) fn unbound<'a>(hal: &'a HeapHal, cpu: &'a Double, cpus: &TestCpus<'a>) -> TestVcpu<'a> {
    let capabilities = cpu.capabilities();
    let format = Ept::new(capabilities.ept(true), 4).expect("four levels");
    let config = VmxConfig { vpid: 7, ..VmxConfig::default() };
    VmxVcpu::new(&hal, cpu, cpus, capabilities, format, config).expect("frames")
}

/// A vCPU in `state`, bound to CPU 0.
pub(super) fn bound<'a>(
    hal: &'a HeapHal,
    cpu: &'a Double,
    cpus: &TestCpus<'a>,
    state: &CpuState,
) -> TestVcpu<'a> {
    let mut vcpu = unbound(hal, cpu, cpus);
    vcpu.setup(pointer(cpu, 0x9000), state).expect("a state");
    vcpu.bind(0).expect("bind");
    let _ = cpu.executed();
    vcpu
}

/// Runs `test` with a vCPU in 64-bit mode on the newest CPU, and sees that every frame comes back.
pub(super) fn with_vcpu(test: impl FnOnce(&Double, &mut TestVcpu<'_>)) {
    with_vcpu_of(TIGERLAKE, &CpuState::long_mode(0x1000, 0x2000), test);
}

pub(super) fn with_vcpu_of(
    raw: RawCapabilities,
    state: &CpuState,
    test: impl FnOnce(&Double, &mut TestVcpu<'_>),
) {
    let (hal, cpu) = (HeapHal::new(), Double::new(raw));
    let cpus = cpus(&hal);
    let vmx = on(&hal, &cpu, &cpus);
    let mut vcpu = bound(&hal, &cpu, &cpus, state);
    test(&cpu, &mut vcpu);
    drop(vcpu);
    assert_eq!(cpu.active(), 0);
    drop(vmx);
    drop(cpus);
    assert_eq!(hal.in_use(), 0);
}

pub(super) const HLT: u64 = 12;
pub(super) const REASON_CR: u64 = 28;

/// Lets the guest have these fields at the next exit.
pub(super) fn set(cpu: &Double, encoding: u32, value: u64) {
    use super::super::Instructions;
    cpu.vmwrite(encoding, value).expect("a current VMCS");
}

pub(super) const INTERRUPTIBILITY: u32 = field::GUEST_INTERRUPTIBILITY.encoding();
