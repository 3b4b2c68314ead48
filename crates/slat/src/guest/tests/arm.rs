//! Arm, bit by bit.

use super::*;

/// 39-bit ranges, 4 KiB granules, 48-bit output addresses.
const TCR: u64 = 25 | 25 << 16 | 2 << 30 | 5 << 32;
const HA: u64 = 1 << 39;
const HD: u64 = 1 << 40;
const AF: u64 = 1 << 10;
const EL0: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const DBM: u64 = 1 << 51;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
/// SCTLR_EL1.M, WXN and EPAN.
const M: u64 = 1;
const WXN: u64 = 1 << 19;
const EPAN: u64 = 1 << 57;

/// A guest whose two roots are in pages 1 and 5.
fn guest(tcr: u64) -> GuestPageWalkInfo {
    GuestPageWalkInfo::arm(M, tcr, 0x1000 | 7 << 48, 0x5000 | 1, 0)
}

fn with(mut info: GuestPageWalkInfo, change: impl FnOnce(&mut ArmPaging)) -> GuestPageWalkInfo {
    match &mut info.paging {
        GuestPaging::Arm(paging) => change(paging),
        _ => panic!("not Arm"),
    }
    info
}

/// An abort with this status; `access` says whose and what.
fn fault<T>(status: u8, far: u64, access: MappingFlags) -> Result<T, GuestWalkError> {
    Err(GuestWalkError::Guest(abort(status, far, access)))
}

fn abort(status: u8, far: u64, access: MappingFlags) -> GuestPageFault {
    GuestPageFault::Arm(ArmFault {
        status,
        write: access.contains(WRITE) && !access.contains(READ),
        fetch: access.contains(EXECUTE),
        user: access.contains(USER),
        far: GuestVirtAddr::new(far),
    })
}

/// Three tables that lead to the page of `leaf`, for address 0x5000.
fn chain(leaf: u64) -> [(u64, u64); 3] {
    [(0x1000, 0x2003), (0x2000, 0x3003), (0x3028, 0x8003 | leaf)]
}

#[test]
fn registers_are_read() {
    let expected = ArmPaging {
        sctlr: 1,
        tcr: 2,
        ttbr0: 3,
        ttbr1: 4,
        pan: true,
        physical_bits: 48,
        hafdbs: 2,
        hpds: true,
        pan3: true,
        ttst: true,
    };
    let info = GuestPageWalkInfo::arm(1, 2, 3, 4, 1 << 22);
    assert_eq!(info, GuestPageWalkInfo { paging: GuestPaging::Arm(expected), set_marks: false });
}

#[test]
fn without_translation_addresses_must_fit() {
    let off = with(guest(0), |paging| (paging.sctlr, paging.physical_bits) = (0, 40));
    assert_eq!(gpa(&off, &[], 0xff_ffff_ffff, READ | WRITE | EXECUTE), Ok(0xff_ffff_ffff));
    for address in [1 << 40, 1 << 55, 1 << 56, u64::MAX] {
        assert_eq!(gpa(&off, &[], address, READ), fault(0, address, READ));
    }
    let tagged = with(off, |paging| paging.tcr = 1 << 37);
    assert_eq!(gpa(&tagged, &[], 0xa5 << 56 | 0x123, READ), Ok(0x123));
    assert_eq!(gpa(&tagged, &[], 1 << 55, READ), fault(0, 1 << 55, READ));
    assert_eq!(gpa(&tagged, &[], 1 << 40, READ), fault(0, 1 << 40, READ));
    // The width of a CPU is 32 to 48 bits.
    let wide = with(off, |paging| paging.physical_bits = 52);
    assert_eq!(gpa(&wide, &[], 1 << 48, READ), fault(0, 1 << 48, READ));
    assert_eq!(gpa(&wide, &[], 1 << 47, READ), Ok(1 << 47));
    let narrow = with(off, |paging| paging.physical_bits = 0);
    assert_eq!(gpa(&narrow, &[], 1 << 31, READ), Ok(1 << 31));
}

