use super::super::{Finding, Outcome, replay};
use crate::recording::Recording;
use slat_hv_protocol::recording::Event;
use slat_hv_protocol::{Mechanism, Span, Started};
use slat_model::Reach;

const POOL: u64 = 0x200_0000;
const LEVEL_2: u64 = POOL + 0x1000;
const LEVEL_1: u64 = POOL + 0x2000;
const LEVEL_0: u64 = POOL + 0x3000;
const PAGE_0: u64 = POOL + 0x4000;
const PAGE_1: u64 = POOL + 0x5000;
/// The root of another space.
const OTHER: u64 = POOL + 0x8000;

/// Intel with everything that INVEPT and INVVPID can do, and accessed and dirty flags.
const CAPABILITIES: u64 = 0x0f01_0633_41c1;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Vendor {
    Intel,
    Amd,
}
use Vendor::{Amd, Intel};

impl Vendor {
    fn register(self, root: u64) -> u64 {
        match self {
            Intel => root | 0x5e,
            Amd => root,
        }
    }

    /// What the hardware keeps flags in, has none set.
    fn table(self, hpa: u64) -> u64 {
        hpa | if self == Intel { 0x107 } else { 0x07 }
    }

    fn page(self, hpa: u64) -> u64 {
        hpa | if self == Intel { 0x37 } else { 0x07 }
    }

    fn load(self, root: u64, tag: u32) -> Vec<Event> {
        vec![Event::LoadTagged { root: self.register(root), tag }]
    }

    /// An entry before which everything of the space is dropped, as a CPU that owes it does.
    fn flush_and_enter(self) -> Vec<Event> {
        match self {
            Intel => vec![Event::Invept { kind: 1, eptp: self.register(POOL) }, Event::Enter],
            Amd => vec![Event::Vmrun { tlb_control: 3 }],
        }
    }

    fn enter(self) -> Vec<Event> {
        match self {
            Intel => vec![Event::Enter],
            Amd => vec![Event::Vmrun { tlb_control: 0 }],
        }
    }

    fn started(self) -> Started {
        Started {
            mechanism: if self == Intel { Mechanism::Ept } else { Mechanism::Npt },
            physical_bits: 40,
            ept_vpid_cap: CAPABILITIES,
            accessed_dirty: self == Intel,
            levels: 4,
            features: vec!["FlushByAsid".to_owned()],
            ..Started::default()
        }
    }

    /// Tables with page 0 at GPA 0; a CPU enters, faults for page 1 and gets it, and is outside again.
    fn start(self) -> Vec<Event> {
        [
            take(POOL, 6),
            vec![
                store(LEVEL_0, self.page(PAGE_0)),
                store(LEVEL_1, self.table(LEVEL_0)),
                store(LEVEL_2, self.table(LEVEL_1)),
                store(POOL, self.table(LEVEL_2)),
            ],
            self.load(POOL, 1),
            self.flush_and_enter(),
            vec![Event::Exit, Event::Fault { gpa: 0x1000, access: 2 }, store(LEVEL_0 + 8, self.page(PAGE_1))],
            self.enter(),
            vec![Event::Exit],
        ]
        .concat()
    }
}

fn store(entry: u64, value: u64) -> Event {
    Event::Store { entry, value }
}

fn take(start: u64, count: u64) -> Vec<Event> {
    vec![Event::Take { start, count }, Event::Zero { start, count }]
}

/// Page 0 is taken away and its frame given back; everybody who is inside has been kicked.
fn change() -> Vec<Event> {
    vec![
        store(LEVEL_0, 0),
        Event::Invalidate { root: 0 },
        Event::Invalidated,
        Event::Return { start: PAGE_0, count: 1 },
    ]
}

fn outcome_with(started: Started, cpus: u32, events: Vec<(usize, Event)>) -> anyhow::Result<Outcome> {
    let pool = Span { address: POOL, size: 1 << 20 };
    replay(&Recording::new(cpus, pool, started, events), |_| ())
}

