use super::*;
use slat::{FaultCause, GuestPhysAddr, MappingFlags};
use std::string::ToString;
use std::vec::Vec;

fn fault(gpa: u64, answered: Answered) -> Fault {
    let info = NestedPageFaultInfo {
        gpa: GuestPhysAddr::new(gpa),
        gva: None,
        access: MappingFlags::WRITE,
        cause: FaultCause::NotPresent,
        walk: false,
        width: None,
    };
    Fault { cpu: 1, pc: 0x80, info, answered }
}

#[test]
fn the_last_ones_are_kept_in_order() {
    let mut faults = LastFaults::new();
    assert_eq!(faults.iter().count(), 0);
    let populated = Answered::Library(Ok(FaultOutcome::Populated(LeafSize::Size4K)));
    for number in 1..=3 {
        faults.add(fault(number << 12, populated));
    }
    assert_eq!(faults.iter().map(|(number, _)| number).collect::<Vec<_>>(), [1, 2, 3]);
    for number in 4..=100 {
        faults.add(fault(number << 12, populated));
    }
    let kept: Vec<_> = faults.iter().map(|(number, fault)| (number, fault.info.gpa.as_u64() >> 12)).collect();
    assert_eq!(kept, (69..=100).map(|number| (number, number)).collect::<Vec<_>>());
}

#[test]
fn a_fault_is_one_line() {
    let mut faults = LastFaults::new();
    let gpa = GuestPhysAddr::new(0x5000);
    faults.add(fault(0x1000, Answered::Library(Ok(FaultOutcome::Copied(LeafSize::Size4K)))));
    faults.add(fault(0x5000, Answered::Library(Err(FaultError::NoRegion(gpa)))));
    faults.add(fault(0x6000, Answered::Restored));
    let text = faults.to_string();
    let lines: Vec<_> = text.lines().collect();
    let [head, copied, refused, restored] = lines[..] else { panic!("{text}") };
    assert_eq!(head, "3 faults, the last of them:");
    assert_eq!(copied.trim(), "1 vCPU 1 PC 0x80: write of GPA 0x1000, not present: copied, a leaf of 4K");
    assert!(refused.ends_with(": refused, address 0x5000 is in no region"), "{refused}");
    assert!(restored.ends_with(": given back by churn"), "{restored}");
}
