//! QEMU's `virt` machine, as far as the hypervisor and its guest use it.

use crate::guest::Device;

/// The GICv3 distributor.
pub const GIC_DISTRIBUTOR: Device = Device { name: "GIC distributor", address: 0x0800_0000, size: 0x1_0000 };

/// The GICv3 redistributor of CPU 0.
pub const GIC_REDISTRIBUTOR: Device =
    Device { name: "GIC redistributor", address: 0x080a_0000, size: 0x2_0000 };

/// The PL011 serial port, shared between the guest and the hypervisor.
pub const UART: Device = Device { name: "PL011", address: 0x0900_0000, size: 0x1000 };

/// All devices of the guest.
pub const DEVICES: [Device; 3] = [GIC_DISTRIBUTOR, GIC_REDISTRIBUTOR, UART];

/// Shared peripheral interrupt of the UART.
pub const UART_INTERRUPT: u32 = 1;

/// Frequency of the UART's clock.
pub const UART_CLOCK_HZ: u32 = 24_000_000;

/// Private peripheral interrupts of the timers: secure, non-secure, virtual, hypervisor.
pub const TIMER_INTERRUPTS: [u32; 4] = [13, 14, 11, 10];
