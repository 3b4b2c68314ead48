//! The physical CPU under a vCPU of the run loop.

#![expect(unsafe_code, reason = "executes RDMSR, RDTSC and, for the guest, IN and OUT")]

use super::maintenance::Cpus;
use super::vendor::{Host, Vendor};
use crate::arch::x86_64::ports::merged;
use crate::arch::x86_64::vcpu::Hardware;
use crate::pool::Maintenance as _;
use alloc::sync::Arc;
use core::arch::asm;
use core::hint::spin_loop;
use core::marker::PhantomData;
use slat::device::{AccessWidth, Port};
use slat::{MappingFlags, NestedPageFaultInfo};
use slat_hv_protocol::recording::Event;
use slat_x86::cpuid::Leaf;
use slat_x86::isa::common;
use slat_x86::{PortAccess, PortDirection};

/// What a vCPU of `V`'s does to the CPU and asks of it.
pub(super) struct Physical<V> {
    host: Host,
    cpus: Arc<Cpus>,
    vendor: PhantomData<fn() -> V>,
}

impl<V: Vendor> Physical<V> {
    /// For vCPUs of the space whose CPUs are `cpus`.
    pub(super) fn new(host: Host, cpus: Arc<Cpus>) -> Self {
        Self { host, cpus, vendor: PhantomData }
    }

    fn record(&self, event: Event) {
        self.host.maintenance().record(event);
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

impl<V: Vendor> Hardware<V::Vcpu> for Physical<V> {
    fn enter(&self, cpu: usize, vcpu: &V::Vcpu) -> bool {
        let maintenance = self.host.maintenance();
        let flush = maintenance.enter(cpu, &self.cpus);
        if flush {
            maintenance.count(V::FLUSH);
        }
        if maintenance.records() {
            V::record_entry(vcpu, flush, &mut |event| self.record(event));
        }
        flush
    }

    fn leave(&self, cpu: usize, _: &V::Vcpu) {
        self.record(Event::Exit);
        // There are as many words as CPUs.
        let _ = self.cpus.leave(cpu);
    }

    fn faulted(&self, info: &NestedPageFaultInfo) {
        let kinds = [(MappingFlags::READ, 1), (MappingFlags::WRITE, 2), (MappingFlags::EXECUTE, 4)];
        let bits = kinds.iter().filter(|(kind, _)| info.access.contains(*kind)).map(|(_, bit)| bit);
        let access = bits.sum::<u64>() | u64::from(info.walk) << 8;
        self.record(Event::Fault { gpa: info.gpa.as_u64(), access });
    }

    fn ticks(&self) -> u64 {
        // SAFETY: every CPU in 64-bit mode has it, and it changes nothing.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    fn pass(&self, access: &PortAccess, rax: u64) -> u64 {
        let PortAccess { port: Port(port), width, direction, .. } = *access;
        let mut value = rax as u32;
        // SAFETY: the guest's own access, to a port that the hypervisor leaves to it. What devices do to memory on its
        // behalf by DMA nobody limits: see CAVEATS.
        unsafe {
            match (direction, width) {
                (PortDirection::In, AccessWidth::Byte) => {
                    asm!("in al, dx", in("dx") port, inout("eax") value, options(nostack, preserves_flags));
                }
                (PortDirection::In, AccessWidth::Word) => {
                    asm!("in ax, dx", in("dx") port, inout("eax") value, options(nostack, preserves_flags));
                }
                (PortDirection::In, _) => {
                    asm!("in eax, dx", in("dx") port, inout("eax") value, options(nostack, preserves_flags));
                }
                (PortDirection::Out, AccessWidth::Byte) => {
                    asm!("out dx, al", in("dx") port, in("eax") value, options(nostack, preserves_flags));
                }
                (PortDirection::Out, AccessWidth::Word) => {
                    asm!("out dx, ax", in("dx") port, in("eax") value, options(nostack, preserves_flags));
                }
                (PortDirection::Out, _) => {
                    asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags));
                }
            }
        }
        merged(access, rax, value.into())
    }

    fn drain_log(&self, vcpu: &mut V::Vcpu) -> u64 {
        let mut entries = 0;
        V::drain_log(vcpu, &mut |event| {
            entries += 1;
            self.record(event);
        });
        entries
    }

    /// HLT is the guest's own, and leads to no exit.
    fn wait(&self) {
        spin_loop();
    }
}
