use super::*;
use crate::pool::Pool;
use crate::pool::tests::{Nothing, pool};
use alloc::vec::Vec;
use slat::FaultCause;
use slat::format::stage2::Stage2;
use slat_hv_protocol::{Churn as Settings, ChurnReport, Faults, Leaves};
use std::thread;

/// A vCPU whose exits are known in advance; after the last one the guest powers off.
#[derive(Default)]
struct Script {
    exits: Vec<Exit>,
    injected: u64,
    answers: Vec<bool>,
    /// The run ends while it waits.
    ended_in_sleep: Option<&'static Cpus>,
    bound: bool,
    binds: u32,
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
        self.binds += 1;
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
    fn wait(&mut self) {
        if let Some(cpus) = self.ended_in_sleep {
            assert!(!self.bound && cpus.end());
        }
    }
    fn answer_request(&mut self, done: bool) {
        self.answers.push(done);
    }
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

type Space<'p> = AddrSpace<&'p Pool<Nothing>, Stage2>;

fn space(pool: &Pool<Nothing>) -> Space<'_> {
    // Addresses of a process need 47 bits.
    let features = slat::format::stage2::Features { pa_bits: 48, ..slat::format::stage2::Features::BASELINE };
    let format = Stage2::new(features, Some(40)).expect("a valid width");
    AddrSpace::with_format(pool, format, GuestPhysAddr::new(0), 1 << 40, 1).expect("a root")
}

fn cpus(count: usize) -> Cpus {
    Cpus::new(count, GUEST_RAM_ADDRESS..GUEST_RAM_ADDRESS + (4 << 20), |_| true)
}

/// Closes `machine` and checks that all frames are back, and that no fault is forgotten.
fn close(machine: &Machine<'_, &Pool<Nothing>, Stage2>, pool: &Pool<Nothing>, left: Left) -> Outcome {
    let Left::Ended(end) = left else { panic!("{left:?}") };
    let outcome = machine.close(end, || ()).expect("everybody has left");
    let counts = pool.counts();
    assert_eq!(counts.taken, counts.returned);
    let Faults { total, populated, spurious, restored, unanswered, retried } = outcome.faults;
    assert_eq!(total, populated + spurious + restored + unanswered + retried);
    assert_eq!(outcome.exits, outcome.exits_by_cpu.iter().sum::<u64>());
    outcome
}

