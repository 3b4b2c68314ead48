//! QEMU's `virt` machine, as far as the hypervisor uses it. Its guests see none of its devices.

use crate::guest::Device;

/// Where RAM begins; all registers of devices are below.
pub const RAM_ADDRESS: u64 = 0x8000_0000;

/// The 16550 serial port, which the hypervisor and the firmware share.
pub const UART: u64 = 0x1000_0000;

/// The 16550 that the hypervisor emulates for guests that know no console of the firmware's, such as U-Boot: where the machine
/// has its own, in a page of which nothing else is used.
pub const EMULATED_UART: Device = Device { name: "emulated 16550", address: UART, size: 0x1000 };

/// Frequency of its clock.
pub const UART_CLOCK_HZ: u32 = 3_686_400;
