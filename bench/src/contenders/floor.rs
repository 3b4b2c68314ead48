//! What the hardware allows: raw loops over a table of four levels, which check nothing that they need not.
//!
//! Plain store loops map and protect; four dependent loads translate, and read an
//! object by a fifth; the library's `memcpy` copies page by page; one compare-exchange populates, after the check
//! of the region, so that it may race; `fetch_and` protects where the hardware may set bits meanwhile; non-temporal
//! stores zero. One region in a sorted array, 100,000 in the standard library's tree.

use crate::contender::Contender;
use crate::frames::{self, FRAME};
use crate::work::Work;
use std::arch::x86_64::{_mm_sfence, _mm_stream_si64};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

const RWX: u64 = 7;
const WRITE_EXECUTE: u64 = 6;
const WRITE_BACK: u64 = 6 << 3;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

pub(crate) struct Floor {
    root: u64,
    declared: Vec<(u64, u64)>,
    regions: BTreeMap<u64, (u64, u64)>,
    /// Where a run of large frames is mapped, and the run.
    large: (u64, u64),
}

#[inline]
fn index(level: u32, gpa: u64) -> u64 {
    gpa >> (12 + 9 * level) & 511
}

#[inline]
const fn covers(level: u32) -> u64 {
    FRAME << (9 * level)
}

#[inline]
fn leaf(level: u32, hpa: u64) -> u64 {
    hpa | RWX | WRITE_BACK | if level > 0 { LARGE } else { 0 }
}

#[inline]
fn entry(table: u64, index: u64) -> &'static AtomicU64 {
    // SAFETY: tables are frames of the arena, which lives as long as the process; the index is below 512.
    unsafe { &*((table + 8 * index) as *const AtomicU64) }
}

/// The entries of a table that nobody else uses.
#[inline]
fn entries(table: u64) -> &'static mut [u64; 512] {
    // SAFETY: as above; the callers hold `&mut Floor`, and keep the slice only for one loop.
    unsafe { &mut *(table as *mut [u64; 512]) }
}

fn new_table(zeroed: bool) -> u64 {
    let table = frames::alloc().expect("a frame");
    if zeroed {
        frames::zero(table);
    }
    table
}

/// Zeroes a frame past the caches, by general registers: a hypervisor has no others to spare. All of a cache line is
/// written in one go, without which it costs twice as much.
fn zero_cold(frame: u64) {
    for line in (frame..frame + FRAME).step_by(64) {
        for word in 0..8 {
            // SAFETY: inside the frame that the caller has taken, aligned to 8 bytes.
            unsafe { _mm_stream_si64((line + 8 * word) as *mut i64, 0) };
        }
    }
}

/// What a large leaf, or nothing, translates to.
#[cold]
fn large(level: u32, value: u64, gpa: u64) -> Option<u64> {
    let inside = covers(level) - 1;
    (value != 0).then_some(value & ADDRESS & !inside | gpa & inside)
}

impl Floor {
    /// The table of `level` around `gpa`, made if it is missing. `whole` says that all of it will be written.
    fn table(&mut self, level: u32, gpa: u64, whole: bool) -> u64 {
        let mut table = self.root;
        for above in (level + 1..=3).rev() {
            let slot = &mut entries(table)[index(above, gpa) as usize];
            if *slot == 0 {
                *slot = new_table(!whole || above > level + 1) | RWX;
            }
            table = *slot & ADDRESS;
        }
        table
    }

