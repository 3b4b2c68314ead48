//! The guest's own translation: stage 1, everything mapped one to one.
//!
//! Three tables: GiB 0 is devices in one block, GiB 1 RAM in blocks of 2 MiB, but the blocks of [`WINDOW`] in pages. Only
//! the window needs the last table, so that the program itself goes on if something is wrong with that.

use core::arch::asm;
use core::cell::UnsafeCell;
use slat_test_guest::RAM;

/// 2 MiB of RAM that are not part of the program, mapped by pages.
pub(super) const WINDOW: u64 = RAM + (8 << 20);

const TABLE: u64 = 0b11;
const BLOCK: u64 = 0b01;
const PAGE: u64 = 0b11;
const ACCESSED: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const EXECUTE_NEVER: u64 = 0b11 << 53;
/// Attribute 1 of MAIR; attribute 0 is device memory.
const NORMAL: u64 = 1 << 2;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: written by one CPU, before any uses it.
unsafe impl Sync for Table {}

static LEVEL_1: Table = Table(UnsafeCell::new([0; 512]));
static LEVEL_2: Table = Table(UnsafeCell::new([0; 512]));
static LEVEL_3: Table = Table(UnsafeCell::new([0; 512]));

impl Table {
    fn address(&self) -> u64 {
        self.0.get() as u64
    }

    fn fill(&self, entry: impl Fn(u64) -> u64) {
        // SAFETY: nobody uses the table yet.
        let entries = unsafe { &mut *self.0.get() };
        (0..).zip(entries).for_each(|(index, target)| *target = entry(index));
    }
}

/// Address of the table that maps the pages of the window.
pub(super) fn window_table() -> u64 {
    LEVEL_3.address()
}

/// Writes the tables. To be called once, before any CPU turns its MMU on.
pub(super) fn prepare() {
    let memory = ACCESSED | INNER_SHAREABLE | NORMAL;
    LEVEL_1.fill(|index| match index {
        0 => BLOCK | ACCESSED | EXECUTE_NEVER,
        1 => LEVEL_2.address() | TABLE,
        _ => 0,
    });
    LEVEL_2.fill(|index| match RAM + (index << 21) {
        WINDOW => LEVEL_3.address() | TABLE,
        address => address | BLOCK | memory,
    });
    LEVEL_3.fill(|index| (WINDOW + (index << 12)) | PAGE | memory | EXECUTE_NEVER);
}

/// Turns the MMU of this CPU on, with the tables that [`prepare`] wrote.
pub(super) fn turn_on() {
    turn_mmu_on(LEVEL_1.address());
}

/// Turns the MMU of this CPU on, with `table` as the first one.
pub(super) fn turn_mmu_on(table: u64) {
    // SAFETY: either everything that the program uses is mapped to where it is, or (scenario `walk-hole`) nothing is
    // mapped, and the scenario is over with the next fetch.
    unsafe {
        asm!(
            "msr tcr_el1, {tcr}", "msr mair_el1, {mair}", "msr ttbr0_el1, {table}", "dsb sy", "tlbi vmalle1",
            "dsb sy", "isb", "mrs {tcr}, sctlr_el1", "orr {tcr}, {tcr}, {on}", "msr sctlr_el1, {tcr}", "isb",
            // 39 bits below, nothing above, inner-shareable write-back walks.
            tcr = inout(reg) (0b11u64 << 12 | 1 << 10 | 1 << 8 | 25 | 1 << 23 | 25 << 16) => _,
            // MMU and caches.
            on = in(reg) 1_u64 << 12 | 1 << 2 | 1,
            mair = in(reg) 0xff04_u64, table = in(reg) table, options(nostack)
        );
    }
}

/// Forgets what this CPU, and no other, knows of stage 1 and of both stages combined.
pub(super) fn forget_locally() {
    // SAFETY: TLB maintenance; the tables stay as they are.
    unsafe { asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}
