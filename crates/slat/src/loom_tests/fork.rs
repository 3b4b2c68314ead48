//! Spaces that share versions: what faults of one do beside each other, and beside what becomes of the others.
//!
//! A table that is copied is a thousand steps, nearly all of them on memory that nobody else knows of, and loom goes only through
//! orders that could make a difference. With three threads, or where both copy tables, the number of times that one of them is
//! stopped in the middle is bounded: what goes wrong between two needs one or two.

use super::{Host, PAGE_SIZE};
use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::fault::FaultOutcome;
use crate::flags::{LeafSize, MappingFlags};
use crate::format::Format;
use crate::format::ept::{self, Ept};
use crate::format::stage2::{Features, Stage2};
use crate::hal::{CacheMaintenance, Hal};
use crate::space::{AddrSpace, AllocOptions};
use crate::tlb::Invalidation;
use loom::sync::Arc;
use loom::thread;

const READ: MappingFlags = MappingFlags::READ;
const WRITE: MappingFlags = MappingFlags::WRITE;

/// A host that a space and its forks have in common.
#[derive(Clone, Default)]
struct Common(std::sync::Arc<Host>);

// SAFETY: every promise is kept by the host behind it.
unsafe impl Hal for Common {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        self.0.alloc_frames(count, align)
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // Whoever copies it, or reads it, would see this.
        write_word(self, start, GONE);
        // SAFETY: the same contract.
        unsafe { self.0.dealloc_frames(start, count) }
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.0.phys_to_virt(hpa)
    }

    fn invalidate(&self, _invalidation: &Invalidation<'_>) {}

    fn maintain_cache(&self, _maintenance: &CacheMaintenance) {}

    fn is_same_host(&self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&self.0, &other.0)
    }

    fn publish(&self) {}

    unsafe fn zero_frames(&self, _start: HostPhysAddr, _count: usize) {}
}

const GONE: u64 = 0xdead;

/// The first word of a frame of guest memory, which loom does not watch.
fn word(host: &Common, hpa: HostPhysAddr) -> u64 {
    // SAFETY: the frame is taken, or the host panics; threads of loom run one at a time.
    unsafe { host.phys_to_virt(hpa).cast::<u64>().read() }
}

fn write_word(host: &Common, hpa: HostPhysAddr, value: u64) {
    // SAFETY: as above. What becomes of a table or a version that comes back is nobody's business.
    unsafe { host.phys_to_virt(hpa).cast::<u64>().write(value) }
}

type Space<F> = AddrSpace<Common, F>;

fn explore(preemptions: Option<usize>, work: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 60_000;
    builder.preemption_bound = preemptions;
    builder.check(work);
}

/// Three levels.
fn stage2() -> Stage2 {
    Stage2::new(Features { pa_bits: 48, ..Features::BASELINE }, Some(39)).expect("in range")
}

/// Four, with table entries that have permissions.
fn ept() -> Ept {
    let ept_vpid_cap = 1 << 6 | 1 << 14;
    let capabilities = ept::Capabilities {
        ept_vpid_cap,
        physical_bits: 46,
        mode_based_execute: false,
        accessed_dirty: false,
    };
    Ept::new(capabilities, 4).expect("offered")
}

