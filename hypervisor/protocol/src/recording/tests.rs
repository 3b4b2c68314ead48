use super::*;
use alloc::vec::Vec;

fn all_events() -> Vec<Event> {
    let mut events: Vec<Event> = Operation::ALL
        .into_iter()
        .map(|operation| Event::Maintenance { operation, operand: 0x1234_5678_9abc })
        .collect();
    events.extend([
        Event::Store { entry: 0x4000_0008, value: u64::MAX },
        Event::Load { root: 0x1_0000_4000_0000 },
        Event::Unload,
        Event::Invalidate { root: 7 },
        Event::Invalidated,
        Event::Enter,
        Event::Fault { gpa: 0x8000_0000, access: 0x102 },
        Event::Take { start: 0x1000, count: 512 },
        Event::Return { start: 0x1000, count: 1 },
        Event::Zero { start: 0x2000, count: 2 },
        Event::Clean { start: 0x3000, count: 3 },
        Event::Invept { kind: 2, eptp: 0x1_2345_605e },
        Event::Invvpid { kind: 3, vpid: u16::MAX, linear: u64::MAX },
        Event::LoadTagged { root: 0x1_2345_605e, tag: u32::MAX },
        Event::Vmrun { tlb_control: 7 },
        Event::Exit,
        Event::Logged { gpa: 0x7000 },
    ]);
    for kind in [FenceKind::HfenceGvma, FenceKind::HinvalGvma] {
        for (address, vmid) in
            [(None, None), (Some(0), None), (None, Some(0)), (Some(u64::MAX >> 2), Some(0x3fff))]
        {
            events.push(Event::Fence { kind, address, vmid });
        }
    }
    for vmid in [None, Some(0), Some(0x3fff)] {
        events.push(Event::RemoteFence { harts: 0xff, vmid, start: 0x8000_0000, size: u64::MAX });
    }
    events
}

#[test]
fn every_event_comes_back_as_it_went() {
    for (cpu, event) in all_events().into_iter().enumerate() {
        assert_eq!(Event::decode(event.encode(cpu)), Some((cpu, event)));
    }
}

#[test]
fn the_place_in_the_list_of_operations_is_its_number() {
    for (number, operation) in Operation::ALL.into_iter().enumerate() {
        assert_eq!(operation as usize, number);
    }
}

#[test]
fn words_that_stand_for_nothing_are_refused() {
    assert_eq!(Event::decode([0, 0, 0]), None, "a place that was never written");
    assert_eq!(Event::decode([1 << 63 | 20, 0, 0]), None, "an unknown kind");
    assert_eq!(Event::decode([1 << 63 | 18 << 16 | 1, 0, 0]), None, "an unknown operation");
    assert_eq!(Event::decode([1 << 63 | 3, 1, 0]), None, "an operand where there is none");
    assert_eq!(Event::decode([1 << 63 | 13, 1 << 16, 0]), None, "a VPID that is too wide");
    assert_eq!(Event::decode([1 << 63 | 14, 0, 1 << 32]), None, "a tag that is too wide");
    assert_eq!(Event::decode([1 << 63 | 1 << 16 | 16, 0, 0]), None, "a type of an exit");
    assert_eq!(Event::decode([1 << 63 | 18, 1, 0]), None, "an address where there is none");
    assert_eq!(Event::decode([1 << 63 | 4 << 16 | 18, 0, 1 << 16]), None, "a VMID that is too wide");
    assert_eq!(Event::decode([1 << 63 | 8 << 16 | 18, 0, 0]), None, "an unknown kind of fence");
    assert_eq!(Event::decode([1 << 63 | 1 << 24 | 19, 0, 0]), None, "a VMID where there is none");
    assert_eq!(Event::decode([1 << 63 | 1 << 40 | 3, 0, 0]), None, "a bit without a meaning");
}

#[test]
fn events_are_written_in_order_and_what_has_no_room_is_counted() {
    let words: Vec<AtomicU64> = (0..1 + 2 * EVENT_WORDS).map(|_| AtomicU64::new(0)).collect();
    let recorder = Recorder::new(&words);
    recorder.record(0, Event::Enter);
    recorder.record(1, Event::Unload);
    recorder.record(1, Event::Enter);
    let words: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    assert_eq!(words[0], 3);
    assert_eq!(words[1..4], Event::Enter.encode(0));
    assert_eq!(words[4..7], Event::Unload.encode(1));
    assert_eq!(capacity(8 * words.len() as u64), 2);
    assert_eq!(capacity(8 * words.len() as u64 - 1), 1);
    assert_eq!(capacity(0), 0);
}
