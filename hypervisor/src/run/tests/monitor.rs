//! The monitor: by the debug port, and by a key on the console.

use super::*;
use crate::monitor::terminal::{END, ESCAPE, Terminal};
use crate::monitor::{ANSWER_MAX, Command};
use std::collections::VecDeque;
use std::sync::Mutex as HostMutex;

const PAGE: u64 = 0x4000_1008;

/// The answers to `commands`, which the guest asks for by the debug port when it has touched a page.
fn asked(commands: impl IntoIterator<Item = Command>) -> Vec<String> {
    let (pool, cpus) = (pool(1024, true), cpus(1));
    let machine = Machine::new(space(&pool), &cpus, job()).expect("regions");
    let exits = [write(PAGE)].into_iter().chain(commands.into_iter().map(Exit::Debug)).collect();
    let mut script = Script::new(0, exits);
    let left = machine.run(0, &mut script);
    assert_eq!(close(&machine, &pool, left).end, End::PowerOff);
    script.texts
}

#[test]
fn every_question_has_an_answer() {
    let query = |gpa| Command::Query(GuestPhysAddr::new(gpa));
    let answers = asked([
        Command::Map,
        query(PAGE),
        query(0x4000_0000),
        query(u64::MAX),
        Command::Dump,
        Command::Statistics,
        Command::Registers,
        Command::Faults,
        Command::Audit,
        Command::Flushes,
    ]);
    let [map, mapped, absent, outside, dump, statistics, registers, faults, audit, flushes] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert!(map.contains("0x40000000..0x40400000 rwxu alloc") && map.contains("1 x 4K"), "{map}");
    assert_eq!(mapped.lines().count(), 3 + 2, "three levels, the result, the region: {mapped}");
    assert!(
        mapped.contains("IPA 0x40001008: -> 0x") && mapped.contains("\nregion 0x40000000..0x40400000 rwxu\n")
    );
    assert!(absent.contains("not present: translation fault"), "{absent}");
    assert!(outside.contains("wider than the root table translates\nin no region\n"), "{outside}");
    assert!(dump.starts_with("stage2 root table at 0x") && dump.contains("0x0000000040001000-"), "{dump}");
    assert!(
        statistics.contains("faults populated    1\n") && statistics.contains("leaves: 2 x 4K"),
        "{statistics}"
    );
    assert!(registers.starts_with("pc 0x0000000000001234\nr0 0x"), "{registers}");
    assert!(
        faults.contains("1 faults")
            && faults.contains("write of GPA 0x40001008, not present: populated, a leaf of 4K")
    );
    assert!(audit.starts_with("no violation in "), "{audit}");
    assert!(flushes.starts_with("all  "), "{flushes}");
}

#[test]
fn the_debug_port_does_not_stop_the_guest() {
    let answers = asked([Command::Unknown, Command::Help, Command::Continue, Command::Quit]);
    assert_eq!(answers.len(), 4);
    assert!(
        answers.iter().all(|text| text.starts_with("query GPA, regs, map, dump") && !text.contains("quit"))
    );
}

#[test]
fn an_answer_is_bounded() {
    let (pool, cpus) = (pool(4096, true), cpus(1));
    let machine = Machine::new(space(&pool), &cpus, job()).expect("regions");
    // Every other page, so that no two leaves are one run.
    let touches = (0..512).map(|page| write(0x4000_0000 + page * 8192));
    let commands = [Command::Map, Command::Dump].map(Exit::Debug);
    let mut script = Script::new(0, touches.chain(commands).collect());
    let left = machine.run(0, &mut script);
    for text in &script.texts {
        assert!(text.len() > ANSWER_MAX / 2 && text.len() <= ANSWER_MAX + 4, "{} bytes", text.len());
        assert!(text.ends_with("\n...\n") || text.len() < ANSWER_MAX, "it is cut off at the end of a line");
    }
    let _ = close(&machine, &pool, left);
}

/// A console on which keys have been pressed, and what was shown on it.
struct Keyboard {
    keys: HostMutex<VecDeque<u8>>,
    told: HostMutex<Vec<(String, bool)>>,
}

impl Keyboard {
    fn new(keys: &[u8]) -> Self {
        Self { keys: HostMutex::new(keys.iter().copied().collect()), told: HostMutex::default() }
    }
}

impl Terminal for Keyboard {
    fn poll(&self) -> Option<u8> {
        self.take()
    }
    fn take(&self) -> Option<u8> {
        self.keys.lock().expect("one thread").pop_front()
    }
    fn tell(&self, text: &str, open: bool) {
        self.told.lock().expect("one thread").push((text.into(), open));
    }
}

