use super::*;
use crate::guest::Content;
use crate::pool::Pool;
use crate::pool::tests::{Nothing, pool};
use crate::vcpu::{BufferAnswer, BufferCall, BufferError};
use alloc::vec::Vec;
use slat::FaultCause;
use slat::device::{AccessWidth, DataAccess};
use slat::format::stage2::Stage2;
use slat_hv_protocol::MemoryMap;
use slat_hv_protocol::{BufferCalls, Churn as Settings, ChurnReport, EmulatedUart, Faults, Leaves};
use std::thread;

mod monitor;
mod screen;

/// A vCPU whose exits are known in advance; after the last one the guest powers off.
#[derive(Default)]
struct Script {
    exits: Vec<Exit>,
    injected: u64,
    answers: Vec<bool>,
    /// How the hardware has decoded the next faults, and how often the guest went on behind one.
    decoded: Vec<DataAccess>,
    advanced: u64,
    registers: [u64; 31],
    buffer_answers: Vec<BufferAnswer>,
    texts: Vec<String>,
    /// The run ends while it waits.
    ended_in_sleep: Option<&'static Cpus>,
    bound: bool,
    binds: u32,
}

impl Vcpu for Script {
    type Config = Vec<Exit>;
    type Root = ();
    const HIDES_ADDRESSES: bool = true;

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
    fn register(&self, index: usize) -> Option<u64> {
        self.registers.get(index).copied()
    }
    fn set_register(&mut self, index: usize, value: u64) {
        self.registers[index] = value;
    }
    fn data_access(&self) -> Option<DataAccess> {
        self.decoded.last().copied()
    }
    fn advance(&mut self) {
        self.advanced += 1;
        self.decoded.pop();
    }
    fn wait(&mut self) {
        if let Some(cpus) = self.ended_in_sleep {
            assert!(!self.bound && cpus.end());
        }
    }
    fn answer_request(&mut self, done: bool) {
        self.answers.push(done);
    }
    fn answer_buffer_call(&mut self, answer: BufferAnswer) {
        self.buffer_answers.push(answer);
    }
    fn answer_debug(&mut self, text: String) {
        self.texts.push(text);
    }
    fn inject(&mut self, event: Event) {
        self.decoded.pop();
        assert_eq!(event, Event::AccessFailed);
        self.injected += 1;
    }
}

const PORT: Device = Device { name: "emulated", address: 0x904_0000, size: 0x1000 };
const DEVICES: [Device; 1] = [Device { name: "port", address: 0x900_0000, size: 0x1000 }];

pub(crate) fn job() -> Job<'static> {
    Job {
        ram: MemoryMap::AARCH64.guest_ram,
        memory: 4 << 20,
        content: Content::default(),
        devices: &DEVICES,
        leaf: Leaf::Size4K,
        large_leaves_suit: false,
        on_fault: FaultPolicy::Stop,
        churn: None,
        uart: Some(PORT),
        screen: None,
        shared_port: None,
        terminal: None,
        skip_copies: false,
        paging: None,
    }
}

pub(crate) fn fault(gpa: u64, access: MappingFlags) -> Exit {
    let gpa = GuestPhysAddr::new(gpa);
    Exit::NestedPageFault(NestedPageFaultInfo {
        gpa,
        gva: None,
        access,
        cause: FaultCause::NotPresent,
        walk: false,
        width: None,
    })
}

pub(crate) fn write(gpa: u64) -> Exit {
    fault(gpa, MappingFlags::WRITE)
}

pub(crate) type Space<'p> = super::Space<'p, &'p Pool<Nothing>, Stage2>;

pub(crate) fn space(pool: &Pool<Nothing>) -> Space<'_> {
    // Addresses of a process need 47 bits.
    let features = slat::format::stage2::Features { pa_bits: 48, ..slat::format::stage2::Features::BASELINE };
    let format = Stage2::new(features, Some(40)).expect("a valid width");
    super::space(pool, format, 1 << 40, 1, Swap::default()).expect("a root")
}

fn cpus(count: usize) -> Cpus {
    Cpus::new(count, MemoryMap::AARCH64.guest_ram..MemoryMap::AARCH64.guest_ram + (4 << 20), |_| true)
}

