use super::*;
use crate::cpus::Cpus;
use crate::guest::Content;
use crate::pool::Pool;
use crate::pool::tests::{Nothing, pool};
use crate::run::slice::tests::{Does, cpus, exhaust};
use crate::run::tests::{fault, job, write};
use crate::run::{Job, Outcome, Slice, Space};
use crate::store::Swap;
use crate::vcpu::{BufferCall, Exit};
use slat::MappingFlags;
use slat::format::ept::{Capabilities, Ept};
use slat::format::stage2::{Features, Stage2};
use slat_hv_protocol::pause::PATTERN;
use slat_hv_protocol::{End, Mistake};

const RAM: u64 = 0x4000_0000;
const PAGES: u64 = 1024;
/// Frames that are left for the pages and their tables.
const FRAMES: u64 = 256;
/// Scans for which a page is idle before it goes.
const SOON: u8 = 2;
/// So many that none ever goes.
const NEVER: u8 = 255;

type Guest<'a, F> = Machine<'a, &'a Pool<Nothing>, F>;

fn store(slots: usize, mistake: Mistake) -> Store {
    let bytes = PAGES as usize * 24 + slots * PAGE_SIZE as usize;
    Store::new(Vec::leak(std::vec![0; bytes]), 1, PAGES * PAGE_SIZE, mistake).expect("there is room")
}

/// A format without accessed and dirty marks, and one whose hardware sets them.
fn stage2() -> Stage2 {
    Stage2::new(Features { pa_bits: 48, ..Features::BASELINE }, Some(40)).expect("a valid width")
}

fn ept() -> Ept {
    let ept_vpid_cap = 1 << 6 | 1 << 14 | 1 << 16 | 1 << 20 | 1 << 21 | 1 << 25 | 1 << 26;
    let (physical_bits, mode_based_execute) = (48, false);
    let capabilities = Capabilities { ept_vpid_cap, physical_bits, mode_based_execute, accessed_dirty: true };
    Ept::new(capabilities, 4).expect("a format")
}

fn guest<'a, F: Format>(
    pool: &'a Pool<Nothing>,
    cpus: &'a Cpus,
    format: F,
    (store, idle_scans): (Option<&'a Store>, u8),
    content: Content<'a>,
) -> Guest<'a, F> {
    let swap = store.map_or(Swap::default(), |store| Swap::new(store, content.clone()));
    let size = 1 << format.geometry().gpa_bits.min(40);
    let space = crate::run::space(pool, format, size, 1, swap).expect("a root");
    let paging = store.map(|_| Paging { guest: 0, idle_scans });
    Machine::new(space, cpus, Job { content, paging, ..job() }).expect("regions")
}

/// What the guest writes to a page in one of its passes.
fn words(pass: u64, page: u64) -> Vec<u8> {
    std::format!("{PATTERN} {page} {pass}").into_bytes()
}

/// Runs a guest that in each of `passes` looks at each of its pages, which is to be what it wrote the last time, and writes something
/// else there; it finds the pages of the first pass as they were in the beginning. Slices end now and then. How it ended, and the pages that it found wrong.
fn work<F: Format>(machine: &Guest<'_, F>, passes: u64) -> (End, Vec<u64>) {
    let (mut step, mut exits, mut wrong) = (0, 0_u64, Vec::new());
    let mut does = Does::new(|| {
        exits += 1;
        if exits % 2 == 0 {
            return Exit::Preempted;
        }
        while step < passes * PAGES {
            let (pass, page) = (step / PAGES, step % PAGES);
            let gpa = GuestPhysAddr::new(RAM + page * PAGE_SIZE);
            let space = machine.space.read();
            let space = space.as_ref().expect("it runs");
            if space.translate(gpa).is_none() {
                return write(gpa.as_u64());
            }
            let wanted = words(pass, page);
            let mut found = std::vec![0; wanted.len()];
            space.read(gpa, &mut found).expect("it is there");
            if found != wanted {
                wrong.push(page);
            }
            space.write(gpa, &words(pass + 1, page)).expect("it is there");
            step += 1;
        }
        Exit::PowerOff
    });
    let end = loop {
        match machine.slice(0, &mut does, root_of) {
            Slice::Preempted => {}
            Slice::Ended(Some(end)) => break end,
            other => panic!("{other:?}"),
        }
    };
    drop(does);
    (end, wrong)
}

