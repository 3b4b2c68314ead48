//! Guests whose tables lie in the spaces that are walked.

use super::*;
use crate::addr::GuestVirtAddr;
use crate::device::DeviceId;
use crate::fault::{FaultCause, NestedPageFaultInfo};
use crate::guest::{FetchError, GuestPageFault, GuestPageWalkInfo, GuestTranslation, GuestWalkError};

const READ: MappingFlags = MappingFlags::READ;
const WRITE: MappingFlags = MappingFlags::WRITE;
const EXECUTE: MappingFlags = MappingFlags::EXECUTE;
const USER: MappingFlags = MappingFlags::USER;

/// Four levels with NX; the root is in page 1.
fn long() -> GuestPageWalkInfo {
    GuestPageWalkInfo::x86(1 << 31 | 1 << 16, 0x1000, 1 << 5, 1 << 10 | 1 << 11, 0)
}

/// PAE paging, the root in page 1.
fn pae() -> GuestPageWalkInfo {
    GuestPageWalkInfo::x86(1 << 31 | 1 << 16, 0x1000, 1 << 5, 0, 0)
}

fn gva(value: u64) -> GuestVirtAddr {
    GuestVirtAddr::new(value)
}

/// Sixteen pages, of which the first five and the tenth are there, with a chain of tables in 1 to 4 to which page n of the
/// guest's linear addresses is page n; the kernel's, but for 9 and 10.
fn x86_guest<F: Format>(hal: &HeapHal, format: F) -> Space<'_, F> {
    let mut space = AddrSpace::with_format(hal, format, gpa(0), 0x10_0000, 1).expect("in range");
    space.map_alloc(gpa(0), 5 * KIB4, RWX, true).expect("free");
    space.map_alloc(gpa(0x5000), 4 * KIB4, RWX, false).expect("free");
    space.map_alloc(gpa(0x9000), KIB4, READ | EXECUTE, true).expect("free");
    space.map_alloc(gpa(0xa000), KIB4, RWX | MappingFlags::UNCACHED, true).expect("free");
    space.map_trap(gpa(0xb000), KIB4, DeviceId(3)).expect("free");
    space.map_linear(gpa(0xc000), hpa(0x1_0000_0000), KIB4, RWX).expect("free");
    for (at, entry) in [(0x1000, 0x2027), (0x2000, 0x3027), (0x3000, 0x4027_u64)] {
        space.write_obj(gpa(at), entry).expect("there");
    }
    for page in 0..16 {
        let user = if page == 9 || page == 10 { 4 } else { 0 };
        space.write_obj(gpa(0x4000 + 8 * page), page << 12 | 0x63 | user).expect("there");
    }
    space
}

fn nested(at: u64, linear: u64, access: MappingFlags, cause: FaultCause, walk: bool) -> GuestWalkError {
    let (gpa, gva) = (gpa(at), Some(gva(linear)));
    GuestWalkError::Nested(NestedPageFaultInfo { gpa, gva, access, cause, walk, width: None })
}

#[test]
fn both_stages_together() {
    let hal = HeapHal::new();
    for format in npt_formats() {
        let space = x86_guest(&hal, format);
        for (page, flags) in [
            (4, READ | WRITE | EXECUTE),
            (9, READ | EXECUTE | USER),
            (10, READ | WRITE | EXECUTE | USER | MappingFlags::UNCACHED),
        ] {
            let at = page << 12 | 0x123;
            let expected = GuestTranslation {
                gpa: gpa(at),
                hpa: space.translate(gpa(at)).expect("there"),
                flags,
                page_size: KIB4,
                level: 0,
            };
            assert_eq!(space.translate_virt(&long(), gva(at), READ), Ok(expected));
        }
        // The guest's own refusal.
        let fault = GuestPageFault::X86 { error_code: 5, cr2: gva(0x4000) };
        let refused = space.translate_virt(&long(), gva(0x4000), READ | USER);
        assert_eq!(refused, Err(GuestWalkError::Guest(fault)));
    }
}