fn on(vendor: Vendor, parts: &[(usize, Vec<Event>)]) -> Outcome {
    let events = parts.iter().flat_map(|(cpu, events)| events.iter().map(|event| (*cpu, *event)));
    outcome_with(vendor.started(), 2, events.collect()).expect("a recording that makes sense")
}

fn of(vendor: Vendor, parts: &[Vec<Event>]) -> Outcome {
    let parts: Vec<_> = parts.iter().map(|events| (0, events.clone())).collect();
    on(vendor, &parts)
}

/// Nothing but a stale page 0, of this CPU.
fn is_stale(outcome: &Outcome, cpu: usize) {
    let [(_, Finding::Stale(stale)), ..] = &outcome.findings[..] else { panic!("{outcome:?}") };
    assert_eq!((stale.cpu, stale.gpa, stale.cached.hpa), (cpu, 0, PAGE_0), "{outcome:?}");
}

#[test]
fn a_correct_run_has_nothing_to_find_and_is_counted() {
    for vendor in [Intel, Amd] {
        let found =
            of(vendor, &[vendor.start(), change(), vendor.flush_and_enter(), vec![Event::Exit], finish()]);
        assert_eq!(found.findings, [], "{vendor:?}");
        assert_eq!((found.stores, found.instructions, found.invalidations), (6, 2, 1));
        assert_eq!((found.entries, found.faults), (3, 1));
        assert_eq!((found.frames_taken, found.frames_returned), (6, 6));
        assert_eq!((found.found, found.checks), (0, 2), "the first entry, and the one after the change");
    }
}

/// The CPU has unloaded the space, and all other frames are given back.
fn finish() -> Vec<Event> {
    vec![
        Event::Unload,
        Event::Return { start: PAGE_1, count: 1 },
        Event::Return { start: LEVEL_2, count: 3 },
        Event::Return { start: POOL, count: 1 },
    ]
}

#[test]
fn an_invalidation_is_needed_if_nothing_else_would_do() {
    for vendor in [Intel, Amd] {
        let run = |change: Vec<Event>, enter: Vec<Event>| {
            let events = [vendor.start(), change, enter, vec![Event::Exit]].concat();
            let events: Vec<_> = events.into_iter().map(|event| (0, event)).collect();
            let pool = Span { address: POOL, size: 1 << 20 };
            let recording = Recording::new(1, pool, vendor.started(), events);
            let outcome = replay(&recording, |_| ()).expect("sense");
            assert_eq!(outcome.found, 0);
            for number in 0..recording.flushes() {
                let (left, _) = recording.without_flush(number).expect("there are so many");
                let found = replay(&left, |_| ()).expect("sense").found;
                assert_eq!(found > 0, outcome.needed.contains(&number), "{vendor:?}: {number}");
            }
            outcome.needed
        };
        // The very first one drops nothing.
        assert_eq!(run(change(), vendor.flush_and_enter()), [1]);
        assert_eq!(run(vec![], vendor.flush_and_enter()), [0; 0]);
        // A change that only adds something.
        assert_eq!(run(vec![store(LEVEL_0 + 16, vendor.page(PAGE_1))], vendor.flush_and_enter()), [0; 0]);
        let twice = match vendor {
            Intel => [vec![vendor.flush_and_enter()[0]], vendor.flush_and_enter()].concat(),
            Amd => [Amd.load(POOL, 2), Amd.flush_and_enter()].concat(),
        };
        assert_eq!(run(change(), twice), [0; 0]);
    }
    let other_asid = [Amd.load(POOL, 2), Amd.enter()].concat();
    let events = [Amd.start(), change(), other_asid].concat();
    assert_eq!(of(Amd, &[events]).needed, [1]);
}

