//! QEMU's `virt` machine, as far as the hypervisor and its guest use it.

use crate::guest::Device;

/// Where RAM begins; all registers of devices are below.
pub const RAM_ADDRESS: u64 = 0x4000_0000;

/// The GICv3 distributor.
pub const GIC_DISTRIBUTOR: Device = Device { name: "GIC distributor", address: 0x0800_0000, size: 0x1_0000 };

/// The GICv3 redistributors of so many CPUs, which lie side by side.
#[must_use]
pub const fn gic_redistributors(cpus: usize) -> Device {
    Device { name: "GIC redistributor", address: 0x080a_0000, size: 0x2_0000 * cpus as u64 }
}

/// The PL011 serial port, shared between the guest and the hypervisor.
pub const UART: Device = Device { name: "PL011", address: 0x0900_0000, size: 0x1000 };

/// The serial port that the hypervisor emulates. The machine has nothing there that the guest could reach.
pub const EMULATED_UART: Device =
    Device { name: "emulated PL011", address: 0x0904_0000, size: crate::pl011::SIZE };

/// All devices that a guest with so many CPUs drives by itself.
#[must_use]
pub const fn devices(cpus: usize) -> [Device; 3] {
    [GIC_DISTRIBUTOR, gic_redistributors(cpus), UART]
}

/// The affinity of CPU `cpu`, as MPIDR_EL1 holds it and PSCI passes it: with a GICv3 the first 16 are told apart by the
/// lowest field alone.
#[must_use]
pub const fn affinity(cpu: usize) -> u64 {
    cpu as u64 & 0xf
}

/// Shared peripheral interrupt of the UART.
pub const UART_INTERRUPT: u32 = 1;

/// Shared peripheral interrupt of the emulated UART: nobody raises it, but a driver wants to have one.
pub const EMULATED_UART_INTERRUPT: u32 = 8;

/// Frequency of the UART's clock.
pub const UART_CLOCK_HZ: u32 = 24_000_000;

/// Private peripheral interrupts of the timers: secure, non-secure, virtual, hypervisor.
pub const TIMER_INTERRUPTS: [u32; 4] = [13, 14, 11, 10];
