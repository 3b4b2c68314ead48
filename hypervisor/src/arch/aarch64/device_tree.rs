//! The device tree that the guest finds: its CPUs, RAM, and the devices of [`platform`](super::platform).

use super::platform::{
    EMULATED_UART, EMULATED_UART_INTERRUPT, GIC_DISTRIBUTOR, TIMER_INTERRUPTS, UART, UART_CLOCK_HZ,
    UART_INTERRUPT, affinity, gic_redistributors,
};
use crate::guest::Device;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use slat_hv_protocol::{MemoryMap, Span};
use vm_fdt::{FdtWriter, FdtWriterResult};

const GIC_PHANDLE: u32 = 1;
const CLOCK_PHANDLE: u32 = 2;
/// Interrupt cells: shared or private, number, level-triggered and active high.
const SHARED: u32 = 0;
const PRIVATE: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// What differs from guest to guest.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// Bytes of RAM.
    pub memory: u64,
    /// The kernel's command line.
    pub bootargs: &'a str,
    /// Where the initial RAM disk lies, in guest-physical memory; empty for none.
    pub initrd: Span,
    /// How many CPUs there are.
    pub cpus: usize,
}

/// Writes the device tree.
///
/// # Errors
/// Those of `vm-fdt`, such as a NUL in the command line.
pub fn build(description: &Description<'_>) -> FdtWriterResult<Vec<u8>> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "slat-hv")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_PHANDLE)?;

    // Linux numbers its ttyAMA by them.
    let aliases = fdt.begin_node("aliases")?;
    fdt.property_string("serial0", &path_of(UART))?;
    fdt.property_string("serial1", &path_of(EMULATED_UART))?;
    fdt.end_node(aliases)?;
    chosen(&mut fdt, description)?;
    cpus(&mut fdt, description.cpus)?;
    let ram = MemoryMap::AARCH64.guest_ram;
    let memory = fdt.begin_node(&format!("memory@{ram:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[ram, description.memory])?;
    fdt.end_node(memory)?;
    devices(&mut fdt, description.cpus)?;

    fdt.end_node(root)?;
    fdt.finish()
}

fn chosen(fdt: &mut FdtWriter, description: &Description<'_>) -> FdtWriterResult<()> {
    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", description.bootargs)?;
    fdt.property_string("stdout-path", &path_of(UART))?;
    let Span { address, size } = description.initrd;
    if size != 0 {
        fdt.property_u64("linux,initrd-start", address)?;
        fdt.property_u64("linux,initrd-end", address.saturating_add(size))?;
    }
    fdt.end_node(chosen)
}

fn cpus(fdt: &mut FdtWriter, count: usize) -> FdtWriterResult<()> {
    let psci = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".to_string(), "arm,psci-0.2".to_string()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)?;

    let nodes = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for affinity in (0..count).map(affinity) {
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", affinity)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(nodes)
}

fn devices(fdt: &mut FdtWriter, cpus: usize) -> FdtWriterResult<()> {
    let redistributors = gic_redistributors(cpus);
    let gic = fdt.begin_node(&format!("interrupt-controller@{:x}", GIC_DISTRIBUTOR.address))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_array_u64(
        "reg",
        &[GIC_DISTRIBUTOR.address, GIC_DISTRIBUTOR.size, redistributors.address, redistributors.size],
    )?;
    fdt.property_phandle(GIC_PHANDLE)?;
    fdt.end_node(gic)?;

    let timer = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_null("always-on")?;
    let interrupts: Vec<u32> =
        TIMER_INTERRUPTS.iter().flat_map(|&number| [PRIVATE, number, LEVEL_HIGH]).collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.end_node(timer)?;

    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", UART_CLOCK_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK_PHANDLE)?;
    fdt.end_node(clock)?;

    uart(fdt, UART, UART_INTERRUPT)?;
    uart(fdt, EMULATED_UART, EMULATED_UART_INTERRUPT)
}

fn path_of(uart: Device) -> String {
    format!("/pl011@{:x}", uart.address)
}

fn uart(fdt: &mut FdtWriter, device: Device, interrupt: u32) -> FdtWriterResult<()> {
    let uart = fdt.begin_node(&format!("pl011@{:x}", device.address))?;
    fdt.property_string_list("compatible", vec!["arm,pl011".to_string(), "arm,primecell".to_string()])?;
    fdt.property_array_u64("reg", &[device.address, device.size])?;
    fdt.property_array_u32("interrupts", &[SHARED, interrupt, LEVEL_HIGH])?;
    fdt.property_array_u32("clocks", &[CLOCK_PHANDLE, CLOCK_PHANDLE])?;
    fdt.property_string_list("clock-names", vec!["uartclk".to_string(), "apb_pclk".to_string()])?;
    fdt.end_node(uart)
}

#[cfg(test)]
mod tests;