#[test]
fn an_entry_without_what_is_owed_is_found() {
    for vendor in [Intel, Amd] {
        let found = of(vendor, &[vendor.start(), change(), vendor.enter()]);
        is_stale(&found, 0);
        // The frame is free, and reached.
        assert_eq!((found.stale, found.reachable, found.found), (1, 1, 2), "{found:?}");
        assert!(matches!(
            found.findings[1].1,
            Finding::Reachable { start: PAGE_0, cpu: 0, how: Reach::CachedLeaf { .. } }
        ));
        // Also if nobody has invalidated anything, and if the frame has a new owner meanwhile.
        is_stale(&of(vendor, &[vendor.start(), vec![store(LEVEL_0, 0)], vendor.enter()]), 0);
        is_stale(&of(vendor, &[vendor.start(), change(), take(PAGE_0, 1), vendor.enter()]), 0);
    }
}

#[test]
fn what_flushes_something_else_is_no_flush() {
    let eptp = Intel.register(POOL);
    for wrong in [
        Event::Invept { kind: 1, eptp: Intel.register(OTHER) },
        Event::Invvpid { kind: 0, vpid: 1, linear: 0 },
        Event::Invvpid { kind: 1, vpid: 1, linear: 0 },
        Event::Invvpid { kind: 2, vpid: 0, linear: 0 },
        Event::Invvpid { kind: 3, vpid: 1, linear: 0 },
    ] {
        let found = of(Intel, &[Intel.start(), change(), vec![wrong], Intel.enter()]);
        is_stale(&found, 0);
    }
    for right in [Event::Invept { kind: 1, eptp }, Event::Invept { kind: 2, eptp: 0 }] {
        assert_eq!(of(Intel, &[Intel.start(), change(), vec![right], Intel.enter()]).findings, []);
    }
    // Before the change.
    let early = vec![Event::Invept { kind: 1, eptp }];
    let found = of(Intel, &[Intel.start(), early, Intel.enter(), vec![Event::Exit], change(), Intel.enter()]);
    is_stale(&found, 0);
    for tlb_control in [1, 3, 7] {
        let right = vec![Event::Vmrun { tlb_control }];
        assert_eq!(of(Amd, &[Amd.start(), change(), right]).findings, []);
    }
}

#[test]
fn what_this_cpu_does_not_offer_is_a_violation_and_no_flush() {
    let found = |vendor: Vendor, started, event| {
        let events = [vendor.start(), change(), vec![event]].concat();
        let events = events.into_iter().chain(if vendor == Intel { Intel.enter() } else { vec![] });
        outcome_with(started, 1, events.map(|event| (0, event)).collect()).expect("sense")
    };
    let started = Started { features: vec![], ..Amd.started() };
    let without = found(Amd, started, Event::Vmrun { tlb_control: 3 });
    assert!(without.stale > 0, "{without:?}");
    assert!(without.findings.iter().any(|(_, finding)| matches!(finding, Finding::Report(_))), "{without:?}");
    let started = Started { ept_vpid_cap: CAPABILITIES & !(1 << 25), ..Intel.started() };
    let without = found(Intel, started, Event::Invept { kind: 1, eptp: Intel.register(POOL) });
    assert!(without.stale > 0, "{without:?}");
}

/// CPU 0 makes the change, CPU 1 is in the guest before.
fn with_second(vendor: Vendor, parts: &[(usize, Vec<Event>)]) -> Outcome {
    let second = [vendor.load(POOL, 1), vendor.flush_and_enter()].concat();
    on(vendor, &[&[(0, vendor.start()), (1, second)][..], parts].concat())
}

