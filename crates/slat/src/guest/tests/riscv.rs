//! RISC-V, bit by bit.

use super::*;

const SUM: u64 = 1 << 18;
const MXR: u64 = 1 << 19;
const ADUE: u64 = 1 << 61;
const PBMTE: u64 = 1 << 62;
const N: u64 = 1 << 63;

/// A guest with this MODE, whose root is in page 1, and an ASID.
fn guest(mode: u64, vsstatus: u64, henvcfg: u64) -> GuestPageWalkInfo {
    GuestPageWalkInfo::riscv(mode << 60 | 0xffff << 44 | 1, vsstatus, henvcfg)
}

fn sv39() -> GuestPageWalkInfo {
    guest(8, 0, 0)
}

fn fault<T>(scause: u64, stval: u64) -> Result<T, GuestWalkError> {
    let stval = GuestVirtAddr::new(stval);
    Err(GuestWalkError::Guest(GuestPageFault::Riscv { scause, stval }))
}

fn pointer(page: u64) -> u64 {
    page << 10 | 1
}

/// Three tables that lead to page 8 by a leaf with these bits, for address 0x5000.
fn chain(leaf: u64) -> [(u64, u64); 3] {
    [(0x1000, pointer(2)), (0x2000, pointer(3)), (0x3028, 8 << 10 | leaf)]
}

#[test]
fn registers_are_read() {
    for (vsstatus, henvcfg) in [(SUM, 0), (MXR, 0), (0, ADUE), (0, PBMTE), (!0, !0)] {
        let expected = RiscvPaging {
            vsatp: 5,
            sum: vsstatus & SUM != 0,
            mxr: vsstatus & MXR != 0,
            adue: henvcfg & ADUE != 0,
            pbmte: henvcfg & PBMTE != 0,
            svnapot: true,
        };
        let info = GuestPageWalkInfo::riscv(5, vsstatus, henvcfg);
        assert_eq!(info, GuestPageWalkInfo { paging: GuestPaging::Riscv(expected), set_marks: false });
    }
}

#[test]
fn modes() {
    assert_eq!(gpa(&guest(0, 0, 0), &[], u64::MAX, READ | WRITE | EXECUTE), Ok(u64::MAX));
    for mode in [1, 7, 11, 15] {
        let expected = GuestWalkError::Unsupported(UnsupportedPaging::Mode(mode));
        assert_eq!(gpa(&guest(mode.into(), 0, 0), &[], 0, READ), Err(expected));
    }
    for (mode, levels) in [(8, 3), (9, 4), (10, 5)] {
        let width = 12 + 9 * levels;
        let half: u64 = 1 << (width - 1);
        let info = guest(mode, 0, 0);
        for outside in [half, 0_u64.wrapping_sub(half) - 1, 1 << 63] {
            let memory = Memory::default();
            assert_eq!(walk(&info, &memory, outside, READ), fault(13, outside));
            assert_eq!(memory.loads.borrow().len(), 0);
        }
        // The last address below: each table's last entry, but the root's which is the last one of its first half.
        let mut entries = std::vec![(0x17f8, pointer(2))];
        entries.extend((2..levels).map(|table| (table << 12 | 0xff8, pointer(table + 1))));
        entries.push((levels << 12 | 0xff8, 0x3ff_ffff_ffff << 10 | 0xcf));
        let found = walk(&info, &Memory::new(&entries), half - 1, WRITE).expect("mapped");
        assert_eq!((found.gpa.as_u64(), found.page_size), (0x3ff_ffff_ffff << 12 | 0xfff, 4096));
        // The first one above.
        let memory = Memory::default();
        assert_eq!(walk(&info, &memory, 0_u64.wrapping_sub(half), READ), fault(13, 0_u64.wrapping_sub(half)));
        assert_eq!(*memory.loads.borrow(), [(0x1800, EntryKind::Long)]);
    }
    // 44 bits of page numbers.
    let wide = GuestPageWalkInfo::riscv(8 << 60 | 0xfff_ffff_ffff, 0, 0);
    let memory = Memory::default();
    assert_eq!(walk(&wide, &memory, 0, READ), fault(13, 0));
    assert_eq!(*memory.loads.borrow(), [(0xfff_ffff_ffff << 12, EntryKind::Long)]);
}

