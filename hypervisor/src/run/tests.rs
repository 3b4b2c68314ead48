use super::*;
use crate::pool::Pool;
use crate::pool::tests::{Nothing, pool};
use alloc::vec::Vec;
use slat::FaultCause;
use slat::format::stage2::Stage2;
use slat_hv_protocol::Churn as Settings;

/// A vCPU whose exits are known in advance; after the last one the guest powers off.
#[derive(Default)]
struct Script {
    exits: Vec<Exit>,
    injected: u64,
    bound: bool,
}

impl Vcpu for Script {
    type Config = Vec<Exit>;
    type Root = ();

    fn new(_: usize, mut exits: Vec<Exit>) -> Self {
        exits.reverse();
        Self { exits, ..Self::default() }
    }
    fn set_entry(&mut self, _: GuestPhysAddr, _: u64) {}
    fn set_root(&mut self, (): ()) {}
    fn bind(&mut self) {
        self.bound = true;
    }
    fn unbind(&mut self) {
        self.bound = false;
    }
    fn run(&mut self) -> Exit {
        assert!(self.bound);
        self.exits.pop().unwrap_or(Exit::PowerOff)
    }
    fn program_counter(&self) -> u64 {
        0x1234
    }
    fn register(&self, _: usize) -> Option<u64> {
        None
    }
    fn set_register(&mut self, _: usize, _: u64) {}
    fn inject(&mut self, event: Event) {
        assert_eq!(event, Event::AccessFailed);
        self.injected += 1;
    }
}

const DEVICES: [Device; 1] = [Device { name: "port", address: 0x900_0000, size: 0x1000 }];

fn job() -> Job<'static> {
    Job {
        memory: 4 << 20,
        content: Content::default(),
        devices: &DEVICES,
        leaf: Leaf::Size4K,
        on_fault: FaultPolicy::Stop,
        churn: None,
    }
}

fn fault(gpa: u64, access: MappingFlags) -> Exit {
    let gpa = GuestPhysAddr::new(gpa);
    Exit::NestedPageFault(NestedPageFaultInfo {
        gpa,
        gva: None,
        access,
        cause: FaultCause::NotPresent,
        walk: false,
    })
}

fn write(gpa: u64) -> Exit {
    fault(gpa, MappingFlags::WRITE)
}

/// Runs `exits` on `frames` frames, and checks that all of them are back.
fn run(frames: usize, job: Job<'_>, exits: Vec<Exit>) -> Outcome {
    let pool: Pool<Nothing> = pool(frames, true);
    // Addresses of a process need 47 bits.
    let features = slat::format::stage2::Features { pa_bits: 48, ..slat::format::stage2::Features::BASELINE };
    let format = Stage2::new(features, Some(40)).expect("a valid width");
    let space = AddrSpace::with_format(&pool, format, GuestPhysAddr::new(0), 1 << 40, 1).expect("a root");
    let outcome = Machine::new(space, Script::new(0, exits), job).expect("regions").run();
    let counts = pool.counts();
    assert_eq!(counts.taken, counts.returned);
    let Faults { total, populated, spurious, restored, unanswered, retried } = outcome.faults;
    assert_eq!(total, populated + spurious + restored + unanswered + retried);
    outcome
}

#[test]
fn every_page_is_populated_once_with_its_content() {
    let bytes = [7; 5000];
    let mut content = Content::default();
    content.add(0x4000_0800, &bytes);
    let exits = [0x4000_0000, 0x4000_1000, 0x4000_1008, 0x4030_0000].map(write).into();
    let outcome = run(1024, Job { content, ..job() }, exits);
    assert_eq!(outcome.end, End::PowerOff);
    assert_eq!((outcome.faults.populated, outcome.faults.spurious), (3, 1));
    // The device's page is mapped from the start.
    assert_eq!(outcome.leaves, Leaves { size_4k: 4, size_2m: 0, size_1g: 0 });
    assert_eq!((outcome.exits, outcome.firmware_calls), (5, 1));
}

#[test]
fn large_leaves_are_used_where_they_are_wanted() {
    let touches = || [0x4000_0000, 0x4020_0000].map(write).into();
    let outcome = run(2048, Job { leaf: Leaf::Size2M, ..job() }, touches());
    assert_eq!(outcome.leaves, Leaves { size_4k: 1, size_2m: 2, size_1g: 0 });
    // In an emulator as much is populated, in small leaves.
    let outcome = run(2048, Job { leaf: Leaf::Auto, ..job() }, touches());
    assert_eq!(outcome.leaves, Leaves { size_4k: 1 + 2 * 512, size_2m: 0, size_1g: 0 });
    assert_eq!(outcome.faults.populated, 2);
}

