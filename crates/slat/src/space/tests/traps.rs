//! Regions without memory: an emulator answers.

use super::*;
use crate::device::{DeviceAccess, DeviceId};
use crate::error::{FaultError, MapError, MigrateError, ProtectError};
use crate::fault::FaultOutcome;

const UART: DeviceId = DeviceId(7);

fn traps_on<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = AddrSpace::with_format(&hal, format, gpa(0), GIB1, 1).expect("a root");
    let before = hal.in_use();
    space.map_trap(gpa(0x9000), 0x3000, UART).expect("free");
    assert_eq!(hal.in_use(), before + 1, "one frame for the regions, no table");
    let trap =
        |space: &AddrSpace<&HeapHal, F>, address, access| space.handle_page_fault(gpa(address), access);
    for (address, offset) in [(0x9000, 0), (0x9018, 0x18), (0xbfff, 0x2fff)] {
        for access in [MappingFlags::READ, MappingFlags::WRITE] {
            let access_seen = DeviceAccess { device: UART, offset, access, width: None };
            assert_eq!(trap(&space, address, access), Ok(FaultOutcome::Trap(access_seen)));
        }
    }
    assert!(matches!(trap(&space, 0xc000, MappingFlags::READ), Err(FaultError::NoRegion(_))));
    assert!(matches!(trap(&space, 0x9000, MappingFlags::EXECUTE), Err(FaultError::Permission { .. })));
    assert_eq!(space.translate(gpa(0x9000)), None);
    assert_eq!(space.populate(gpa(0x9000), 0x3000), Ok(0), "there is nothing to populate");
    assert_eq!(hal.in_use(), before + 1);
    assert!(
        space.dump().to_string().contains("0x9000..0xc000 rw-- device device 7 + 0x0\n"),
        "{}",
        space.dump()
    );
    // A hole in the middle; what is left keeps its offsets.
    space.unmap(gpa(0xa000), 0x1000).expect("mapped");
    assert!(matches!(trap(&space, 0xa000, MappingFlags::READ), Err(FaultError::NoRegion(_))));
    let Ok(FaultOutcome::Trap(access)) = trap(&space, 0xb004, MappingFlags::READ) else { panic!("trapped") };
    assert_eq!(access.offset, 0x2004);
    space.protect(gpa(0x9000), 0x1000, MappingFlags::READ | MappingFlags::DEVICE).expect("mapped");
    assert!(matches!(trap(&space, 0x9000, MappingFlags::WRITE), Err(FaultError::Permission { .. })));
    assert!(matches!(trap(&space, 0x9000, MappingFlags::READ), Ok(FaultOutcome::Trap(_))));
    let region = space.region(gpa(0x9000)).expect("there").range;
    assert_eq!(space.migrate(gpa(0x9000), 0x1000), Err(MigrateError::NotOwned(region)));
    space.clear().expect("no pins");
    assert_eq!(hal.in_use(), before);
}

#[test]
fn an_access_to_a_trap_region_names_the_device_and_the_offset() {
    on_all_formats!(traps_on);
}

#[test]
fn a_trap_region_is_checked_like_any_other() {
    let hal = HeapHal::new();
    let wide = Features { pa_bits: 52, vmid_bits: 16, ..Features::BASELINE };
    assert!(Stage2::new(wide, Some(52)).is_err(), "no Arm space is as wide as the limit");
    let [_, _, format] = gstage_formats();
    assert_eq!(format.mode(), gstage::Mode::Sv57x4);
    let mut space = AddrSpace::with_format(&hal, format, gpa(0), 1 << 59, 1).expect("a root");
    let limit = 1 << 48;
    let beyond = MapError::BeyondBackend { offset: 0, size: limit + 0x1000, most: limit };
    assert_eq!(space.map_trap(gpa(0), limit + 0x1000, UART), Err(beyond));
    assert_eq!(space.regions().count(), 0);
    space.map_trap(gpa(0x1000), limit, DeviceId(0xffff)).expect("as large as can be");
    let last = gpa(limit + 0xfff);
    let Ok(FaultOutcome::Trap(access)) = space.handle_page_fault(last, MappingFlags::READ) else {
        panic!("trapped")
    };
    assert_eq!((access.device, access.offset), (DeviceId(0xffff), limit - 1));
    assert!(matches!(space.map_trap(last.align_down(KIB4), KIB4, UART), Err(MapError::AlreadyMapped { .. })));
    assert!(matches!(space.map_trap(gpa(0x800), KIB4, UART), Err(MapError::BadRange(_))));
    hal.fail_after(Some(0));
    let mut empty = space;
    empty.unmap(gpa(0x1000), limit).expect("nothing to split");
    assert_eq!(empty.map_trap(gpa(0), KIB4, UART), Ok(()), "the node is there already");
}

#[test]
fn no_memory_for_the_region_is_said() {
    let hal = HeapHal::new();
    let mut space = space(&hal);
    hal.fail_after(Some(0));
    assert_eq!(space.map_trap(gpa(0), KIB4, UART), Err(MapError::OutOfMemory));
    assert_eq!(space.regions().count(), 0);
    hal.fail_after(None);
    space.map_trap(gpa(0), KIB4, UART).expect("free");
    assert!(matches!(space.protect(gpa(0), 2 * KIB4, RW), Err(ProtectError::NotMapped(_))));
}
