//! The physical CPU under a vCPU of the run loop.

#![expect(unsafe_code, reason = "executes RDMSR and RDTSC")]

use super::maintenance::Cpus;
use super::vendor::{self, Host, Vendor};
use super::{console, machine, port};
use crate::arch::x86_64::apic::Registers;
use crate::arch::x86_64::ports::merged;
use crate::arch::x86_64::vcpu::Hardware;
use crate::run::Machine;
use alloc::sync::Arc;
use core::hint::spin_loop;
use slat::device::{AccessWidth, Port};
use slat::{GuestPageWalkInfo, GuestVirtAddr, InstructionBytes, NestedPageFaultInfo};
use slat_x86::cpuid::Leaf;
use slat_x86::isa::common;
use slat_x86::{PortAccess, PortDirection};

/// What a vCPU of `V`'s does to the CPU and asks of it.
pub(in crate::arch::x86_64) struct Physical<V: Vendor> {
    host: Host,
    cpus: Arc<Cpus>,
    machine: &'static Machine<'static, Host, V::Format>,
}

impl<V: Vendor> Physical<V> {
    /// For vCPUs of the space in `machine`, whose CPUs are `cpus`.
    pub(in crate::arch::x86_64) fn new(
        host: Host,
        cpus: Arc<Cpus>,
        machine: &'static Machine<'static, Host, V::Format>,
    ) -> Self {
        Self { host, cpus, machine }
    }
}

impl<V: Vendor> slat_x86::answer::Machine for Physical<V> {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf {
        let [eax, ebx, ecx, edx] = common::cpuid(leaf, subleaf);
        Leaf { eax, ebx, ecx, edx }
    }

    fn read_msr(&self, index: u32) -> Option<u64> {
        // SAFETY: the vendor says that the CPU has it; reading changes nothing.
        V::has_msr(index).then(|| unsafe { common::rdmsr(index) })
    }
}

impl<V: Vendor> Registers for Physical<V> {
    fn read(&self, offset: u64) -> u32 {
        machine::read(offset)
    }

    fn write(&self, offset: u64, value: u32) {
        machine::write(offset, value);
    }

    fn send(&self, high: u32, low: u32) {
        machine::send(high, low);
    }

    fn kick(&self, cpu: usize) {
        machine::kick(cpu);
    }

    fn interrupt_others(&self, this: usize) {
        // There are as many words as CPUs.
        let _ = self.cpus.invalidate(this, machine::kick);
    }
}

impl<V: Vendor> Hardware<V::Vcpu> for Physical<V> {
    fn enter(&self, cpu: usize) -> bool {
        vendor::enter::<V>(self.host, &self.cpus, cpu)
    }

    fn leave(&self, cpu: usize) {
        vendor::leave(self.host, &self.cpus, cpu);
    }

    fn faulted(&self, info: &NestedPageFaultInfo) {
        vendor::faulted(self.host, info);
    }

    fn instruction(
        &self,
        paging: &GuestPageWalkInfo,
        address: GuestVirtAddr,
        user: bool,
    ) -> Option<InstructionBytes> {
        self.machine.instruction(paging, address, user)
    }

    fn ticks(&self) -> u64 {
        // SAFETY: every CPU in 64-bit mode has it, and it changes nothing.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    fn pass(&self, access: &PortAccess, rax: u64) -> u64 {
        let PortAccess { port: Port(port), width, direction, .. } = *access;
        let value = match (direction, width) {
            (PortDirection::In, AccessWidth::Byte) => console::seen(port, port::input_8(port)),
            (PortDirection::In, AccessWidth::Word) => port::input_16(port),
            (PortDirection::In, _) => port::input_32(port),
            (PortDirection::Out, AccessWidth::Byte) => {
                port::output_8(port, rax as u32);
                0
            }
            (PortDirection::Out, AccessWidth::Word) => {
                port::output_16(port, rax as u32);
                0
            }
            (PortDirection::Out, _) => {
                port::output_32(port, rax as u32);
                0
            }
        };
        merged(access, rax, value.into())
    }

    fn drain_log(&self, vcpu: &mut V::Vcpu) -> u64 {
        let mut entries = 0;
        V::drain_log(vcpu, &mut |event| {
            entries += 1;
            self.host.maintenance().record_outside(event);
        });
        entries
    }

    /// HLT is the guest's own, and leads to no exit.
    fn wait(&self) {
        spin_loop();
    }
}