    /// The entry of a 4 KiB leaf; its tables are there.
    #[inline]
    fn slot(&self, gpa: u64) -> &'static AtomicU64 {
        let down = |table: u64, level: u32| entry(table, index(level, gpa)).load(Ordering::Relaxed) & ADDRESS;
        entry(down(down(down(self.root, 3), 2), 1), index(0, gpa))
    }

    /// Clears a range; a table that lies in it as a whole is unlinked by one store. Leaves are given back if `FREE`.
    fn clear<const FREE: bool>(level: u32, table: u64, mut gpa: u64, end: u64) {
        while gpa < end {
            let next = end.min((gpa | (covers(level) - 1)) + 1);
            let slot = &mut entries(table)[index(level, gpa) as usize];
            if level > 0 && *slot & LARGE == 0 && next - gpa < covers(level) {
                Self::clear::<FREE>(level - 1, *slot & ADDRESS, gpa, next);
            } else {
                let old = std::mem::take(slot);
                Self::give_back::<FREE>(level, old);
            }
            gpa = next;
        }
    }

    #[inline]
    fn give_back<const FREE: bool>(level: u32, old: u64) {
        if old == 0 {
            return;
        }
        let below = old & ADDRESS;
        if level == 0 || old & LARGE != 0 {
            if FREE {
                frames::free(below);
            }
            return;
        }
        if level > 1 {
            for &slot in entries(below).iter() {
                Self::give_back::<FREE>(level - 1, slot);
            }
        } else if FREE {
            for &slot in entries(below).iter().filter(|&&slot| slot != 0) {
                frames::free(slot & ADDRESS);
            }
        }
        frames::free(below);
    }

    fn for_each_leaf_table(&mut self, gpa: u64, bytes: u64, mut change: impl FnMut(u64, u64, u64)) {
        let (mut gpa, end) = (gpa, gpa + bytes);
        while gpa < end {
            let next = end.min((gpa | (covers(1) - 1)) + 1);
            let first = index(0, gpa);
            change(self.table(0, gpa, false), first, first + (next - gpa) / FRAME);
            gpa = next;
        }
    }

    /// Populates a page by one compare-exchange, and missing tables by one each.
    #[inline]
    fn answer(&self, gpa: u64, prepare: impl Fn(u64)) {
        assert!(self.is_declared(gpa), "a page outside of all regions");
        let frame = frames::alloc().expect("a frame");
        prepare(frame);
        let mut table = self.root;
        for level in (1..=3).rev() {
            let slot = entry(table, index(level, gpa));
            let mut value = slot.load(Ordering::Acquire);
            if value == 0 {
                let new = new_table(true) | RWX;
                value = match slot.compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => new,
                    Err(faster) => {
                        frames::free(new & ADDRESS);
                        faster
                    }
                };
            }
            table = value & ADDRESS;
        }
        let slot = entry(table, index(0, gpa));
        if slot.compare_exchange(0, leaf(0, frame), Ordering::AcqRel, Ordering::Acquire).is_err() {
            frames::free(frame);
        }
    }

    /// Copies the page of `gpa`, which is there, to a frame of its own, and puts that in its place: a region check, a walk, a
    /// copy, a compare-exchange.
    #[inline]
    pub(crate) fn copy_on_write(&self, gpa: u64) {
        assert!(self.is_declared(gpa), "a page outside of all regions");
        let slot = self.slot(gpa);
        let old = slot.load(Ordering::Acquire);
        let frame = frames::alloc().expect("a frame");
        let (from, to) = ((old & ADDRESS) as *const u8, frame as *mut u8);
        // SAFETY: two frames of the arena, which lives as long as the process.
        unsafe { std::ptr::copy_nonoverlapping(from, to, FRAME as usize) };
        if slot.compare_exchange(old, leaf(0, frame), Ordering::AcqRel, Ordering::Acquire).is_err() {
            frames::free(frame);
        }
    }

    /// The table of the 4 KiB leaf of `gpa`; its tables are there.
    pub(crate) fn leaf_table(&self, gpa: u64) -> u64 {
        let slot: *const AtomicU64 = self.slot(gpa);
        slot as u64 & !(FRAME - 1)
    }

    #[inline]
    fn is_declared(&self, gpa: u64) -> bool {
        let after = self.declared.partition_point(|&(start, _)| start <= gpa);
        after.checked_sub(1).and_then(|before| self.declared.get(before)).is_some_and(|&(_, end)| gpa < end)
    }
}

impl Contender for Floor {
    const NAME: &'static str = super::FLOOR;
    const SHORT: &'static str = super::FLOOR;
    const CONCURRENT: bool = true;
    const ATOMIC_PROTECT: bool = true;
    const HAS_REGIONS: bool = true;
    type OnZeroingHost = Self;

    fn can(_work: Work) -> bool {
        true
    }

    fn new() -> Self {
        Self {
            root: new_table(true),
            declared: Vec::with_capacity(64),
            regions: BTreeMap::new(),
            large: (0, 0),
        }
    }

    fn map(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        if bytes == FRAME {
            let table = self.table(0, gpa, false);
            return entry(table, index(0, gpa)).store(leaf(0, hpa), Ordering::Relaxed);
        }
        let level =
            (0..3).rev().find(|&level| (gpa | hpa | bytes).is_multiple_of(covers(level))).unwrap_or(0);
        let (mut gpa, mut hpa, end) = (gpa, hpa, gpa + bytes);
        while gpa < end {
            let first = index(level, gpa) as usize;
            let count = (512 - first).min(((end - gpa) / covers(level)) as usize);
            let table = self.table(level, gpa, count == 512);
            for (slot, offset) in entries(table)[first..first + count].iter_mut().zip(0u64..) {
                *slot = leaf(level, hpa + offset * covers(level));
            }
            gpa += count as u64 * covers(level);
            hpa += count as u64 * covers(level);
        }
    }

    #[inline]
    fn translate(&self, gpa: u64) -> Option<u64> {
        let load = |table: u64, level: u32| entry(table & ADDRESS, index(level, gpa)).load(Ordering::Relaxed);
        let top = load(self.root, 3);
        if top == 0 {
            return None;
        }
        let middle = load(top, 2);
        if middle & (LARGE | 1) != 1 {
            return large(2, middle, gpa);
        }
        let low = load(middle, 1);
        if low & (LARGE | 1) != 1 {
            return large(1, low, gpa);
        }
        let last = load(low, 0);
        (last != 0).then_some(last & ADDRESS | gpa & (FRAME - 1))
    }