#[test]
fn a_cpu_that_is_inside_has_to_be_kicked_out() {
    for vendor in [Intel, Amd] {
        let left_out = with_second(vendor, &[(0, change())]);
        is_stale(&left_out, 1);
        assert_eq!((left_out.stale, left_out.reachable), (1, 1), "{left_out:?}");
        // Kicked, but not waited for: it goes after the frame has come back.
        let late = with_second(vendor, &[(0, change()), (1, vec![Event::Exit])]);
        assert_eq!((late.stale, late.reachable), (1, 1), "{late:?}");
        let kicked = |then: Vec<Event>| {
            let store = vec![change()[0]];
            let rest = change()[1..].to_vec();
            with_second(vendor, &[(0, store), (1, vec![Event::Exit]), (0, rest), (1, then)])
        };
        assert_eq!(kicked(vendor.flush_and_enter()).findings, []);
        is_stale(&kicked(vendor.enter()), 1);
        // Nothing was owed yet when it came back, and then it is inside.
        let back = |then: Vec<Event>| {
            let out_and_in = [vec![Event::Exit], vendor.enter()].concat();
            let rest = change()[1..].to_vec();
            with_second(
                vendor,
                &[
                    (0, vec![change()[0]]),
                    (1, out_and_in),
                    (1, then),
                    (0, rest),
                    (0, vendor.flush_and_enter()),
                ],
            )
        };
        is_stale(&back(vec![]), 1);
        assert_eq!(back(vec![Event::Exit]).findings, []);
    }
}

#[test]
fn what_a_cpu_outside_has_not_seen_it_need_not_drop() {
    for vendor in [Intel, Amd] {
        // It flushes, does not run the space, and the change comes after that.
        let store_and_undo = vec![store(LEVEL_0 + 16, vendor.page(PAGE_1)), store(LEVEL_0 + 16, 0)];
        assert_eq!(of(vendor, &[vendor.start(), store_and_undo, vendor.enter()]).findings, []);
    }
    let flush = vec![Event::Invept { kind: 1, eptp: Intel.register(POOL) }];
    assert_eq!(of(Intel, &[Intel.start(), flush, change(), Intel.enter()]).findings, []);
}

#[test]
fn a_table_that_went_back_is_not_walked() {
    for vendor in [Intel, Amd] {
        let change = vec![
            store(LEVEL_1, 0),
            Event::Invalidated,
            Event::Return { start: LEVEL_0, count: 1 },
            Event::Take { start: LEVEL_0, count: 1 },
            Event::Zero { start: LEVEL_0, count: 1 },
        ];
        assert_eq!(of(vendor, &[vendor.start(), change.clone(), vendor.flush_and_enter()]).findings, []);
        let found = of(vendor, &[vendor.start(), change, vendor.enter()]);
        let dangling = |finding: &Finding| {
            matches!(finding, Finding::Reachable { start: LEVEL_0, how: Reach::CachedTable { .. }, .. })
        };
        assert!(found.findings.iter().any(|(_, finding)| dangling(finding)), "{found:?}");
    }
}

/// Another space whose page 0 is page 1 of the pool.
/// Space after space in the same frames: what is left in them is neither mapped nor remembered.
#[test]
fn a_table_that_was_taken_again_is_empty() {
    for vendor in [Intel, Amd] {
        let again = |enter: Vec<Event>| {
            [
                vendor.start(),
                vec![Event::Return { start: POOL, count: 6 }, Event::Take { start: POOL, count: 6 }],
                vec![
                    store(LEVEL_0 + 16, vendor.page(PAGE_1)),
                    store(LEVEL_1, vendor.table(LEVEL_0)),
                    store(LEVEL_2, vendor.table(LEVEL_1)),
                    store(POOL, vendor.table(LEVEL_2)),
                ],
                vendor.load(POOL, 1),
                enter,
                vec![Event::Exit, Event::Fault { gpa: 0, access: 1 }],
            ]
            .concat()
            .into_iter()
            .map(|event| (0, event))
            .collect()
        };
        let outcome = |enter| outcome_with(vendor.started(), 1, again(enter)).expect("sense");
        let right = outcome(vendor.flush_and_enter());
        assert_eq!((right.found, right.faults, right.frames_taken), (0, 2, 12), "{right:?}");
        let wrong = outcome(vendor.enter());
        assert!(wrong.found > 0 && (wrong.stale > 0 || wrong.reachable > 0), "{vendor:?}: {wrong:?}");
        if vendor == Intel {
            assert_eq!(right.needed, [1], "the root was one of the frames");
        }
    }
}