#[test]
fn both_ranges() {
    let entries = [
        (0x1000, 0x2003),
        (0x2000, 0x3003),
        (0x3028, 0x8403),
        (0x5ff8, 0x6003),
        (0x6ff8, 0x7003),
        (0x7ff0, 0x9403),
    ];
    let info = guest(TCR);
    assert_eq!(gpa(&info, &entries, 0x5abc, READ), Ok(0x8abc));
    assert_eq!(gpa(&info, &entries, 0xffff_ffff_ffff_eabc, READ), Ok(0x9abc));
    // Just inside and outside of 39 bits; bit 55 chooses.
    let upper = 0xffff_ff80_0000_0000;
    for inside in [0x7f_ffff_ffff, upper] {
        assert_eq!(gpa(&info, &[], inside, WRITE), fault(0b0101, inside, WRITE));
    }
    for outside in [0x80_0000_0000, upper - 1, 1 << 55, 1 << 63, upper & !(1 << 56)] {
        assert_eq!(gpa(&info, &entries, outside, WRITE), fault(0b0100, outside, WRITE), "{outside:#x}");
    }
    // EPD0 and EPD1.
    assert_eq!(gpa(&guest(TCR | 1 << 7), &entries, 0x5abc, READ), fault(0b0100, 0x5abc, READ));
    assert_eq!(gpa(&guest(TCR | 1 << 23), &entries, 0x5abc, READ), Ok(0x8abc));
    assert_eq!(gpa(&guest(TCR | 1 << 23), &entries, upper, READ), fault(0b0100, upper, READ));
    assert_eq!(gpa(&guest(TCR | 1 << 7), &entries, upper, READ), fault(0b0101, upper, READ));
    // The sizes are each its own.
    let other = guest(TCR & !(0x3f << 16) | 16 << 16);
    assert_eq!(gpa(&other, &entries, 0x5abc, READ), Ok(0x8abc));
    assert_eq!(gpa(&other, &[], upper, READ), fault(0b0100, upper, READ));
    assert_eq!(gpa(&other, &[(0x5ff8, 0x6003)], upper, READ), fault(0b0101, upper, READ));
}

#[test]
fn top_byte_ignored() {
    let entries = [
        (0x1000, 0x2003),
        (0x2000, 0x3003),
        (0x3028, 0x8403),
        (0x5000, 0x6003),
        (0x6000, 0x7003),
        (0x7028, 0x9403),
    ];
    let (low, high) = (0x5a00_0000_0000_5123, 0xa5ff_ff80_0000_5123);
    for (tcr, gva, access, expected) in [
        (1 << 37, low, READ, Ok(0x8123)),
        (1 << 38, high, READ, Ok(0x9123)),
        (1 << 38, low, READ, fault(0b0100, low, READ)),
        (1 << 37, high, READ, fault(0b0100, high, READ)),
        (1 << 37, low, EXECUTE, Ok(0x8123)),
        (1 << 37 | 1 << 51, low, EXECUTE, fault(0b0100, low, EXECUTE)),
        (1 << 37 | 1 << 51, low, READ, Ok(0x8123)),
        (1 << 37 | 1 << 52, low, EXECUTE, Ok(0x8123)),
        (1 << 38 | 1 << 52, high, EXECUTE, fault(0b0100, high, EXECUTE)),
    ] {
        assert_eq!(gpa(&guest(TCR | tcr), &entries, gva, access), expected, "{tcr:#x} {gva:#x} {access}");
    }
}

#[test]
fn start_levels() {
    // By size: the first level, and the entries of the first table.
    let first = |size: u64, ttst| {
        let info = with(guest(TCR & !0x3f | size), |paging| paging.ttst = ttst);
        let memory = Memory::default();
        let last = (1_u64 << (64 - size)) - 1;
        let found = walk(&info, &memory, last, READ);
        let level = match found {
            Err(GuestWalkError::Guest(GuestPageFault::Arm(fault))) => fault.status,
            other => panic!("{other:?}"),
        };
        let loads = memory.loads.borrow();
        (level, loads.first().map(|load| load.0))
    };
    for (size, expected) in [
        (16, (0b0100, Some(0x1ff8))),
        (24, (0b0100, Some(0x1008))),
        (25, (0b0101, Some(0x1ff8))),
        (33, (0b0101, Some(0x1008))),
        (34, (0b0110, Some(0x1ff8))),
        (39, (0b0110, Some(0x1078))),
        (40, (0b0110, Some(0x1038))),
        (43, (0b0111, Some(0x1ff8))),
        (48, (0b0111, Some(0x1078))),
        (15, (0b0100, None)),
        (49, (0b0100, None)),
        (63, (0b0100, None)),
    ] {
        assert_eq!(first(size, true), expected, "{size}");
        assert_eq!(first(size, false), if size > 39 { (0b0100, None) } else { expected }, "{size}");
    }
    let zero = guest(TCR & !0x3f);
    assert_eq!(gpa(&zero, &[], 0, READ), fault(0b0100, 0, READ));
    // A small first table is aligned to its size, not to a page.
    let small = with(guest(TCR & !0x3f | 33), |paging| paging.ttbr0 = 0x1fff);
    let memory = Memory::default();
    let _ = walk(&small, &memory, 1 << 30, READ);
    assert_eq!(*memory.loads.borrow(), [(0x1ff8, EntryKind::Long)]);
}

