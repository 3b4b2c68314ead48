use super::{EptMemoryType, EptPointer, EptPointerError};
use crate::vmx::Capabilities;
use crate::vmx::capabilities::tests::TIGERLAKE;
use slat::HostPhysAddr;
use slat::format::Format;
use slat::format::ept::Ept;

#[test]
fn the_fields_are_where_the_manual_has_them() {
    let has = Capabilities::new(&TIGERLAKE).expect("EPT");
    let root = HostPhysAddr::new(0x1234_5000);
    let pointer = EptPointer::new(&has, root, 4, EptMemoryType::WriteBack, true).expect("offered");
    assert_eq!(pointer.raw(), 0x1234_505e);
    assert_eq!((pointer.root(), pointer.levels(), pointer.accessed_dirty()), (root, 4, true));
    let pointer = EptPointer::new(&has, root, 4, EptMemoryType::Uncacheable, false).expect("offered");
    assert_eq!(pointer.raw(), 0x1234_5018);
    assert!(!pointer.accessed_dirty());
}

#[test]
fn slats_root_register_is_one() {
    let has = Capabilities::new(&TIGERLAKE).expect("EPT");
    let format = Ept::new(has.ept(true), 4).expect("offered");
    let root = HostPhysAddr::new(0x8000);
    let ours = EptPointer::new(&has, root, 4, EptMemoryType::WriteBack, true);
    assert_eq!(EptPointer::from_raw(&has, format.root_register(root, 0)), ours);
}

#[test]
fn what_the_cpu_does_not_take_is_an_error() {
    let has = Capabilities::new(&TIGERLAKE).expect("EPT");
    let new = |root, levels| {
        EptPointer::new(&has, HostPhysAddr::new(root), levels, EptMemoryType::WriteBack, false)
    };
    assert_eq!(new(0x1800, 4), Err(EptPointerError::Unaligned(0x1800)));
    assert_eq!(new(1 << 40, 4), Err(EptPointerError::TooWide(1 << 40)));
    assert!(new((1 << 40) - 0x1000, 4).is_ok());
    for levels in [0, 3, 5, 8, 255] {
        assert_eq!(new(0x1000, levels), Err(EptPointerError::Levels(levels)));
    }
    assert_eq!(EptPointer::from_raw(&has, 0x109e), Err(EptPointerError::Reserved(0x109e)));
    assert_eq!(EptPointer::from_raw(&has, 0x101d), Err(EptPointerError::MemoryType(5)));
    let mut raw = TIGERLAKE;
    raw.ept_vpid_cap &= !(1 << 21 | 1 << 8);
    let less = Capabilities::new(&raw).expect("EPT");
    assert_eq!(EptPointer::from_raw(&less, 0x105e), Err(EptPointerError::NoAccessedDirty));
    assert_eq!(EptPointer::from_raw(&less, 0x1018), Err(EptPointerError::MemoryType(0)));
    raw.ept_vpid_cap |= 1 << 7;
    let five = Capabilities::new(&raw).expect("EPT");
    assert_eq!(EptPointer::from_raw(&five, 0x1026).map(EptPointer::levels), Ok(5));
}