fn other_space(vendor: Vendor, root: u64) -> Vec<Event> {
    let mut events = take(OTHER, 4);
    let tables = [root, OTHER + 0x1000, OTHER + 0x2000, OTHER + 0x3000];
    events.push(store(tables[3], vendor.page(PAGE_1)));
    for (above, below) in tables.iter().zip(&tables[1..]).rev() {
        events.push(store(*above, vendor.table(*below)));
    }
    events
}

#[test]
fn an_asid_of_another_space_needs_a_flush() {
    let switch = |tag, enter: Vec<Event>| [other_space(Amd, OTHER), Amd.load(OTHER, tag), enter].concat();
    is_stale(&of(Amd, &[Amd.start(), switch(1, Amd.enter())]), 0);
    assert_eq!(of(Amd, &[Amd.start(), switch(1, Amd.flush_and_enter())]).findings, []);
    assert_eq!(of(Amd, &[Amd.start(), switch(2, Amd.enter())]).findings, []);
    // What the first one owes it still owes when it comes back, also if the other one has flushed its own.
    let back = |enter: Vec<Event>| [vec![Event::Exit], change(), Amd.load(POOL, 1), enter].concat();
    is_stale(&of(Amd, &[Amd.start(), switch(2, Amd.flush_and_enter()), back(Amd.enter())]), 0);
    let found = of(Amd, &[Amd.start(), switch(2, Amd.enter()), back(Amd.flush_and_enter())]);
    assert_eq!(found.findings, []);
    let found = of(Amd, &[Amd.start(), switch(2, vec![Event::Vmrun { tlb_control: 1 }]), back(vec![])]);
    assert_eq!(found.findings, []);
}

#[test]
fn a_tag_is_forgotten_only_if_it_is_not_used_again_before_a_flush() {
    let load = |tag| Event::LoadTagged { root: POOL, tag };
    let [everything, nothing] = [1, 0].map(|tlb_control| Event::Vmrun { tlb_control });
    let events = [
        load(1),
        everything,
        load(2),
        nothing,
        load(1),
        nothing,
        load(3),
        nothing,
        load(1),
        everything,
        load(2),
    ];
    let recording = |started| {
        let pool = Span { address: POOL, size: 1 << 20 };
        let of_two = |event: &Event| [(0, *event), (1, Event::Vmrun { tlb_control: 1 })];
        Recording::new(2, pool, started, events.iter().flat_map(of_two).collect())
    };
    let found = super::last_uses(&recording(Amd.started()));
    // Tag 1 is entered again, and then only by the very entry that drops everything; 2 after that; 3 never.
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [2 * 4, 2 * 6, 2 * 8, 2 * 10]);
    assert!(super::last_uses(&recording(Intel.started())).is_empty());
}

#[test]
fn a_root_at_the_place_of_an_older_one_needs_an_invept() {
    let again = |enter: Vec<Event>| {
        [
            vec![Event::Unload, Event::Return { start: POOL, count: 5 }],
            take(POOL, 1),
            other_space(Intel, POOL),
            Intel.load(POOL, 2),
            enter,
        ]
        .concat()
    };
    let found = of(Intel, &[Intel.start(), again(Intel.enter())]);
    is_stale(&found, 0);
    assert!(found.reachable > 0);
    assert_eq!(of(Intel, &[Intel.start(), again(Intel.flush_and_enter())]).findings, []);
    // Even if nobody has said that the first one is not loaded any more.
    let silent = |enter| again(enter)[1..].to_vec();
    assert!(of(Intel, &[Intel.start(), silent(Intel.enter())]).found > 0);
}

