use super::*;
use Operation::{DsbIsh, DsbIshst, Ipas2e1, Ipas2e1is, Isb, Vmalle1, Vmalle1is, Vmalls12e1is};
use slat_hv_protocol::recording::Operation;
use slat_hv_protocol::{Span, Started};

const POOL: u64 = 0x4400_0000;
const LEVEL_1: u64 = POOL + 0x2000;
const LEVEL_0: u64 = POOL + 0x3000;
const PAGE_0: u64 = POOL + 0x4000;
const PAGE_1: u64 = POOL + 0x5000;
/// VMID 1, two concatenated root tables.
const ROOT: u64 = 1 << 48 | POOL;
/// A page for everything, write-back.
const LEAF: u64 = 0x7ff;

fn do_it(operation: Operation, operand: u64) -> Event {
    Event::Maintenance { operation, operand }
}

fn store(entry: u64, value: u64) -> Event {
    Event::Store { entry, value }
}

fn publish() -> Vec<Event> {
    vec![do_it(DsbIshst, 0), do_it(Isb, 0)]
}

fn take(start: u64, count: u64) -> Vec<Event> {
    vec![Event::Take { start, count }, Event::Zero { start, count }, Event::Clean { start, count }]
}

/// Tables and page 0, mapped at GPA 0; a CPU in the guest, which then faults for page 1 and gets it.
fn start() -> Vec<Event> {
    [
        take(POOL, 2),
        take(LEVEL_1, 1),
        take(LEVEL_0, 1),
        take(PAGE_0, 2),
        vec![store(LEVEL_0, PAGE_0 | LEAF), store(LEVEL_1, LEVEL_0 | 3), store(POOL, LEVEL_1 | 3)],
        publish(),
        vec![Event::Load { root: ROOT }, do_it(Isb, 0), Event::Enter],
        vec![Event::Fault { gpa: 0x1000, access: 2 }, store(LEVEL_0 + 8, PAGE_1 | LEAF)],
        publish(),
        vec![Event::Enter],
    ]
    .concat()
}

/// The sequence for the page at GPA 0.
fn invalidate_page() -> Vec<Event> {
    vec![
        Event::Invalidate { root: ROOT },
        do_it(DsbIshst, 0),
        do_it(Ipas2e1is, 0),
        do_it(DsbIsh, 0),
        do_it(Vmalle1is, 0),
        do_it(DsbIsh, 0),
        do_it(Isb, 0),
        Event::Invalidated,
    ]
}

/// Page 0 is taken away and its frame given back.
fn change() -> Vec<Event> {
    [
        vec![store(LEVEL_0, 0)],
        invalidate_page(),
        vec![Event::Return { start: PAGE_0, count: 1 }, Event::Enter],
    ]
    .concat()
}

/// The CPU leaves, and everything is given back.
fn finish() -> Vec<Event> {
    vec![
        Event::Unload,
        Event::Invalidate { root: ROOT },
        do_it(DsbIshst, 0),
        do_it(Vmalls12e1is, 0),
        do_it(DsbIsh, 0),
        do_it(Isb, 0),
        Event::Invalidated,
        Event::Return { start: POOL, count: 4 },
        Event::Return { start: PAGE_1, count: 1 },
    ]
}

fn outcome(cpus: u32, events: Vec<(usize, Event)>) -> Outcome {
    let started = Started { vtcr: 1 << 31 | 5 << 16 | 1 << 6 | 24, ..Started::default() };
    let pool = Span { address: POOL, size: 1 << 20 };
    replay(&Recording::new(cpus, pool, started, events), |_| ()).expect("a recording that makes sense")
}

fn of(parts: &[Vec<Event>]) -> Outcome {
    outcome(1, parts.concat().into_iter().map(|event| (0, event)).collect())
}

fn without(events: Vec<Event>, left_out: &[Operation]) -> Vec<Event> {
    let stays = |event: &Event| !matches!(event, Event::Maintenance { operation, .. } if left_out.contains(operation));
    events.into_iter().filter(stays).collect()
}

#[test]
fn a_correct_run_has_nothing_to_find_and_is_counted() {
    let found = of(&[start(), change(), finish()]);
    assert_eq!(found.findings, []);
    assert_eq!((found.stores, found.instructions, found.invalidations), (5, 15, 2));
    assert_eq!((found.entries, found.faults), (3, 1));
    assert_eq!((found.frames_taken, found.frames_returned), (6, 6));
    // After each store that was followed by an entry, and after each sequence.
    assert_eq!((found.checks, found.found), (5, 0));
}

