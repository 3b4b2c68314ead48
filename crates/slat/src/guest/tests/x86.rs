//! x86, mode by mode and bit by bit.

use super::*;

/// CR0.PG, CR0.WP, CR4.PSE, CR4.PAE, CR4.LA57, CR4.SMEP, CR4.SMAP, EFER.LMA, EFER.NXE.
const PG: u64 = 1 << 31;
const WP: u64 = 1 << 16;
const PSE: u64 = 1 << 4;
const PAE: u64 = 1 << 5;
const LA57: u64 = 1 << 12;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;
const NX: u64 = 1 << 63;

/// A guest whose root is in page 1.
fn guest(cr0: u64, cr4: u64, efer: u64) -> GuestPageWalkInfo {
    GuestPageWalkInfo::x86(cr0, 0x1000, cr4, efer, 0)
}

fn long() -> GuestPageWalkInfo {
    guest(PG | WP, PAE, LMA | NXE)
}

/// The same, with something changed.
fn with(mut info: GuestPageWalkInfo, change: impl FnOnce(&mut X86Paging)) -> GuestPageWalkInfo {
    match &mut info.paging {
        GuestPaging::X86(paging) => change(paging),
        _ => panic!("not x86"),
    }
    info
}

fn fault<T>(error_code: u32, cr2: u64) -> Result<T, GuestWalkError> {
    let cr2 = GuestVirtAddr::new(cr2);
    Err(GuestWalkError::Guest(GuestPageFault::X86 { error_code, cr2 }))
}

/// Four tables in pages 1 to 4 that lead to the page of `leaf`, for address 0x5000.
fn chain(leaf: u64) -> [(u64, u64); 4] {
    [(0x1000, 0x2027), (0x2000, 0x3027), (0x3000, 0x4027), (0x4028, leaf)]
}

#[test]
fn registers_are_read() {
    let info = GuestPageWalkInfo::x86(1, 2, 3, 4, 1 << 18);
    let expected = X86Paging {
        cr0: 1,
        cr3: 2,
        cr4: 3,
        efer: 4,
        ac: true,
        physical_bits: 52,
        pdptes: None,
        page_1g: true,
        pse36: true,
    };
    assert_eq!(info, GuestPageWalkInfo { paging: GuestPaging::X86(expected), set_marks: false });
    assert!(info.setting_marks().set_marks);
}

#[test]
fn without_paging_addresses_are_physical() {
    let found = walk(&guest(WP, PAE, LMA), &Memory::default(), 0x7_1234_5678, READ | WRITE | EXECUTE);
    let found = found.expect("nothing is refused");
    assert_eq!((found.gpa, found.level, found.page_size), (GuestPhysAddr::new(0x1234_5678), 0, 4096));
    assert_eq!((found.allowed, found.user, found.marks), (READ | WRITE | EXECUTE, true, [None; 5]));
}

#[test]
fn two_levels() {
    let entries = [(0x1004, 0x2067), (0x2014, 0xffff_8067), (0x1ffc, 0x3067), (0x3ffc, 0x9067)];
    let info = with(guest(PG, 0, 0), |paging| paging.cr3 = 0xf_0000_1fff);
    let memory = Memory::new(&entries);
    let found = walk(&info, &memory, 0x40_5abc, READ).expect("mapped");
    assert_eq!((found.gpa.as_u64(), found.level, found.page_size), (0xffff_8abc, 0, 4096));
    assert_eq!(*memory.loads.borrow(), [(0x1004, EntryKind::Short), (0x2014, EntryKind::Short)]);
    // The last of each table; what is above 32 bits is cut.
    assert_eq!(gpa(&info, &entries, 0xa_ffff_ffff, READ), Ok(0x9fff));
    assert_eq!(gpa(&info, &entries, 0x40_6000, READ), fault(0, 0x40_6000));
    assert_eq!(gpa(&info, &entries, 0x80_6000, READ | USER | WRITE), fault(6, 0x80_6000));
    // Without CR4.PSE, bit 7 of a directory means nothing.
    let entries = [(0x1004, 0x20e7), (0x2014, 0x8067)];
    assert_eq!(gpa(&info, &entries, 0x40_5abc, READ), Ok(0x8abc));
    // No bit is reserved; bit 7 of a page selects from the PAT.
    assert_eq!(gpa(&info, &[(0x1004, 0x2fff), (0x2014, 0x8fff)], 0x40_5abc, READ), Ok(0x8abc));
}

