use super::*;
use alloc::vec::Vec;

const PHYSICAL_1: u32 = 1 << 24;

fn set(cpus: &[usize]) -> Set {
    Set(cpus.iter().fold(0, |set, cpu| set | 1 << cpu))
}

#[test]
fn start_up_of_another_cpu_is_the_hypervisors() {
    let signals = Signals::new();
    // As Linux does it: INIT by level, its end, start-up twice.
    assert_eq!(signals.command(0, PHYSICAL_1, 0xc500, 2), Command::Init(set(&[1])));
    assert_eq!(signals.command(0, PHYSICAL_1, 0x8500, 2), Command::Nothing);
    assert_eq!(signals.command(0, PHYSICAL_1, 0x0699, 2), Command::StartUp(set(&[1]), 0x99));
    // By edge, and to all others.
    assert_eq!(signals.command(0, 0, 0xc_4500, 2), Command::Init(set(&[1])));
    assert_eq!(signals.command(1, 0, 0xc_4500, 2), Command::Init(set(&[0])));
    assert_eq!(signals.command(0, 0, 0xc_4608, 2), Command::StartUp(set(&[1]), 8));
    // To all by name, the sender included; by shorthand that cannot be asked for.
    assert_eq!(signals.command(1, u32::MAX, 0x4500, 2), Command::Init(set(&[0, 1])));
    assert_eq!(signals.command(1, u32::MAX, 0x4608, 2), Command::StartUp(set(&[0]), 8));
    assert_eq!(signals.command(1, u32::MAX, 0x8_4500, 2), Command::Init(set(&[])));
    assert_eq!(signals.command(1, u32::MAX, 0x4_4500, 2), Command::Init(set(&[])));
}

#[test]
fn cpus_that_the_guest_does_not_have_are_meant_by_nobody() {
    let signals = Signals::new();
    for command in [0x4500_u32, 0x4608, 0x4400] {
        for high in [PHYSICAL_1, 2 << 24, 0xfe << 24] {
            let found = signals.command(0, high, command, 1);
            let (Command::Init(found) | Command::StartUp(found, _) | Command::Nmi(found)) = found else {
                panic!("{found:?}");
            };
            assert_eq!(found.cpus().count(), 0);
        }
    }
}

#[test]
fn interrupts_with_vectors_pass_and_what_stops_a_cpu_does_not() {
    let signals = Signals::new();
    for low in [0x0_00f0, 0x0_01f0, 0x8_40f0, 0xc_40f0, 0x4_40f0, 0x0_08f0] {
        assert_eq!(signals.command(0, PHYSICAL_1, low, 2), Command::Forward);
    }
    // System management, two reserved modes.
    for mode in [2, 3, 7] {
        assert_eq!(signals.command(0, PHYSICAL_1, mode << 8, 2), Command::Nothing);
    }
}

#[test]
fn an_nmi_reaches_those_with_its_logical_name() {
    let signals = Signals::new();
    let nmi = |name: u32| signals.command(0, name << 24, 0x0c00, 2);
    assert_eq!(nmi(3), Command::Nmi(set(&[])));
    signals.note(0, LOGICAL_DESTINATION, 1 << 24);
    signals.note(1, LOGICAL_DESTINATION, 2 << 24);
    assert_eq!(nmi(3), Command::Nmi(set(&[0, 1])));
    assert_eq!(nmi(2), Command::Nmi(set(&[1])));
    // In clusters names mean something else.
    signals.note(1, DESTINATION_FORMAT, 0);
    assert_eq!(nmi(3), Command::Nmi(set(&[0])));
    signals.note(7, LOGICAL_DESTINATION, 0);
}

#[test]
fn a_signal_is_taken_once_by_its_own_cpu() {
    let signals = Signals::new();
    signals.put_init(1);
    signals.put_nmi(0);
    assert!(!signals.take_init(0) && !signals.take_nmi(1));
    assert!(signals.take_init(1) && signals.take_nmi(0));
    assert!(!signals.take_init(1) && !signals.take_nmi(0));
    signals.put_init(9);
    assert!(!signals.take_init(9));
    let all: Vec<usize> = set(&[0, 1]).cpus().collect();
    assert_eq!(all, [0, 1]);
}

#[test]
fn the_id_stays_and_the_local_vectors_have_no_init() {
    assert_eq!(write(0x20, 5 << 24), Write::Ignore);
    assert_eq!(write(0x30, 5), Write::Ignore);
    assert_eq!(write(0xb0, 0), Write::Pass(0));
    assert_eq!(write(0xb4, 0), Write::Ignore);
    assert_eq!(write(0x300, 7), Write::Command(7));
    assert_eq!(write(0x310, 7), Write::CommandHigh(7));
    // Timer, and LINT1 as an NMI.
    assert_eq!(write(0x320, 0x2_00ec), Write::Pass(0x2_00ec));
    assert_eq!(write(0x360, 0x400), Write::Pass(0x400));
    // INIT, system management.
    assert_eq!(write(0x350, 0x500), Write::Pass(0x1_0500));
    assert_eq!(write(0x350, 0x200), Write::Pass(0x1_0200));
    assert_eq!(write(0x328, 0), Write::Ignore);
    assert_eq!(write(0xff0, 0), Write::Ignore);
}
