//! The dirty log beside a CPU that writes: what is copied of a page after each collection is, in the end, what is in the page.
//!
//! The CPU remembers a translation until it is invalidated, and sets the dirty flag only where it remembers none: so a flag
//! that is cleared tells of a later store only after an invalidation. A walk and what it leaves in the TLB are one step for an
//! invalidation, as the manuals promise (SDM 4.10.4.2); for changes of the entry they are not.

use super::{BYTES, Host};
use crate::addr::{GuestPhysAddr, HostPhysAddr, PAGE_SIZE};
use crate::flags::{LeafSize, MappingFlags};
use crate::format::Format;
use crate::format::ept::{Capabilities, Ept};
use crate::hal::{CacheMaintenance, Hal};
use crate::space::{AddrSpace, AllocOptions};
use crate::sync::{AtomicU64, Ordering};
use crate::table::LogUnit;
use crate::tlb::Invalidation;
use loom::sync::{Arc, Mutex, RwLock};
use loom::thread;
use std::vec::Vec;

const WRITE: u64 = 1 << 1;
const ACCESSED_DIRTY: u64 = 3 << 8;

/// What the guest's CPU remembers of its one page, and what is in that.
#[derive(Default)]
struct Cpu {
    writes: bool,
    page: u64,
}

/// A host that reaches the CPU by its invalidations, unless it forgets to.
#[derive(Clone, Default)]
struct Reaching {
    host: std::sync::Arc<Host>,
    cpu: Option<Arc<Mutex<Cpu>>>,
}

// SAFETY: every promise is kept by the host behind it.
unsafe impl Hal for Reaching {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        self.host.alloc_frames(count, align)
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.host.dealloc_frames(start, count) }
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.host.phys_to_virt(hpa)
    }

    fn invalidate(&self, _invalidation: &Invalidation<'_>) {
        if let Some(cpu) = &self.cpu {
            cpu.lock().expect("no panic").writes = false;
        }
    }

    fn maintain_cache(&self, _maintenance: &CacheMaintenance) {}

    fn publish(&self) {}

    unsafe fn zero_frames(&self, _start: HostPhysAddr, _count: usize) {}
}

type Space = AddrSpace<Reaching, Ept>;

const PAGE: GuestPhysAddr = GuestPhysAddr::new(PAGE_SIZE);

/// A space with one populated page, whose log has begun.
fn logged(marks: bool, host: Reaching) -> Space {
    let capabilities = Capabilities {
        ept_vpid_cap: Capabilities::BASELINE.ept_vpid_cap | 1 << 21,
        accessed_dirty: marks,
        ..Capabilities::BASELINE
    };
    let format = Ept::new(capabilities, 4).expect("a CPU like that");
    let start = GuestPhysAddr::new(0);
    let mut space = AddrSpace::with_format(host, format, start, 1 << 39, 0).expect("a root");
    let options = AllocOptions { largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
    space.map_alloc_with(PAGE, PAGE_SIZE, MappingFlags::READ | MappingFlags::WRITE, options).expect("memory");
    space.handle_page_fault(PAGE, MappingFlags::READ).expect("memory");
    space.start_dirty_log(PAGE, PAGE_SIZE, LogUnit::Page).expect("memory");
    space
}

/// The entry of the page, as the CPU finds it.
#[derive(Clone, Copy)]
struct Entry(usize);

impl Entry {
    fn of(space: &Space) -> Self {
        let mut table = space.root();
        for level in (0..4u8).rev() {
            let index = space.format().geometry().index(level, PAGE);
            assert!(index < BYTES / size_of::<AtomicU64>(), "inside of the table");
            let entry = space.hal().phys_to_virt(table).cast::<AtomicU64>().wrapping_add(index);
            if level == 0 {
                return Self(entry as usize);
            }
            // SAFETY: tables are made of these words.
            table = space.format().address(unsafe { &*entry }.load(Ordering::Relaxed));
        }
        unreachable!("the last level returns")
    }

    fn word<'a>(self) -> &'a AtomicU64 {
        // SAFETY: the table is there until the test ends.
        unsafe { &*(self.0 as *const AtomicU64) }
    }
}

/// The guest stores `value`; whether its CPU could.
fn store(cpu: &Mutex<Cpu>, entry: Entry, marks: bool, value: u64) -> bool {
    let mut cpu = cpu.lock().expect("no panic");
    while !cpu.writes {
        // A load: loom, which remembers the last access of a word only, would not take it for one that another's load could
        // come before.
        let old = entry.word().fetch_or(0, Ordering::AcqRel);
        if old & WRITE == 0 {
            return false;
        }
        let marked = if marks { old | ACCESSED_DIRTY } else { old };
        cpu.writes = old == marked
            || entry.word().compare_exchange(old, marked, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    }
    cpu.page = value;
    true
}

/// The guest stores twice while the page is copied; what is copied and what is there in the end.
fn copied_beside_stores(marks: bool, invalidates: bool) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder.check(move || {
        let cpu = Arc::new(Mutex::new(Cpu::default()));
        let host = Reaching { cpu: invalidates.then(|| Arc::clone(&cpu)), ..Reaching::default() };
        let space = logged(marks, host);
        let entry = Entry::of(&space);
        let space = Arc::new(RwLock::new(space));
        let (others, guest) = (Arc::clone(&space), Arc::clone(&cpu));
        let stores = thread::spawn(move || {
            for value in [1, 2] {
                while !store(&guest, entry, marks, value) {
                    let space = others.read().expect("no panic");
                    space.handle_page_fault(PAGE, MappingFlags::WRITE).expect("memory");
                }
            }
        });
        let mut copy = 0;
        let mut collect = || {
            let mut space = space.write().expect("no panic");
            let mut dirty = Vec::new();
            space.collect_dirty(PAGE, PAGE_SIZE, |pages| dirty.push(pages)).expect("logged");
            drop(space);
            if !dirty.is_empty() {
                copy = cpu.lock().expect("no panic").page;
            }
        };
        collect();
        stores.join().expect("no panic");
        collect();
        assert_eq!(copy, cpu.lock().expect("no panic").page, "a store was not told of");
    });
}

#[test]
fn a_store_beside_a_collection_is_told_of_by_the_flag() {
    copied_beside_stores(true, true);
}

#[test]
fn a_store_beside_a_collection_is_told_of_by_its_fault() {
    copied_beside_stores(false, true);
}

#[test]
#[should_panic(expected = "a store was not told of")]
fn a_collection_that_invalidates_nothing_is_found() {
    copied_beside_stores(true, false);
}

/// That loom finds what the log must not do: to read an entry and to store it without the flag.
#[test]
#[should_panic(expected = "a store was not told of")]
fn a_flag_that_is_not_cleared_by_one_access_is_found() {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder.check(|| {
        let cpu = Arc::new(Mutex::new(Cpu::default()));
        let space = logged(true, Reaching { cpu: Some(Arc::clone(&cpu)), ..Reaching::default() });
        let entry = Entry::of(&space);
        let guest = Arc::clone(&cpu);
        let stores = thread::spawn(move || assert!(store(&guest, entry, true, 1), "mapped"));
        let old = entry.word().load(Ordering::Acquire);
        entry.word().store(old & !ACCESSED_DIRTY, Ordering::Release);
        cpu.lock().expect("no panic").writes = false;
        let told = old & ACCESSED_DIRTY == ACCESSED_DIRTY;
        stores.join().expect("no panic");
        let told = told || entry.word().load(Ordering::Acquire) & ACCESSED_DIRTY == ACCESSED_DIRTY;
        assert!(told, "a store was not told of");
    });
}
