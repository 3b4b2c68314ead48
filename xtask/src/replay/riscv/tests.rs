use super::super::{Finding, Outcome, replay};
use crate::recording::Recording;
use slat_hv_protocol::recording::{Event, FenceKind, Operation};
use slat_hv_protocol::{Mechanism, Span, Started};
use slat_model::Reach;

const POOL: u64 = 0x8400_0000;

/// A guest of the tests: its VMID, and the first frame of those that it has.
#[derive(Clone, Copy)]
struct Guest {
    vmid: u16,
    root: u64,
}

const A: Guest = Guest { vmid: 1, root: POOL };
const B: Guest = Guest { vmid: 2, root: POOL + 0x1_0000 };

/// Frames of a guest: four of the root, two tables, two pages.
const FRAMES: u64 = 8;

impl Guest {
    fn level_1(self) -> u64 {
        self.root + 0x4000
    }

    fn level_0(self) -> u64 {
        self.root + 0x5000
    }

    fn page(self, number: u64) -> u64 {
        self.root + 0x6000 + 0x1000 * number
    }

    fn hgatp(self) -> u64 {
        8 << 60 | u64::from(self.vmid) << 44 | self.root >> 12
    }

    fn load(self) -> Vec<Event> {
        vec![Event::Load { root: self.hgatp() }]
    }

    /// Its tables with page 0 at GPA 0.
    fn make(self) -> Vec<Event> {
        vec![
            Event::Take { start: self.root, count: FRAMES },
            Event::Zero { start: self.root, count: FRAMES },
            store(self.level_0(), leaf(self.page(0))),
            store(self.level_1(), table(self.level_0())),
            store(self.root, table(self.level_1())),
        ]
    }

    /// A hart takes it up under a VMID under which it may remember anything, runs it, and answers a fault for page 1.
    fn start(self) -> Vec<Event> {
        [
            self.load(),
            self.local_all(),
            run(),
            vec![Event::Fault { gpa: 0x1000, access: 2 }, store(self.level_0() + 8, leaf(self.page(1)))],
            run(),
        ]
        .concat()
    }

    /// A sequence of `fences`.
    fn invalidate(self, fences: &[Vec<Event>]) -> Vec<Event> {
        [vec![Event::Invalidate { root: self.hgatp() }], fences.concat(), vec![Event::Invalidated]].concat()
    }

    fn local(self, gpa: u64) -> Vec<Event> {
        fence(Some(gpa), Some(self.vmid))
    }

    fn local_all(self) -> Vec<Event> {
        fence(None, Some(self.vmid))
    }

    fn remote(self, start: u64, size: u64) -> Vec<Event> {
        vec![Event::RemoteFence { harts: 0b10, vmid: Some(self.vmid), start, size }]
    }

    /// Page 0 is taken away, with these fences, and its frame given back.
    fn take_page(self, fences: &[Vec<Event>]) -> Vec<Event> {
        [
            vec![store(self.level_0(), 0)],
            self.invalidate(fences),
            vec![Event::Return { start: self.page(0), count: 1 }],
        ]
        .concat()
    }

    /// The last table is taken away, with these fences, and given back with the pages that it mapped.
    fn take_table(self, fences: &[Vec<Event>]) -> Vec<Event> {
        [
            vec![store(self.level_1(), 0)],
            self.invalidate(fences),
            vec![Event::Return { start: self.level_0(), count: 3 }],
        ]
        .concat()
    }

    /// Everything is given back, after these fences.
    fn destroy(self, fences: &[Vec<Event>]) -> Vec<Event> {
        [self.invalidate(fences), vec![Event::Return { start: self.root, count: FRAMES }]].concat()
    }
}

fn table(hpa: u64) -> u64 {
    hpa >> 2 | 1
}

/// For everything, accessed and dirty as hardware leaves them.
fn leaf(hpa: u64) -> u64 {
    hpa >> 2 | 0x1f
}

fn store(entry: u64, value: u64) -> Event {
    Event::Store { entry, value }
}

fn run() -> Vec<Event> {
    vec![Event::Enter, Event::Exit]
}

fn fence(gpa: Option<u64>, vmid: Option<u16>) -> Vec<Event> {
    vec![Event::Fence { kind: FenceKind::HfenceGvma, address: gpa.map(|gpa| gpa >> 2), vmid }]
}

fn recording(harts: u32, parts: &[(usize, Vec<Event>)]) -> Recording {
    let started = Started { mechanism: Mechanism::Gstage, levels: 3, ..Started::default() };
    let pool = Span { address: POOL, size: 1 << 20 };
    let events = parts.iter().flat_map(|(hart, events)| events.iter().map(|event| (*hart, *event)));
    Recording::new(harts, pool, started, events.collect())
}

