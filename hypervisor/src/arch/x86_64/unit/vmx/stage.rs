//! Where the unit guests of VMX run: 64-bit mode, code, tables, descriptors and a stack below 256 KiB, all of it mapped; what
//! a guest is to fault on lies at [`DATA`].

#![expect(unsafe_code, reason = "looks at table entries and spoils them")]

use crate::arch::x86_64::bare::{Host, Vendor, Vmx};
use crate::arch::x86_64::unit::Failure;
use crate::arch::x86_64::unit::context::{Context, RAM, Space};
use crate::arch::x86_64::unit::failed;
use alloc::format;
use slat::format::ept::Ept;
use slat::{AllocOptions, GuestPhysAddr, Hal as _, HostPhysAddr, LeafSize, MappingFlags};
use slat_x86::{CpuState, Exit, General, NestedPageFault, SegmentName, TableRegister};

/// What runs here.
pub(super) type Vcpu = <Vmx as Vendor>::Vcpu;

/// First byte of the code.
pub(super) const CODE: u64 = 0x1_0000;
/// Behind the stack.
pub(super) const STACK: u64 = 0x2_0000;
/// Global descriptor table: code at 0x10, data at 0x18.
pub(super) const GDT: u64 = 0x2_1000;
/// Interrupt descriptor table.
pub(super) const IDT: u64 = 0x2_2000;
/// The guest's own tables: three pages.
pub(super) const TABLES: u64 = 0x3_0000;
/// Behind what is mapped.
pub(super) const END: u64 = 0x4_0000;
/// Where the tests map what they need.
pub(super) const DATA: u64 = 0x20_0000;

/// Leaves of 4 KiB, populated.
pub(super) const NOW: AllocOptions =
    AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size4K };
/// Leaves of 4 KiB, populated by faults.
pub(super) const LAZY: AllocOptions = AllocOptions { populate: false, ..NOW };

/// A space of `format` with `code` in it, and the state in which it begins, with RSI at [`DATA`].
pub(super) fn stage(
    context: &Context<Vmx>,
    format: Ept,
    code: &[u8],
) -> Result<(Space<Vmx>, CpuState), Failure> {
    let mut space = context.space_of(format)?;
    map(&mut space, 0, END, RAM, NOW)?;
    space.load(CODE, code)?;
    space.load_identity_tables(TABLES)?;
    space.load(GDT + 0x10, &0x00af_9b00_0000_ffff_u64.to_le_bytes())?;
    space.load(GDT + 0x18, &0x00cf_9300_0000_ffff_u64.to_le_bytes())?;
    let mut state = CpuState::long_mode(CODE, TABLES);
    state.general.set(General::Rsp, STACK);
    state.general.set(General::Rsi, DATA);
    state.gdtr = TableRegister { base: GDT, limit: 0x1f };
    state.idtr = TableRegister { base: IDT, limit: 0xfff };
    state.segments[SegmentName::Ss as usize].selector = 0x18;
    Ok((space, state))
}

/// The format with everything that the CPU has.
pub(super) fn format_of(context: &Context<Vmx>) -> Result<Ept, Failure> {
    context.vendor.format(None)
}

pub(super) fn map(
    space: &mut Space<Vmx>,
    gpa: u64,
    size: u64,
    flags: MappingFlags,
    options: AllocOptions,
) -> Result<(), Failure> {
    let done = space.map_alloc_with(GuestPhysAddr::new(gpa), size, flags, options);
    done.map_err(|error| failed("map", error))
}

pub(super) fn protect(space: &mut Space<Vmx>, gpa: u64, flags: MappingFlags) -> Result<(), Failure> {
    space.protect(GuestPhysAddr::new(gpa), 0x1000, flags).map_err(|error| failed("protect", error))
}

/// Lets `vector` lead to the handler at `offset` bytes into the code, by an interrupt gate.
pub(super) fn gate(space: &Space<Vmx>, vector: u8, offset: u64) -> Result<(), Failure> {
    let handler = CODE + offset;
    let low = handler & 0xffff | 0x10 << 16 | 0x8e00 << 32 | handler >> 16 << 48;
    space.load(IDT + 16 * u64::from(vector), &low.to_le_bytes())
}

/// The fault of this exit.
pub(super) fn fault(exit: Exit) -> Result<NestedPageFault, Failure> {
    match exit {
        Exit::NestedPageFault(fault) => Ok(fault),
        exit => Err(format!("{exit:?} instead of an EPT violation")),
    }
}

/// Answers a fault as a hypervisor does.
pub(super) fn answer(space: &Space<Vmx>, fault: &NestedPageFault) -> Result<(), Failure> {
    space.handle_nested_fault(&fault.info).map(|_| ()).map_err(|error| failed("fault", error))
}

/// The entry of `level` that the CPU uses for `gpa`, and where it is.
pub(super) fn entry(host: Host, space: &Space<Vmx>, gpa: u64, level: u8) -> (HostPhysAddr, u64) {
    let mut table = space.root().as_u64();
    let mut current = 3;
    loop {
        let address = HostPhysAddr::new(table + 8 * (gpa >> (12 + 9 * current) & 0x1ff));
        let value = load(host, address);
        if current == u64::from(level) {
            return (address, value);
        }
        table = value & 0x000f_ffff_ffff_f000;
        current -= 1;
    }
}

/// Reads a table entry.
pub(super) fn load(host: Host, address: HostPhysAddr) -> u64 {
    // SAFETY: a table of a space that lives; the CPU may write to it, hence volatile.
    unsafe { host.phys_to_virt(address).cast::<u64>().read_volatile() }
}

/// Writes a table entry behind the library's back. The caller puts back what was there.
pub(super) fn spoil(host: Host, address: HostPhysAddr, value: u64) {
    // SAFETY: a table of a space that lives, whose guest is not running; the library reads entries only when it is asked to.
    unsafe { host.phys_to_virt(address).cast::<u64>().write_volatile(value) };
}