#[test]
fn an_access_that_the_second_level_refuses() {
    let hal = HeapHal::new();
    for format in ept_formats() {
        let space = x86_guest(&hal, format);
        let walk = |at, access| space.translate_virt(&long(), gva(at), access);
        use FaultCause::{AddressSize, NotPresent, Permission};
        assert_eq!(walk(0x5123, WRITE), Err(nested(0x5123, 0x5123, WRITE, NotPresent, false)));
        assert_eq!(walk(0xb010, READ), Err(nested(0xb010, 0xb010, READ, NotPresent, false))); // the device's
        assert_eq!(walk(0xd000, EXECUTE), Err(nested(0xd000, 0xd000, EXECUTE, NotPresent, false))); // a hole
        assert_eq!(
            walk(0x9008, READ | WRITE),
            Err(nested(0x9008, 0x9008, READ | WRITE | USER, Permission, false))
        );
        space.write_obj(gpa(0x4028), 0xf_0000_0000_0063_u64).expect("there");
        let cause = if format.geometry().levels == 4 { AddressSize } else { NotPresent };
        assert_eq!(walk(0x5000, READ), Err(nested(0xf_0000_0000_0000, 0x5000, READ, cause, false)));
        // Populated meanwhile, the walk goes on.
        space.write_obj(gpa(0x4028), 0x5063_u64).expect("there");
        space.handle_page_fault(gpa(0x5123), WRITE).expect("lazy");
        assert_eq!(walk(0x5123, WRITE).map(|found| found.gpa), Ok(gpa(0x5123)));
    }
}

#[test]
fn whose_page_it_is_decides_about_fetches_under_mode_based_execution() {
    let hal = HeapHal::new();
    let [plain, by_mode, _] = ept_formats();
    for (format, separate) in [(plain, false), (by_mode, true)] {
        let space = x86_guest(&hal, format);
        // Page 9 is executable for the kernel's pages alone, and the guest calls it one of user mode.
        let found = space.translate_virt(&long(), gva(0x9000), EXECUTE);
        let refused = nested(0x9000, 0x9000, EXECUTE | USER, FaultCause::Permission, false);
        assert_eq!(
            found.map(|found| found.flags),
            if separate { Err(refused) } else { Ok(READ | EXECUTE | USER) }
        );
        let read = space.translate_virt(&long(), gva(0x9000), READ).expect("allowed");
        assert_eq!(read.flags, if separate { READ | USER } else { READ | EXECUTE | USER });
    }
}

/// Whether the walk can use a table that is read-only at the second level; page 9 is one.
fn walks_read_only_table<F: Format>(format: F, info: &GuestPageWalkInfo) -> Result<(), GuestWalkError> {
    let hal = HeapHal::new();
    let mut space = x86_guest(&hal, format);
    space.protect(gpa(0x4000), KIB4, READ).expect("mapped");
    space.translate_virt(info, gva(0x4000), READ).map(|_| ())
}

#[test]
fn walks_need_what_they_need_on_hardware() {
    let refused = |access| Err(nested(0x4020, 0x4000, access, FaultCause::Permission, true));
    let [plain, _, marking] = ept_formats();
    // Of an entry without marks: A has to be set.
    assert_eq!(walks_read_only_table(plain, &long()), Ok(()));
    assert_eq!(walks_read_only_table(marking, &long()), refused(READ | WRITE));
    for format in npt_formats() {
        assert_eq!(walks_read_only_table(format, &long()), refused(READ | WRITE));
    }
    // Marks need WRITE everywhere.
    let hal = HeapHal::new();
    let mut space = x86_guest(&hal, plain);
    space.write_obj(gpa(0x4020), 0x4003_u64).expect("there");
    space.protect(gpa(0x4000), KIB4, READ).expect("mapped");
    assert!(space.translate_virt(&long(), gva(0x4000), READ).is_ok());
    let marked = space.translate_virt(&long().setting_marks(), gva(0x4000), READ).map(|_| ());
    assert_eq!(marked, refused(READ | WRITE));
    // An absent table is asked for by the same access.
    space.unmap(gpa(0x4000), KIB4).expect("mapped");
    let absent = nested(0x4020, 0x4000, READ, FaultCause::NotPresent, true);
    assert_eq!(space.translate_virt(&long(), gva(0x4000), WRITE), Err(absent));
}