fn on(harts: u32, parts: &[(usize, Vec<Event>)]) -> Outcome {
    replay(&recording(harts, parts), |_| ()).expect("a recording that makes sense")
}

fn of(parts: &[Vec<Event>]) -> Outcome {
    let parts: Vec<_> = parts.iter().map(|events| (0, events.clone())).collect();
    on(1, &parts)
}

/// Nothing but a stale page 0 of guest A, of this hart.
fn is_stale(outcome: &Outcome, hart: usize) {
    let [(_, Finding::Stale(stale)), ..] = &outcome.findings[..] else { panic!("{outcome:?}") };
    assert_eq!((stale.cpu, stale.gpa, stale.cached.hpa), (hart, 0, A.page(0)), "{outcome:?}");
}

fn is_clean(outcome: &Outcome) {
    assert_eq!(outcome.findings, []);
}

#[test]
fn a_correct_run_has_nothing_to_find_and_is_counted() {
    let end = [vec![Event::Unload], A.invalidate(&[A.local_all()])].concat();
    let back = [(A.root, 6), (A.page(1), 1)].map(|(start, count)| Event::Return { start, count }).to_vec();
    let found = of(&[A.make(), A.start(), A.take_page(&[A.local(0)]), run(), end, back]);
    is_clean(&found);
    assert_eq!((found.stores, found.instructions, found.invalidations), (5, 3, 2));
    assert_eq!((found.entries, found.faults), (3, 1));
    assert_eq!((found.frames_taken, found.frames_returned), (FRAMES, FRAMES));
    assert!(found.checks > 1, "{found:?}");
    // The first fence drops nothing, and at the last one nothing is in hgatp.
    assert_eq!(found.needed, [1]);
}

#[test]
fn a_fence_that_is_left_out_is_found() {
    let whole = recording(1, &[(0, [A.make(), A.start(), A.take_page(&[A.local(0)]), run()].concat())]);
    assert_eq!(whole.flushes(), 2);
    let outcome = |number| {
        let (left, _) = whole.without_flush(number).expect("there are so many");
        replay(&left, |_| ()).expect("a recording that makes sense")
    };
    // What the first fence is for did not happen before.
    is_clean(&outcome(0));
    is_stale(&outcome(1), 0);
    assert_eq!(outcome(1).reachable, 1);
}

#[test]
fn a_fence_of_something_else_does_not_help() {
    let fences = [
        A.local(0x1000),
        B.local(0),
        B.local_all(),
        // Not shifted.
        vec![Event::Fence { kind: FenceKind::HfenceGvma, address: Some(0x4000_0000), vmid: Some(1) }],
    ];
    for fence in fences {
        is_stale(&of(&[A.make(), A.start(), A.take_page(&[fence])]), 0);
    }
    for fence in [A.local(0), A.local_all(), fence(Some(0), None), fence(None, None)] {
        is_clean(&of(&[A.make(), A.start(), A.take_page(&[fence])]));
    }
}

#[test]
fn an_address_does_not_retire_a_table() {
    let by_address = [A.local(0), A.local(0x1000)];
    let found = of(&[A.make(), A.start(), A.take_table(&by_address)]);
    is_stale(&found, 0);
    assert!(found.reachable > 0, "{found:?}");
    is_clean(&of(&[A.make(), A.start(), A.take_table(&[A.local_all()])]));
    // The other way round: a table in the place of a large leaf is a new leaf entry's matter.
    is_clean(&of(&[A.make(), A.start(), A.take_table(&[by_address.concat(), A.local_all()])]));
}

#[test]
fn another_hart_is_reached_by_the_firmware_only() {
    let both = |fences: &[Vec<Event>]| {
        on(
            2,
            &[
                (0, A.make()),
                (0, A.start()),
                (1, A.start()),
                (0, A.take_page(fences)),
                (0, run()),
                (1, run()),
            ],
        )
    };
    is_stale(&both(&[A.local(0)]), 1);
    is_stale(&both(&[A.local_all(), fence(None, None)]), 1);
    is_stale(&both(&[A.remote(0, 0x1000)]), 0);
    is_stale(&both(&[A.local(0), B.remote(0, 0x1000)]), 1);
    is_stale(&both(&[A.local(0), A.remote(0x1000, 0x1000)]), 1);
    // Shifted, which is for the instruction.
    is_stale(&both(&[A.local(0), A.remote(0x40_0000 >> 2, 0x1000)]), 1);
    for (start, size) in [(0, 0x1000), (0, 0), (0x5000, u64::MAX), (0, 0x3000)] {
        is_clean(&both(&[A.local(0), A.remote(start, size)]));
    }
    let found = both(&[A.local(0), A.remote(0, 0x1000)]);
    // The fences of the two starts, and then these: each of the last two is missed.
    assert_eq!((found.instructions, found.needed), (4, vec![2, 3]));
}