#[test]
fn what_is_not_supported_is_told() {
    let unsupported = |reason| Err(GuestWalkError::Unsupported(reason));
    let upper = 0xffff_ffff_ffff_0000;
    for (tcr, gva, expected) in [
        (TCR | 1 << 14, 0, unsupported(UnsupportedPaging::Granule)),
        (TCR | 2 << 14, 0, unsupported(UnsupportedPaging::Granule)),
        (TCR & !(3 << 30), upper, unsupported(UnsupportedPaging::Granule)),
        (TCR | 3 << 30, upper, unsupported(UnsupportedPaging::Granule)),
        (TCR | 1 << 14, upper, fault(0b0101, upper, READ)),
        (TCR | 1 << 30, 0, fault(0b0101, 0, READ)),
        (TCR | 1 << 59, 0, unsupported(UnsupportedPaging::WideDescriptors)),
    ] {
        assert_eq!(gpa(&guest(tcr), &[], gva, READ), expected, "{tcr:#x}");
    }
    let big = with(guest(TCR), |paging| paging.sctlr = M | 1 << 25);
    assert_eq!(gpa(&big, &[], 0, READ), unsupported(UnsupportedPaging::BigEndian));
}

#[test]
fn descriptors() {
    let info = guest(TCR & !0x3f | 16);
    // Tables at Arm's levels 0 to 3; kinds 0 to 3 at each.
    let entries = |level: usize, descriptor: u64| {
        let mut entries = [(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x4003), (0x4028, 0x8403)];
        entries[level].1 = descriptor;
        entries
    };
    for level in 0..4_u8 {
        let status = 0b0100 | level;
        for kind in [0, 2] {
            let found = gpa(&info, &entries(level.into(), 0x8400 | kind), 0x5000, READ);
            assert_eq!(found, fault(status, 0x5000, READ));
        }
        let block = 0x1c0_0000_0401;
        let found = walk(&info, &Memory::new(&entries(level.into(), block)), 0x5123, READ);
        match level {
            0 | 3 => assert_eq!(found, fault(status, 0x5123, READ)),
            _ => {
                let found = found.expect("a block");
                let size = 12 + 9 * u32::from(3 - level);
                assert_eq!((found.page_size, found.level), (1 << size, 3 - level));
                assert_eq!(found.gpa.as_u64(), 0x1c0_0000_5123);
            }
        }
    }
    // What is below the size of a block is not part of its address.
    assert_eq!(gpa(&info, &entries(2, 0x3f_f401), 0x5123, READ), Ok(0x20_5123));
    // Bits 51:48 are no address bits here.
    assert_eq!(gpa(&info, &entries(3, 7 << 48 | 0x8403), 0x5123, READ), Ok(0x8123));
}

#[test]
fn addresses_have_the_output_size() {
    for (ips, physical_bits, bits) in [
        (0, 48, 32),
        (1, 48, 36),
        (2, 48, 40),
        (3, 48, 42),
        (4, 48, 44),
        (5, 48, 48),
        (6, 48, 48),
        (7, 48, 48),
        (5, 40, 40),
        (1, 40, 36),
    ] {
        let info = with(guest(TCR & !(7 << 32) | ips << 32), |paging| paging.physical_bits = physical_bits);
        for bit in 30..48 {
            let address = 1 << bit;
            let wide = bit >= bits;
            let table = [(0x1000, 0x2003), (0x2000, address | 3), (address | 0x28, 0x8403)];
            let expected = if wide { fault(0b10, 0x5000, READ) } else { Ok(0x8000) };
            assert_eq!(gpa(&info, &table, 0x5000, READ), expected, "table {bit} {ips}");
            let expected = if wide { fault(0b11, 0x5000, READ) } else { Ok(address | 0x8000) };
            assert_eq!(gpa(&info, &chain(address | AF), 0x5000, READ), expected, "page {bit} {ips}");
            let root = with(info, |paging| paging.ttbr0 = address);
            let memory = [(address, 0x2003), (0x2000, 0x3003), (0x3028, 0x8403)];
            let expected = if wide { fault(0b00, 0x5000, READ) } else { Ok(0x8000) };
            assert_eq!(gpa(&root, &memory, 0x5000, READ), expected, "root {bit} {ips}");
        }
    }
    // Before the access flag, and that before permissions.
    let info = with(guest(TCR), |paging| paging.physical_bits = 40);
    assert_eq!(gpa(&info, &chain(1 << 40), 0x5000, READ), fault(0b11, 0x5000, READ));
    assert_eq!(gpa(&info, &chain(READ_ONLY), 0x5000, WRITE), fault(0b1011, 0x5000, WRITE));
}