/// What is told about a guest with some exits while these keys are pressed, its end, and whether all keys were read.
fn converse(keys: &[u8]) -> (Vec<(String, bool)>, End, bool) {
    let keyboard = Keyboard::new(keys);
    let job = Job { terminal: Some(&keyboard), ..job() };
    let outcome = run(1024, job, [write(PAGE), Exit::Answered, Exit::Answered].into());
    let left = keyboard.keys.lock().expect("one thread").is_empty();
    (keyboard.told.into_inner().expect("one thread"), outcome.end, left)
}

#[test]
fn a_key_stops_the_guest_until_it_is_told_to_go_on() {
    let keys =
        [b"typed\n", &[ESCAPE][..], b"query 0x40001008; stats\n\nmap\ncontinue\n", b"typed too"].concat();
    let (told, end, read) = converse(&keys);
    assert!(read && end == End::PowerOff);
    let [stopped, query, statistics, map, goes_on] = &told[..] else { panic!("{told:?}") };
    assert!(stopped.0.starts_with("vCPU 0 is stopped at PC 0x1234") && stopped.1, "{stopped:?}");
    assert!(query.0.contains("IPA 0x40001008: -> 0x") && query.1);
    assert!(statistics.0.contains("faults populated    1\n") && map.0.contains("rwxu alloc"));
    assert_eq!(goes_on, &("the guest goes on\n".into(), false));
}

#[test]
fn it_is_opened_again_and_left_by_the_end_of_the_input() {
    let keys = [&[ESCAPE][..], b"continue\n", &[ESCAPE], b"nonsense\n", &[END]].concat();
    let (told, end, read) = converse(&keys);
    assert!(read && end == End::PowerOff);
    assert_eq!(told.iter().filter(|(text, _)| text.contains("is stopped")).count(), 2);
    assert!(
        told.iter().any(|(text, open)| text.contains("query GPA") && *open),
        "unknown words are answered by help"
    );
}

#[test]
fn the_run_can_be_ended() {
    let (told, end, _) = converse(&[&[ESCAPE][..], b"quit\nmap\n"].concat());
    assert_eq!((end, told.last()), (End::Quit, Some(&("the run ends\n".into(), false))));
}

#[test]
fn without_a_terminal_nothing_is_asked_for() {
    assert_eq!(run(1024, job(), [Exit::Answered].into()).end, End::PowerOff);
}

/// Registers that answer reads with what was asked, and remember what is written.
#[derive(Default)]
struct Registers(HostMutex<Vec<(u64, u64)>>);

impl SharedRegisters for Registers {
    fn read(&self, offset: u64, width: AccessWidth) -> u64 {
        0xff00 | offset << 4 | width.bytes()
    }
    fn write(&self, offset: u64, _: AccessWidth, value: u64) {
        self.0.lock().expect("one thread").push((offset, value));
    }
}

#[test]
fn the_machines_port_is_driven_through_the_hypervisor() {
    use AccessWidth::{Byte, Dword, Qword, Word};
    let device = Device { name: "shared", address: 0x908_0000, size: 0x1000 };
    let registers = Registers::default();
    let shared_port = Some(SharedPort { device, registers: &registers });
    let (pool, cpus) = (pool(1024, true), cpus(1));
    let machine = Machine::new(space(&pool), &cpus, Job { shared_port, ..job() }).expect("regions");
    let (r, w) = (MappingFlags::READ, MappingFlags::WRITE);
    let accesses = [(0, w, Byte), (0x18, r, Dword), (2, r, Dword), (8, w, Qword), (0x38, r, Word)];
    let mut script =
        Script::new(0, accesses.map(|(offset, access, _)| fault(device.address + offset, access)).into());
    // The last one is the first that is looked at.
    script.decoded = accesses.iter().rev().map(|(.., width)| decoded(*width, 3, false)).collect();
    script.registers[3] = 0x1141;
    let left = machine.run(0, &mut script);
    assert_eq!(*registers.0.lock().expect("one thread"), [(0, 0x41)]);
    assert_eq!(
        (script.advanced, script.injected),
        (3, 2),
        "what is not aligned or too wide fails on the bus"
    );
    assert_eq!(script.registers[3], 0xff00 | 0x38 << 4 & 0xffff | 2);
    assert_eq!(close(&machine, &pool, left).faults.total, 0, "none of these is a fault of memory");
}
