//! Tables that tell the guest of its CPUs and of the I/O APIC, as its firmware would: ACPI 1.0's, without any code.
//!
//! A kernel without a parser of the older MultiProcessor tables (Debian's cloud kernel) finds its CPUs by these alone. There
//! are no power management registers, so the kernel has to do without the rest of ACPI: Linux says so and goes on.
//! (ACPI specification, chapter "ACPI Software Programming Model"; the table "Multiple APIC Description Table".)

use super::platform::{IO_APIC, LOCAL_APIC, apic_id};
use alloc::vec;
use alloc::vec::Vec;

/// Guest-physical address of the first table: between the end of the usable memory and 1 MiB, at a place where one is
/// looked for.
pub const TABLES: u64 = 0xf_0000;

const HEADER: usize = 36;
/// Of the root pointer; the tables lie behind it.
const POINTER: usize = 20;
/// Of the fixed description table of ACPI 1.0, and offsets in it.
const FIXED: usize = 116;
const FIXED_DIFFERENTIATED: usize = 40;
const FIXED_SCI: usize = 46;

/// The interrupt that would belong to power management, as on PCs.
const SCI: u16 = 9;
/// Where the timer of old arrives at the I/O APIC, whose first input is the old interrupt controller.
const TIMER_INPUT: u32 = 2;
/// Flag of the table of APICs: there are the old interrupt controllers, too.
const PC_AT: u32 = 1;
/// The input of a local APIC that takes NMIs.
const NMI_INPUT: u8 = 1;

/// The tables of a guest with so many CPUs, to lie at [`TABLES`].
#[must_use]
pub fn tables(cpus: usize) -> Vec<u8> {
    let place = |before: &[&[u8]]| {
        let length: usize = before.iter().map(|table| table.len().next_multiple_of(8)).sum();
        TABLES as u32 + (POINTER.next_multiple_of(8) + length) as u32
    };
    let apics = apics(cpus);
    let differentiated = table(b"DSDT", 1, &[]);
    let mut fixed = [0; FIXED - HEADER];
    let address = place(&[&apics]).to_le_bytes();
    fixed[FIXED_DIFFERENTIATED - HEADER..][..4].copy_from_slice(&address);
    fixed[FIXED_SCI - HEADER..][..2].copy_from_slice(&SCI.to_le_bytes());
    let fixed = table(b"FACP", 1, &fixed);
    let addresses = [place(&[]), place(&[&apics, &differentiated])];
    let root = table(b"RSDT", 1, &addresses.map(u32::to_le_bytes).concat());
    let pointer = pointer(place(&[&apics, &differentiated, &fixed]));

    let mut all = Vec::new();
    for part in [&pointer, &apics, &differentiated, &fixed, &root] {
        all.extend_from_slice(part);
        all.resize(all.len().next_multiple_of(8), 0);
    }
    all
}

/// The root pointer ("Root System Description Pointer").
fn pointer(root: u32) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0slat  \0".to_vec();
    bytes.extend_from_slice(&root.to_le_bytes());
    debug_assert_eq!(bytes.len(), POINTER);
    seal(&mut bytes, 8);
    bytes
}

/// The interrupt controllers.
fn apics(cpus: usize) -> Vec<u8> {
    let mut body = vec![];
    body.extend_from_slice(&(LOCAL_APIC.address as u32).to_le_bytes());
    body.extend_from_slice(&PC_AT.to_le_bytes());
    for cpu in 0..cpus {
        // A local APIC: processor, APIC ID, enabled.
        body.extend_from_slice(&[0, 8, cpu as u8, apic_id(cpu) as u8, 1, 0, 0, 0]);
    }
    // The I/O APIC: its ID, its address, its first interrupt.
    body.extend_from_slice(&[1, 12, cpus as u8, 0]);
    body.extend_from_slice(&(IO_APIC.address as u32).to_le_bytes());
    body.extend_from_slice(&[0; 4]);
    // Interrupt 0 of the ISA bus arrives elsewhere, as its bus has it.
    body.extend_from_slice(&[2, 10, 0, 0]);
    body.extend_from_slice(&TIMER_INPUT.to_le_bytes());
    body.extend_from_slice(&[0, 0]);
    // NMIs of all CPUs.
    body.extend_from_slice(&[4, 6, 0xff, 0, 0, NMI_INPUT]);
    table(b"APIC", 1, &body)
}

/// A table with its header ("System Description Table Header").
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend_from_slice(&((HEADER + body.len()) as u32).to_le_bytes());
    // Revision, checksum, who made it and what it is called, and by what.
    bytes.extend_from_slice(&[revision, 0]);
    bytes.extend_from_slice(b"slat  slat-hv \x01\0\0\0slat\x01\0\0\0");
    bytes.extend_from_slice(body);
    seal(&mut bytes, 9);
    bytes
}

/// Makes the sum of all bytes 0 by the one at `place`.
fn seal(bytes: &mut [u8], place: usize) {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[place] = bytes[place].wrapping_sub(sum);
}

#[cfg(test)]
mod tests;