#[test]
fn pages_of_4_mib() {
    let info = guest(PG, PSE, 0);
    let memory = Memory::new(&[(0x1004, 0x0ac0_0087)]);
    let found = walk(&info.setting_marks(), &memory, 0x7f_5abc, WRITE).expect("mapped");
    assert_eq!((found.gpa.as_u64(), found.level, found.page_size), (0x0aff_5abc, 1, 4 << 20));
    assert_eq!(memory.get(0x1004), 0x0ac0_00e7);
    assert_eq!(*memory.stores.borrow(), [(0x1004, EntryKind::Short)]);
    // PSE-36: as many of bits 20:13 as MAXPHYADDR has above 32, at most 8.
    for (physical_bits, pse36, first_reserved) in
        [(52, true, 21), (40, true, 21), (39, true, 20), (36, true, 17), (32, true, 13), (52, false, 13)]
    {
        let info = with(info, |paging| (paging.physical_bits, paging.pse36) = (physical_bits, pse36));
        for bit in 13..22 {
            let found = gpa(&info, &[(0x1004, 0x0ac0_0087 | 1 << bit)], 0x40_0000, READ);
            let address = 0x0ac0_0000 | 1 << (bit + 19);
            let expected = if bit < first_reserved { Ok(address) } else { fault(9, 0x40_0000) };
            assert_eq!(found, expected, "bit {bit} of {physical_bits}, {pse36}");
        }
    }
    // Bit 12 selects from the PAT.
    assert_eq!(gpa(&info, &[(0x1004, 0x0ac0_1087)], 0x40_0000, READ), Ok(0x0ac0_0000));
}

#[test]
fn pae() {
    let entries = [(0x1fe8, 0x2001), (0x2008, 0x3027), (0x3028, 0x8027), (0x2010, 0xa0_00a7)];
    let info = with(guest(PG, PAE, NXE), |paging| paging.cr3 = 0xf_0000_1fff);
    let memory = Memory::new(&entries);
    let found = walk(&info.setting_marks(), &memory, 0x9_4020_5abc, READ).expect("mapped");
    assert_eq!((found.gpa.as_u64(), found.level, found.page_size), (0x8abc, 0, 4096));
    let loads = [(0x1fe8, EntryKind::Pdpte), (0x2008, EntryKind::Long), (0x3028, EntryKind::Long)];
    assert_eq!(*memory.loads.borrow(), loads);
    assert_eq!(*memory.stores.borrow(), []);
    let found = walk(&info, &memory, 0x4051_2345, READ).expect("mapped");
    assert_eq!((found.gpa.as_u64(), found.level, found.page_size), (0xb1_2345, 1, 2 << 20));
    assert_eq!(gpa(&info, &entries, 0x8020_5abc, WRITE), fault(2, 0x8020_5abc));
    // A table in no memory: the PDPTE too.
    let mut memory = Memory::new(&entries);
    memory.refused.insert(0x1fe8, TableFault::NotMemory);
    let fault = GuestPageFault::X86 { error_code: 9, cr2: GuestVirtAddr::new(0x4000_0000) };
    let expected = GuestWalkError::NotMemory { gpa: GuestPhysAddr::new(0x1fe8), fault };
    assert_eq!(walk(&info, &memory, 0x4000_0000, READ), Err(expected));
}

#[test]
fn pdptes_in_registers() {
    let tables = [0x2000, 0x3000, 0x4000, 0x5000];
    let entries = tables.map(|table| (table, (table << 12) | 0x87));
    let info = with(guest(PG, PAE, 0), |paging| paging.pdptes = Some(tables.map(|table| table | 1)));
    for (index, table) in (0_u64..).zip(tables) {
        // 2 MiB pages at multiples of 16 MiB.
        assert_eq!(gpa(&info, &entries, index << 30 | 0x1234, READ), Ok(table << 12 | 0x1234));
    }
    let absent = with(info, |paging| paging.pdptes = Some([0x2000; 4]));
    assert_eq!(gpa(&absent, &entries, 0, READ), fault(0, 0));
}