fn root_of<F: Format>(space: &Space<'_, &Pool<Nothing>, F>) -> Option<u64> {
    Some(space.root_register())
}

/// What is in the guest's pages before the first pass.
fn loaded() -> Vec<u8> {
    let mut bytes = std::vec![0; (PAGES * PAGE_SIZE) as usize];
    for page in 0..PAGES {
        let words = words(0, page);
        let at = (page * PAGE_SIZE) as usize;
        bytes[at..at + words.len()].copy_from_slice(&words);
    }
    bytes
}

/// Works with [`FRAMES`]; how it ended, what was wrong, and the outcome. All frames come back.
fn run<F: Format>(format: F, paging: (Option<&Store>, u8), passes: u64) -> (End, Vec<u64>, Outcome) {
    let (pool, cpus, loaded) = (pool(2048, true), cpus(1), loaded());
    let mut content = Content::default();
    content.add(RAM, &loaded);
    let machine = guest(&pool, &cpus, format, paging, content);
    let taken = exhaust(&pool, FRAMES);
    let (end, wrong) = work(&machine, passes);
    let outcome = machine.close_slices(end.clone()).expect("everybody is out");
    assert_eq!(pool.counts().taken, pool.counts().returned + taken, "frames are lost");
    (end, wrong, outcome)
}

fn goes_on<F: Format>(format: F, idle_scans: u8) -> PagingReport {
    let store = store(PAGES as usize, Mistake::None);
    let (end, wrong, outcome) = run(format, (Some(&store), idle_scans), 3);
    assert_eq!((end, wrong), (End::PowerOff, Vec::new()));
    let report = outcome.paging.expect("it was paged");
    assert!(report.evicted + report.idle > 2 * (PAGES - FRAMES), "{report:?}");
    assert!(
        report.scans > 10 && report.paged_in >= 2 * (PAGES - FRAMES) && report.refused == 0,
        "{report:?}"
    );
    assert!(report.store_peak <= PAGES && report.store_peak > PAGES / 2, "{report:?}");
    assert_eq!(outcome.faults.unanswered, 0);
    report
}

#[test]
fn a_guest_with_four_times_the_memory_of_the_pool_goes_on() {
    for report in [goes_on(stage2(), NEVER), goes_on(ept(), NEVER)] {
        assert!(report.evictions > 10 && report.idle == 0, "{report:?}");
    }
}

#[test]
fn idle_pages_go_before_there_is_need() {
    for report in [goes_on(stage2(), SOON), goes_on(ept(), SOON)] {
        assert!(report.idle > report.evicted, "{report:?}");
    }
}

/// Where no hardware tells what was written to all of it is copied; elsewhere what the guest has only read is not.
#[test]
fn what_was_not_written_to_is_not_copied_out_again() {
    let copies = |report: PagingReport| report.stored == report.evicted + report.idle;
    assert!(copies(goes_on(stage2(), NEVER)));
    let store = store(PAGES as usize, Mistake::None);
    let (pool, cpus, loaded) = (pool(2048, true), cpus(1), loaded());
    let mut content = Content::default();
    content.add(RAM, &loaded);
    let machine = guest(&pool, &cpus, ept(), (Some(&store), NEVER), content);
    let taken = exhaust(&pool, FRAMES);
    let mut page = 0;
    let mut reads = Does::new(|| {
        page += 1;
        if page > 2 * PAGES {
            Exit::PowerOff
        } else {
            fault(RAM + page % PAGES * PAGE_SIZE, MappingFlags::READ)
        }
    });
    assert_eq!(machine.slice(0, &mut reads, root_of), Slice::Ended(Some(End::PowerOff)));
    let report = machine.close_slices(End::PowerOff).expect("everybody is out").paging.expect("it was paged");
    assert!(report.evicted > PAGES && (report.stored, report.paged_in) == (0, 0), "{report:?}");
    assert_eq!(pool.counts().taken, pool.counts().returned + taken);
}

#[test]
fn without_paging_so_few_frames_are_the_end_of_it() {
    let (end, _, outcome) = run(stage2(), (None, 0), 1);
    assert!(matches!(end, End::OutOfMemory { .. }), "{end:?}");
    assert_eq!(outcome.paging, None);
}