#[test]
fn a_remote_fence_by_address_does_not_retire_a_table() {
    let both = |remote: Vec<Event>| {
        let parts =
            [(0, A.make()), (0, A.start()), (1, A.start()), (0, A.take_table(&[A.local_all(), remote]))];
        on(2, &parts)
    };
    is_stale(&both(A.remote(0, 0x20_0000)), 1);
    is_clean(&both(A.remote(0, 0)));
}

#[test]
fn a_hart_that_runs_another_guest_remembers_the_first_one() {
    let guests = || [A.make(), B.make(), A.start(), B.start()].concat();
    let again = || [A.load(), run()].concat();
    // A loses its page while the hart runs B.
    is_clean(&of(&[guests(), A.take_page(&[A.local(0)]), again()]));
    let late = of(&[guests(), A.take_page(&[]), run(), again()]);
    is_stale(&late, 0);
    // And not while it runs B, though the frame has come back: B's VMID does not lead there.
    let place = late.findings[0].0;
    assert!(place > guests().len() + A.take_page(&[]).len() + run().len(), "{late:?}");
    // A hart that comes back may fence at its entry.
    is_clean(&of(&[guests(), A.take_page(&[]), A.load(), A.local_all(), run()]));
    is_stale(&of(&[guests(), A.take_page(&[]), A.load(), B.local_all(), run()]), 0);
    // What B loses does not concern A.
    is_clean(&of(&[guests(), B.take_page(&[B.local(0)]), run(), again()]));
}

#[test]
fn two_harts_with_two_guests_each_fence_what_they_ran() {
    // Hart 1 ran A and runs B now.
    let parts = |fences: &[Vec<Event>]| {
        vec![
            (0, [A.make(), B.make(), A.start()].concat()),
            (1, [A.start(), B.start()].concat()),
            (0, A.take_page(fences)),
            (1, [run(), A.load(), run()].concat()),
        ]
    };
    is_clean(&on(2, &parts(&[A.local(0), A.remote(0, 0x1000)])));
    is_stale(&on(2, &parts(&[A.local(0)])), 1);
}

#[test]
fn a_vmid_with_a_new_owner_is_fenced_first() {
    // A is gone, and its VMID goes to a guest in other frames.
    let heir = Guest { vmid: A.vmid, ..B };
    let first = || [A.make(), A.start(), vec![Event::Unload]].concat();
    let second = |fences: Vec<Event>| [heir.make(), heir.load(), fences, run()].concat();
    let all_back = || vec![Event::Return { start: A.root, count: FRAMES }];
    // When A goes, or when the heir comes.
    is_clean(&of(&[first(), A.destroy(&[A.local_all()]), second(vec![])]));
    is_clean(&of(&[first(), all_back(), second(fence(None, None))]));
    let found = of(&[first(), all_back(), second(vec![])]);
    is_stale(&found, 0);
    assert!(found.reachable > 0, "{found:?}");
    // One page is not everything.
    let found = of(&[first(), all_back(), second(A.local(0))]);
    let [(_, Finding::Stale(stale)), ..] = &found.findings[..] else { panic!("{found:?}") };
    assert_eq!((stale.gpa, stale.cached.hpa), (0, A.page(0)), "by a pointer that is still there");
}

#[test]
fn tags_roll_over() {
    // Two VMIDs for three guests: A and B have them, then a new generation begins, in which the third has that of A, and A that of B.
    let third = Guest { vmid: 1, root: POOL + 0x2_0000 };
    let later = Guest { vmid: 2, ..A };
    let start = || [A.make(), B.make(), third.make(), A.start(), B.start()].concat();
    let all = || fence(None, None);
    // B keeps its page, A loses one under its new VMID.
    let rest = |a: Vec<Event>, b: Vec<Event>| {
        [third.load(), a, run(), later.load(), b, run(), later.take_page(&[later.local(0)]), run()].concat()
    };
    // A hart drops everything when it enters the first guest of the generation.
    is_clean(&of(&[start(), rest(all(), vec![])]));
    let found = of(&[start(), rest(vec![], vec![])]);
    assert!(found.stale > 0, "{found:?}");
    let found = of(&[start(), rest(vec![], all())]);
    let [(_, Finding::Stale(stale)), ..] = &found.findings[..] else { panic!("{found:?}") };
    assert_eq!(stale.cached.hpa, A.page(0), "what the third one finds under its VMID");
    // The other hart, which has them all from before, has to do so too.
    let two = |fences: Vec<Event>| {
        on(
            2,
            &[
                (1, [A.make(), B.make(), third.make(), A.start(), B.start()].concat()),
                (0, [third.load(), all(), run()].concat()),
                (1, [third.load(), fences, run()].concat()),
            ],
        )
    };
    is_clean(&two(all()));
    assert!(two(third.local(0)).stale > 0);
}