/// A space with one page that holds 7.
fn parent<F: Format>(format: F) -> Space<F> {
    let mut space =
        AddrSpace::with_format(Common::default(), format, GuestPhysAddr::new(0), 1 << 39, 0).expect("a root");
    let options = AllocOptions { largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
    space.map_alloc_with(GuestPhysAddr::new(0), 1 << 21, READ | WRITE, options).expect("memory");
    fault(&space, 0, WRITE);
    write_word(space.hal(), at(&space, 0), 7);
    space
}

fn fault<F: Format>(space: &Space<F>, page: u64, access: MappingFlags) -> FaultOutcome {
    space.handle_page_fault(GuestPhysAddr::new(page * PAGE_SIZE), access).expect("memory")
}

fn at<F: Format>(space: &Space<F>, page: u64) -> HostPhysAddr {
    space.translate(GuestPhysAddr::new(page * PAGE_SIZE)).expect("populated")
}

/// As a guest does: repeats a write until it gets through.
fn write<F: Format>(space: &Space<F>, page: u64) {
    let writable = |space: &Space<F>| {
        space.query(GuestPhysAddr::new(page * PAGE_SIZE)).is_ok_and(|leaf| leaf.flags.contains(WRITE))
    };
    for _ in 0..4 {
        if fault(space, page, WRITE) != FaultOutcome::Retry {
            assert!(writable(space), "a write was answered, and the page is read-only");
            return;
        }
        thread::yield_now();
    }
    panic!("a write is answered with a retry for ever");
}

/// Two CPUs of a fork write to the page that its parent has too; `before` them the fork has tables of its own already.
fn two_writers<F: Format>(format: F, before: bool, preemptions: Option<usize>) {
    explore(preemptions, move || {
        let mut parent = parent(format);
        let child = Arc::new(parent.fork(1).expect("memory"));
        if before {
            fault(&child, 0, READ);
        }
        let used = child.hal().0.in_use();
        let other = Arc::clone(&child);
        let cpu = thread::spawn(move || write(&other, 0));
        write(&child, 0);
        cpu.join().expect("no panic");
        let tables = if before { 0 } else { usize::from(child.format().geometry().root_level()) };
        assert_eq!(child.hal().0.in_use() - used, 1 + tables, "one copy of each");
        assert_ne!(at(&child, 0), at(&parent, 0));
        assert_eq!((word(child.hal(), at(&child, 0)), word(child.hal(), at(&parent, 0))), (7, 7));
        assert!(parent.query(GuestPhysAddr::new(0)).is_ok_and(|leaf| leaf.flags == READ));
    });
}

#[test]
fn two_writers_of_a_shared_page_make_one_copy() {
    two_writers(stage2(), true, None);
    two_writers(ept(), true, None);
}

#[test]
fn two_writers_below_shared_tables_make_one_copy_of_each() {
    two_writers(stage2(), false, Some(2));
    two_writers(ept(), false, Some(1));
}

#[test]
fn a_write_beside_a_read_and_a_new_page_in_one_shared_table() {
    for page in [0, 1] {
        explore(Some(2), move || {
            let mut parent = parent(stage2());
            let child = Arc::new(parent.fork(1).expect("memory"));
            let used = child.hal().0.in_use();
            let other = Arc::clone(&child);
            let cpu = thread::spawn(move || fault(&other, page, READ));
            write(&child, 0);
            let outcome = cpu.join().expect("no panic");
            assert!(page == 0 || outcome == FaultOutcome::Populated(LeafSize::Size4K), "{outcome:?}");
            assert_eq!(
                child.hal().0.in_use() - used,
                3 + page as usize,
                "two tables, a copy, and what is new"
            );
            assert_ne!(at(&child, 0), at(&parent, 0));
            assert_eq!(word(child.hal(), at(&child, 0)), 7);
            assert!(parent.translate(GuestPhysAddr::new(PAGE_SIZE)).is_none());
        });
    }
}

#[test]
fn two_readers_make_one_copy_of_a_table() {
    explore(Some(2), || {
        let mut parent = parent(stage2());
        let child = Arc::new(parent.fork(1).expect("memory"));
        let used = child.hal().0.in_use();
        let other = Arc::clone(&child);
        let cpu = thread::spawn(move || fault(&other, 0, READ));
        let outcomes = [fault(&child, 0, READ), cpu.join().expect("no panic")];
        assert!(outcomes.contains(&FaultOutcome::Unshared), "{outcomes:?}");
        assert_eq!(child.hal().0.in_use() - used, 2, "two tables");
        assert_eq!(at(&child, 0), at(&parent, 0));
    });
}

#[test]
fn two_writers_of_a_page_that_nobody_else_has_any_more_keep_it() {
    explore(None, || {
        let mut parent = parent(stage2());
        let child = Arc::new(parent.fork(1).expect("memory"));
        fault(&child, 0, READ);
        let frame = at(&child, 0);
        drop(parent);
        let used = child.hal().0.in_use();
        let other = Arc::clone(&child);
        let cpu = thread::spawn(move || write(&other, 0));
        write(&child, 0);
        cpu.join().expect("no panic");
        assert_eq!((child.hal().0.in_use(), at(&child, 0)), (used, frame), "nothing is copied");
        assert!(child.query(GuestPhysAddr::new(0)).is_ok_and(|leaf| leaf.owned));
    });
}

#[test]
fn a_write_beside_the_end_of_the_sibling_copies_or_takes_over() {
    explore(Some(2), || {
        let mut parent = parent(stage2());
        let child = parent.fork(1).expect("memory");
        fault(&child, 0, READ);
        let frame = at(&child, 0);
        let cpu = thread::spawn(move || drop(parent));
        write(&child, 0);
        let taken_over = at(&child, 0) == frame;
        cpu.join().expect("no panic");
        assert_eq!(word(child.hal(), at(&child, 0)), 7);
        let leaf = child.query(GuestPhysAddr::new(0)).expect("there");
        assert!(leaf.owned && (taken_over || at(&child, 0) != frame));
    });
}

/// One space has let a version go that two others have below theirs, and both merge it.
#[test]
fn versions_are_merged_by_two_spaces_beside_the_end_of_a_third() {
    explore(Some(2), || {
        let mut one = parent(stage2());
        let third = one.fork(1).expect("memory");
        write(&one, 0);
        write_word(one.hal(), at(&one, 0), 8);
        let mut other = one.fork(2).expect("memory");
        assert_eq!(one.stats().versions, 2);
        let last = thread::spawn(move || drop(third));
        let merging = thread::spawn(move || {
            other.consolidate();
            other
        });
        one.consolidate();
        let (mut other, ()) = (merging.join().expect("no panic"), last.join().expect("no panic"));
        assert_eq!((at(&one, 0), word(one.hal(), at(&one, 0))), (at(&other, 0), 8));
        // Whoever was too early or in the other's way does it now.
        other.consolidate();
        assert_eq!((one.stats().versions, other.stats().versions), (1, 1));
    });
}

/// Who walks the versions for their number is not disturbed by who merges them.
#[test]
fn versions_are_counted_beside_a_merge() {
    explore(Some(2), || {
        let mut one = parent(stage2());
        let third = one.fork(1).expect("memory");
        write(&one, 0);
        let other = one.fork(2).expect("memory");
        drop(third);
        let counting = thread::spawn(move || {
            let versions = other.stats().versions;
            assert!((1..=2).contains(&versions), "{versions}");
        });
        one.consolidate();
        counting.join().expect("no panic");
    });
}

/// That the host notices: a sibling that gives a shared frame back.
#[test]
#[should_panic(expected = "a frame")]
fn a_shared_frame_that_goes_back_is_found() {
    explore(Some(2), || {
        let mut parent = parent(stage2());
        let child = parent.fork(1).expect("memory");
        fault(&child, 0, READ);
        let frame = at(&parent, 0);
        let cpu = thread::spawn(move || {
            // SAFETY: it breaks the promise on purpose: the version has the frame.
            unsafe { parent.hal().dealloc_frames(frame, 1) };
        });
        write(&child, 0);
        cpu.join().expect("no panic");
        assert_eq!(word(child.hal(), at(&child, 0)), 7, "a frame was copied that was gone");
    });
}