#[test]
fn a_page_that_the_store_loses_is_found_wrong_by_the_guest() {
    let store = store(PAGES as usize, Mistake::LostPageOut);
    let (end, wrong, _) = run(stage2(), (Some(&store), SOON), 2);
    // In its place is what the guest began with.
    assert_eq!((end, wrong.len()), (End::PowerOff, 1));
}

#[test]
fn a_page_that_is_damaged_in_the_store_ends_the_guest_before_it_sees_it() {
    let store = store(PAGES as usize, Mistake::DamagedPageOut);
    let (end, wrong, _) = run(stage2(), (Some(&store), SOON), 2);
    let End::Unsupported { description } = end else { panic!("{end:?}") };
    let words = ["has no page", "1 pages in the store are not what was paged out", "GPA 0x40"];
    assert!(words.iter().all(|word| description.contains(word)) && wrong.is_empty(), "{description}");
}

#[test]
fn a_store_that_is_full_ends_a_guest_that_needs_more() {
    let store = store(100, Mistake::None);
    let (end, wrong, outcome) = run(stage2(), (Some(&store), SOON), 2);
    assert!(matches!(end, End::OutOfMemory { .. }) && wrong.is_empty(), "{end:?}");
    let report = outcome.paging.expect("it was paged");
    assert!(report.refused > 0 && report.store_peak == 100, "{report:?}");
}

#[test]
fn a_hypercall_about_a_buffer_makes_room_too() {
    let store = store(PAGES as usize, Mistake::None);
    let (pool, cpus, loaded) = (pool(2048, true), cpus(1), loaded());
    let mut content = Content::default();
    content.add(RAM, &loaded);
    let machine = guest(&pool, &cpus, stage2(), (Some(&store), NEVER), content);
    let taken = exhaust(&pool, 12);
    let call = |page: u64| {
        let length = words(0, page).len() as u64;
        Exit::Buffer(BufferCall::Print, GuestPhysAddr::new(RAM + page * PAGE_SIZE), length)
    };
    let mut calls = (0..40).chain(0..40).map(call);
    let mut does = Does::new(|| calls.next().unwrap_or(Exit::PowerOff));
    assert_eq!(machine.slice(0, &mut does, root_of), Slice::Ended(Some(End::PowerOff)));
    let outcome = machine.close_slices(End::PowerOff).expect("everybody is out");
    assert_eq!((outcome.buffer_calls.done, outcome.buffer_calls.refused), (80, 0));
    let twice: String =
        (0..40).chain(0..40).map(|page| String::from_utf8(words(0, page)).expect("a text")).collect();
    assert_eq!(outcome.buffer_calls.text, twice);
    assert!(outcome.paging.expect("it was paged").evictions > 1);
    assert_eq!(pool.counts().taken, pool.counts().returned + taken);
}

#[test]
fn idle_pages_are_taken_in_runs_and_no_more_than_wanted() {
    let page = |number: u64, pages: u64| {
        GuestPhysRange::new(GuestPhysAddr::new(number * PAGE_SIZE), pages * PAGE_SIZE).expect("a range")
    };
    let mut idle = Idle::default();
    for pages in [page(1, 1), page(2, 1), page(4, 1), page(5, 2), page(9, 1)] {
        idle.add(pages, 5);
    }
    assert_eq!((idle.runs, idle.pages), (std::vec![page(1, 2), page(4, 3)], 5));
    let mut many = Idle::default();
    (0..500).for_each(|number| many.add(page(2 * number, 1), u64::MAX));
    assert_eq!((many.runs.len(), many.pages), (RUNS_MAX, RUNS_MAX as u64));
    many.add(page(2 * RUNS_MAX as u64 - 1, 1), u64::MAX);
    assert_eq!(many.runs.len(), RUNS_MAX);
}

#[test]
fn a_scan_is_due_after_so_many_slices_or_exits() {
    let mut ageing = Ageing::new(16 * PAGE_SIZE, 2).expect("a few bytes");
    let due: Vec<_> = (1..=5 * SLICES).filter(|_| ageing.is_due(1, true)).collect();
    assert_eq!(due, [2 * SLICES, 4 * SLICES]);
    assert!(ageing.is_due(3 * EXITS, false) && !ageing.is_due(3 * EXITS + 1, false));
}