#[test]
fn permissions() {
    let (r, w, x) = (READ, WRITE, EXECUTE);
    let none = MappingFlags::empty();
    let plain = guest(TCR);
    let wxn = with(plain, |paging| paging.sctlr = M | WXN);
    let pan = with(plain, |paging| paging.pan = true);
    let epan = with(pan, |paging| paging.sctlr = M | EPAN);
    let no_pan3 = with(epan, |paging| paging.pan3 = false);
    let pan_wxn = with(pan, |paging| paging.sctlr = M | WXN);
    for (info, leaf, kernel, user) in [
        (plain, 0, r | w | x, x),
        (plain, EL0, r | w, r | w | x),
        (plain, READ_ONLY, r | x, x),
        (plain, EL0 | READ_ONLY, r | x, r | x),
        (plain, PXN, r | w, x),
        (plain, UXN, r | w | x, none),
        (plain, EL0 | UXN, r | w, r | w),
        (plain, EL0 | READ_ONLY | PXN, r, r | x),
        (wxn, 0, r | w, x),
        (wxn, EL0, r | w, r | w),
        (wxn, READ_ONLY, r | x, x),
        (wxn, EL0 | READ_ONLY, r | x, r | x),
        (pan, 0, r | w | x, x),
        (pan, EL0, none, r | w | x),
        (pan, EL0 | READ_ONLY, x, r | x),
        (epan, 0, x, x),
        (epan, UXN, r | w | x, none),
        (epan, EL0 | UXN, none, r | w),
        (no_pan3, 0, r | w | x, x),
        (with(plain, |paging| paging.sctlr = M | EPAN), 0, r | w | x, x),
        // WXN looks at what PAN only hides.
        (pan_wxn, EL0 | READ_ONLY, x, r | x),
        (with(epan, |paging| paging.sctlr = M | EPAN | WXN), 0, none, x),
    ] {
        let memory = Memory::new(&chain(AF | leaf));
        for (mode, allowed) in [(none, kernel), (USER, user)] {
            for access in [r, w, x] {
                let found = walk(&info, &memory, 0x5000, access | mode);
                if allowed.contains(access) {
                    let found = found.expect("allowed");
                    assert_eq!((found.allowed, found.user), (allowed, leaf & EL0 != 0), "{leaf:#x}");
                } else {
                    assert_eq!(found, fault(0b1111, 0x5000, access | mode), "{info:?} {leaf:#x} {access}");
                }
            }
        }
    }
}

#[test]
fn tables_forbid_what_they_do_not_allow() {
    for (bits, access, leaf) in [
        (1 << 62, WRITE, EL0),
        (1 << 62, WRITE | USER, EL0),
        (1 << 61, READ | USER, EL0),
        (1 << 61, WRITE | USER, EL0),
        (1 << 60, EXECUTE | USER, EL0),
        (1 << 59, EXECUTE, 0),
    ] {
        let upper = 0xffff_ff80_0000_5000;
        for level in 0..2 {
            let mut entries = chain(AF | leaf);
            entries[level].1 |= bits;
            let walk = |info: GuestPageWalkInfo, gva| {
                let both = with(info, |paging| paging.ttbr1 = 0x1000);
                gpa(&both, &entries, gva, access)
            };
            let refused = |gva| fault(0b1111, gva, access);
            assert_eq!(walk(guest(TCR), 0x5000), refused(0x5000), "{bits:#x}");
            // HPD0 and HPD1, on a CPU that has them.
            let (hpd0, hpd1) = (guest(TCR | 1 << 41), guest(TCR | 1 << 42));
            assert_eq!(walk(hpd0, 0x5000), Ok(0x8000));
            assert_eq!(walk(hpd1, 0x5000), refused(0x5000));
            assert_eq!(walk(hpd1, upper), Ok(0x8000));
            assert_eq!(walk(hpd0, upper), refused(upper));
            assert_eq!(walk(with(hpd0, |paging| paging.hpds = false), 0x5000), refused(0x5000));
        }
    }
    // APTable\[0\] takes EL0's access away, and with it the reason why EL1 does not execute; AP\[2\] of the table EL1's writes.
    let mut entries = chain(AF | EL0);
    entries[0].1 |= 1 << 61;
    let found = walk(&guest(TCR), &Memory::new(&entries), 0x5000, READ).expect("allowed");
    assert_eq!((found.allowed, found.user), (READ | WRITE | EXECUTE, false));
}

