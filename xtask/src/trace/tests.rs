use super::{Trace, words};
use slat::trace::{Event, FaultAnswer, InvalidationScope, Operation, Refusal, Ring, What};
use slat::{GuestPhysAddr, HostPhysAddr, LeafSize, MappingFlags, Reach};
use slat_hv_protocol::trace::FRAMES;
use std::io::Cursor;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const RAM: u64 = 0x4000_0000;

fn event(cpu: u16, begin: u64, end: u64, what: What) -> Event {
    Event { begin, end, cpu, tag: 1, root: HostPhysAddr::new(0x1000), what }
}

fn fault(gpa: u64, access: MappingFlags, answer: FaultAnswer, leaf: Option<LeafSize>) -> What {
    What::Fault { gpa: GuestPhysAddr::new(gpa), access, answer, leaf }
}

/// A short run in ticks of a microsecond, in which everything happens, as a ring has it: in the order of the ends.
pub(super) fn events() -> Vec<Event> {
    let (small, start) = (Some(LeafSize::Size4K), GuestPhysAddr::new(RAM));
    let all =
        What::Invalidation { scope: InvalidationScope::Ranges, reach: Reach::AllCpus, start, size: 0x1000 };
    let operation = |operation, size, result| What::Operation { operation, start, size, result };
    vec![
        event(0, 1000, 1010, operation(Operation::MapAlloc, 128 << 20, Ok(0))),
        event(0, 1100, 1100, What::Host { code: FRAMES, values: [64, 64, 0] }),
        event(0, 1110, 1150, operation(Operation::PopulateAround, 2 << 20, Ok(511))),
        event(0, 1090, 1200, fault(RAM + 0x1234, MappingFlags::EXECUTE, FaultAnswer::Populated, small)),
        event(
            1,
            1150,
            1250,
            fault(RAM + (64 << 20), MappingFlags::WRITE, FaultAnswer::Populated, Some(LeafSize::Size2M)),
        ),
        event(1, 1300, 1301, fault(0x900_0000, MappingFlags::READ, FaultAnswer::Trap, None)),
        event(1, 1400, 1402, fault(1 << 50, MappingFlags::READ, FaultAnswer::OutsideSpace, None)),
        event(0, 1510, 1520, all),
        event(0, 1500, 1530, operation(Operation::Unmap, 0x10_0000, Ok(0))),
        event(0, 1600, 1601, operation(Operation::Unmap, 0, Err(Refusal::BadArgument))),
        event(0, 1990, 1990, What::Host { code: 99, values: [0; 3] }),
        event(0, 2000, 2000, What::Host { code: FRAMES, values: [0, 64, 0] }),
    ]
}

/// The words of a ring with room for 16 events that has these.
pub(super) fn ring(events: &[Event]) -> Vec<AtomicU64> {
    let words: Vec<_> = (0..8 * 17).map(|_| AtomicU64::new(0)).collect();
    events.iter().for_each(|event| Ring::new(&words).record(event));
    words
}

pub(super) fn trace() -> Trace {
    Trace::new(ring(&events()), 1_000_000, None)
}

#[test]
fn events_come_in_the_order_of_their_beginnings() {
    let trace = trace();
    assert_eq!(trace.events.len(), events().len());
    assert!(trace.events.is_sorted_by_key(|event| event.begin));
    assert_eq!((trace.overwritten, trace.dropped, trace.measured), (0, 0, false));
    assert_eq!((trace.microseconds(1000), trace.microseconds(1500), trace.length()), (0.0, 500.0, 1000.0));
    assert_eq!(trace.duration(&events()[3]), 110.0);
    assert_eq!(trace.cpus().into_iter().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(trace.faults(), 3, "without that for a device");
    assert_eq!(trace.frames().collect::<Vec<_>>(), [(100.0, 64), (1000.0, 0)]);
}

#[test]
fn a_clock_that_is_not_told_is_measured() {
    let trace = Trace::new(ring(&events()), 0, Some(2.0));
    assert!(trace.measured);
    assert_eq!((trace.length(), trace.microseconds(1500)), (2e6, 1e6));
    for seconds in [None, Some(0.0)] {
        assert!(Trace::new(ring(&events()), 0, seconds).length() > 0.0);
    }
    let empty = Trace::new(vec![], 0, Some(1.0));
    assert_eq!((empty.events.len(), empty.length()), (0, 0.0));
}

#[test]
fn a_ring_that_went_round_says_what_is_gone() {
    let (first, all) = (events()[0], [events(), events()].concat());
    let trace = Trace::new(ring(&all), 1, None);
    assert_eq!((trace.overwritten, trace.events.len()), (24 - 16, 16));
    assert_eq!(trace.events.iter().filter(|event| **event == first).count(), 1);
}

#[test]
fn words_are_read_from_a_file_at_an_offset() {
    let ring = ring(&events());
    let mut bytes = vec![0xff; 24];
    ring.iter().for_each(|word| bytes.extend(word.load(Ordering::Relaxed).to_le_bytes()));
    let size = 8 * ring.len() as u64;
    let read = words(&mut Cursor::new(&bytes), 24, size).unwrap();
    assert_eq!(Trace::new(read, 1_000_000, None), trace());
    assert!(words(&mut Cursor::new(&bytes), 32, size).is_err(), "the file is shorter");
}