#[test]
fn reserved_bits_of_pdptes_and_pae_entries() {
    let narrow = with(guest(PG, PAE, 0), |paging| paging.physical_bits = 40);
    for bit in 1..64 {
        let reserved = matches!(bit, 1 | 2 | 5..=8 | 40..=63);
        let pdpte = 0x2001 | 1 << bit;
        let info = with(narrow, |paging| paging.pdptes = Some([pdpte; 4]));
        let entries = [(pdpte & 0xff_ffff_f000, 0x87)];
        let expected = if reserved { fault(9, 0x1000) } else { Ok(0x1000) };
        assert_eq!(gpa(&info, &entries, 0x1000, READ), expected, "PDPTE bit {bit}");
    }
    let info = with(narrow, |paging| paging.pdptes = Some([0x2001; 4]));
    for bit in (8..12).chain(40..64) {
        for nxe in [0, NXE] {
            let info = with(info, |paging| paging.efer = nxe);
            let reserved = (40..63).contains(&bit) || bit == 63 && nxe == 0;
            let expected = if reserved { fault(9, 0x1000) } else { Ok(0x8000) };
            let pointer = [(0x2000, 0x3027 | 1 << bit), (0x3008, 0x8027)];
            let page = [(0x2000, 0x3027), (0x3008, 0x8027 | 1 << bit)];
            assert_eq!(gpa(&info, &pointer, 0x1000, READ), expected, "PDE bit {bit}");
            assert_eq!(gpa(&info, &page, 0x1000, READ), expected, "PTE bit {bit}");
        }
    }
    for bit in 12..21 {
        let expected = if bit == 12 { Ok(0x1000) } else { fault(9, 0x1000) };
        assert_eq!(gpa(&info, &[(0x2000, 0xa7 | 1 << bit)], 0x1000, READ), expected, "2 MiB bit {bit}");
    }
}

#[test]
fn four_and_five_levels() {
    let gva = !0 << 48 | 0x101 << 39 | 1 << 30 | 1 << 21 | 1 << 12 | 0x123;
    let entries = [(0x1808, 0x2027), (0x2008, 0x3027), (0x3008, 0x4027), (0x4008, 0xf_ffff_ffff_f027)];
    let memory = Memory::new(&entries);
    let info = with(long(), |paging| paging.cr3 = 0xfff0_0000_0000_1fff);
    let found = walk(&info, &memory, gva, READ).expect("mapped");
    assert_eq!((found.gpa.as_u64(), found.level), (0xf_ffff_ffff_f123, 0));
    let loads: Vec<u64> = memory.loads.borrow().iter().map(|load| load.0).collect();
    assert_eq!(loads, [0x1808, 0x2008, 0x3008, 0x4008]);
    // Five: the fifth index is at bit 48.
    let entries = [(0x1008, 0x2027), (0x2000, 0x3027), (0x3000, 0x4027), (0x4000, 0x5027), (0x5000, 0x8027)];
    let memory = Memory::new(&entries);
    let five = guest(PG, PAE | LA57, LMA);
    let found = walk(&five.setting_marks(), &memory, 1 << 48 | 0x123, WRITE).expect("mapped");
    assert_eq!(found.gpa.as_u64(), 0x8123);
    assert_eq!(memory.get(0x5000), 0x8067);
    // LA57 counts in long mode only.
    assert_eq!(gpa(&guest(PG, PAE | LA57, 0), &[], 1 << 48, READ), fault(0, 1 << 48));
}

#[test]
fn addresses_are_canonical() {
    let outside = |gva| Err(GuestWalkError::Guest(GuestPageFault::X86NonCanonical(GuestVirtAddr::new(gva))));
    let five = guest(PG, PAE | LA57, LMA);
    for (info, width) in [(long(), 48), (five, 57)] {
        let half: u64 = 1 << (width - 1);
        for gva in [half - 1, 0_u64.wrapping_sub(half), 0, u64::MAX] {
            assert_eq!(gpa(&info, &[], gva, READ), fault(0, gva));
        }
        for gva in [half, half << 1, 0_u64.wrapping_sub(half) - 1, 1 << 63] {
            assert_eq!(gpa(&info, &[], gva, READ), outside(gva));
        }
    }
}

#[test]
fn large_pages_of_long_mode() {
    let gigabyte = [(0x1000, 0x2027), (0x2008, 0x1_4000_00a7)];
    let found = walk(&long(), &Memory::new(&gigabyte), 0x7654_3210, READ).expect("mapped");
    assert_eq!((found.gpa.as_u64(), found.level, found.page_size), (0x1_7654_3210, 2, 1 << 30));
    let without = with(long(), |paging| paging.page_1g = false);
    assert_eq!(gpa(&without, &gigabyte, 0x7654_3210, READ), fault(9, 0x7654_3210));
    let two = [(0x1000, 0x2027), (0x2000, 0x3027), (0x3008, 0x1_4060_00a7)];
    let found = walk(&without, &Memory::new(&two), 0x3f_3210, READ).expect("mapped");
    assert_eq!((found.gpa.as_u64(), found.level, found.page_size), (0x1_407f_3210, 1, 2 << 20));
}

