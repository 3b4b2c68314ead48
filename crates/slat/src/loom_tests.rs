//! The lock-free paths under loom: every interleaving of two CPUs, with all that a weak memory allows.
//!
//! Run by `cargo xtask test`, or `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_tests`. Each test ends with all
//! frames back at the host.

#![expect(unsafe_code, reason = "a host with memory for loom's atomics")]

mod fork;
mod log;
#[cfg(feature = "tracing")]
mod trace;

use crate::addr::{GuestPhysAddr, HostPhysAddr, PAGE_SIZE};
use crate::fault::FaultOutcome;
use crate::flags::{LeafSize, MappingFlags};
use crate::format::stage2::{Features, Stage2};
use crate::hal::{CacheMaintenance, Hal};
use crate::space::{AddrSpace, AllocOptions, BackendError, BackendPage, Pager, PagerBackend};
use crate::sync::{AtomicU64, Ordering};
use crate::tlb::{HartSet, Invalidation, Tag, TagPool};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Mutex;
use std::vec::Vec;

/// Bytes behind a frame: a page, or as many as its words take as loom's atomics.
const BYTES: usize = (512 * size_of::<AtomicU64>()).next_multiple_of(PAGE_SIZE as usize);

fn layout() -> Layout {
    Layout::from_size_align(BYTES, PAGE_SIZE as usize).expect("a sane size")
}

/// Single frames, none of which is used twice in a run, so that nothing old is taken for something new. What loom does
/// not watch is behind the standard library's lock: it neither orders anything for loom nor is reordered by it.
#[derive(Default)]
struct Host {
    frames: Mutex<Vec<(usize, bool)>>,
}

impl Host {
    fn in_use(&self) -> usize {
        self.frames.lock().expect("no panic").iter().filter(|(_, taken)| *taken).count()
    }
}

// SAFETY: every frame is a block of its own, as long as its words need.
unsafe impl Hal for Host {
    fn alloc_frames(&self, count: usize, _align: usize) -> Option<HostPhysAddr> {
        let mut frames = self.frames.lock().expect("no panic");
        if count != 1 {
            return None;
        }
        // SAFETY: the layout has a size.
        let block = unsafe { alloc_zeroed(layout()) };
        frames.push((block as usize, true));
        Some(HostPhysAddr::new(frames.len() as u64 * PAGE_SIZE))
    }

    unsafe fn dealloc_frames(&self, start: HostPhysAddr, _count: usize) {
        let mut frames = self.frames.lock().expect("no panic");
        let frame = &mut frames[(start.as_u64() / PAGE_SIZE - 1) as usize];
        assert!(core::mem::replace(&mut frame.1, false), "a frame came back twice");
    }

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        let (block, taken) = self.frames.lock().expect("no panic")[(hpa.as_u64() / PAGE_SIZE - 1) as usize];
        assert!(taken, "a frame is used after it came back");
        block as *mut u8
    }

    fn invalidate(&self, _invalidation: &Invalidation<'_>) {}

    fn maintain_cache(&self, _maintenance: &CacheMaintenance) {}

    fn publish(&self) {}

    unsafe fn zero_frames(&self, _start: HostPhysAddr, _count: usize) {}
}

impl Drop for Host {
    fn drop(&mut self) {
        for (block, taken) in self.frames.get_mut().expect("no panic") {
            assert!(!*taken || std::thread::panicking(), "a frame never came back");
            // SAFETY: allocated with this layout; the space that used it is gone.
            unsafe { dealloc(*block as *mut u8, layout()) };
        }
    }
}

/// Runs `work` in every interleaving.
fn explore(work: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Giving a table back reads all of its entries, and each is a step.
    builder.max_branches = 20_000;
    builder.check(work);
}

type Space = AddrSpace<Host, Stage2>;