#[test]
fn pdptes_are_loaded_by_reads_on_intel_alone() {
    fn pdpte<F: Format>(format: F) -> Result<(), GuestWalkError> {
        let hal = HeapHal::new();
        let mut space = x86_guest(&hal, format);
        // PDPTE 0 in page 1, a directory in page 2 that maps 2 MiB from 0 on.
        space.write_obj(gpa(0x1000), 0x2001_u64).expect("there");
        space.write_obj(gpa(0x2000), 0xe3_u64).expect("there");
        space.protect(gpa(0x1000), KIB4, READ).expect("mapped");
        space.translate_virt(&pae(), gva(0x3000), READ).map(|_| ())
    }
    for format in ept_formats() {
        assert_eq!(pdpte(format), Ok(()));
    }
    for format in npt_formats() {
        let access = READ | WRITE;
        assert_eq!(pdpte(format), Err(nested(0x1000, 0x3000, access, FaultCause::Permission, true)));
    }
}

#[test]
fn tables_in_no_memory() {
    let hal = HeapHal::new();
    let [format, ..] = ept_formats();
    let space = x86_guest(&hal, format);
    let fault = GuestPageFault::X86 { error_code: 9, cr2: gva(0x6000) };
    for page in [0xb000_u64, 0xc000] {
        space.write_obj(gpa(0x3000), page | 0x27).expect("there");
        let expected = GuestWalkError::NotMemory { gpa: gpa(page + 0x30), fault };
        assert_eq!(space.translate_virt(&long(), gva(0x6000), READ), Err(expected));
    }
    // A hole, and an address that is too wide.
    space.write_obj(gpa(0x3000), 0xd027_u64).expect("there");
    let hole = nested(0xd030, 0x6000, READ, FaultCause::NotPresent, true);
    assert_eq!(space.translate_virt(&long(), gva(0x6000), READ), Err(hole));
    space.write_obj(gpa(0x3000), 0xf_0000_0000_0027_u64).expect("there");
    let wide = nested(0xf_0000_0000_0030, 0x6000, READ, FaultCause::AddressSize, true);
    assert_eq!(space.translate_virt(&long(), gva(0x6000), READ), Err(wide));
}

#[test]
fn entries_are_marked_in_the_guests_memory() {
    let hal = HeapHal::new();
    let [_, _, marking] = ept_formats();
    let space = x86_guest(&hal, marking);
    for (at, entry) in [(0x3000, 0x4007_u64), (0x4020, 0x4003)] {
        space.write_obj(gpa(at), entry).expect("there");
    }
    let read = |at| space.read_obj::<u64>(gpa(at)).expect("there");
    assert!(space.translate_virt(&long(), gva(0x4000), WRITE).is_ok());
    assert_eq!((read(0x3000), read(0x4020)), (0x4007, 0x4003));
    assert!(space.translate_virt(&long().setting_marks(), gva(0x4000), WRITE).is_ok());
    assert_eq!((read(0x3000), read(0x4020)), (0x4027, 0x4063));
}

#[test]
fn entries_of_four_bytes() {
    let hal = HeapHal::new();
    for format in ept_formats() {
        let space = x86_guest(&hal, format);
        let info = GuestPageWalkInfo::x86(1 << 31, 0x1000, 0, 0, 0);
        space.write_obj(gpa(0x1000), 0x2007_u32).expect("there");
        space.write_obj(gpa(0x2010), [0x4007_u32, 0xffff_ffff]).expect("there");
        let found = space.translate_virt(&info.setting_marks(), gva(0x4123), WRITE).expect("mapped");
        assert_eq!(found.gpa, gpa(0x4123));
        assert_eq!(space.read_obj::<[u32; 2]>(gpa(0x2010)), Ok([0x4067, 0xffff_ffff]));
        assert_eq!(space.read_obj::<u32>(gpa(0x1000)), Ok(0x2027));
    }
}

