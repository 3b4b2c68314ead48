//! The hypervisor's own translation: the first 4 GiB, mapped one to one by leaves of 2 MiB.
//!
//! Invariant: the tables are constant data, and complete before the first instruction. The two upper levels hold
//! addresses that only the linker knows and stand beside the boot code; the lowest one is here.

/// First address above what is mapped as memory: from here on lie registers of devices and the ROM.
pub const MEMORY_END: u64 = slat_hv_protocol::MemoryMap::X86_64.end;

/// Page directories, each of which maps 1 GiB.
pub const DIRECTORIES: usize = 4;

/// What an entry that points to a table holds beside its address: present, writable, accessed.
pub const TABLE: u64 = 1 | 1 << 1 | 1 << 5;

/// Page directories that lie side by side.
#[repr(C, align(4096))]
pub struct Directories(pub [u64; 512 * DIRECTORIES]);

/// All of the first 4 GiB. (Intel SDM vol. 3A, "4-Level Paging": page-directory entry that maps a 2-MByte page.)
pub static IDENTITY: Directories = identity();

const fn identity() -> Directories {
    const WRITABLE: u64 = 1 << 1;
    const WRITE_THROUGH: u64 = 1 << 3;
    const CACHE_DISABLE: u64 = 1 << 4;
    // Set beforehand, so that no CPU ever writes to the tables.
    const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;
    const LEAF: u64 = 1 << 7;

    let mut entries = [0; 512 * DIRECTORIES];
    let mut i = 0;
    while i < entries.len() {
        let address = (i as u64) << 21;
        let uncached = if address < MEMORY_END { 0 } else { WRITE_THROUGH | CACHE_DISABLE };
        entries[i] = address | 1 | WRITABLE | uncached | ACCESSED_DIRTY | LEAF;
        i += 1;
    }
    Directories(entries)
}

#[cfg(test)]
mod tests;