#[test]
fn a_hole_stops_the_run_in_one_clear_line() {
    let outcome = run(1024, job(), [fault(0xa00_0000, MappingFlags::READ)].into());
    let End::Fault { description } = outcome.end else { panic!("{:?}", outcome.end) };
    for word in ["PC 0x1234", "read of GPA 0xa000000", "in no region"] {
        assert!(description.contains(word), "{description}");
    }
    assert_eq!(outcome.faults.unanswered, 1);
}

#[test]
fn a_refused_access_to_a_device_names_it() {
    let outcome = run(1024, job(), [fault(0x900_0004, MappingFlags::EXECUTE)].into());
    let End::Fault { description } = outcome.end else { panic!("{:?}", outcome.end) };
    assert!(
        description.contains("fetch of GPA 0x9000004") && description.contains("(port)"),
        "{description}"
    );
}

#[test]
fn injection_goes_on_and_counts() {
    let exits = [0, 1 << 41, u64::MAX, 0xa00_0000].map(write).into();
    let outcome = run(1024, Job { on_fault: FaultPolicy::Inject, ..job() }, exits);
    assert_eq!(outcome.end, End::PowerOff);
    assert_eq!((outcome.injected_aborts, outcome.faults.unanswered), (4, 4));
}

#[test]
fn running_out_of_frames_is_an_end_of_its_own() {
    let exits = (0..512).map(|i| write(0x4000_0000 + i * 4096)).collect();
    let outcome = run(64, job(), exits);
    let End::OutOfMemory { description } = outcome.end else { panic!("{:?}", outcome.end) };
    assert!(description.contains("out of memory"), "{description}");
}

#[test]
fn a_guest_that_makes_no_progress_is_stopped() {
    let exits = (0..5000).map(|_| write(0x4000_0000)).collect();
    let outcome = run(1024, job(), exits);
    assert!(matches!(outcome.end, End::Unsupported { .. }), "{:?}", outcome.end);
    assert_eq!(outcome.faults.spurious, u64::from(IDLE_FAULTS_LIMIT));
    let outcome = run(1024, job(), (0..5000).map(|_| Exit::RepeatAccess).collect());
    assert!(matches!(outcome.end, End::Unsupported { .. }), "{:?}", outcome.end);
}

#[test]
fn other_exits_are_counted_and_reset_is_not_power_off() {
    let exits = [Exit::FirmwareCall, Exit::Wait, Exit::Refused, Exit::RepeatAccess, Exit::Reset].into();
    let outcome = run(1024, job(), exits);
    assert_eq!(outcome.end, End::Reset);
    assert_eq!((outcome.exits, outcome.firmware_calls, outcome.faults.retried), (5, 2, 1));
    let outcome = run(1024, job(), [Exit::Unsupported("SError".into())].into());
    assert_eq!(outcome.end, End::Unsupported { description: "PC 0x1234: SError".into() });
}

#[test]
fn what_churn_takes_comes_back_when_the_guest_asks() {
    let pages = || (0..64).map(|i| write(0x4000_0000 + i * 4096));
    let exits = pages().chain(pages()).chain(pages()).collect();
    let churn = Some(Settings { seed: 3, per_exit: 2, limit: 150 });
    let outcome = run(1024, Job { churn, ..job() }, exits);
    assert_eq!(outcome.end, End::PowerOff);
    let ChurnReport { unmapped, moved, write_protected } = outcome.churn.expect("churn ran");
    assert_eq!(unmapped + moved + write_protected, 150);
    assert_eq!(outcome.faults.populated, 64);
    assert!(outcome.faults.restored > 0);
}

#[test]
fn churn_splits_large_leaves() {
    let churn = Some(Settings { seed: 3, per_exit: 4, limit: 100 });
    let exits = (0..40).map(|i| write(0x4000_0000 + i * 4096)).collect();
    let outcome = run(2048, Job { churn, leaf: Leaf::Auto, ..job() }, exits);
    assert_eq!((outcome.end, outcome.leaves.size_2m), (End::PowerOff, 0));
}
