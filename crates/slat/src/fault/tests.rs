use super::{FaultCause, NestedPageFaultInfo};
use crate::addr::{GuestPhysAddr, GuestVirtAddr};
use crate::flags::MappingFlags;
use std::string::ToString;

#[test]
fn a_fault_says_what_was_tried_and_why_it_was_refused() {
    let plain = NestedPageFaultInfo {
        gpa: GuestPhysAddr::new(0x1000),
        gva: None,
        access: MappingFlags::READ,
        cause: FaultCause::NotPresent,
        walk: false,
        width: None,
    };
    let tried = |access| NestedPageFaultInfo { access, ..plain }.to_string();
    assert_eq!(tried(MappingFlags::READ), "read of GPA 0x1000, not present");
    assert_eq!(tried(MappingFlags::WRITE), "write of GPA 0x1000, not present");
    assert_eq!(tried(MappingFlags::EXECUTE | MappingFlags::USER), "fetch of GPA 0x1000, not present");
    let walk = NestedPageFaultInfo {
        gva: Some(GuestVirtAddr::new(0xffff_0000)),
        cause: FaultCause::Permission,
        walk: true,
        ..plain
    };
    let wanted = "read of GPA 0x1000 (GVA 0xffff0000), no permission, in the guest's table walk";
    assert_eq!(walk.to_string(), wanted);
    let refused = |cause| NestedPageFaultInfo { cause, ..plain }.to_string();
    assert!(refused(FaultCause::AccessFlag).ends_with("access flag"));
    assert!(refused(FaultCause::AddressSize).ends_with("address size"));
}