/// Closes `machine` and checks that all frames are back, and that no fault is forgotten.
fn close(machine: &Machine<'_, &Pool<Nothing>, Stage2>, pool: &Pool<Nothing>, left: Left) -> Outcome {
    let Left::Ended(end) = left else { panic!("{left:?}") };
    let outcome = machine.close(end, || ()).expect("everybody has left");
    let counts = pool.counts();
    assert_eq!(counts.taken, counts.returned);
    let Faults { total, populated, spurious, copied, upgraded, restored, unanswered, retried } =
        outcome.faults;
    assert_eq!(total, populated + spurious + copied + upgraded + restored + unanswered + retried);
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
fn a_fault_without_an_address_is_located_by_the_guests_own_tables() {
    // A guest without tables of its own: its addresses are guest-physical ones.
    let tables = GuestPageWalkInfo::riscv(0, 0, 0);
    let unlocated = |gva| Exit::UnlocatedFault(tables, GuestVirtAddr::new(gva), MappingFlags::WRITE);
    let outcome = run(1024, job(), [0x4000_0000, 0x4000_0008, 0x4000_1000].map(unlocated).into());
    assert_eq!((outcome.end, outcome.faults.populated, outcome.faults.spurious), (End::PowerOff, 2, 1));
    let outcome = run(1024, job(), [unlocated(0xa00_0000)].into());
    assert!(matches!(outcome.end, End::Fault { .. }), "{:?}", outcome.end);
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
    fn data_access(&self) -> Option<DataAccess> {
        None
    }
    fn advance(&mut self) {}
    fn wait(&mut self) {
        thread::yield_now();
    }
    fn answer_request(&mut self, _: bool) {}
    fn answer_buffer_call(&mut self, _: BufferAnswer) {}
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

/// A load or store of register `register`; 31 is the zero register.
fn decoded(width: AccessWidth, register: u8, sign_extend: bool) -> DataAccess {
    DataAccess { width, register: (register != 31).then_some(register), sign_extend, sixty_four: true }
}

/// Runs accesses to the port on a CPU that has all of them decoded, or none; what came of them, and the CPU.
fn port(accesses: &[(u64, MappingFlags)], decoded: &[DataAccess]) -> (Outcome, Script) {
    let (pool, cpus) = (pool(1024, true), cpus(1));
    let machine = Machine::new(space(&pool), &cpus, job()).expect("regions");
    let exits = accesses.iter().map(|(offset, access)| fault(PORT.address + offset, *access)).collect();
    let mut script = Script::new(0, exits);
    script.decoded = decoded.iter().rev().copied().collect();
    (script.registers[3], script.registers[4]) = (0xffff_ff00 | u64::from(b'a'), 0x101);
    let left = machine.run(0, &mut script);
    (close(&machine, &pool, left), script)
}

#[test]
fn the_emulated_port_is_answered_between_registers() {
    use AccessWidth::{Byte, Dword, Word};
    let (read, write) = (MappingFlags::READ, MappingFlags::WRITE);
    let accesses = [
        (0x30, write, decoded(Word, 4, false)),
        (0, write, decoded(Byte, 3, false)),
        (0, write, decoded(Dword, 3, false)),
        // 0xb1 as a signed byte; a load that goes nowhere.
        (0xffc, read, decoded(Byte, 7, true)),
        (0xffc, read, decoded(Dword, 30, false)),
        (0xffc, read, decoded(Dword, 31, false)),
        // The zero register turns it off.
        (0x30, write, decoded(Dword, 31, false)),
        (0, write, decoded(Byte, 3, false)),
        (0x18, read, decoded(Word, 8, false)),
    ];
    let (outcome, script) =
        port(&accesses.map(|(offset, access, _)| (offset, access)), &accesses.map(|(_, _, decoded)| decoded));
    assert_eq!(outcome.end, End::PowerOff);
    let (answered, text) = (accesses.len() as u64, "aa".into());
    assert_eq!(outcome.uart, EmulatedUart { accesses: answered, refused: 0, bytes: 2, text });
    assert_eq!((script.advanced, script.injected), (answered, 0));
    assert_eq!([7, 30, 8].map(|index| script.registers[index]), [0xffff_ffff_ffff_ffb1, 0xb1, 0x30]);
    // They are no faults.
    assert_eq!((outcome.faults, outcome.exits), (Faults::default(), answered + 1));
}

#[test]
fn what_the_port_does_not_take_is_an_abort_whatever_the_policy_for_holes() {
    let accesses = [(0, MappingFlags::WRITE), (0xff8, MappingFlags::READ), (0x1a, MappingFlags::READ)];
    let wide = decoded(AccessWidth::Qword, 3, false);
    let inside = decoded(AccessWidth::Word, 3, false);
    for decoded in [&[][..], &[wide, wide, inside]] {
        let (outcome, script) = port(&accesses, decoded);
        assert_eq!((outcome.end, outcome.injected_aborts), (End::PowerOff, 3));
        assert_eq!((script.injected, script.advanced), (3, 0));
        assert_eq!(outcome.uart, EmulatedUart { refused: 3, ..EmulatedUart::default() });
        assert_eq!(script.registers[3], 0xffff_ff61, "a load that fails changes no register");
    }
}

#[test]
fn a_fetch_from_the_port_is_nobodys() {
    let (outcome, script) = port(&[(0, MappingFlags::EXECUTE)], &[decoded(AccessWidth::Dword, 3, false)]);
    let End::Fault { description } = outcome.end else { panic!("{:?}", outcome.end) };
    assert!(description.contains("fetch of GPA 0x9040000"), "{description}");
    assert_eq!((script.advanced, script.injected, outcome.faults.unanswered), (0, 0, 1));
}

const RAM_END: u64 = 0x4040_0000;

/// Runs calls about buffers after the page at 0x4000_1000 was write-protected.
fn buffer_calls(job: Job<'_>, calls: &[(BufferCall, u64, u64)]) -> (Outcome, Vec<BufferAnswer>) {
    let (pool, cpus) = (pool(1024, true), cpus(1));
    let machine = Machine::new(space(&pool), &cpus, job).expect("regions");
    let protect = Exit::Request(Request::WriteProtect, GuestPhysAddr::new(0x4000_1000));
    let calls =
        calls.iter().map(|(call, gpa, length)| Exit::Buffer(*call, GuestPhysAddr::new(*gpa), *length));
    let mut script = Script::new(0, [protect].into_iter().chain(calls).collect());
    let left = machine.run(0, &mut script);
    (close(&machine, &pool, left), script.buffer_answers)
}

#[test]
fn a_buffer_is_printed_with_what_was_loaded_there() {
    let mut text = [b'x'; 0x1100];
    text[..10].copy_from_slice(b"over pages");
    let mut content = Content::default();
    content.add(0x4000_0ffb, &text);
    let calls = [(0x4000_0ffb, 10), (0x4000_0ffb, 0x1100), (0x4010_0000, 0), (u64::MAX, 0)];
    let calls = calls.map(|(gpa, length)| (BufferCall::Print, gpa, length));
    let (outcome, answers) = buffer_calls(Job { content, ..job() }, &calls);
    assert_eq!(answers, calls.map(|(_, _, done)| BufferAnswer { done, status: Ok(()) }));
    let BufferCalls { done, refused, bytes, text } = outcome.buffer_calls;
    assert_eq!((done, refused, bytes), (4, 0, 0x1100 + 10));
    assert!(text.starts_with("over pagesover pagesxxxx"), "{text}");
    // Reading populates as a fault would, and is none.
    assert_eq!((outcome.leaves.size_4k, outcome.faults), (1 + 3, Faults::default()));
}

#[test]
fn statistics_end_where_the_buffer_does() {
    let calls = [
        (BufferCall::Statistics, 0x4000_0000, LENGTH_MAX),
        (BufferCall::Statistics, 0x4000_2ffe, 8),
        // The three pages that it was written to.
        (BufferCall::Print, 0x4000_0000, 21),
        (BufferCall::Print, 0x4000_2ffe, 9),
    ];
    let (outcome, answers) = buffer_calls(job(), &calls);
    let whole = answers[0].done;
    assert!((100..1000).contains(&whole), "{answers:?}");
    assert_eq!(answers[1..], [8, 21, 9].map(|done| BufferAnswer { done, status: Ok(()) }));
    assert_eq!(outcome.buffer_calls.text, format!("{:<20}2exits   \u{fffd}", "exits"));
}

#[test]
fn a_bad_buffer_is_an_error_that_says_how_far_it_was_good() {
    use BufferCall::{Print, Statistics};
    use BufferError::{Denied, Device, NoMemory, TooLong};
    let cases = [
        (Print, 0x4000_0000, LENGTH_MAX + 1, 0, TooLong),
        (Print, u64::MAX, u64::MAX, 0, TooLong),
        (Print, 0, 1, 0, NoMemory),
        (Print, u64::MAX, 1, 0, NoMemory),
        (Print, u64::MAX - 7, 1000, 0, NoMemory),
        (Print, 1 << 40, 8, 0, NoMemory),
        (Print, 1 << 63, 8, 0, NoMemory),
        (Print, 0x3fff_fff8, 16, 0, NoMemory),
        (Print, RAM_END - 5, 16, 5, NoMemory),
        (Print, RAM_END - 1000, LENGTH_MAX, 1000, NoMemory),
        (Print, RAM_END, 1, 0, NoMemory),
        (Print, PORT.address, 4, 0, Device),
        (Print, DEVICES[0].address + 0xffc, 8, 0, Device),
        (Statistics, PORT.address + 0xfff, 4, 0, Device),
        (Statistics, DEVICES[0].address, 8, 0, Device),
        (Statistics, 0x4000_1000, 64, 0, Denied),
        (Statistics, 0x4000_0ff9, 64, 7, Denied),
        (Statistics, RAM_END - 3, 64, 3, NoMemory),
        (Statistics, u64::MAX - 1, 64, 0, NoMemory),
    ];
    let (outcome, answers) = buffer_calls(job(), &cases.map(|(call, gpa, length, ..)| (call, gpa, length)));
    for ((call, gpa, length, done, error), answer) in cases.into_iter().zip(&answers) {
        let wanted = BufferAnswer { done, status: Err(error) };
        assert_eq!(*answer, wanted, "{call:?} {gpa:#x}, {length} bytes");
    }
    assert_eq!((outcome.end, answers.len()), (End::PowerOff, cases.len()));
    assert_eq!(outcome.buffer_calls.refused, cases.len() as u64);
    assert_eq!((outcome.injected_aborts, outcome.faults.unanswered), (0, 0));
}

#[test]
fn without_frames_a_buffer_is_refused_and_the_guest_goes_on() {
    let (pool, cpus) = (pool(16, true), cpus(1));
    let machine = Machine::new(space(&pool), &cpus, job()).expect("regions");
    let call = |gpa| Exit::Buffer(BufferCall::Print, GuestPhysAddr::new(gpa), 0x1_0000);
    let mut script = Script::new(0, [call(0x4000_0000), Exit::Wait].into());
    let left = machine.run(0, &mut script);
    let [BufferAnswer { done, status }] = script.buffer_answers[..] else { panic!("one call") };
    assert_eq!((status, done % 4096), (Err(BufferError::OutOfFrames), 0));
    assert!(done > 0);
    assert_eq!(close(&machine, &pool, left).end, End::PowerOff);
}

#[test]
fn pages_that_churn_has_taken_come_back_for_a_buffer() {
    let churn = Some(Settings { seed: 3, per_exit: 3, limit: 600 });
    let pages = 0x4000_2000..0x4001_0000_u64;
    let touch = pages.clone().step_by(4096).map(write);
    let length = pages.end - pages.start;
    let call = |call| Exit::Buffer(call, GuestPhysAddr::new(pages.start), length);
    let calls = (0..100).map(|index| call([BufferCall::Print, BufferCall::Statistics][index % 2]));
    let (pool, cpus) = (pool(1024, true), cpus(1));
    let machine = Machine::new(space(&pool), &cpus, Job { churn, ..job() }).expect("regions");
    let mut script = Script::new(0, touch.chain(calls).collect());
    let left = machine.run(0, &mut script);
    let outcome = close(&machine, &pool, left);
    assert_eq!(outcome.end, End::PowerOff);
    assert!(script.buffer_answers.iter().all(|answer| answer.status.is_ok()), "{:?}", script.buffer_answers);
    assert_eq!((script.buffer_answers.len(), outcome.buffer_calls.done), (100, 100));
    // Churn has taken pages of its own all the time.
    let ChurnReport { unmapped, write_protected, .. } = outcome.churn.expect("churn ran");
    assert!(unmapped + write_protected > 50);
}
