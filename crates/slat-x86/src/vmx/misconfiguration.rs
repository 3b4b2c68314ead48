//! EPT misconfigurations: which entry the CPU did not take, and why (SDM vol. 3C, "EPT Misconfigurations").
//!
//! The exit has no qualification, so the table is walked again by software, as the CPU did.

use core::fmt;
use slat::format::ept::Capabilities;
use slat::{GuestPhysAddr, HostPhysAddr};

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misconfiguration {
    /// It can be written and not read.
    WriteWithoutRead,
    /// It can be executed and not read, on a CPU without such translations (IA32_VMX_EPT_VPID_CAP bit 0).
    ExecuteWithoutRead,
    /// The memory type of a leaf is 2, 3 or 7.
    MemoryType(u8),
    /// Bits that have to be 0 in a table entry: 6:3, and 7 where there are no leaves.
    TableBits(u64),
    /// Bits of a large leaf's address below its size.
    LeafAlignment(u64),
    /// Bits of the address above the CPU's physical addresses.
    AddressWidth(u64),
}

impl fmt::Display for Misconfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteWithoutRead => write!(f, "writable and not readable"),
            Self::ExecuteWithoutRead => write!(f, "executable and not readable"),
            Self::MemoryType(kind) => write!(f, "memory type {kind}"),
            Self::TableBits(bits) => write!(f, "reserved bits {bits:#x} of a table entry"),
            Self::LeafAlignment(bits) => write!(f, "reserved bits {bits:#x} of a large leaf"),
            Self::AddressWidth(bits) => write!(f, "address bits {bits:#x} beyond the CPU's"),
        }
    }
}

/// An entry that the CPU does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEntry {
    /// Level of the table that it lies in, counted from the leaf: 0 to 4.
    pub level: u8,
    /// Host physical address of the entry.
    pub address: HostPhysAddr,
    /// The entry.
    pub entry: u64,
    /// What is wrong with it.
    pub reason: Misconfiguration,
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, address, entry, reason } = self;
        write!(f, "entry {entry:#x} of level {level} at {address:#x}: {reason}")
    }
}

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const EXECUTE_USER: u64 = 1 << 10;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const fn has(capabilities: &Capabilities, bit: u32) -> bool {
    capabilities.ept_vpid_cap >> bit & 1 == 1
}

const fn present(capabilities: &Capabilities, entry: u64) -> bool {
    let user = if capabilities.mode_based_execute { EXECUTE_USER } else { 0 };
    entry & (READ | WRITE | EXECUTE | user) != 0
}

/// Whether a present entry of `level` (0 to 4) maps memory. Bit 7 counts in the two levels that can have large leaves,
/// where the CPU has such.
const fn is_leaf(capabilities: &Capabilities, level: u8, entry: u64) -> bool {
    match level {
        0 => true,
        1 => entry & LARGE != 0 && has(capabilities, 16),
        2 => entry & LARGE != 0 && has(capabilities, 17),
        _ => false,
    }
}

/// What is wrong with `entry` in a table of `level`, counted from the leaf (0 to 4), on a CPU with these capabilities; `None`
/// if nothing is, or if the entry is not present.
#[must_use]
pub const fn misconfiguration(
    capabilities: &Capabilities,
    level: u8,
    entry: u64,
) -> Option<Misconfiguration> {
    if !present(capabilities, entry) {
        return None;
    }
    let execute = if capabilities.mode_based_execute { EXECUTE | EXECUTE_USER } else { EXECUTE };
    if entry & READ == 0 && entry & WRITE != 0 {
        return Some(Misconfiguration::WriteWithoutRead);
    }
    if entry & READ == 0 && entry & execute != 0 && !has(capabilities, 0) {
        return Some(Misconfiguration::ExecuteWithoutRead);
    }
    let physical = if capabilities.physical_bits < 52 { capabilities.physical_bits } else { 52 };
    let beyond = entry & ADDRESS & !((1 << physical) - 1);
    if beyond != 0 {
        return Some(Misconfiguration::AddressWidth(beyond));
    }
    if is_leaf(capabilities, level, entry) {
        let kind = entry >> 3 & 7;
        if matches!(kind, 2 | 3 | 7) {
            return Some(Misconfiguration::MemoryType(kind as u8));
        }
        let below = entry & ((1 << (12 + 9 * level as u32)) - 1) & ADDRESS;
        if below != 0 {
            return Some(Misconfiguration::LeafAlignment(below));
        }
        return None;
    }
    // What would make it a leaf is reserved where there are no such leaves.
    let reserved = entry & (0x78 | LARGE);
    if reserved != 0 { Some(Misconfiguration::TableBits(reserved)) } else { None }
}

/// Walks the tables of `levels` (4 or 5) levels at `root` to `gpa` and says which entry the CPU does not take; `None` if it
/// takes all of them. `load` reads an entry of a table, all of which are those of the walk's own.
#[must_use]
pub fn find(
    capabilities: &Capabilities,
    root: HostPhysAddr,
    levels: u8,
    gpa: GuestPhysAddr,
    load: impl Fn(HostPhysAddr) -> u64,
) -> Option<BadEntry> {
    let mut table = root.as_u64() & ADDRESS;
    for level in (0..levels.min(5)).rev() {
        let index = gpa.as_u64() >> (12 + 9 * u32::from(level)) & 0x1ff;
        let address = HostPhysAddr::new(table + 8 * index);
        let entry = load(address);
        if let Some(reason) = misconfiguration(capabilities, level, entry) {
            return Some(BadEntry { level, address, entry, reason });
        }
        if !present(capabilities, entry) || is_leaf(capabilities, level, entry) {
            return None;
        }
        table = entry & ADDRESS;
    }
    None
}

#[cfg(all(test, not(loom)))]
mod tests;