    #[inline]
    fn read_obj(&self, gpa: u64) -> u64 {
        let address = self.translate(gpa).expect("it is populated");
        // SAFETY: a frame of the arena, which lives as long as the process, at a multiple of 8.
        unsafe { (address as *const u64).read_volatile() }
    }

    /// A walk and the library's `memcpy` for each page.
    fn copy(&self, gpa: u64, to: &mut [u8]) {
        for (page, to) in (gpa..).step_by(FRAME as usize).zip(to.chunks_mut(FRAME as usize)) {
            let frame = self.translate(page).expect("it is populated");
            // SAFETY: a frame of the arena, which lives as long as the process and is no part of `to`.
            unsafe { std::ptr::copy_nonoverlapping(frame as *const u8, to.as_mut_ptr(), to.len()) };
        }
    }

    fn populate_large(&mut self, gpa: u64, bytes: u64) {
        let run = frames::alloc_run((bytes / FRAME) as usize, 512).expect("a run");
        self.map(gpa, run, bytes);
        self.large = (gpa, run);
    }

    /// One `memcpy` of the library's, and not even a walk.
    fn copy_large(&self, gpa: u64, to: &mut [u8]) {
        let from = self.large.1 + (gpa - self.large.0);
        // SAFETY: a run of the arena, which lives as long as the process and is no part of `to`.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
    }

    fn declare(&mut self, gpa: u64, bytes: u64) {
        self.declared.push((gpa, gpa + bytes));
    }

    #[inline]
    fn fault(&mut self, gpa: u64) {
        self.answer(gpa, |_| {});
    }

    #[inline]
    fn fault_zeroed(&mut self, gpa: u64) {
        self.answer(gpa, zero_cold);
    }

    #[inline]
    fn fault_shared(&self, gpa: u64) {
        self.answer(gpa, |_| {});
    }

    fn populate(&mut self, gpa: u64, bytes: u64) {
        self.for_each_leaf_table(gpa, bytes, |table, first, end| {
            for slot in &mut entries(table)[first as usize..end as usize] {
                let frame = frames::alloc().expect("a frame");
                zero_cold(frame);
                *slot = leaf(0, frame);
            }
        });
        // SAFETY: a fence; it changes nothing.
        unsafe { _mm_sfence() };
    }

    fn protect(&mut self, gpa: u64, bytes: u64) {
        if bytes == FRAME {
            let slot = self.slot(gpa);
            return slot.store(slot.load(Ordering::Relaxed) & !WRITE_EXECUTE, Ordering::Relaxed);
        }
        self.for_each_leaf_table(gpa, bytes, |table, first, end| {
            for slot in &mut entries(table)[first as usize..end as usize] {
                *slot &= !WRITE_EXECUTE;
            }
        });
    }

    fn protect_atomic(&mut self, gpa: u64, bytes: u64) {
        self.for_each_leaf_table(gpa, bytes, |table, first, end| {
            for index in first..end {
                entry(table, index).fetch_and(!WRITE_EXECUTE, Ordering::Relaxed);
            }
        });
    }

    fn unmap(&mut self, gpa: u64, bytes: u64) {
        if bytes == FRAME {
            return self.slot(gpa).store(0, Ordering::Relaxed);
        }
        Self::clear::<false>(3, self.root, gpa, gpa + bytes);
    }

    fn unmap_free(&mut self, gpa: u64, bytes: u64) {
        Self::clear::<true>(3, self.root, gpa, gpa + bytes);
    }

    fn unmap_inside(&mut self, gpa: u64) {
        let top = self.table(2, gpa, false);
        let slot = &mut entries(top)[index(2, gpa) as usize];
        let start = *slot & ADDRESS;
        let (middle, bottom) = (new_table(false), new_table(false));
        for (slot, offset) in entries(middle).iter_mut().zip(0u64..) {
            *slot = leaf(1, start + offset * covers(1));
        }
        let block = start + index(1, gpa) * covers(1);
        for (slot, offset) in entries(bottom).iter_mut().zip(0u64..) {
            *slot = leaf(0, block + offset * FRAME);
        }
        entries(bottom)[index(0, gpa) as usize] = 0;
        entries(middle)[index(1, gpa) as usize] = bottom | RWX;
        *slot = middle | RWX;
    }

    fn map_region(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        self.regions.insert(gpa, (gpa + bytes, hpa));
        self.map(gpa, hpa, bytes);
    }

    fn unmap_region(&mut self, gpa: u64, bytes: u64) {
        self.regions.remove(&gpa).expect("the region is there");
        self.unmap(gpa, bytes);
    }
}