#[test]
fn a_table_that_was_given_back_may_be_anything_by_now() {
    // Without fences, and the frame of the table serves B: A's hart walks B's data.
    let reused = [Event::Take { start: A.level_0(), count: 1 }, Event::Zero { start: A.level_0(), count: 1 }];
    let found =
        of(&[A.make(), B.make(), A.start(), B.start(), A.take_table(&[]), reused.to_vec(), A.load(), run()]);
    is_stale(&found, 0);
    let dangling = |finding: &Finding| matches!(finding, Finding::Reachable { start, how: Reach::CachedTable { .. }, .. } if *start == A.level_0());
    assert!(found.findings.iter().any(|(_, finding)| dangling(finding)), "{found:?}");
}

#[test]
fn hinval_needs_its_fences() {
    let inval = vec![Event::Fence { kind: FenceKind::HinvalGvma, address: Some(0), vmid: Some(1) }];
    let around = |operation| vec![Event::Maintenance { operation, operand: 0 }];
    let (before, after) = (around(Operation::SfenceWInval), around(Operation::SfenceInvalIr));
    is_clean(&of(&[A.make(), A.start(), A.take_page(&[before.clone(), inval.clone(), after.clone()])]));
    for fences in [[before.clone(), inval.clone()], [inval, after.clone()], [before, after]] {
        is_stale(&of(&[A.make(), A.start(), A.take_page(&fences)]), 0);
    }
}

#[test]
fn a_root_that_is_in_hgatp_does_not_go_back() {
    let found = of(&[A.make(), A.start(), A.destroy(&[A.local_all()])]);
    assert!(
        matches!(found.findings[..], [(_, Finding::Reachable { how: Reach::Root, .. }), ..]),
        "{found:?}"
    );
    is_clean(&of(&[A.make(), A.start(), vec![Event::Unload], A.destroy(&[A.local_all()])]));
}

#[test]
fn what_another_hart_has_not_done_yet_is_not_held_against_anybody() {
    // Hart 0 has taken the page out, and has not fenced; hart 1 comes and goes meanwhile.
    let fences = [A.local(0), A.remote(0, 0x1000)].concat();
    let change = A.take_page(&[fences]);
    let parts = [
        (0, [A.make(), A.start()].concat()),
        (1, A.start()),
        (0, change[..1].to_vec()),
        (1, run()),
        (0, change[1..].to_vec()),
        (1, run()),
    ];
    is_clean(&on(2, &parts));
}

#[test]
fn a_fault_of_a_mapped_page_is_unexplained() {
    let fault = |gpa, access| vec![Event::Fault { gpa, access }];
    // Page 1 was invalid, and may be remembered as that until a fence.
    let found = of(&[A.make(), A.start(), fault(0x1000, 2), A.invalidate(&[A.local(0x1000)])]);
    is_clean(&found);
    let found =
        of(&[A.make(), A.start(), A.invalidate(&[A.local(0x1000)]), fault(0x1010, 2), fault(0x2000, 1)]);
    let unexplained = Finding::Unexplained { cpu: 0, gpa: 0x1010 };
    assert_eq!(found.findings.iter().map(|(_, finding)| finding).collect::<Vec<_>>(), [&unexplained]);
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let refused = |events: &[Event]| {
        let recording = recording(1, &[(0, [A.make(), A.load(), events.to_vec()].concat())]);
        format!("{:#}", replay(&recording, |_| ()).expect_err("nonsense"))
    };
    let remote = |harts, start, size| Event::RemoteFence { harts, vmid: None, start, size };
    assert!(refused(&[Event::Exit]).contains("not inside"));
    assert!(refused(&[Event::Enter, Event::Enter]).contains("inside"));
    assert!(refused(&[Event::Enter, Event::Unload]).contains("inside"));
    assert!(refused(&[Event::Enter, A.load()[0]]).contains("inside"));
    assert!(refused(&[Event::Unload, Event::Enter]).contains("no root"));
    assert!(refused(&[remote(2, 0, 0)]).contains("does not exist"));
    assert!(refused(&[remote(1, u64::MAX, 2)]).contains("wraps around"));
    assert!(refused(&[Event::Vmrun { tlb_control: 0 }]).contains("another architecture"));
    let tlbi = Event::Maintenance { operation: Operation::Alle1is, operand: 0 };
    assert!(refused(&[tlbi]).contains("another architecture"));
    // A mode that is reserved, and none at all.
    let found = of(&[A.make(), vec![Event::Load { root: 11 << 60 | A.root >> 12 }]]);
    assert!(matches!(found.findings[..], [(_, Finding::Root(_))]), "{found:?}");
    is_clean(&of(&[A.make(), A.start(), vec![Event::Load { root: 0 }], A.destroy(&[A.local_all()])]));
}
