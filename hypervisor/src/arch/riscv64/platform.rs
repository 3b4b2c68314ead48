//! QEMU's `virt` machine, as far as the hypervisor uses it. Its guests see none of its devices.

/// Where RAM begins; all registers of devices are below.
pub const RAM_ADDRESS: u64 = 0x8000_0000;

/// The 16550 serial port, which the hypervisor and the firmware share.
pub const UART: u64 = 0x1000_0000;