#[test]
fn reserved_bits_of_long_mode() {
    let narrow = with(long(), |paging| paging.physical_bits = 46);
    let without = with(narrow, |paging| paging.efer = LMA);
    let entries = |level: usize, bits: u64| {
        let mut entries = chain(0x8027);
        entries[3 - level].1 |= bits;
        entries
    };
    for level in 0..4 {
        for bit in 46..64 {
            let expected = if bit < 52 { fault(9, 0x5000) } else { Ok(0x8000) };
            assert_eq!(gpa(&narrow, &entries(level, 1 << bit), 0x5000, READ), expected, "{level} {bit}");
        }
        assert_eq!(gpa(&without, &entries(level, NX), 0x5000, READ), fault(9, 0x5000));
        // Ignored everywhere: G in pointers, 11:9.
        assert_eq!(gpa(&narrow, &entries(level, 0xf00), 0x5000, READ), Ok(0x8000));
    }
    assert_eq!(gpa(&narrow, &entries(3, 1 << 7), 0x5000, READ), fault(9, 0x5000));
    assert_eq!(gpa(&narrow, &entries(0, 1 << 7), 0x5000, READ), Ok(0x8000)); // PAT
    for (level, pages) in [(1, 9), (2, 18)] {
        for bit in 12..12 + pages {
            let large = 0xa7 | 1 << bit;
            let mut entries = chain(0);
            entries[3 - level].1 = large;
            let expected = if bit == 12 { Ok(0x5000) } else { fault(9, 0x5000) };
            assert_eq!(gpa(&narrow, &entries, 0x5000, READ), expected, "{level} {bit}");
        }
    }
    let five = with(guest(PG, PAE | LA57, LMA), |paging| paging.physical_bits = 46);
    for (bits, expected) in [(1 << 7, fault(9, 0)), (1 << 46, fault(9, 0)), (1 << 52, fault(0, 0))] {
        assert_eq!(gpa(&five, &[(0x1000, 0x2027 | bits)], 0, READ), expected);
    }
    // A width that no CPU has is the nearest one that there is.
    let wide = with(long(), |paging| paging.physical_bits = 64);
    assert_eq!(gpa(&wide, &entries(0, 1 << 51), 0x5000, READ), Ok(1 << 51 | 0x8000));
    let none = with(long(), |paging| paging.physical_bits = 0);
    assert_eq!(gpa(&none, &entries(0, 1 << 31), 0x5000, READ), Ok(1 << 31 | 0x8000));
    assert_eq!(gpa(&none, &entries(0, 1 << 32), 0x5000, READ), fault(9, 0x5000));
}

#[test]
fn access_rights() {
    let (r, w, x) = (READ, WRITE, EXECUTE);
    let none = MappingFlags::empty();
    let plain = long();
    let smep = with(plain, |paging| paging.cr4 |= SMEP);
    let smap = with(plain, |paging| paging.cr4 |= SMAP);
    let lifted = with(smap, |paging| paging.ac = true);
    let lax = with(plain, |paging| paging.cr0 &= !WP);
    let lax_smap = with(smap, |paging| paging.cr0 &= !WP);
    let rows = [
        // Leaf: P, R/W, U/S, NX; what changes; what the kernel and what the user may.
        (1, plain, r | x, none),
        (3, plain, r | w | x, none),
        (5, plain, r | x, r | x),
        (7, plain, r | w | x, r | w | x),
        (7 | NX, plain, r | w, r | w),
        (3 | NX, plain, r | w, none),
        (5, lax, r | w | x, r | x),
        (1, lax, r | w | x, none),
        (7, smep, r | w, r | w | x),
        (3, smep, r | w | x, none),
        (7, smap, x, r | w | x),
        (7, lifted, r | w | x, r | w | x),
        (5, lifted, r | x, r | x),
        (3, smap, r | w | x, none),
        (5, lax_smap, x, r | x),
    ];
    for (leaf, info, kernel, user) in rows {
        for level in 0..4 {
            // The same, whichever level says so.
            let mut entries = chain(0x8027);
            let place = &mut entries[3 - level].1;
            *place = *place & !7 | leaf;
            let memory = Memory::new(&entries);
            for (mode, allowed) in [(none, kernel), (USER, user)] {
                for access in [r, w, x, r | w] {
                    let found = walk(&info, &memory, 0x5000, access | mode);
                    if allowed.contains(access) {
                        let found = found.expect("allowed");
                        assert_eq!((found.allowed, found.user), (allowed, leaf & 4 != 0), "{leaf:#x}");
                    } else {
                        let bits = |flag, bit: u32| if (access | mode).contains(flag) { bit } else { 0 };
                        let code = 1 | bits(w, 2) | bits(USER, 4) | bits(x, 16);
                        assert_eq!(found, fault(code, 0x5000), "{leaf:#x} {access} {mode}");
                    }
                }
            }
        }
    }
    // Nothing is asked of the page but that it is there.
    assert!(walk(&long(), &Memory::new(&chain(0x8021)), 0x5000, USER).is_ok());
    assert_eq!(gpa(&long(), &chain(0x8020), 0x5000, USER), fault(4, 0x5000));
}

