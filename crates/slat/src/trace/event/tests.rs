use super::{Event, FaultAnswer, InvalidationScope, WORDS, What};
use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::flags::{LeafSize, MappingFlags};
use crate::tlb::Reach;
use crate::trace::{Operation, Refusal};

/// Every kind of event, with each value that it can have.
fn all() -> Vec<What> {
    let start = GuestPhysAddr::new(u64::MAX);
    let leaves = [None, Some(LeafSize::Size4K), Some(LeafSize::Size2M), Some(LeafSize::Size1G)];
    let mut all = Vec::new();
    for (answer, leaf) in FaultAnswer::ALL.iter().flat_map(|answer| leaves.map(|leaf| (*answer, leaf))) {
        all.push(What::Fault { gpa: start, access: MappingFlags::all(), answer, leaf });
    }
    for operation in Operation::ALL.iter().copied() {
        let results = Refusal::ALL.iter().map(|refusal| Err(*refusal)).chain([Ok(0), Ok(u64::MAX)]);
        all.extend(results.map(|result| What::Operation { operation, start, size: 5, result }));
    }
    for scope in InvalidationScope::ALL.iter().copied() {
        let reaches = [Reach::AllCpus, Reach::ThisCpu];
        all.extend(reaches.map(|reach| What::Invalidation { scope, reach, start, size: u64::MAX }));
    }
    all.push(What::Host { code: 255, values: [1, u64::MAX, 3] });
    all
}

fn event(what: What) -> Event {
    let root = HostPhysAddr::new(0x1234_5000);
    Event { begin: 1 << 63, end: u64::MAX, cpu: u16::MAX, tag: 0x8001, root, what }
}

#[test]
fn events_come_back_from_words_and_no_two_are_the_same() {
    let all: Vec<_> = all().into_iter().map(event).collect();
    for event in &all {
        assert_eq!(Event::decode(event.encode()), Some(*event));
    }
    let mut words: Vec<_> = all.iter().map(Event::encode).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), all.len());
}

#[test]
fn words_that_no_event_has_are_none() {
    assert_eq!(Event::decode([0; WORDS]), None);
    let good = event(What::Host { code: 0, values: [0; 3] }).encode();
    let fault = event(all()[0]).encode();
    let operation = event(What::Operation {
        operation: Operation::Drop,
        start: GuestPhysAddr::new(0),
        size: 0,
        result: Ok(0),
    });
    let with = |mut words: [u64; WORDS], place: usize, mask: u64| {
        words[place] |= mask;
        Event::decode(words)
    };
    assert_eq!(with(good, 2, 0xff), None, "a kind");
    assert_eq!(with(good, 2, 0xff << 16), None, "a detail of the host's");
    assert_eq!(with(fault, 2, 0xff << 8), None, "an answer");
    assert_eq!(with(fault, 2, 0xff << 16), None, "an access");
    assert_eq!(with(fault, 2, 0x80 << 24), None, "a leaf");
    assert_eq!(with(fault, 5, 1), None, "a word that a fault does not have");
    assert_eq!(with(operation.encode(), 2, 0xff << 8), None, "an operation");
    assert_eq!(with(operation.encode(), 2, 0x7f << 16), None, "a refusal");
}

#[test]
fn events_are_lines() {
    let start = GuestPhysAddr::new(0x1000);
    let line = |what| Event { begin: 100, end: 130, cpu: 2, tag: 7, ..event(what) }.to_string();
    let fault = What::Fault {
        gpa: start,
        access: MappingFlags::WRITE,
        answer: FaultAnswer::Copied,
        leaf: Some(LeafSize::Size2M),
    };
    assert_eq!(line(fault), "100 (+30) CPU 2, tag 7: fault `-w--` at 0x1000: copied, 2M");
    let refused =
        What::Operation { operation: Operation::Unmap, start, size: 0, result: Err(Refusal::Pinned) };
    assert_eq!(line(refused), "100 (+30) CPU 2, tag 7: unmap 0x1000 + 0x0: pinned");
    let ranges =
        What::Invalidation { scope: InvalidationScope::Ranges, reach: Reach::ThisCpu, start, size: 0x2000 };
    assert_eq!(ranges.to_string(), "invalidation of ranges on this CPU: 0x1000 + 0x2000");
    let space = What::Invalidation {
        scope: InvalidationScope::Space,
        reach: Reach::AllCpus,
        start: GuestPhysAddr::new(0),
        size: 0,
    };
    assert_eq!(space.to_string(), "invalidation of the space on all CPUs");
    assert_eq!(What::Host { code: 3, values: [1, 16, 0] }.to_string(), "host 3: [1, 10, 0]");
}

#[test]
fn refused_answers_are_the_errors() {
    let refused = FaultAnswer::ALL.iter().filter(|answer| answer.is_refused()).count();
    assert_eq!((refused, FaultAnswer::ALL.len()), (6, 15));
}
