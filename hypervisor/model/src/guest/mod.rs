//! The synthetic guest: what a kernel does to memory while it boots and works, without any instruction.
//!
//! CPU 0 reads its device tree and its own image from end to end, clears its bss, builds page tables, touches one page in
//! each 2 MiB, and starts the other CPUs. Then all of them work on stacks, areas of their own, rings that one writes and
//! another reads, and pages that all share. At the end CPU 0 reads everything again and asks for power-off; the last CPU is
//! still at work then.

mod memory;
mod program;

pub(crate) use memory::{Memory, frame};
pub(crate) use program::{Plan, Program};

use slat::PAGE_SIZE;
use slat_check::random::Random;
use slat_hv::guest::Device;
use slat_hv_protocol::MemoryMap;
use slat_model::Access;
use std::ops::Range;

/// The least memory of a guest, in bytes.
pub const LEAST_MEMORY: u64 = 16 << 20;

/// The most memory of a guest, in bytes: everything is kept, by each CPU's TLB and by the guest's own account.
pub const MOST_MEMORY: u64 = 512 << 20;

/// The most CPUs of a guest.
pub const MOST_CPUS: usize = 8;

const MIB2: u64 = 2 << 20;

/// The one device, passed through: a console.
pub(crate) const CONSOLE: Device = Device { name: "console", address: 0x900_0000, size: PAGE_SIZE };

/// The other device, a serial port that the hypervisor emulates.
pub(crate) const EMULATED: Device =
    Device { name: "emulated PL011", address: 0x904_0000, size: slat_hv::pl011::SIZE };

/// What a CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It reads, fetches or writes RAM. What it reads is compared with what it should find, and the page around it as well.
    Touch {
        gpa: u64,
        access: Access,
        /// What a write leaves behind.
        value: u64,
    },
    /// It reads a page of its image and adds it to a checksum.
    Load(u64),
    /// It writes a character to the console; 0 is none.
    Print(u8),
    /// It stores 16 bits in a register of the emulated serial port, that many bytes from the first one.
    Store(u64, u16),
    /// It has booted.
    Up,
    /// It asks the firmware something that changes nothing.
    Call,
    /// It asks the firmware to start a CPU.
    Start(usize),
    /// It waits for an interrupt.
    Wait,
    /// It asks the firmware to turn this CPU off.
    Off,
    /// It asks the firmware to turn the machine off.
    PowerOff,
}

/// Where things lie in guest-physical memory.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub(crate) ram: Range<u64>,
    pub(crate) device_tree: Range<u64>,
    pub(crate) kernel: Range<u64>,
    pub(crate) bss: Range<u64>,
    /// The guest's page tables.
    pub(crate) tables: Range<u64>,
    /// For each CPU an area of its own, a stack and a ring.
    pub(crate) areas: Range<u64>,
    pub(crate) stacks: Range<u64>,
    pub(crate) rings: Range<u64>,
    pub(crate) heap: Range<u64>,
}

/// Pages of each CPU's area, stack and ring.
pub(crate) const AREA: u64 = 2 * PAGE_SIZE;
pub(crate) const STACK: u64 = 4 * PAGE_SIZE;
pub(crate) const RING: u64 = PAGE_SIZE;

impl Map {
    /// The map of a guest with so much memory, a multiple of 2 MiB and at least [`LEAST_MEMORY`].
    pub(crate) fn new(memory: u64, cpus: usize) -> Self {
        let cpus = cpus as u64;
        let ram = MemoryMap::AARCH64.guest_ram..MemoryMap::AARCH64.guest_ram + memory;
        let mut next = ram.start;
        let mut take = |bytes: u64| {
            let start = next;
            next += bytes;
            start..next
        };
        let device_tree = take(64 << 10);
        let _hole = take(MIB2 - (64 << 10));
        let kernel = take((memory / 16).next_multiple_of(PAGE_SIZE));
        let bss = take((memory / 64).next_multiple_of(PAGE_SIZE));
        let tables = take(32 * PAGE_SIZE);
        let (areas, stacks, rings) = (take(cpus * AREA), take(cpus * STACK), take(cpus * RING));
        let heap = rings.end..ram.end;
        Self { ram, device_tree, kernel, bss, tables, areas, stacks, rings, heap }
    }
}

/// What the loader puts into memory: bytes that say nothing, and differ everywhere.
pub(crate) fn image(range: &Range<u64>, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let words = (range.end - range.start) / 8;
    (0..words).flat_map(|_| random.number().to_le_bytes()).collect()
}