#[test]
fn causes() {
    for (access, cause) in [
        (READ, 13),
        (WRITE, 15),
        (READ | WRITE, 15),
        (EXECUTE, 12),
        (READ | USER, 13),
        (MappingFlags::empty(), 13),
    ] {
        assert_eq!(gpa(&sv39(), &[], 0x5000, access), fault(cause, 0x5000));
    }
    for (access, scause) in [(EXECUTE, 1), (READ, 5), (WRITE, 7)] {
        let fault = GuestPageFault::Riscv { scause, stval: GuestVirtAddr::new(0x5000) };
        let mut memory = Memory::new(&chain(0xf));
        memory.read_only.insert(0x3028, TableFault::NotMemory);
        let expected = |gpa| Err(GuestWalkError::NotMemory { gpa: GuestPhysAddr::new(gpa), fault });
        let info = guest(8, 0, ADUE).setting_marks();
        assert_eq!(walk(&info, &memory, 0x5000, access), expected(0x3028));
        memory.refused.insert(0x2000, TableFault::NotMemory);
        assert_eq!(walk(&info, &memory, 0x5000, access), expected(0x2000));
    }
}

#[test]
fn permissions() {
    let (r, w, x) = (READ, WRITE, EXECUTE);
    let none = MappingFlags::empty();
    // V, R, W, X, U; the kernel's rights without SUM, with it; user mode's; all without and with MXR.
    for (leaf, plain, sum, user) in [
        (0x03, [r, r], [r, r], [none, none]),
        (0x07, [r | w, r | w], [r | w, r | w], [none, none]),
        (0x09, [x, r | x], [x, r | x], [none, none]),
        (0x0b, [r | x, r | x], [r | x, r | x], [none, none]),
        (0x0f, [r | w | x, r | w | x], [r | w | x, r | w | x], [none, none]),
        (0x13, [none, none], [r, r], [r, r]),
        (0x17, [none, none], [r | w, r | w], [r | w, r | w]),
        (0x19, [none, none], [none, r], [x, r | x]),
        (0x1f, [none, none], [r | w, r | w], [r | w | x, r | w | x]),
    ] {
        let memory = Memory::new(&chain(leaf | 0xc0));
        for (index, mxr) in [(0, 0), (1, MXR)] {
            for (status, mode, allowed) in
                [(0, none, plain), (SUM, none, sum), (0, USER, user), (SUM, USER, user)]
            {
                for access in [r, w, x, r | w] {
                    let found = walk(&guest(8, status | mxr, 0), &memory, 0x5000, access | mode);
                    let allowed = allowed[index];
                    if allowed.contains(access) {
                        let found = found.expect("allowed");
                        assert_eq!((found.allowed, found.user), (allowed, leaf & 0x10 != 0), "{leaf:#x}");
                    } else {
                        let cause = if access == x {
                            12
                        } else if access == r {
                            13
                        } else {
                            15
                        };
                        assert_eq!(found, fault(cause, 0x5000), "{leaf:#x} {access} {mode}");
                    }
                }
            }
        }
    }
}

#[test]
fn reserved_encodings() {
    // Not valid; writable and not readable, with and without X.
    for leaf in [0xce, 0xc5, 0xcd] {
        assert_eq!(gpa(&sv39(), &chain(leaf), 0x5000, READ), fault(13, 0x5000), "{leaf:#x}");
        assert_eq!(gpa(&sv39(), &[(0x1000, leaf)], 0x5000, READ), fault(13, 0x5000), "{leaf:#x}");
    }
    let all = guest(8, 0, PBMTE);
    for bit in [5, 8, 9].into_iter().chain(54..64) {
        let leaf = gpa(&all, &chain(0xcf | 1 << bit), 0x5000, READ);
        let expected = match bit {
            5 | 8 | 9 | 61 | 62 => Ok(0x8000),
            63 => Ok(0x5000), // 64 KiB
            _ => fault(13, 0x5000),
        };
        assert_eq!(leaf, expected, "leaf {bit}");
    }
    for bit in (4..10).chain(54..64) {
        let mut entries = chain(0xcf);
        entries[1].1 |= 1 << bit;
        let expected = if matches!(bit, 5 | 8 | 9) { Ok(0x8000) } else { fault(13, 0x5000) };
        assert_eq!(gpa(&all, &entries, 0x5000, READ), expected, "pointer {bit}");
    }
    // A pointer at the last level.
    assert_eq!(gpa(&sv39(), &chain(1), 0x5000, READ), fault(13, 0x5000));
    // Memory types only with Svpbmt, and not the fourth.
    for (henvcfg, memory_type, allowed) in
        [(0, 1, false), (0, 2, false), (0, 3, false), (PBMTE, 1, true), (PBMTE, 2, true), (PBMTE, 3, false)]
    {
        let found = gpa(&guest(8, 0, henvcfg), &chain(0xcf | memory_type << 61), 0x5000, READ);
        assert_eq!(found.is_ok(), allowed, "{memory_type}");
    }
}