/// Runs `exits` on one CPU, `frames` frames.
fn run(frames: usize, job: Job<'_>, exits: Vec<Exit>) -> Outcome {
    let (pool, cpus) = (pool(frames, true), cpus(1));
    let machine = Machine::new(space(&pool), &cpus, job).expect("regions");
    let left = machine.run(0, &mut Script::new(0, exits));
    close(&machine, &pool, left)
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

/// A vCPU that never ends by itself: it writes to 64 pages in turn, and waits now and then.
struct Endless(u64);

impl Vcpu for Endless {
    type Config = ();
    type Root = ();

    fn new(id: usize, (): ()) -> Self {
        Self(id as u64)
    }
    fn set_entry(&mut self, _: GuestPhysAddr, _: u64) {}
    fn set_root(&mut self, (): ()) {}
    fn bind(&mut self) {}
    fn unbind(&mut self) {}
    fn run(&mut self) -> Exit {
        self.0 += 1;
        if self.0 % 50 == 0 { Exit::Wait } else { write(0x4000_0000 + self.0 % 64 * 4096) }
    }
    fn program_counter(&self) -> u64 {
        0
    }
    fn register(&self, _: usize) -> Option<u64> {
        None
    }
    fn set_register(&mut self, _: usize, _: u64) {}
    fn wait(&mut self) {
        thread::yield_now();
    }
    fn answer_request(&mut self, _: bool) {}
    fn inject(&mut self, _: Event) {}
}

#[test]
fn two_cpus_fault_under_churn_until_one_of_them_ends_the_run() {
    for seed in 0..8 {
        let (pool, cpus) = (pool(1024, true), cpus(2));
        assert_eq!(cpus.start(1, crate::cpus::Entry { address: 0x4000_0000, argument: 0 }), Ok(()));
        let churn = Some(Settings { seed, per_exit: 3, limit: 2000 });
        let machine = Machine::new(space(&pool), &cpus, Job { churn, ..job() }).expect("regions");
        let exits = (0..400).map(|i| write(0x4000_0000 + i % 64 * 4096)).collect();
        let (outcome, other) = thread::scope(|scope| {
            let other = scope.spawn(|| {
                assert!(cpus.begin(1).is_some());
                machine.run(1, &mut Endless::new(1, ()))
            });
            let left = machine.run(0, &mut Script::new(0, exits));
            let outcome = close(&machine, &pool, left);
            (outcome, other.join().expect("the other thread"))
        });
        assert_eq!((&outcome.end, other), (&End::PowerOff, Left::Stopped));
        // Whatever churn took came back to whoever asked: no access was refused, no page populated twice.
        assert_eq!((outcome.faults.unanswered, outcome.injected_aborts), (0, 0));
        assert!(outcome.faults.populated <= 64 && outcome.exits_by_cpu[0] == 401, "{outcome:?}");
    }
}

#[test]
fn a_cpu_that_goes_off_does_not_end_the_run() {
    let (pool, cpus) = (pool(1024, true), cpus(2));
    let machine = Machine::new(space(&pool), &cpus, job()).expect("regions");
    assert_eq!(cpus.start(1, crate::cpus::Entry { address: 0x4000_0000, argument: 0 }), Ok(()));
    assert!(cpus.begin(1).is_some() && cpus.stop(1));
    let exits = [write(0x4000_0000), Exit::Suspend, Exit::CpuOff].into();
    assert_eq!(machine.run(1, &mut Script::new(1, exits)), Left::Off);
    let left = machine.run(0, &mut Script::new(0, [write(0x4000_0000), Exit::Wait].into()));
    let outcome = close(&machine, &pool, left);
    assert_eq!((outcome.faults.populated, outcome.faults.spurious), (1, 1));
    assert_eq!((outcome.exits_by_cpu, outcome.firmware_calls), ([3, 3].into(), 3));
}

#[test]
fn a_cpu_that_slept_through_the_end_does_not_load_the_table_again() {
    let (pool, cpus) = (pool(1024, true), &*alloc::boxed::Box::leak(alloc::boxed::Box::new(cpus(2))));
    let machine = Machine::new(space(&pool), cpus, job()).expect("regions");
    let mut sleeper = Script::new(0, [Exit::Wait, write(0x4000_0000)].into());
    sleeper.ended_in_sleep = Some(cpus);
    assert_eq!(machine.run(0, &mut sleeper), Left::Stopped);
    assert_eq!((sleeper.bound, sleeper.binds, sleeper.exits.len()), (false, 1, 1));
    assert_eq!(close(&machine, &pool, Left::Ended(End::PowerOff)).exits, 1);
}

#[test]
fn requests_reach_pages_of_ram_and_nothing_else() {
    let (pool, cpus) = (pool(1024, true), cpus(1));
    let machine = Machine::new(space(&pool), &cpus, job()).expect("regions");
    let request = |request, page| Exit::Request(request, GuestPhysAddr::new(page));
    let exits = [
        write(0x4000_0000),
        request(Request::Move, 0x4000_0000),
        request(Request::Move, 0x4000_0008),
        request(Request::Renew, 0x900_0000),
        request(Request::Renew, 0x4040_0000),
        request(Request::WriteProtect, u64::MAX),
        request(Request::Renew, 0x4000_0000),
        write(0x4000_0000),
        request(Request::WriteProtect, 0x4000_0000),
        write(0x4000_0000),
    ];
    let mut script = Script::new(0, exits.into());
    let left = machine.run(0, &mut script);
    assert_eq!(script.answers, [true, false, false, false, false, true, true]);
    let Left::Ended(End::Fault { description }) = &left else { panic!("{left:?}") };
    assert!(description.contains("write of GPA 0x40000000"), "{description}");
    assert_eq!(close(&machine, &pool, left).faults.populated, 2);
}
