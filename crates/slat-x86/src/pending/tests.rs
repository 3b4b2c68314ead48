use super::{Open, Pending};
use crate::event::Event;

const CLOSED: Open = Open { interrupts: false, nmis: false };
const ALL: Open = Open { interrupts: true, nmis: true };

const fn exception(vector: u8) -> Event {
    let error_code = if Event::has_error_code(vector) { Some(0) } else { None };
    Event::Exception { vector, error_code }
}

fn after(first: Event, second: Event) -> Pending {
    let mut pending = Pending::NONE;
    pending.interrupted(first);
    pending.add(second, true);
    pending
}

#[test]
fn what_was_interrupted_is_delivered_once() {
    let mut pending = Pending::NONE;
    let event = Event::SoftwareInterrupt { vector: 0x80, length: 2 };
    pending.interrupted(event);
    assert!(pending.is_occupied());
    assert_eq!(pending.deliver(CLOSED), Some(event));
    assert_eq!(pending, Pending::NONE);
    assert_eq!(pending.deliver(ALL), None);
}

/// The manual's table "Conditions for Generating a Double Fault".
#[test]
fn two_exceptions_become_what_the_manual_says() {
    let (benign, contributory, page) = ([1, 3, 6, 7, 16, 17, 18, 19], [0, 10, 11, 12, 13, 21], [14, 20]);
    let double = |first: u8, second: u8| {
        after(exception(first), exception(second)).deliver(CLOSED) == Some(exception(8))
    };
    for &first in &benign {
        for &second in benign.iter().chain(&contributory).chain(&page) {
            assert!(!double(first, second), "{first} {second}");
        }
    }
    for &first in &contributory {
        for &second in benign.iter().chain(&page) {
            assert!(!double(first, second), "{first} {second}");
        }
        for &second in &contributory {
            assert!(double(first, second), "{first} {second}");
        }
    }
    for &first in &page {
        for &second in &benign {
            assert!(!double(first, second), "{first} {second}");
        }
        for &second in contributory.iter().chain(&page) {
            assert!(double(first, second), "{first} {second}");
        }
    }
    // Handled one after the other: the second one goes first, and the first one happens again.
    assert_eq!(after(exception(13), exception(14)).deliver(CLOSED), Some(exception(14)));
}

#[test]
fn a_fault_in_the_delivery_of_a_double_fault_is_the_end() {
    for second in [13, 14, 8] {
        let mut pending = after(exception(8), exception(second));
        assert!(pending.is_occupied());
        assert_eq!(pending.deliver(ALL), None);
        assert!(pending.take_shutdown());
        assert!(!pending.take_shutdown() && !pending.is_occupied());
    }
    assert_eq!(after(exception(8), exception(1)).deliver(CLOSED), Some(exception(1)));
}

#[test]
fn in_real_mode_a_double_fault_has_no_error_code() {
    let mut pending = Pending::NONE;
    pending.interrupted(Event::Exception { vector: 13, error_code: None });
    pending.add(Event::Exception { vector: 13, error_code: None }, false);
    assert_eq!(pending.deliver(CLOSED), Some(Event::Exception { vector: 8, error_code: None }));
}

#[test]
fn interrupts_and_nmis_wait_for_the_exception_that_went_first() {
    let mut pending = after(Event::ExternalInterrupt(0x31), exception(14));
    assert_eq!(pending.deliver(CLOSED), Some(exception(14)));
    assert!(pending.waits_for_interrupts());
    assert_eq!(pending.deliver(CLOSED), None);
    assert_eq!(pending.deliver(Open { interrupts: true, nmis: false }), Some(Event::ExternalInterrupt(0x31)));
    assert_eq!(pending, Pending::NONE);

    let mut pending = after(Event::Nmi, exception(13));
    assert_eq!(pending.deliver(CLOSED), Some(exception(13)));
    assert!(pending.waits_for_nmis() && !pending.waits_for_interrupts());
    assert_eq!(pending.deliver(Open { interrupts: true, nmis: false }), None);
    assert_eq!(pending.deliver(ALL), Some(Event::Nmi));
    assert_eq!(pending, Pending::NONE);
}

#[test]
fn an_nmi_waits_for_its_turn() {
    let mut pending = Pending::NONE;
    pending.add(Event::Nmi, true);
    pending.add(Event::Nmi, true);
    assert!(!pending.is_occupied());
    assert_eq!(pending.deliver(CLOSED), None);
    // Two that wait are one, as in the CPU.
    assert_eq!(pending.deliver(ALL), Some(Event::Nmi));
    assert_eq!(pending.deliver(ALL), None);
    let mut pending = after(exception(14), Event::Nmi);
    assert_eq!(pending.deliver(ALL), Some(exception(14)));
    assert_eq!(pending.deliver(ALL), Some(Event::Nmi));
}

#[test]
fn an_instruction_that_raised_an_interrupt_is_executed_again() {
    let mut pending = after(Event::SoftwareInterrupt { vector: 3, length: 2 }, exception(14));
    assert_eq!(pending.deliver(ALL), Some(exception(14)));
    assert_eq!(pending, Pending::NONE);
    let mut pending =
        after(Event::SoftwareException { vector: 3, length: 1 }, Event::ExternalInterrupt(0x20));
    assert_eq!(pending.deliver(CLOSED), Some(Event::SoftwareException { vector: 3, length: 1 }));
    assert_eq!(pending.deliver(ALL), Some(Event::ExternalInterrupt(0x20)));
}

#[test]
fn what_is_withdrawn_is_not_delivered() {
    let event = Event::ExternalInterrupt(0x20);
    let mut pending = Pending::NONE;
    assert_eq!(pending.withdraw(event), None);
    pending.interrupted(event);
    assert_eq!(pending.withdraw(event), Some(event));
    assert_eq!(pending.deliver(ALL), None);
    // Not what has taken its place.
    let mut pending = after(event, exception(14));
    assert_eq!(pending.withdraw(event), None);
    assert_eq!(pending.deliver(ALL), Some(exception(14)));
}

#[test]
fn no_interrupt_takes_the_place_of_another() {
    let mut pending = after(Event::ExternalInterrupt(0x31), exception(14));
    assert!(!pending.has_room_for_interrupts());
    assert_eq!(pending.deliver(CLOSED), Some(exception(14)));
    assert!(!pending.has_room_for_interrupts(), "one waits");
    // One of the machine's own goes past it, and its delivery faults, too.
    pending.interrupted(Event::ExternalInterrupt(0x45));
    pending.add(exception(13), true);
    assert_eq!(pending.deliver(CLOSED), Some(exception(13)));
    for vector in [0x45, 0x31] {
        assert_eq!(pending.deliver(ALL), Some(Event::ExternalInterrupt(vector)));
    }
    assert!(pending.has_room_for_interrupts() && pending == Pending::NONE);
    for vector in [0, 63, 64, 255] {
        pending = after(Event::ExternalInterrupt(vector), exception(1));
        assert_eq!(pending.deliver(ALL), Some(exception(1)));
        assert_eq!(pending.deliver(ALL), Some(Event::ExternalInterrupt(vector)));
        assert_eq!(pending, Pending::NONE);
    }
}
