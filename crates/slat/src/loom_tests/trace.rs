//! The ring of a trace: two writers that want the same slot, and a reader.

use crate::addr::HostPhysAddr;
use crate::sync::AtomicU64;
use crate::trace::{Absent, Event, Ring, What};
use loom::sync::Arc;
use loom::thread;
use std::vec::Vec;

/// More than this, and it takes minutes: an event is seven words, each of which a reader may find old or new.
const PREEMPTIONS: usize = 3;

fn explore(work: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(work);
}

/// A ring with room for one event.
fn words() -> Arc<Vec<AtomicU64>> {
    Arc::new((0..16).map(|_| AtomicU64::new(0)).collect())
}

/// An event all of whose words say which it is.
fn event(value: u64) -> Event {
    let root = HostPhysAddr::new(value);
    Event { begin: value, end: value, cpu: 0, tag: 0, root, what: What::Host { code: 0, values: [value; 3] } }
}

fn is_whole(found: &Event) -> bool {
    *found == event(found.begin)
}

#[test]
fn a_reader_beside_a_writer_gets_a_whole_event_or_none() {
    explore(|| {
        let words = words();
        Ring::new(&words).record(&event(1));
        let other = Arc::clone(&words);
        let cpu = thread::spawn(move || Ring::new(&other).record(&event(2)));
        let ring = Ring::new(&words);
        match ring.get(0) {
            Ok(found) => assert_eq!(found, event(1)),
            Err(absent) => assert!(absent == Absent::Overwritten, "{absent}"),
        }
        match ring.get(1) {
            Ok(found) => assert_eq!(found, event(2)),
            Err(absent) => assert!(absent == Absent::Unwritten, "{absent}"),
        }
        cpu.join().expect("no panic");
        assert_eq!((ring.get(0), ring.get(1)), (Err(Absent::Overwritten), Ok(event(2))));
    });
}

#[test]
fn two_writers_of_one_slot_leave_a_whole_event() {
    explore(|| {
        let words = words();
        let other = Arc::clone(&words);
        let cpu = thread::spawn(move || Ring::new(&other).record(&event(1)));
        let ring = Ring::new(&words);
        ring.record(&event(2));
        cpu.join().expect("no panic");
        let kept: Vec<_> = ring.events().map(|(_, found)| found).collect();
        assert!(kept.iter().all(is_whole), "{kept:?}");
        // Whoever had to give up has counted it, and the last one of those who did not is there.
        assert!(ring.dropped() <= 1 && ring.recorded() == 2);
        assert!(kept.len() as u64 + ring.dropped() >= 1 && (ring.dropped() > 0 || kept.len() == 1));
    });
}
