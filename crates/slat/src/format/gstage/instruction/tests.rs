//! Instructions assembled by hand, from the formats of the unprivileged manual.

use super::super::Trap;
use super::*;
use crate::device::{AccessWidth, DataAccess};
use AccessWidth::{Byte, Dword, Qword, Word};

fn long(word: u32) -> Option<u64> {
    transform(&word.to_le_bytes())
}

fn short(word: u16) -> Option<u64> {
    transform(&word.to_le_bytes())
}

fn access(htinst: Option<u64>) -> Option<DataAccess> {
    Trap { htinst: htinst?, ..Trap::default() }.data_access()
}

const fn moves(width: AccessWidth, register: u8, sign_extend: bool) -> Option<DataAccess> {
    Some(DataAccess { width, register: Some(register), sign_extend, sixty_four: true })
}

#[test]
fn a_long_instruction_keeps_all_but_its_address() {
    // Offset all ones, rs1 x31.
    let load = |funct3: u32, rd: u32| 0xfff << 20 | 31 << 15 | funct3 << 12 | rd << 7 | 0x03;
    let store = |funct3: u32, rs2: u32| 0x7f << 25 | rs2 << 20 | 31 << 15 | funct3 << 12 | 0x1f << 7 | 0x23;
    assert_eq!(long(load(2, 17)), Some(2 << 12 | 17 << 7 | 0x03));
    assert_eq!(long(store(3, 30)), Some(30 << 20 | 3 << 12 | 0x23));
    let loads = [Byte, Word, Dword, Qword, Byte, Word, Dword];
    for (funct3, width) in (0..).zip(loads) {
        assert_eq!(access(long(load(funct3, 17))), moves(width, 17, funct3 < 4));
    }
    for (funct3, width) in (0..4).zip(AccessWidth::ALL) {
        assert_eq!(access(long(store(funct3, 30))), moves(width, 30, false));
    }
    // FLD f9 and FSW f9; AMOADD.D with aq and rl, LR.W.
    assert_eq!(long(0x0107_b487), Some(3 << 12 | 9 << 7 | 0x07));
    assert_eq!(long(0x0097_a827), Some(9 << 20 | 2 << 12 | 0x27));
    assert_eq!(
        long(3 << 25 | 5 << 20 | 6 << 15 | 3 << 12 | 7 << 7 | 0x2f),
        Some(3 << 25 | 5 << 20 | 3 << 12 | 7 << 7 | 0x2f)
    );
    assert_eq!(long(0x1003_252f), Some(0x1000_252f));
    let length = |htinst| Trap { htinst, ..Trap::default() }.instruction_length();
    assert_eq!(long(load(2, 17)).and_then(length), Some(4));
}

#[test]
fn compressed_loads_and_stores_are_expanded() {
    // Address register x8 + 5, offset bits all set where they are offset alone.
    let quadrant0 = |funct3: u16, register: u16| funct3 << 13 | 7 << 10 | 5 << 7 | 3 << 5 | register << 2;
    let cases = [
        (quadrant0(2, 3), moves(Dword, 11, true)),  // c.lw
        (quadrant0(3, 7), moves(Qword, 15, true)),  // c.ld
        (quadrant0(6, 0), moves(Dword, 8, false)),  // c.sw
        (quadrant0(7, 2), moves(Qword, 10, false)), // c.sd
        (2 << 13 | 1 << 12 | 17 << 7 | 31 << 2 | 2, moves(Dword, 17, true)), // c.lwsp
        (3 << 13 | 1 << 12 | 31 << 7 | 31 << 2 | 2, moves(Qword, 31, true)), // c.ldsp
        (6 << 13 | 63 << 7 | 18 << 2 | 2, moves(Dword, 18, false)), // c.swsp
        (7 << 13 | 63 << 7 | 30 << 2 | 2, moves(Qword, 30, false)), // c.sdsp
        // Zcb: funct6, address register x13, bits 6:5.
        (0o400 << 7 | 5 << 7 | 3 << 5 | 4 << 2, moves(Byte, 12, false)), // c.lbu
        (0o410 << 7 | 5 << 7 | 1 << 5 | 4 << 2, moves(Word, 12, false)), // c.lhu
        (0o410 << 7 | 5 << 7 | 3 << 5 | 4 << 2, moves(Word, 12, true)),  // c.lh
        (0o420 << 7 | 5 << 7 | 3 << 5 | 4 << 2, moves(Byte, 12, false)), // c.sb
        (0o430 << 7 | 5 << 7 | 1 << 5 | 4 << 2, moves(Word, 12, false)), // c.sh
    ];
    for (word, wanted) in cases {
        let htinst = short(word);
        assert_eq!(access(htinst), wanted, "{word:#x}");
        let trap = Trap { htinst: htinst.unwrap_or_default(), ..Trap::default() };
        assert_eq!(trap.instruction_length(), Some(2), "{word:#x}");
        // Whatever follows it is none of its business.
        assert_eq!(transform(&[word as u8, (word >> 8) as u8, 0xff, 0xff]), htinst);
    }
    // Stores are told from loads.
    let stores = cases.map(|(word, _)| short(word).is_some_and(|htinst| htinst & 0x7d == 0x21));
    let wanted = [false, false, true, true, false, false, true, true, false, false, false, true, true];
    assert_eq!(stores, wanted);
    // c.fld, c.fsd, c.fldsp, c.fsdsp: of f13 and f19, as the long ones, with bit 1 clear.
    assert_eq!(short(1 << 13 | 5 << 2), Some(3 << 12 | 13 << 7 | 0x05));
    assert_eq!(short(5 << 13 | 5 << 2), Some(13 << 20 | 3 << 12 | 0x25));
    assert_eq!(short(1 << 13 | 19 << 7 | 2), Some(3 << 12 | 19 << 7 | 0x05));
    assert_eq!(short(5 << 13 | 19 << 2 | 2), Some(19 << 20 | 3 << 12 | 0x25));
}

#[test]
fn everything_else_is_nothing() {
    // c.unimp, c.addi4spn; Zcb beyond c.sh; c.lwsp and c.ldsp to x0; c.slli, c.jr; all of quadrant 1.
    let none = [
        0,
        4,
        0o430 << 7 | 1 << 6,
        0o440 << 7,
        0o470 << 7,
        2 << 13 | 2,
        3 << 13 | 2,
        2,
        4 << 13 | 1 << 7 | 2,
    ];
    for word in none.into_iter().chain((0..8).map(|funct3| funct3 << 13 | 1 << 7 | 1)) {
        assert_eq!(short(word), None, "{word:#x}");
    }
    // addi, jal, cbo.zero, hlv.w, and instructions longer than 32 bits.
    for word in [0x0000_0013, 0x0000_006f, 0x0045_200f, 0x6806_4073, 0x0000_001f] {
        assert_eq!(long(word), None, "{word:#x}");
    }
    assert_eq!(transform(&[]), None);
    assert_eq!(transform(&[0x03]), None);
    assert_eq!(transform(&[0x03, 0xa5]), None, "half of lw");
    assert_eq!(transform(&[0x03, 0xa5, 0x05]), None, "three quarters");
    assert_eq!(transform(&[0x88]), None, "half of c.lw");
}

/// What a hart writes to htinst and what the instruction says are one.
#[test]
fn a_transformed_instruction_stays_as_it_is() {
    for word in [0x0005_a503_u32, 0x00b5_3023, 0x1003_252f, 0x0107_b487] {
        let once = long(word).expect("a load or store");
        assert_eq!(long(once as u32), Some(once), "{word:#x}");
    }
}
