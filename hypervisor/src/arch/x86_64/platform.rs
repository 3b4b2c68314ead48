//! The PC, as far as the hypervisor and its guest use it.

use crate::guest::Device;

/// First port of the serial port COM1, shared between the guest and the hypervisor.
pub const COM1: u16 = 0x3f8;

/// The local APIC of each CPU, at the same address for all of them.
pub const LOCAL_APIC: Device = Device { name: "local APIC", address: 0xfee0_0000, size: 0x1000 };

/// The I/O APIC.
pub const IO_APIC: Device = Device { name: "I/O APIC", address: 0xfec0_0000, size: 0x1000 };

/// The high precision event timer.
pub const HPET: Device = Device { name: "HPET", address: 0xfed0_0000, size: 0x1000 };

/// QEMU's `isa-debug-exit`: a byte written there ends the emulator. Elsewhere nobody answers.
pub const DEBUG_EXIT: u16 = 0xf4;

/// Where a CPU begins that another one wakes up: a page below 1 MiB that nothing else uses.
pub const TRAMPOLINE: u64 = 0x8000;

/// The APIC ID of CPU `cpu`.
#[must_use]
pub const fn apic_id(cpu: usize) -> u32 {
    cpu as u32
}

/// The virtualization extensions that the hypervisor can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Intel's.
    Vmx,
    /// AMD's.
    Svm,
}

impl Extension {
    /// The one of a CPU with these values of CPUID leaf 1 ECX and leaf 8000_0001H ECX (0 if there is no such leaf).
    #[must_use]
    pub const fn of(leaf_1_ecx: u32, extended_1_ecx: u32) -> Option<Self> {
        if leaf_1_ecx >> 5 & 1 != 0 {
            Some(Self::Vmx)
        } else if extended_1_ecx >> 2 & 1 != 0 {
            Some(Self::Svm)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
