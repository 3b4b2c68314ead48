//! A host of one's own: a buddy allocator, whose runs are large and aligned enough for leaves of 2 MiB and for roots of 16 KiB.
//!
//! `cargo run --example own-hal`
//!
//! ```text
//! 20 MiB: 10 leaves of 2 MiB, 0 of 4 KiB
//! without one page: 9 of 2 MiB, 511 of 4 KiB, 1 kick of the CPUs
//! without the guest: 8192 of 8192 frames are free, in 8 blocks of 4 MiB again
//! ```

#![expect(unsafe_code, reason = "implements Hal")]

use slat::format::ept::{Capabilities, Ept};
use slat::{
    AddrSpace, AllocOptions, GuestPhysAddr, Hal, HostPhysAddr, Invalidation, LeafSize, MappingFlags,
    PAGE_SIZE,
};
use slat_model::Ram;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

const RAM_START: u64 = 0x4000_0000;
/// Blocks of 2^0 to 2^10 frames: 4 KiB to 4 MiB.
const ORDERS: usize = 11;

/// All of the memory that guests may have. Yours lies behind your lock; a lock per CPU's cache of frames is the usual refinement.
struct Buddies {
    ram: Ram,
    /// The free blocks of each order, by the number of their first frame.
    free: RefCell<[BTreeSet<u64>; ORDERS]>,
    kicks: Cell<usize>,
}

impl Buddies {
    fn new(largest_blocks: u64) -> Self {
        let frames = largest_blocks << (ORDERS - 1);
        let mut free: [BTreeSet<u64>; ORDERS] = Default::default();
        free[ORDERS - 1] = (0..frames).step_by(1 << (ORDERS - 1)).collect();
        Self { ram: Ram::new(RAM_START, frames * PAGE_SIZE), free: RefCell::new(free), kicks: Cell::new(0) }
    }

    fn free_frames(&self) -> u64 {
        self.free.borrow().iter().enumerate().map(|(order, blocks)| (blocks.len() as u64) << order).sum()
    }

    /// One block comes back, and joins its buddy as often as that is free too.
    fn free_block(&self, mut start: u64, mut order: usize) {
        let mut free = self.free.borrow_mut();
        while order + 1 < ORDERS && free[order].remove(&(start ^ 1 << order)) {
            start &= !(1 << order);
            order += 1;
        }
        assert!(free[order].insert(start), "it came back twice");
    }

    /// Frames `start..end`, as the fewest aligned blocks.
    fn free_run(&self, mut start: u64, end: u64) {
        while start < end {
            let order =
                (0..ORDERS).rev().find(|order| start % (1 << order) == 0 && start + (1 << order) <= end);
            let order = order.expect("a single frame always fits");
            self.free_block(start, order);
            start += 1 << order;
        }
    }
}

// SAFETY: a block is in one list or handed out, never both; its memory is that of the model's RAM, which stays; each block is
// aligned to its own size, and so to what was asked for. No CPU of this example caches anything.
unsafe impl Hal for Buddies {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        // A block is aligned to its size: the larger of both decides.
        let wanted = count.max(align).next_power_of_two().trailing_zeros() as usize;
        let start = {
            let mut free = self.free.borrow_mut();
            let order = (wanted..ORDERS).find(|order| !free[*order].is_empty())?;
            let start = free[order].pop_first()?;
            for half in wanted..order {
                free[half].insert(start + (1 << half)); // the upper half of each block that is halved
            }
            start
        };
        self.free_run(start + count as u64, start + (1 << wanted)); // what is behind the run goes back
        Some(HostPhysAddr::new(RAM_START + start * PAGE_SIZE))
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        let first = (start.as_u64() - RAM_START) / PAGE_SIZE;
        self.free_run(first, first + count as u64);
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        let offset = (hpa.as_u64() - RAM_START) as usize;
        self.ram.words().as_ptr().cast_mut().cast::<u8>().wrapping_add(offset)
    }

    /// Yours kicks the CPUs that may be inside, and has each execute INVEPT: see the example `flush-hook`.
    fn invalidate(&self, _invalidation: &Invalidation<'_>) {
        self.kicks.set(self.kicks.get() + 1);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = Buddies::new(8);
    let all = host.free_frames();
    // A CPU with leaves of 2 MiB (IA32_VMX_EPT_VPID_CAP bit 16).
    let baseline = Capabilities::BASELINE;
    let format = Ept::new(Capabilities { ept_vpid_cap: baseline.ept_vpid_cap | 1 << 16, ..baseline }, 4)?;
    let start = GuestPhysAddr::new(0);
    let mut guest: AddrSpace<&Buddies, Ept> = AddrSpace::with_format(&host, format, start, 1 << 30, 1)?;
    let ram = MappingFlags::READ | MappingFlags::WRITE;
    let options = AllocOptions { populate: true, largest_leaf: LeafSize::Size2M, ..AllocOptions::default() };
    guest.map_alloc_with(start, 20 << 20, ram, options)?;
    let table = guest.stats().table;
    println!("20 MiB: {} leaves of 2 MiB, {} of 4 KiB", table.leaves_2m, table.leaves_4k);
    assert_eq!((table.leaves_2m, table.leaves_4k), (10, 0));

    // One page less: its leaf is split, and the frame goes back alone.
    let before = host.free_frames();
    guest.unmap(GuestPhysAddr::new(0x20_1000), PAGE_SIZE)?;
    let (table, kicks) = (guest.stats().table, host.kicks.get());
    println!(
        "without one page: {} of 2 MiB, {} of 4 KiB, {kicks} kick of the CPUs",
        table.leaves_2m, table.leaves_4k
    );
    assert_eq!((table.leaves_2m, table.leaves_4k, kicks), (9, 511, 1));
    assert_eq!(host.free_frames(), before, "one frame came back, one became the new table");

    drop(guest);
    let blocks = host.free.borrow()[ORDERS - 1].len();
    println!(
        "without the guest: {} of {all} frames are free, in {blocks} blocks of 4 MiB again",
        host.free_frames()
    );
    assert_eq!((host.free_frames(), blocks), (all, 8));
    Ok(())
}