#[test]
fn the_access_flag() {
    let memory = || Memory::new(&chain(0));
    let with_hafdbs = |hafdbs| with(guest(TCR | HA).setting_marks(), |paging| paging.hafdbs = hafdbs);
    assert_eq!(walk(&guest(TCR), &memory(), 0x5000, READ), fault(0b1011, 0x5000, READ));
    assert_eq!(walk(&guest(TCR | HD), &memory(), 0x5000, READ), fault(0b1011, 0x5000, READ));
    assert_eq!(walk(&with_hafdbs(0), &memory(), 0x5000, READ), fault(0b1011, 0x5000, READ));
    for hafdbs in [1, 2] {
        let memory = memory();
        assert!(walk(&with_hafdbs(hafdbs), &memory, 0x5000, READ).is_ok());
        assert_eq!(memory.get(0x3028), 0x8003 | AF);
    }
    // Of a block too.
    let block = Memory::new(&[(0x1000, 0x2003), (0x2000, 0x1)]);
    assert_eq!(walk(&guest(TCR), &block, 0x5000, WRITE), fault(0b1010, 0x5000, WRITE));
}

#[test]
fn the_dirty_state() {
    let clean = DBM | READ_ONLY | EL0;
    let memory = |leaf| Memory::new(&chain(leaf));
    let info = guest(TCR | HA | HD).setting_marks();
    let written = memory(AF | clean);
    assert!(walk(&info, &written, 0x5000, READ).is_ok());
    assert_eq!(written.stores.borrow().len(), 0);
    assert!(walk(&info, &written, 0x5000, WRITE | USER).is_ok());
    assert_eq!(written.get(0x3028), 0x8003 | AF | DBM | EL0);
    // AF and AP[2] at once.
    let both = memory(clean);
    assert!(walk(&info, &both, 0x5000, READ | WRITE).is_ok());
    assert_eq!((both.get(0x3028), both.stores.borrow().len()), (0x8003 | AF | DBM | EL0, 1));
    // Writable in effect: not for EL1 to execute.
    assert_eq!(walk(&info, &memory(AF | clean), 0x5000, EXECUTE), fault(0b1111, 0x5000, EXECUTE));
    let refused = |info: &GuestPageWalkInfo, entries: &[(u64, u64)]| {
        assert_eq!(gpa(info, entries, 0x5000, WRITE), fault(0b1111, 0x5000, WRITE));
    };
    refused(&info, &chain(AF | READ_ONLY));
    refused(&guest(TCR | HA), &chain(AF | clean));
    refused(&guest(TCR | HD), &chain(AF | clean));
    refused(&with(info, |paging| paging.hafdbs = 1), &chain(AF | clean));
    let mut by_table = chain(AF | clean);
    by_table[1].1 |= 1 << 62;
    refused(&info, &by_table);
}

#[test]
fn an_atomic_access_reports_its_read_first() {
    let both = READ | WRITE;
    let write = |found: Result<u64, GuestWalkError>| match found {
        Err(GuestWalkError::Guest(GuestPageFault::Arm(fault))) => fault.write,
        other => panic!("{other:?}"),
    };
    let info = guest(TCR);
    assert!(!write(gpa(&info, &[], 0x5000, both))); // translation
    assert!(write(gpa(&info, &[], 0x5000, WRITE)));
    assert!(write(gpa(&info, &chain(AF | READ_ONLY), 0x5000, both))); // it could be read
    assert!(!write(gpa(&info, &chain(AF), 0x5000, both | USER)));
    assert!(!write(gpa(&info, &chain(0), 0x5000, both))); // access flag
}

#[test]
fn tables_in_no_memory_are_external_aborts() {
    for (entry, status) in [(0x1000, 0x15), (0x2000, 0x16), (0x3028, 0x17)] {
        let mut memory = Memory::new(&chain(AF));
        memory.refused.insert(entry, TableFault::NotMemory);
        let fault = abort(status, 0x5000, WRITE | USER);
        let expected = GuestWalkError::NotMemory { gpa: GuestPhysAddr::new(entry), fault };
        assert_eq!(walk(&guest(TCR), &memory, 0x5000, WRITE | USER), Err(expected));
    }
    let mut memory = Memory::new(&chain(0));
    memory.read_only.insert(0x3028, TableFault::NotMemory);
    let expected =
        GuestWalkError::NotMemory { gpa: GuestPhysAddr::new(0x3028), fault: abort(0x17, 0x5000, READ) };
    assert_eq!(walk(&guest(TCR | HA).setting_marks(), &memory, 0x5000, READ), Err(expected));
}
