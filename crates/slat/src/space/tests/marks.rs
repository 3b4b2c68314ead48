//! Accessed and dirty flags: whatever the CPU marks, and whenever it does, no mark is lost.

#![expect(unsafe_code, reason = "plays the CPU that marks leaves")]

use super::*;
use crate::hal::{CacheMaintenance, Hal};
use crate::test_util::cases;
use crate::tlb::Invalidation;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const BLOCKS: u64 = 3;

/// A host whose CPU writes to guest pages of its choice after every store to the table.
struct Marking {
    heap: HeapHal,
    /// The root, or 0 for a CPU that does nothing.
    root: AtomicU64,
    state: Mutex<State>,
}

struct State {
    seed: u64,
    /// The pages that the CPU wrote to since they were mapped.
    written: BTreeSet<u64>,
    marks: usize,
}

impl Marking {
    fn new(seed: u64) -> Self {
        let state = Mutex::new(State { seed, written: BTreeSet::new(), marks: 0 });
        Self { heap: HeapHal::new(), root: AtomicU64::new(0), state }
    }

    fn entry(&self, table: u64, index: u64) -> &AtomicU64 {
        let pointer = self.heap.phys_to_virt(hpa(table + 8 * index)).cast();
        // SAFETY: an entry of a table that is taken, aligned; everyone's accesses to it are atomic.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    /// Walks as the CPU does ("EPT Translation Mechanism") for a write; returns whether that marked a leaf.
    fn write(&self, page: u64) -> bool {
        let mut table = self.root.load(Ordering::Relaxed);
        for level in (0..4).rev() {
            let slot = self.entry(table, page >> (9 * level) & 511);
            let mut entry = slot.load(Ordering::Acquire);
            if entry & 7 == 0 {
                return false;
            }
            if level > 0 && entry & 1 << 7 == 0 {
                table = entry & 0x000f_ffff_ffff_f000;
                continue;
            }
            // The CPU sets the flags of the entry that it used and of no other.
            while entry & 3 == 3 {
                let marked = entry | ACCESSED | DIRTY;
                match slot.compare_exchange(entry, marked, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return true,
                    Err(changed) if changed & !(ACCESSED | DIRTY) != entry & !(ACCESSED | DIRTY) => {
                        return false;
                    }
                    Err(changed) => entry = changed,
                }
            }
            return false;
        }
        false
    }

    fn random(&self, below: u64) -> u64 {
        let mut state = self.state.lock().expect("no panic");
        state.seed =
            state.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state.seed >> 33) % below
    }

    /// A page: one of few, so that it often is the one that is being changed.
    fn page(&self) -> u64 {
        self.random(BLOCKS) * 512 + [0, 1, 7, 255, 511][self.random(5) as usize]
    }

    fn write_somewhere(&self) {
        if self.root.load(Ordering::Relaxed) == 0 {
            return;
        }
        let page = self.page();
        if self.random(4) == 0 && self.write(page) {
            let mut state = self.state.lock().expect("no panic");
            state.written.insert(page);
            state.marks += 1;
        }
    }
}

// SAFETY: everything is the heap's.
unsafe impl Hal for Marking {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        self.heap.alloc_frames(count, align)
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.heap.dealloc_frames(start, count) }
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.heap.phys_to_virt(hpa)
    }

    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        self.heap.invalidate(invalidation);
        self.write_somewhere();
    }

    fn maintain_cache(&self, maintenance: &CacheMaintenance) {
        self.heap.maintain_cache(maintenance);
    }

    fn table_stored(&self, _entry: HostPhysAddr, _value: u64) {
        self.write_somewhere();
    }
}

fn marking_space(hal: &Marking) -> AddrSpace<&Marking, Ept> {
    let [_, _, format] = ept_formats();
    assert_ne!(format.dirty_bit(), 0);
    let space = AddrSpace::with_format(hal, format, gpa(0), 8 * GIB1, 0).expect("a root");
    hal.root.store(space.root().as_u64(), Ordering::Relaxed);
    space
}

fn check(space: &AddrSpace<&Marking, Ept>, hal: &Marking) {
    for page in &hal.state.lock().expect("no panic").written {
        let leaf = space.mappings(GuestPhysRange::new(gpa(page * KIB4), KIB4).expect("a page")).next();
        let leaf = leaf.expect("pages that go away are forgotten");
        assert!(leaf.dirty && leaf.accessed, "the CPU wrote to page {page:#x}: {leaf:?}");
    }
}

