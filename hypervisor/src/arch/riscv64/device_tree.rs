//! The device tree that the guest finds: its CPUs and its RAM. The console, the timer and the interrupts between CPUs are the
//! firmware's, so there is no device, but for the serial port of a guest that needs one.

use super::host::Host;
use super::platform::{EMULATED_UART, UART_CLOCK_HZ};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use slat_hv_protocol::{MemoryMap, Span};
use vm_fdt::{FdtWriter, FdtWriterResult};

/// Phandle of the interrupt controller of CPU 0; those of the others follow.
const FIRST_PHANDLE: u32 = 1;

/// Whether there is an emulated serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    /// None.
    None,
    /// One that is the guest's console.
    Console,
    /// One that the guest has for whatever it likes.
    Quiet,
}

/// What differs from guest to guest.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// Bytes of RAM.
    pub memory: u64,
    /// The kernel's command line.
    pub bootargs: &'a str,
    /// Where the initial RAM disk lies, in guest-physical memory; empty for none.
    pub initrd: Span,
    /// The serial port.
    pub serial: Serial,
    /// How many CPUs there are.
    pub cpus: usize,
    /// What they are like.
    pub host: &'a Host,
}

/// Writes the device tree.
///
/// # Errors
/// Those of `vm-fdt`, such as a NUL in the command line.
pub fn build(description: &Description<'_>) -> FdtWriterResult<Vec<u8>> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "riscv-virtio")?;
    fdt.property_string("model", "slat-hv")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;

    chosen(&mut fdt, description)?;
    cpus(&mut fdt, description)?;
    let ram = MemoryMap::RISCV64.guest_ram;
    let memory = fdt.begin_node(&format!("memory@{ram:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[ram, description.memory])?;
    fdt.end_node(memory)?;
    if description.serial != Serial::None {
        serial(&mut fdt)?;
    }

    fdt.end_node(root)?;
    fdt.finish()
}

fn chosen(fdt: &mut FdtWriter, description: &Description<'_>) -> FdtWriterResult<()> {
    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", description.bootargs)?;
    if description.serial == Serial::Console {
        fdt.property_string("stdout-path", &path_of_serial())?;
    }
    let Span { address, size } = description.initrd;
    if size != 0 {
        fdt.property_u64("linux,initrd-start", address)?;
        fdt.property_u64("linux,initrd-end", address.saturating_add(size))?;
    }
    fdt.end_node(chosen)
}

fn cpus(fdt: &mut FdtWriter, description: &Description<'_>) -> FdtWriterResult<()> {
    let Description { host, cpus, .. } = description;
    let nodes = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    fdt.property_u32("timebase-frequency", host.timebase)?;
    for (hart, phandle) in (0..*cpus as u32).zip(FIRST_PHANDLE..) {
        let cpu = fdt.begin_node(&format!("cpu@{hart:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "riscv")?;
        fdt.property_string("status", "okay")?;
        fdt.property_u32("reg", hart)?;
        fdt.property_string("riscv,isa", &host.isa())?;
        fdt.property_string("riscv,isa-base", "rv64i")?;
        fdt.property_string_list("riscv,isa-extensions", host.extensions.clone())?;
        if let Some(mmu_type) = &host.mmu_type {
            fdt.property_string("mmu-type", mmu_type)?;
        }
        for (name, size) in ["riscv,cbom-block-size", "riscv,cboz-block-size"].iter().zip(host.cache_blocks) {
            if let Some(size) = size {
                fdt.property_u32(name, size)?;
            }
        }
        let interrupts = fdt.begin_node("interrupt-controller")?;
        fdt.property_string("compatible", "riscv,cpu-intc")?;
        fdt.property_u32("#interrupt-cells", 1)?;
        fdt.property_null("interrupt-controller")?;
        fdt.property_phandle(phandle)?;
        fdt.end_node(interrupts)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(nodes)
}

fn path_of_serial() -> String {
    format!("/serial@{:x}", EMULATED_UART.address)
}

fn serial(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let serial = fdt.begin_node(&format!("serial@{:x}", EMULATED_UART.address))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[EMULATED_UART.address, EMULATED_UART.size])?;
    fdt.property_u32("clock-frequency", UART_CLOCK_HZ)?;
    fdt.end_node(serial)
}

#[cfg(test)]
mod tests;