#[test]
fn arm_and_riscv() {
    let hal = HeapHal::new();
    for format in formats() {
        let mut space: Space<'_> =
            AddrSpace::with_format(&hal, format, gpa(0), 0x10_0000, 1).expect("in range");
        space.map_alloc(gpa(0), 4 * KIB4, RW | EXECUTE, true).expect("free");
        // A GiB from 0 on, without the access flag.
        space.write_obj(gpa(0x1000), 1_u64).expect("there");
        let tcr = 25 | 5 << 32 | 1 << 39;
        let info = GuestPageWalkInfo::arm(1, tcr, 0x1000, 0, 0);
        let found = space.translate_virt(&info, gva(0x2008), READ | WRITE).expect("mapped");
        assert_eq!((found.gpa, found.page_size, found.level), (gpa(0x2008), GIB1, 2));
        // Reading a table needs READ alone, marking it both.
        space.protect(gpa(0x1000), KIB4, READ).expect("mapped");
        assert!(space.translate_virt(&info, gva(0x2008), READ).is_ok());
        let marked = space.translate_virt(&info.setting_marks(), gva(0x2008), READ);
        let refused = nested(0x1000, 0x2008, READ | WRITE, FaultCause::Permission, true);
        assert_eq!(marked, Err(refused));
        // Who fetches is part of the access.
        let absent = nested(0x8000, 0x8000, EXECUTE | USER, FaultCause::NotPresent, false);
        assert_eq!(space.translate_virt(&info, gva(0x8000), EXECUTE | USER), Err(absent));
    }
    let mut space: Space<'_, Gstage> =
        AddrSpace::with_format(&hal, Gstage::default(), gpa(0), 0x10_0000, 0).expect("in range");
    space.map_alloc(gpa(0), 4 * KIB4, RW | EXECUTE, true).expect("free");
    space.write_obj(gpa(0x1000), 0x0f_u64).expect("there");
    space.protect(gpa(0x1000), KIB4, READ).expect("mapped");
    let info = GuestPageWalkInfo::riscv(8 << 60 | 1, 0, 1 << 61);
    assert!(space.translate_virt(&info, gva(0x2008), WRITE).is_ok());
    let refused = nested(0x1000, 0x2008, READ | WRITE, FaultCause::Permission, true);
    assert_eq!(space.translate_virt(&info.setting_marks(), gva(0x2008), WRITE), Err(refused));
}

#[test]
fn instructions_are_fetched() {
    let hal = HeapHal::new();
    let [_, _, marking] = ept_formats();
    let space = x86_guest(&hal, marking);
    let code: [u8; 24] = core::array::from_fn(|n| n as u8 + 1);
    space.write(gpa(0x4ff8), &code).expect("there");
    space.write_obj(gpa(0x4000 + 8 * 4), 0x4063_u64).expect("there");
    let fetch = |pc, user| space.fetch_instruction(&long(), gva(pc), user);
    let bytes = |pc| fetch(pc, false).map(|bytes| bytes.as_slice().to_vec());
    // In one page, up to its end, and across it.
    assert_eq!(bytes(0x5000), Ok(code[8..23].to_vec()));
    assert_eq!(bytes(0x4ff8), Ok(code[..15].to_vec()));
    // Up to a page that faults: page 6 is not there yet.
    space.write(gpa(0x5ffd), &[7, 8, 9]).expect("there");
    assert_eq!(bytes(0x5ffd), Ok(std::vec![7, 8, 9]));
    let absent = nested(0x6000, 0x6000, EXECUTE, FaultCause::NotPresent, false);
    assert_eq!(bytes(0x6000), Err(FetchError::Walk(absent)));
    // By user mode, and from where the host reads nothing.
    let refused = GuestPageFault::X86 { error_code: 0x15, cr2: gva(0x5000) };
    assert_eq!(fetch(0x5000, true), Err(FetchError::Walk(GuestWalkError::Guest(refused))));
    assert_eq!(fetch(0xa000, true).map(|bytes| bytes.len()), Ok(15));
    assert_eq!(bytes(0xc123), Err(FetchError::NotReadable(gpa(0xc123))));
    // The last byte of all addresses.
    assert!(matches!(bytes(u64::MAX), Err(FetchError::Walk(GuestWalkError::Guest(_)))));
}