#[test]
fn no_mark_is_lost_by_any_change() {
    let (mut marks, mut clean, mut large) = (0, 0, 0);
    let seeds = cases(40).max(10);
    for seed in 0..seeds as u64 {
        let hal = Marking::new(seed);
        let mut space = marking_space(&hal);
        for _ in 0..40 {
            let (page, pages) = (hal.page(), [1, 2, 256, 512, 700][hal.random(5) as usize]);
            let pages = pages.min(BLOCKS * 512 - page);
            let (at, size) = (gpa(page * KIB4), pages * KIB4);
            let range = GuestPhysRange::new(at, size).expect("no wrap");
            match hal.random(8) {
                // Errors are as good as anything: pages that are not mapped, or are already.
                0..2 => drop(space.map_alloc(gpa(page / 512 * MIB2), MIB2, RW, true)),
                2 => drop(space.map_alloc(at, size, RW, true)),
                3 if space.unmap(at, size).is_ok() => {
                    let gone = page..page + pages;
                    hal.state.lock().expect("no panic").written.retain(|page| !gone.contains(page));
                }
                4 => drop(space.protect(
                    at,
                    size,
                    [RW, MappingFlags::READ, MappingFlags::empty()][hal.random(3) as usize],
                )),
                5 => drop(space.protect(at, size, RW)),
                6 => drop(space.migrate(at, size)),
                _ => drop(space.collapse(gpa(0), BLOCKS * MIB2)),
            }
            check(&space, &hal);
            clean += space.mappings(range).filter(|leaf| !leaf.dirty).count();
            large += space.mappings(range).filter(|leaf| leaf.dirty && leaf.size == LeafSize::Size2M).count();
        }
        marks += hal.state.lock().expect("no panic").marks;
        drop(space);
        hal.root.store(0, Ordering::Relaxed);
    }
    assert!(
        marks > 250 * seeds && clean > 250 * seeds && large > seeds / 2,
        "{marks} marks, {clean} clean, {large} large and dirty"
    );
}

/// The entries of the first `pages` pages, which are mapped in 4 KiB leaves.
fn entries(hal: &Marking, root: HostPhysAddr, pages: u64) -> Vec<&AtomicU64> {
    let slot = |page: u64| {
        let down = |table: u64, level: u32| {
            hal.entry(table, page >> (9 * level) & 511).load(Ordering::Acquire) & 0x000f_ffff_ffff_f000
        };
        hal.entry(down(down(down(root.as_u64(), 3), 2), 1), page & 511)
    };
    (0..pages).map(slot).collect()
}

/// A CPU that writes to all pages that it may write to, over and over until `done`, and looks whether the mark is still
/// there when the page is. Returns how many marks it made, and how many were gone.
fn write_until(done: &AtomicBool, entries: &[&AtomicU64]) -> (usize, usize) {
    let writable = |entry: u64| entry & 3 == 3;
    let (mut marks, mut lost) = (0, 0);
    let mut marked = vec![false; entries.len()];
    while !done.load(Ordering::Relaxed) {
        for (slot, marked) in entries.iter().zip(&mut marked) {
            let old = slot.load(Ordering::Acquire);
            if !writable(old) {
                continue;
            }
            lost += usize::from(*marked && old & DIRTY == 0);
            // Every second time the page begins anew, as if the mark had been read and cleared.
            let new = if *marked { old & !(ACCESSED | DIRTY) } else { old | ACCESSED | DIRTY };
            if slot.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                *marked = !*marked;
                marks += usize::from(*marked);
            }
        }
    }
    (marks, lost)
}

#[test]
fn no_mark_is_lost_beside_a_cpu_that_goes_on_writing() {
    let hal = Marking::new(1);
    let mut space = marking_space(&hal);
    hal.root.store(0, Ordering::Relaxed);
    let options = AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
    space.map_alloc_with(gpa(0), 512 * KIB4, RW, options).expect("free");
    let entries = entries(&hal, space.root(), 512);
    let done = AtomicBool::new(false);
    let (marks, lost) = std::thread::scope(|scope| {
        let cpu = scope.spawn(|| write_until(&done, &entries));
        for _ in 0..cases(300) {
            let mut protect = |flags, pages| space.protect(gpa(0), pages * KIB4, flags).expect("mapped");
            // In place.
            (0..50).for_each(|_| [RWX, RW].into_iter().for_each(|flags| protect(flags, 512)));
            // Through an entry that is not present, and back.
            (0..5)
                .for_each(|_| [MappingFlags::empty(), RW].into_iter().for_each(|flags| protect(flags, 256)));
            // Through a break.
            space.migrate(gpa(0), 16 * KIB4).expect("populated");
        }
        done.store(true, Ordering::Relaxed);
        cpu.join().expect("no panic")
    });
    assert_eq!(lost, 0, "of {marks} marks");
    assert!(marks > cases(10_000), "{marks} marks");
}

#[test]
fn where_the_hardware_does_not_tell_everything_may_have_happened() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    space.map_linear(gpa(0), hpa(0x1000), KIB4, RW).expect("free");
    let leaf = space.query(gpa(0)).expect("mapped");
    assert!(leaf.accessed && leaf.dirty);
}