#[test]
fn superpages() {
    let table = |level: u32, page: u64| {
        let mut entries = std::vec![
            (0x1000, pointer(2)),
            (0x2000, pointer(3)),
            (0x3000, pointer(4)),
            (0x4000, pointer(5)),
            (0x5000, 0)
        ];
        entries[4 - level as usize].1 = page << 10 | 0xcf;
        entries
    };
    let info = guest(10, 0, 0);
    for level in 1..5_u32 {
        let shift = 12 + 9 * level;
        let page = 1 << (9 * level);
        let found = walk(&info, &Memory::new(&table(level, page)), 0x1234, READ).expect("mapped");
        assert_eq!((found.gpa.as_u64(), found.page_size), (1 << shift | 0x1234, 1 << shift));
        assert_eq!(u32::from(found.level), level);
        for bit in 0..9 * level {
            let found = gpa(&info, &table(level, page | 1 << bit), 0x1234, READ);
            assert_eq!(found, fault(13, 0x1234), "level {level}: bit {bit} is misaligned");
        }
    }
}

#[test]
fn pages_of_64_kib() {
    let without = || {
        let mut info = sv39();
        if let GuestPaging::Riscv(paging) = &mut info.paging {
            paging.svnapot = false;
        }
        info
    };
    for number in 0..16 {
        let entries =
            [(0x1000, pointer(2)), (0x2000, pointer(3)), (0x3028, N | (0xab0 | number) << 10 | 0xcf)];
        let found = walk(&sv39(), &Memory::new(&entries), 0x5123, READ);
        if number == 8 {
            let found = found.expect("mapped");
            assert_eq!((found.gpa.as_u64(), found.page_size, found.level), (0xab_5123, 1 << 16, 0));
        } else {
            assert_eq!(found, fault(13, 0x5123), "{number}");
        }
        assert_eq!(gpa(&without(), &entries, 0x5123, READ), fault(13, 0x5123));
    }
    // Not above the last level, aligned as it may be.
    for page in [0x200, 8] {
        let entries = [(0x1000, pointer(2)), (0x2000, N | page << 10 | 0xcf)];
        assert_eq!(gpa(&sv39(), &entries, 0x5123, READ), fault(13, 0x5123));
    }
}

#[test]
fn accessed_and_dirty() {
    for (marks, access, allowed, after) in [
        (0x00, READ, false, 0x40),
        (0x80, READ, false, 0xc0),
        (0x40, READ, true, 0x40),
        (0x40, EXECUTE, true, 0x40),
        (0x00, EXECUTE, false, 0x40),
        (0x40, WRITE, false, 0xc0),
        (0x80, WRITE, false, 0xc0),
        (0xc0, WRITE, true, 0xc0),
        (0x00, READ | WRITE, false, 0xc0),
    ] {
        let entries = chain(0x0f | marks);
        let cause = if access == EXECUTE {
            12
        } else if access == READ {
            13
        } else {
            15
        };
        // Svade.
        let expected = if allowed { Ok(0x8000) } else { fault(cause, 0x5000) };
        assert_eq!(gpa(&sv39(), &entries, 0x5000, access), expected);
        // Svadu.
        let memory = Memory::new(&entries);
        assert!(walk(&guest(8, 0, ADUE).setting_marks(), &memory, 0x5000, access).is_ok());
        assert_eq!(memory.get(0x3028), 8 << 10 | 0x0f | after);
        assert_eq!(memory.stores.borrow().len(), usize::from(!allowed));
    }
}