#[test]
fn the_error_code_tells_fetches_only_where_they_can_be_refused() {
    for (info, code) in [
        (guest(PG, 0, 0), 0),
        (guest(PG, 0, NXE), 0), // no PAE
        (guest(PG, SMEP, 0), 16),
        (guest(PG, PAE, NXE), 16),
        (guest(PG, PAE, LMA), 0),
        (guest(PG, PAE | SMEP, LMA), 16),
        (guest(PG, PAE, LMA | NXE), 16),
    ] {
        assert_eq!(gpa(&info, &[], 0x5000, EXECUTE), fault(code, 0x5000));
        assert_eq!(gpa(&info, &[], 0x5000, READ), fault(0, 0x5000));
    }
}

#[test]
fn marks() {
    let info = long().setting_marks();
    let memory = Memory::new(&[(0x1000, 0x2007), (0x2000, 0x3027), (0x3000, 0x4007), (0x4028, 0x8007)]);
    assert!(walk(&info, &memory, 0x5000, READ).is_ok());
    assert_eq!([0x1000, 0x2000, 0x3000, 0x4028].map(|at| memory.get(at)), [0x2027, 0x3027, 0x4027, 0x8027]);
    let stores: Vec<u64> = memory.stores.borrow().iter().map(|store| store.0).collect();
    assert_eq!(stores, [0x1000, 0x3000, 0x4028]); // from the root down
    assert!(walk(&info, &memory, 0x5000, WRITE).is_ok());
    assert_eq!((memory.get(0x3000), memory.get(0x4028)), (0x4027, 0x8067));
    // Refused: no marks.
    let memory = Memory::new(&[(0x1000, 0x2007), (0x2000, 0x3027), (0x3000, 0x4007), (0x4028, 0x8003)]);
    assert_eq!(walk(&info, &memory, 0x5000, READ | USER), fault(5, 0x5000));
    assert_eq!((memory.get(0x1000), memory.stores.borrow().len()), (0x2007, 0));
    // A table that the second level keeps from being written.
    let mut memory = Memory::new(&[(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4027), (0x4028, 0x8027)]);
    memory
        .read_only
        .insert(0x2000, TableFault::Nested { access: READ | WRITE, cause: FaultCause::Permission });
    let nested = walk(&info, &memory, 0x5000, READ).expect_err("it cannot be marked");
    let GuestWalkError::Nested(nested) = nested else { panic!("{nested}") };
    assert_eq!((nested.gpa.as_u64(), nested.access, nested.walk), (0x2000, READ | WRITE, true));
    assert_eq!(memory.get(0x1000), 0x2027);
    memory.read_only.insert(0x2000, TableFault::NotMemory);
    let ones = GuestPageFault::X86 { error_code: 9, cr2: GuestVirtAddr::new(0x5000) };
    let expected = GuestWalkError::NotMemory { gpa: GuestPhysAddr::new(0x2000), fault: ones };
    assert_eq!(walk(&info, &memory, 0x5000, READ), Err(expected));
}

#[test]
fn a_table_of_itself_is_walked_to_the_end() {
    // Every level is the one entry, which is the page as well.
    let memory = Memory::new(&[(0x1000, 0x1007)]);
    let found = walk(&long().setting_marks(), &memory, 0x123, WRITE).expect("mapped");
    assert_eq!((found.gpa.as_u64(), memory.get(0x1000)), (0x1123, 0x1067));
    let memory = Memory::new(&[(0x1000, 0x1007)]);
    let found = walk(&guest(PG, 0, 0).setting_marks(), &memory, 0x123, WRITE).expect("mapped");
    assert_eq!((found.gpa.as_u64(), memory.get(0x1000)), (0x1123, 0x1067));
}
