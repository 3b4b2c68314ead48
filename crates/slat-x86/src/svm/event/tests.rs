//! Events to and from the VMCB.

use super::*;

const EVENTS: [(Event, u64); 7] = [
    (Event::ExternalInterrupt(0x30), 0x8000_0030),
    (Event::Nmi, 0x8000_0202),
    (Event::Exception { vector: 6, error_code: None }, 0x8000_0306),
    (Event::Exception { vector: 14, error_code: Some(7) }, 0x7_8000_0b0e),
    (Event::SoftwareInterrupt { vector: 0x80, length: 2 }, 0x8000_0480),
    (Event::SoftwareException { vector: 3, length: 1 }, 0x8000_0303),
    (Event::PrivilegedSoftwareException { length: 1 }, 0x8000_0301),
];

#[test]
fn each_event_has_its_own_word() {
    for (event, info) in EVENTS {
        assert_eq!(Delivery::of(event).info, info, "{event:?}");
    }
    let length = |event| Delivery::of(event).length;
    assert_eq!(length(Event::SoftwareInterrupt { vector: 0x80, length: 3 }), 3);
    assert_eq!(length(Event::Nmi), 0);
}

#[test]
fn what_was_interrupted_is_delivered_again() {
    for (event, info) in EVENTS.into_iter().take(4) {
        assert_eq!(interrupted(info, None), Some(Interrupted { event, again: true }), "{event:?}");
    }
    for nothing in [0, 0x7fff_ffff, 0xffff_ffff_0000_0000] {
        assert_eq!(interrupted(nothing, None), None);
    }
    // No such types.
    for kind in [1, 5, 6, 7] {
        assert_eq!(interrupted(0x8000_0030 | kind << 8, None), None);
    }
}

#[test]
fn qemu_calls_interrupts_exceptions() {
    let found =
        |info| interrupted(info, None).filter(|found| found.again).map(|found| Delivery::of(found.event));
    assert_eq!(found(0x8000_0330), Some(Delivery { info: 0x8000_0030, length: 0 }));
    assert_eq!(found(0x8000_03ff), Some(Delivery { info: 0x8000_00ff, length: 0 }));
    assert_eq!(found(0x8000_0320), Some(Delivery { info: 0x8000_0020, length: 0 }));
    assert_eq!(found(0x8000_031f), Some(Delivery { info: 0x8000_031f, length: 0 }));
    assert_eq!(found(0x8000_0302), Some(Delivery { info: 0x8000_0202, length: 0 }));
}

#[test]
fn the_guests_own_software_events_are_executed_again() {
    for info in [0x8000_0480, 0x8000_0303, 0x8000_0304] {
        let found = interrupted(info, None).expect("one was interrupted");
        assert!(!found.again);
    }
    // Those that were injected have no instruction there.
    for (injected, info) in [
        (Event::SoftwareInterrupt { vector: 0x80, length: 3 }, 0x8000_0480),
        (Event::SoftwareException { vector: 3, length: 2 }, 0x8000_0303),
        (Event::PrivilegedSoftwareException { length: 2 }, 0x8000_0301),
        (Event::Exception { vector: 3, error_code: None }, 0x8000_0303),
        (Event::Exception { vector: 4, error_code: None }, 0x8000_0304),
    ] {
        let again = Some(Interrupted { event: injected, again: true });
        assert_eq!(interrupted(info, Some(injected)), again);
        // Another one was injected, and its handler began with INT 81h.
        assert!(interrupted(0x8000_0481, Some(injected)).is_some_and(|found| !found.again));
    }
    let other = Event::ExternalInterrupt(0x80);
    assert!(interrupted(0x8000_0480, Some(other)).is_some_and(|found| !found.again));
}