/// Three levels, and a root of a single table: the least for which the short way to a page exists.
fn space() -> Space {
    let features = Features { pa_bits: 48, ..Features::BASELINE };
    let format = Stage2::new(features, Some(39)).expect("in range");
    let mut space =
        AddrSpace::with_format(Host::default(), format, GuestPhysAddr::new(0), 1 << 39, 0).expect("a root");
    let options = AllocOptions { largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
    let flags = MappingFlags::READ | MappingFlags::WRITE;
    space.map_alloc_with(GuestPhysAddr::new(0), 1 << 22, flags, options).expect("memory");
    space
}

const POPULATED: FaultOutcome = FaultOutcome::Populated(LeafSize::Size4K);

fn fault(space: &Space, page: u64) -> FaultOutcome {
    space.handle_page_fault(GuestPhysAddr::new(page * PAGE_SIZE), MappingFlags::WRITE).expect("memory")
}

/// Faults on `pages`, one on each of two CPUs, after those on `before`; returns the outcomes and the frames in use more.
fn two_faults(before: &'static [u64], pages: [u64; 2], check: fn([FaultOutcome; 2], usize)) {
    explore(move || {
        let space = Arc::new(space());
        before.iter().for_each(|page| assert_eq!(fault(&space, *page), POPULATED));
        let used = space.hal().in_use();
        let other = Arc::clone(&space);
        let cpu = thread::spawn(move || fault(&other, pages[1]));
        let outcomes = [fault(&space, pages[0]), cpu.join().expect("no panic")];
        check(outcomes, space.hal().in_use() - used);
        for page in pages {
            assert!(space.translate(GuestPhysAddr::new(page * PAGE_SIZE)).is_some(), "both CPUs go on");
        }
        let stats = space.stats();
        let frames = stats.table.table_frames + stats.table.owned_frames + stats.region_frames as u64;
        assert_eq!(frames, space.hal().in_use() as u64, "every frame is known");
    });
}

#[test]
fn two_faults_on_a_page_take_one_frame() {
    two_faults(&[0], [1, 1], |outcomes, frames| {
        assert_eq!(frames, 1);
        assert!(matches!(
            outcomes,
            [POPULATED, FaultOutcome::Spurious] | [FaultOutcome::Spurious, POPULATED]
        ));
    });
}

#[test]
fn two_faults_below_a_missing_table_install_one() {
    two_faults(&[], [1, 2], |outcomes, frames| {
        assert_eq!((outcomes, frames), ([POPULATED; 2], 4), "two pages and two tables");
    });
    two_faults(&[512], [1, 2], |outcomes, frames| {
        assert_eq!((outcomes, frames), ([POPULATED; 2], 3), "two pages and a table");
    });
}

#[test]
fn two_faults_on_a_page_below_a_missing_table_take_one_of_each() {
    two_faults(&[], [1, 1], |outcomes, frames| {
        assert_eq!(frames, 3);
        assert!(outcomes.contains(&POPULATED) && outcomes.contains(&FaultOutcome::Spurious));
    });
}

#[test]
fn who_sees_a_page_sees_what_was_put_into_it() {
    for before in [&[0u64][..], &[]] {
        explore(move || {
            let space = Arc::new(space());
            before.iter().for_each(|page| assert_eq!(fault(&space, *page), POPULATED));
            // Stands for the contents: written without any order of its own.
            let contents = Arc::new(AtomicU64::new(0));
            let (other, written) = (Arc::clone(&space), Arc::clone(&contents));
            let cpu = thread::spawn(move || {
                let fill = |_: GuestPhysAddr, _: &mut [u8]| written.store(1, Ordering::Relaxed);
                other.handle_page_fault_with(GuestPhysAddr::new(PAGE_SIZE), MappingFlags::READ, fill)
            });
            if space.translate(GuestPhysAddr::new(PAGE_SIZE)).is_some() {
                assert_eq!(contents.load(Ordering::Relaxed), 1, "the page was visible before its contents");
            }
            assert_eq!(cpu.join().expect("no panic"), Ok(POPULATED));
        });
    }
}

/// Contents that come from elsewhere, written without any order of their own.
struct Contents(Arc<AtomicU64>);

impl Pager for Contents {
    fn page_in(&self, _page: &BackendPage, _bytes: &mut [u8]) -> Result<(), BackendError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn page_out(&self, _page: &BackendPage, _bytes: &[u8]) -> Result<(), BackendError> {
        Ok(())
    }
}

#[test]
fn two_faults_on_a_page_of_a_pager_take_one_frame_and_its_contents() {
    explore(|| {
        let contents = Arc::new(AtomicU64::new(0));
        let features = Features { pa_bits: 48, ..Features::BASELINE };
        let format = Stage2::new(features, Some(39)).expect("in range");
        let pager = PagerBackend(Contents(Arc::clone(&contents)));
        let start = GuestPhysAddr::new(0);
        let space = AddrSpace::with_backend(Host::default(), format, start, 1 << 39, 0, pager);
        let mut space = space.expect("a root");
        space.map_paged(start, 0, 0, 4 * PAGE_SIZE, MappingFlags::READ).expect("memory");
        space.handle_page_fault(start, MappingFlags::READ).expect("memory");
        let (space, used) = (Arc::new(space), contents.load(Ordering::Relaxed));
        let frames = space.hal().in_use();
        let page = GuestPhysAddr::new(PAGE_SIZE);
        let other = Arc::clone(&space);
        let cpu = thread::spawn(move || other.handle_page_fault(page, MappingFlags::READ).expect("memory"));
        if space.translate(page).is_some() {
            assert!(contents.load(Ordering::Relaxed) > used, "the page was visible before its contents");
        }
        let outcomes = [
            space.handle_page_fault(page, MappingFlags::READ).expect("memory"),
            cpu.join().expect("no panic"),
        ];
        assert!(outcomes.contains(&POPULATED) && outcomes.contains(&FaultOutcome::Spurious));
        assert_eq!(space.hal().in_use(), frames + 1);
    });
}

#[test]
fn frames_kept_ready_are_taken_once() {
    explore(|| {
        let space = space();
        space.top_up(1).expect("memory");
        let space = Arc::new(space);
        let other = Arc::clone(&space);
        let cpu = thread::spawn(move || fault(&other, 1));
        let outcomes = [fault(&space, 2), cpu.join().expect("no panic")];
        assert_eq!(outcomes, [POPULATED; 2]);
        let stats = space.stats();
        let frames = stats.table.table_frames + stats.table.owned_frames;
        let kept = (stats.region_frames + stats.spare_frames) as u64;
        assert_eq!(frames + kept, space.hal().in_use() as u64, "every frame is known");
    });
}

#[test]
fn a_cpu_that_activates_beside_a_change_of_generations_is_not_mixed_up() {
    explore(|| {
        // Two bits: tags 1 to 3. All are given, so that a fourth space begins a generation.
        let pool = Arc::new(TagPool::new(Host::default(), 2, 2).expect("memory"));
        let tags: Arc<Vec<Tag>> = Arc::new((0..4).map(|_| Tag::new()).collect());
        for tag in &tags[..3] {
            let _ = pool.activate(0, tag).expect("CPU 0");
        }
        // CPU 1 runs space 0, and goes on to space 1 while CPU 0 goes to space 3.
        let _ = pool.activate(1, &tags[0]).expect("CPU 1");
        let (others, spaces) = (Arc::clone(&pool), Arc::clone(&tags));
        let cpu = thread::spawn(move || {
            let second = others.activate(1, &spaces[1]).expect("CPU 1");
            assert_eq!(spaces[1].number(), second.tag, "an invalidation finds the CPU");
            second
        });
        let first = pool.activate(0, &tags[3]).expect("CPU 0");
        let second = cpu.join().expect("no panic");
        assert!(first.flush, "all tags have new owners");
        assert_ne!(first.tag, second.tag, "two spaces that run now");
        // Tag 2 was space 1's. If it still is, CPU 1 may remember it; if space 1 has another, that was somebody else's.
        assert!(second.flush || second.tag == 2, "{second:?}");
    });
}

/// A hart enters a space whose other hart takes a page out; returns whether the hart that changes the table told the
/// other, and what that walked to.
fn change_beside_an_entry(enter: fn(&HartSet) -> bool, harts: fn(&HartSet) -> bool) {
    explore(move || {
        let set = Arc::new(HartSet::<1>::new());
        // An entry of the table, which hart 0 takes out.
        let table = Arc::new(AtomicU64::new(1));
        let (entering, walked) = (Arc::clone(&set), Arc::clone(&table));
        let hart = thread::spawn(move || {
            assert!(enter(&entering), "it was told of nothing until now");
            // The walk, in no order but that of the fence: HFENCE.GVMA comes right before it.
            walked.load(Ordering::Relaxed)
        });
        table.store(0, Ordering::Relaxed);
        let told = harts(&set);
        let seen = hart.join().expect("no panic");
        assert!(told || seen == 0, "a hart that was not told used the old entry");
    });
}

#[test]
fn a_hart_that_enters_is_told_or_sees_the_change() {
    let enter = |set: &HartSet| set.enter(1).expect("a hart of the set");
    let harts = |set: &HartSet| set.harts().any(|(first, bits)| first == 0 && bits == 1 << 1);
    change_beside_an_entry(enter, harts);
}

/// The same without the fences.
#[test]
#[should_panic(expected = "a hart that was not told used the old entry")]
fn a_hart_that_enters_without_a_fence_is_found() {
    let enter = |set: &HartSet| set.enter_unfenced(1).expect("a hart of the set");
    let harts = |set: &HartSet| set.harts_unfenced().any(|(_, bits)| bits == 1 << 1);
    change_beside_an_entry(enter, harts);
}

#[test]
fn a_hart_that_was_removed_and_enters_again_is_told_or_sees_the_change() {
    explore(|| {
        let set = Arc::new(HartSet::<1>::new());
        let table = Arc::new(AtomicU64::new(1));
        assert_eq!((set.enter(0), set.enter(1)), (Ok(true), Ok(true)));
        let (entering, walked) = (Arc::clone(&set), Arc::clone(&table));
        let hart = thread::spawn(move || {
            entering.remove(1).expect("a hart of the set");
            // It runs another space meanwhile, and remembers the old entry of this one: it may not use it.
            let drops = entering.enter(1).expect("a hart of the set");
            assert!(drops, "what it remembers may be old");
            walked.load(Ordering::Relaxed)
        });
        table.store(0, Ordering::Relaxed);
        let told: u64 = set.harts().map(|(_, bits)| bits).sum();
        let seen = hart.join().expect("no panic");
        assert_eq!(told & 1, 1, "the other one stays");
        assert!(told & 2 != 0 || seen == 0, "a hart that was not told used the old entry");
    });
}

#[test]
fn what_a_hart_did_before_it_was_removed_is_done_when_nobody_tells_it() {
    explore(|| {
        let set = Arc::new(HartSet::<1>::new());
        assert_eq!(set.enter(1), Ok(true));
        // A page of the guest's, in which hart 1 writes until it has left, and which is taken away.
        let page = Arc::new(UnsafeCell::new(0));
        let (leaving, written) = (Arc::clone(&set), Arc::clone(&page));
        let hart = thread::spawn(move || {
            // SAFETY: the other thread uses the page only once this one has left; loom would see otherwise.
            written.with_mut(|word| unsafe { *word = 1 });
            leaving.remove(1).expect("a hart of the set");
        });
        if set.harts().next().is_none() {
            // SAFETY: as above.
            page.with_mut(|word| unsafe { *word = 2 });
        }
        hart.join().expect("no panic");
    });
}

/// That loom finds what it is here for: an order that was left out.
#[test]
#[should_panic(expected = "visible before its contents")]
fn a_missing_order_is_found() {
    explore(|| {
        let (contents, entry) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (written, linked) = (Arc::clone(&contents), Arc::clone(&entry));
        let cpu = thread::spawn(move || {
            written.store(1, Ordering::Relaxed);
            linked.store(1, Ordering::Relaxed);
        });
        if entry.load(Ordering::Acquire) != 0 {
            assert_eq!(contents.load(Ordering::Relaxed), 1, "the page was visible before its contents");
        }
        cpu.join().expect("no panic");
    });
}