#[test]
fn what_is_left_out_of_a_sequence_leaves_something_stale() {
    for left_out in [&[Ipas2e1is][..], &[Vmalle1is], &[Ipas2e1is, Vmalle1is], &[DsbIshst], &[DsbIsh]] {
        let found = of(&[start(), without(change(), left_out)]);
        assert!(found.stale > 0 && found.reachable == 1, "{left_out:?}: {found:?}");
        let [(_, Finding::Stale(stale)), (_, Finding::Reachable { start, .. }), ..] = &found.findings[..]
        else {
            panic!("{left_out:?}: {found:?}");
        };
        assert_eq!((stale.gpa, stale.cached.hpa, *start), (0, PAGE_0, PAGE_0));
    }
    // None at all: then the next entry finds it.
    let found = of(&[start(), vec![store(LEVEL_0, 0), Event::Enter]]);
    assert_eq!(found.stale, 1);
    assert!(found.findings[0].1.to_string().contains("may still use GPA 0x0"), "{}", found.findings[0].1);
}

#[test]
fn local_maintenance_is_found_only_with_another_cpu() {
    let local = |event: Event| match event {
        Event::Maintenance { operation: Ipas2e1is, operand } => do_it(Ipas2e1, operand),
        Event::Maintenance { operation: Vmalle1is, operand } => do_it(Vmalle1, operand),
        other => other,
    };
    let events = || [start(), change().into_iter().map(local).collect()].concat().into_iter();
    assert_eq!(outcome(1, events().map(|event| (0, event)).collect()).findings, []);
    let second = [Event::Load { root: ROOT }, do_it(Isb, 0), Event::Enter].map(|event| (1, event));
    let after = start().len();
    let mut both: Vec<_> = events().map(|event| (0, event)).collect();
    both.splice(after..after, second);
    let found = outcome(2, both.clone());
    assert!(found.stale == 1 && found.reachable == 1, "{found:?}");
    // With the other one out of the guest, it is found when that comes back.
    both.insert(after + 3, (1, Event::Unload));
    let found = outcome(2, both.clone());
    assert!(found.stale == 0 && found.reachable == 1, "{found:?}");
    both.extend([Event::Load { root: ROOT }, do_it(Isb, 0), Event::Enter].map(|event| (1, event)));
    assert_eq!(outcome(2, both).stale, 1);
}

#[test]
fn a_table_is_made_without_a_break() {
    let other = vec![store(LEVEL_0, PAGE_1 | LEAF)];
    let found = of(&[start(), other, invalidate_page()]);
    assert!(
        matches!(found.findings[..], [(_, Finding::Report(Report::BreakBeforeMake { .. }))]),
        "{found:?}"
    );
}

#[test]
fn memory_that_was_not_cleaned_is_found() {
    let dirty =
        start().into_iter().filter(|event| !matches!(event, Event::Clean { start: PAGE_0, .. })).collect();
    let found = of(&[dirty]);
    assert!(matches!(found.findings[0], (_, Finding::Report(Report::NotCleaned { .. }))), "{found:?}");
}

#[test]
fn a_fault_of_a_mapped_page_is_unexplained() {
    let fault = |gpa, access| vec![Event::Fault { gpa, access }];
    let found = of(&[start(), fault(0x10, 1), fault(0x10, 2), fault(0x10, 4), fault(0x2000, 0x101)]);
    let unexplained = Finding::Unexplained { cpu: 0, gpa: 0x10 };
    assert_eq!(found.findings.iter().map(|(_, finding)| finding).collect::<Vec<_>>(), [&unexplained; 3]);
}

#[test]
fn frames_are_taken_and_given_back_once() {
    let again = vec![Event::Take { start: PAGE_1, count: 1 }];
    let back = vec![Event::Return { start: PAGE_0, count: 1 }];
    assert_eq!(of(&[start(), again, change(), back]).found, 2);
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let refused = |event: Event| {
        let started = Started { vtcr: 1 << 31 | 5 << 16 | 1 << 6 | 24, ..Started::default() };
        let pool = Span { address: POOL, size: 1 << 20 };
        let recording = Recording::new(1, pool, started, vec![(0, event)]);
        format!("{:#}", replay(&recording, |_| ()).expect_err("nonsense"))
    };
    assert!(refused(store(0, 0)).contains("event 0"));
    for start in [0, POOL + 1, POOL + (1 << 20), u64::MAX] {
        assert!(refused(Event::Take { start, count: 1 }).contains("outside of the pool"));
    }
    assert!(refused(Event::Zero { start: POOL, count: u64::MAX }).contains("outside of the pool"));
    assert!(refused(Event::Clean { start: POOL, count: 257 }).contains("outside of the pool"));
    assert!(refused(Event::Return { start: POOL, count: 257 }).contains("outside of the pool"));
    assert!(refused(Event::Vmrun { tlb_control: 0 }).contains("another architecture"));
}
