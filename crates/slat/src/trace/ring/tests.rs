use super::{Absent, HEADER_WORDS, Ring, SLOT_WORDS};
use crate::addr::HostPhysAddr;
use crate::sync::AtomicU64;
use crate::trace::{Event, What};
use std::sync::atomic::Ordering;
use std::vec::Vec;

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// An event all of whose words say which it is.
fn event(value: u64) -> Event {
    let root = HostPhysAddr::new(value);
    Event { begin: value, end: value, cpu: 0, tag: 0, root, what: What::Host { code: 0, values: [value; 3] } }
}

fn values(ring: &Ring<'_>) -> Vec<(u64, u64)> {
    ring.events().map(|(number, event)| (number, event.begin)).collect()
}

#[test]
fn there_is_room_for_a_power_of_two() {
    let words = words(HEADER_WORDS + 5 * SLOT_WORDS + 3);
    let capacity = |count: usize| Ring::new(&words[..count]).capacity();
    let cases = [0, 7, 8, 15, 16, 24, 31, 32, 40, 51];
    assert_eq!(cases.map(capacity), [0, 0, 0, 0, 1, 2, 2, 2, 4, 4]);
}

#[test]
fn the_newest_events_are_kept() {
    let words = words(HEADER_WORDS + 4 * SLOT_WORDS);
    let ring = Ring::new(&words);
    assert_eq!((values(&ring), ring.get(0)), (vec![], Err(Absent::Unwritten)));
    (0..3).for_each(|value| ring.record(&event(10 + value)));
    assert_eq!(values(&ring), [(0, 10), (1, 11), (2, 12)]);
    assert_eq!(ring.get(3), Err(Absent::Unwritten));
    (3..11).for_each(|value| ring.record(&event(10 + value)));
    assert_eq!(values(&ring), [(7, 17), (8, 18), (9, 19), (10, 20)]);
    assert_eq!((ring.get(6), ring.get(11)), (Err(Absent::Overwritten), Err(Absent::Unwritten)));
    assert_eq!((ring.recorded(), ring.dropped()), (11, 0));
    assert_eq!(ring.since(9).map(|(number, _)| number).collect::<Vec<_>>(), [9, 10]);
    assert_eq!(ring.since(12).count(), 0);
    // Another view of the same words is the same ring.
    assert_eq!(values(&Ring::new(&words)), values(&ring));
}

#[test]
fn a_busy_slot_costs_the_event_that_wants_it() {
    let words = words(HEADER_WORDS + 2 * SLOT_WORDS);
    let ring = Ring::new(&words);
    // A writer took number 0 and never came back.
    words[0].store(1, Ordering::Relaxed);
    words[HEADER_WORDS].store(1, Ordering::Relaxed);
    (1..5).for_each(|value| ring.record(&event(value)));
    assert_eq!(values(&ring), [(3, 3)]);
    assert_eq!(ring.get(4), Err(Absent::Unwritten));
    assert_eq!((ring.recorded(), ring.dropped()), (5, 2));
    // One that comes late finds a newer event in its place.
    words[HEADER_WORDS + SLOT_WORDS].store(100, Ordering::Relaxed);
    ring.record(&event(5));
    assert_eq!((ring.get(5), ring.dropped()), (Err(Absent::Overwritten), 3));
}

#[test]
fn memory_that_is_no_ring_is_survived() {
    let words: Vec<_> = (0..100).map(|number| AtomicU64::new(u64::MAX - number)).collect();
    let ring = Ring::new(&words);
    assert_eq!(ring.events().count(), 0);
    ring.record(&event(1));
    words[HEADER_WORDS].store(2, Ordering::Relaxed);
    assert_eq!(ring.get(0), Err(Absent::Garbled));
    let none = Ring::new(&[]);
    none.record(&event(1));
    assert_eq!((none.recorded(), none.events().count(), none.get(0)), (0, 0, Err(Absent::Unwritten)));
    let counts = super::Ring::new(&words[..1]);
    words[0].store(0, Ordering::Relaxed);
    counts.record(&event(1));
    assert_eq!(
        (counts.recorded(), counts.get(0), counts.get(1)),
        (1, Err(Absent::Overwritten), Err(Absent::Unwritten))
    );
}

#[test]
fn writers_on_several_cpus_never_mix_their_events() {
    const EVENTS: u64 = if cfg!(miri) { 100 } else { 100_000 };
    let words = words(HEADER_WORDS + 4 * SLOT_WORDS);
    let ring = Ring::new(&words);
    let whole = |event: &Event| {
        let value = event.begin;
        *event == self::event(value)
    };
    std::thread::scope(|scope| {
        for cpu in 0..3 {
            scope.spawn(move || (0..EVENTS).for_each(|number| ring.record(&event(cpu << 32 | number))));
        }
        while ring.recorded() < 3 * EVENTS {
            assert!(ring.events().all(|(_, event)| whole(&event)), "a torn event");
        }
    });
    let kept: Vec<_> = ring.events().collect();
    assert!(kept.iter().all(|(_, event)| whole(event)));
    assert_eq!(ring.recorded(), 3 * EVENTS);
    assert!(kept.len() as u64 + ring.dropped() >= 4, "{kept:?}");
}
