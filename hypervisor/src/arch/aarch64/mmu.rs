//! The hypervisor's own translation: EL2 stage 1, everything mapped one to one.
//!
//! Invariant: the table is constant data. It is live before the first line of Rust runs, because atomics (LDXR/STXR)
//! and `DC ZVA` need Normal memory. One table of 512 entries of 1 GiB: 39 bits of address.

/// `T0SZ` for 39 bits, which start at level 1.
const T0SZ: u64 = 64 - 39;

/// MAIR_EL2: attribute 0 is Device-nGnRE, attribute 1 Normal write-back, allocating.
pub const MAIR: u64 = 0xff04;

/// TCR_EL2 without the width of physical addresses (`PS`): 4 KiB granule, walks write-back and inner shareable.
pub const TCR: u64 = 1 << 31 | 1 << 23 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | T0SZ;

/// SCTLR_EL2: the bits that are one, and M, C, SA, I.
pub const SCTLR: u64 = 0x30c5_0830 | 1 << 12 | 1 << 3 | 1 << 2 | 1;

/// One translation table.
#[repr(C, align(4096))]
pub struct Table(pub [u64; 512]);

/// GiB 0 holds the devices, all else is Normal memory.
pub static IDENTITY: Table = identity();

const fn identity() -> Table {
    const BLOCK: u64 = 0b01;
    const ACCESSED: u64 = 1 << 10;
    const INNER_SHAREABLE: u64 = 0b11 << 8;
    // AP[1] is RES1 in a regime with one exception level.
    const AP1: u64 = 1 << 6;
    const NORMAL: u64 = 1 << 2;
    const EXECUTE_NEVER: u64 = 1 << 54;

    let mut entries = [0; 512];
    entries[0] = BLOCK | ACCESSED | AP1 | EXECUTE_NEVER;
    let mut i = 1;
    while i < entries.len() {
        entries[i] = (i as u64) << 30 | BLOCK | ACCESSED | AP1 | INNER_SHAREABLE | NORMAL;
        i += 1;
    }
    Table(entries)
}

#[cfg(test)]
mod tests;