#[test]
fn a_root_that_the_cpu_refuses_is_found() {
    let found = of(Intel, &[vec![Event::LoadTagged { root: POOL, tag: 1 }]]);
    assert!(matches!(found.findings[..], [(_, Finding::Root(_))]), "{found:?}");
    let found = of(Intel, &[vec![Event::LoadTagged { root: Intel.register(POOL), tag: 1 << 16 }]]);
    assert!(matches!(found.findings[..], [(_, Finding::Root(_))]), "{found:?}");
    let found = of(Amd, &[vec![Event::LoadTagged { root: POOL, tag: 0 }]]);
    assert!(matches!(found.findings[..], [(_, Finding::Root(_))]), "{found:?}");
}

#[test]
fn a_fault_of_a_mapped_page_is_unexplained() {
    for vendor in [Intel, Amd] {
        let fault = Event::Fault { gpa: 0x10, access: 4 };
        let hole = Event::Fault { gpa: 0x2000, access: 0x101 };
        let events = [vendor.start(), vec![fault, hole, Event::Logged { gpa: 0 }]].concat();
        let events = events.into_iter().map(|event| (0, event)).collect();
        let found = outcome_with(vendor.started(), 1, events).expect("sense");
        assert_eq!(found.logged, 1);
        assert!(matches!(found.findings[..], [(_, Finding::Unexplained { cpu: 0, gpa: 0x10 })]), "{found:?}");
    }
}

#[test]
fn what_makes_no_sense_is_an_error() {
    for vendor in [Intel, Amd] {
        let complaint = |events: Vec<Event>| {
            let events = events.into_iter().map(|event| (0, event)).collect();
            format!("{:#}", outcome_with(vendor.started(), 1, events).expect_err("nonsense"))
        };
        let inside = || [vendor.start(), vendor.enter()].concat();
        for event in [
            vendor.enter()[0],
            vendor.load(POOL, 1)[0],
            Event::Unload,
            Event::Invept { kind: 2, eptp: 0 },
            Event::Invvpid { kind: 2, vpid: 0, linear: 0 },
        ] {
            assert!(complaint([inside(), vec![event]].concat()).contains("is inside"), "{event:?}");
        }
        assert!(complaint([vendor.start(), vec![Event::Exit]].concat()).contains("not inside"));
        assert!(complaint(vendor.enter()).contains("no root"));
        assert!(complaint(vec![Event::Load { root: 0 }]).contains("another architecture"));
        let other = if vendor == Intel { Amd } else { Intel };
        assert!(complaint([vendor.start(), other.enter()].concat()).contains("on "), "{vendor:?}");
    }
}

#[test]
fn a_frame_that_came_back_and_is_still_mapped_is_found() {
    // By a page, by a pointer to a table, and by the frames of a large leaf.
    for vendor in [Intel, Amd] {
        let back = |start, count| vec![Event::Return { start, count }];
        for frame in [PAGE_1, LEVEL_0] {
            let found = of(vendor, &[vendor.start(), back(frame, 1), vendor.enter()]);
            assert!(
                matches!(found.findings[..], [(_, Finding::Reachable { how: Reach::Walk { .. }, .. })]),
                "{found:?}"
            );
        }
        let large = POOL + (2 << 20);
        let map = [
            take(large, 512),
            vec![store(LEVEL_1 + 8, vendor.page(large) | 0x80 | u64::from(vendor == Amd) << 12)],
        ];
        let events = [vendor.start(), map.concat(), back(large + 0x5000, 1), vendor.enter()].concat();
        let pool = Span { address: POOL, size: 4 << 20 };
        let events = events.into_iter().map(|event| (0, event)).collect();
        let found = replay(&Recording::new(1, pool, vendor.started(), events), |_| ()).expect("sense");
        assert!(
            matches!(
                found.findings[..],
                [(_, Finding::Reachable { how: Reach::Walk { gpa: 0x20_0000, .. }, .. })]
            ),
            "{vendor:?}: {found:?}"
        );
    }
}
