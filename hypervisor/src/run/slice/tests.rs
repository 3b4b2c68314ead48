use super::*;
use crate::cpus::{Cpus, Entry};
use crate::pool::Pool;
use crate::pool::tests::{Nothing, pool};
use crate::run::Job;
use crate::run::tests::{Space, job, space, write};
use crate::vcpu::{BufferAnswer, Event, Exit};
use alloc::boxed::Box;
use slat::device::DataAccess;
use slat::format::stage2::Stage2;

const RAM: u64 = 0x4000_0000;
const ENTRY: Entry = Entry { address: RAM, argument: 3 };

type Guest<'a> = Machine<'a, &'a Pool<Nothing>, Stage2>;

/// A vCPU that does whatever the test wants, once it has checked that it may.
pub(in crate::run) struct Does<'a> {
    next: Box<dyn FnMut() -> Exit + 'a>,
    root: Option<u64>,
    entry: Option<(u64, u64)>,
    bound: bool,
    deadline: Option<u64>,
}

impl<'a> Does<'a> {
    pub(in crate::run) fn new(next: impl FnMut() -> Exit + 'a) -> Self {
        Self { next: Box::new(next), root: None, entry: None, bound: false, deadline: None }
    }

    fn exits<const N: usize>(exits: [Exit; N]) -> Self {
        let mut exits = exits.into_iter();
        Self::new(move || exits.next().unwrap_or(Exit::PowerOff))
    }
}

impl Vcpu for Does<'_> {
    type Config = ();
    type Root = u64;

    fn new(_: usize, (): ()) -> Self {
        Self::exits([])
    }
    fn set_entry(&mut self, entry: GuestPhysAddr, argument: u64) {
        self.entry = Some((entry.as_u64(), argument));
    }
    fn set_root(&mut self, root: u64) {
        self.root = Some(root);
    }
    fn bind(&mut self) {
        assert!(!self.bound && self.root.is_some() && self.entry.is_some());
        self.bound = true;
    }
    fn unbind(&mut self) {
        self.bound = false;
    }
    fn run(&mut self) -> Exit {
        assert!(self.bound);
        (self.next)()
    }
    fn program_counter(&self) -> u64 {
        0x1234
    }
    fn register(&self, _: usize) -> Option<u64> {
        None
    }
    fn set_register(&mut self, _: usize, _: u64) {}
    fn data_access(&self) -> Option<DataAccess> {
        None
    }
    fn advance(&mut self) {}
    fn next_timer(&self) -> Option<u64> {
        self.deadline
    }
    fn wait(&mut self) {
        panic!("in slices nobody sleeps in a vCPU");
    }
    fn answer_request(&mut self, _: bool) {}
    fn answer_buffer_call(&mut self, _: BufferAnswer) {}
    fn inject(&mut self, _: Event) {}
}

pub(in crate::run) fn cpus(count: usize) -> Cpus {
    Cpus::in_slices(count, RAM..RAM + (4 << 20), ENTRY, |_| true)
}

fn root(space: &Space<'_>) -> Option<u64> {
    Some(space.root_register())
}

/// As many frames as are left are taken, all but `rest`.
pub(in crate::run) fn exhaust(pool: &Pool<Nothing>, rest: u64) -> u64 {
    use slat::Hal as _;
    (0..pool.frames_left() - rest).filter(|_| pool.alloc_frames(1, 1).is_some()).count() as u64
}

trait FramesLeft {
    fn frames_left(&self) -> u64;
}

impl FramesLeft for Pool<Nothing> {
    fn frames_left(&self) -> u64 {
        Host::frames_left(&self)
    }
}

#[test]
fn a_vcpu_runs_slice_after_slice_from_its_entry_to_the_end_of_its_guest() {
    let (pool, cpus) = (pool(1024, true), cpus(2));
    let machine = Machine::new(space(&pool), &cpus, job()).expect("regions");
    let exits = [write(RAM), Exit::Preempted, Exit::Kicked, Exit::Wait, Exit::Suspend, write(RAM + 4096)];
    let mut vcpu = Does::exits(exits);
    vcpu.deadline = Some(77);
    assert_eq!(machine.slice(1, &mut Does::new(|| panic!("it is off")), root), Slice::Off);
    assert_eq!(machine.slice(0, &mut vcpu, root), Slice::Preempted);
    assert_eq!((vcpu.entry.take(), vcpu.bound), (Some((RAM, 3)), false));
    vcpu.entry = Some((0, 0));
    assert_eq!(machine.slice(0, &mut vcpu, root), Slice::Waits { until: Some(77) });
    assert_eq!(machine.slice(0, &mut vcpu, root), Slice::Waits { until: Some(77) });
    assert_eq!(vcpu.entry, Some((0, 0)), "it begins once");
    let Slice::Ended(Some(end)) = machine.slice(0, &mut vcpu, root) else { panic!("the last one is out") };
    assert_eq!(machine.slice(0, &mut vcpu, root), Slice::Ended(None));
    let outcome = machine.close_slices(end).expect("everybody is out");
    assert_eq!((outcome.end, outcome.faults.populated, outcome.exits), (End::PowerOff, 2, 7));
    assert_eq!(pool.counts().taken, pool.counts().returned);
}

#[test]
fn the_one_that_leaves_last_closes_whoever_ended_the_guest() {
    let (pool, cpus) = (pool(1024, true), cpus(2));
    let machine = Machine::new(space(&pool), &cpus, job()).expect("regions");
    assert_eq!(cpus.start(1, ENTRY), Ok(()));
    let mut first = Does::exits([write(RAM), Exit::Reset]);
    // While it is in the guest, the other one ends it.
    let mut second = Does::new(|| {
        assert_eq!(machine.slice(0, &mut first, root), Slice::Ended(None));
        Exit::Kicked
    });
    assert_eq!(machine.slice(1, &mut second, root), Slice::Ended(Some(End::Reset)));
    drop(second);
    assert_eq!(machine.close_slices(End::Reset).map(|outcome| outcome.leaves.size_4k), Ok(1 + 1));
    assert_eq!(pool.counts().taken, pool.counts().returned);
}

#[test]
fn a_cpu_that_was_started_and_never_ran_holds_nobody_up() {
    let (pool, cpus) = (pool(1024, true), cpus(2));
    let machine = Machine::new(space(&pool), &cpus, job()).expect("regions");
    let mut first = Does::new(|| {
        assert_eq!(cpus.start(1, ENTRY), Ok(()));
        Exit::PowerOff
    });
    assert_eq!(machine.slice(0, &mut first, root), Slice::Ended(Some(End::PowerOff)));
    assert_eq!(machine.close_slices(End::PowerOff).map(|outcome| outcome.end), Ok(End::PowerOff));
    assert_eq!(pool.counts().taken, pool.counts().returned);
}

#[test]
fn a_cpu_that_went_off_begins_again_where_it_is_started() {
    let (pool, cpus) = (pool(1024, true), cpus(2));
    let machine: Guest<'_> = Machine::new(space(&pool), &cpus, job()).expect("regions");
    assert_eq!(cpus.start(1, ENTRY), Ok(()));
    let mut second = Does::new(|| {
        assert!(cpus.stop(1));
        Exit::CpuOff
    });
    assert_eq!(machine.slice(1, &mut second, root), Slice::Off);
    assert_eq!(machine.slice(1, &mut second, root), Slice::Off);
    assert_eq!(cpus.start(1, Entry { argument: 4, ..ENTRY }), Ok(()));
    assert_eq!(machine.slice(1, &mut second, root), Slice::Off);
    assert_eq!(second.entry, Some((RAM, 4)));
}

#[test]
fn a_guest_for_which_there_is_nothing_left_ends_and_says_so() {
    let (pool, cpus, reclaim) = (pool(1024, true), cpus(1), Reclaim::default());
    let machine = Machine::new(space(&pool), &cpus, job()).expect("regions").sharing(5, &reclaim);
    exhaust(&pool, 1);
    let slice = machine.slice(0, &mut Does::exits([write(RAM + 4096)]), root);
    let Slice::Ended(Some(End::OutOfMemory { description })) = slice else { panic!("{slice:?}") };
    let words =
        ["guest 5: ", "PC 0x1234", "write of GPA 0x40001000", "out of memory", "frames of 4 KiB are left"];
    assert!(words.iter().all(|word| description.contains(word)), "{description}");
    let outcome = machine.close_slices(End::Reset).expect("everybody is out");
    assert_eq!((outcome.faults.total, outcome.faults.unanswered), (1, 1));
}

#[test]
fn nobody_ends_for_want_of_a_frame_while_those_of_another_guest_are_on_their_way_back() {
    let (pool, reclaim) = (pool(1024, true), Reclaim::default());
    let (large, small) = (cpus(2), cpus(1));
    assert_eq!(large.start(1, ENTRY), Ok(()));
    let guest = |cpus, number| {
        Machine::new(space(&pool), cpus, Job { leaf: slat_hv_protocol::Leaf::Size4K, ..job() })
            .expect("regions")
            .sharing(number, &reclaim)
    };
    let (large, small) = (guest(&large, 0), guest(&small, 1));
    let mut page = 0;
    let mut first = Does::new(|| {
        page += 4096;
        write(RAM + page)
    });
    let mut modest = Does::exits([write(RAM), Exit::Preempted]);
    exhaust(&pool, 200);
    // Its second CPU is inside while the first one uses everything up: the frames cannot come back yet.
    let mut second = Does::new(|| {
        assert_eq!(large.slice(0, &mut first, root), Slice::Ended(None));
        assert_eq!(pool.frames_left(), 0);
        assert_eq!(small.slice(0, &mut modest, root), Slice::Preempted);
        Exit::Kicked
    });
    let Slice::Ended(Some(end)) = large.slice(1, &mut second, root) else { panic!("the last one is out") };
    drop(second);
    assert!(matches!(end, End::OutOfMemory { .. }), "{end:?}");
    assert!(large.close_slices(end).is_ok() && pool.frames_left() >= 200);
    drop(modest);
    let mut modest = Does::exits([write(RAM), Exit::Preempted]);
    modest.entry = Some((RAM, 3));
    assert_eq!(small.slice(0, &mut modest, root), Slice::Preempted);
    assert_eq!(small.slice(0, &mut modest, root), Slice::Ended(Some(End::PowerOff)));
    let faults = small.close_slices(End::PowerOff).expect("everybody is out").faults;
    assert_eq!((faults.retried, faults.populated, faults.unanswered), (1, 1, 0));
}
