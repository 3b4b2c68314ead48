use super::*;
use std::string::ToString;

#[test]
fn a_width_is_one_of_four_numbers_of_bytes() {
    let widths = [1, 2, 4, 8].map(|bytes| AccessWidth::try_from(bytes).map(AccessWidth::bytes));
    assert_eq!(widths, [Ok(1), Ok(2), Ok(4), Ok(8)]);
    for bytes in [0, 3, 5, 7, 9, 16, 256, u64::MAX] {
        assert_eq!(AccessWidth::try_from(bytes), Err(BadWidth(bytes)));
    }
    assert_eq!(BadWidth(3).to_string(), "an access moves 1, 2, 4 or 8 bytes, not 3");
    assert_eq!(AccessWidth::ALL.map(AccessWidth::mask), [0xff, 0xffff, 0xffff_ffff, u64::MAX]);
    assert_eq!([0, 1, 2, 3, 4].map(AccessWidth::from_size)[..4], AccessWidth::ALL);
    assert_eq!(AccessWidth::from_size(4 | 2), AccessWidth::Dword, "two bits count");
    assert_eq!(AccessWidth::Word.to_string(), "16 bit");
    assert_eq!(DeviceId(7).to_string(), "device 7");
}

#[test]
fn the_sign_is_the_highest_bit_of_the_width() {
    let extended = |value| AccessWidth::ALL.map(|width| width.sign_extend(value));
    assert_eq!(
        extended(0xf0f0_f0f0_8090_a0b0),
        [0xffff_ffff_ffff_ffb0, 0xffff_ffff_ffff_a0b0, 0xffff_ffff_8090_a0b0, 0xf0f0_f0f0_8090_a0b0]
    );
    assert_eq!(extended(0xffff_ffff_7fff_7f7f), [0x7f, 0x7f7f, 0x7fff_7f7f, 0xffff_ffff_7fff_7f7f]);
}

#[test]
fn a_load_fills_the_register_as_the_instruction_says() {
    let access =
        DataAccess { width: AccessWidth::Byte, register: Some(3), sign_extend: false, sixty_four: true };
    let value = 0x1234_5678_9abc_def0;
    // LDRB Wt and LDRSB Xt, LDRSB Wt.
    assert_eq!(access.loaded(value), 0xf0);
    let signed = DataAccess { sign_extend: true, ..access };
    assert_eq!(signed.loaded(value), 0xffff_ffff_ffff_fff0);
    assert_eq!(DataAccess { sixty_four: false, ..signed }.loaded(value), 0xffff_fff0);
    // LDRSH Wt of a positive number, LDRSW, LDR Wt, LDR Xt.
    let half = DataAccess { width: AccessWidth::Word, sixty_four: false, ..signed };
    assert_eq!(half.loaded(0xffff_7ef0), 0x7ef0);
    let word = DataAccess { width: AccessWidth::Dword, ..signed };
    assert_eq!(word.loaded(value), 0xffff_ffff_9abc_def0);
    assert_eq!(DataAccess { sign_extend: false, sixty_four: false, ..word }.loaded(value), 0x9abc_def0);
    assert_eq!(DataAccess { width: AccessWidth::Qword, ..access }.loaded(value), value);
}

#[test]
fn a_store_sends_the_low_bytes() {
    let access = |width| DataAccess { width, register: Some(3), sign_extend: false, sixty_four: false };
    let stored = AccessWidth::ALL.map(|width| access(width).stored(Some(0x1234_5678_9abc_def0)));
    assert_eq!(stored, [0xf0, 0xdef0, 0x9abc_def0, 0x1234_5678_9abc_def0]);
    assert_eq!(access(AccessWidth::Qword).stored(None), 0, "the zero register");
}

/// Numbers put together by hand from the ISS encoding of exception class 0x18 and the names in the Arm ARM.
#[test]
fn system_registers_have_the_numbers_of_their_manuals() {
    // SCTLR_EL1 is S3_0_C1_C0_0, CNTVCT_EL0 is S3_3_C14_C0_2, ICC_SGI1R_EL1 is S3_0_C12_C11_5.
    let number = |op0, op1, crn, crm, op2| SysRegAddr::arm(op0, op1, crn, crm, op2).map(SysRegAddr::as_u32);
    assert_eq!(number(3, 0, 1, 0, 0), Ok(0x30_0400));
    assert_eq!(number(3, 3, 14, 0, 2), Ok(0x34_f800));
    assert_eq!(number(3, 0, 12, 11, 5), Ok(0x3a_3016));
    assert_eq!(number(3, 7, 15, 15, 7), Ok(0x3f_fc1e));
    assert_eq!(number(0, 0, 0, 0, 0), Ok(0));
    for (op0, op1, crn, crm, op2) in
        [(4, 0, 0, 0, 0), (0, 8, 0, 0, 0), (0, 0, 16, 0, 0), (0, 0, 0, 16, 0), (0, 0, 0, 0, 8)]
    {
        assert_eq!(number(op0, op1, crn, crm, op2), Err(BadSysReg::Arm { op0, op1, crn, crm, op2 }));
    }
    let bad = BadSysReg::Arm { op0: 4, op1: 0, crn: 1, crm: 2, op2: 3 }.to_string();
    assert_eq!(bad, "no system register has op0 4, op1 0, CRn 1, CRm 2, op2 3");
    // A read of it into x9 traps with IL, Rt and the direction set.
    let esr = 0x18 << 26 | 1 << 25 | 0x3a_3016 | 9 << 5 | 1;
    assert_eq!(SysRegAddr::from_iss(esr), SysRegAddr::arm(3, 0, 12, 11, 5).expect("it exists"));
    assert_eq!(SysRegAddr::from_iss(u64::MAX).as_u32(), 0x3f_fc1e);
    assert_eq!(SysRegAddr::csr(0xfff).map(SysRegAddr::as_u32), Ok(0xfff));
    assert_eq!(SysRegAddr::csr(0x1000), Err(BadSysReg::Csr(0x1000)));
    assert_eq!(SysRegAddr::msr(0xc000_0080).as_u32(), 0xc000_0080);
    assert_eq!((SysRegAddr::msr(0x10).to_string(), Port(0x3f8).to_string()), ("0x10".into(), "0x3f8".into()));
}

#[test]
fn a_range_has_at_least_one_element_and_does_not_wrap() {
    use DeviceRangeError::{Empty, Wraps};
    let ends = |range: PortRange| (range.first().0, range.last().0, range.count());
    let inclusive = |first, last| PortRange::inclusive(Port(first), Port(last)).map(ends);
    let half_open = |start, end| PortRange::half_open(Port(start), Port(end)).map(ends);
    let with_count = |first, count| PortRange::with_count(Port(first), count).map(ends);
    assert_eq!(inclusive(5, 5), Ok((5, 5, 1)));
    assert_eq!(inclusive(0, 0xffff), Ok((0, 0xffff, 0x1_0000)));
    assert_eq!(inclusive(5, 4), Err(Empty));
    assert_eq!(half_open(5, 6), Ok((5, 5, 1)));
    assert_eq!(half_open(5, 0xffff), Ok((5, 0xfffe, 0xfffa)));
    assert_eq!((half_open(5, 5), half_open(0, 0), half_open(6, 5)), (Err(Empty), Err(Empty), Err(Empty)));
    assert_eq!(with_count(0x3f8, 8), Ok((0x3f8, 0x3ff, 8)));
    assert_eq!(with_count(0, 0x1_0000), Ok((0, 0xffff, 0x1_0000)));
    assert_eq!(with_count(0xffff, 1), Ok((0xffff, 0xffff, 1)));
    assert_eq!(with_count(7, 0), Err(Empty));
    assert_eq!((with_count(1, 0x1_0000), with_count(0xffff, 2)), (Err(Wraps), Err(Wraps)));
    assert_eq!((with_count(1, u64::MAX), with_count(2, u64::MAX)), (Err(Wraps), Err(Wraps)));
    assert_eq!(
        (Empty.to_string().as_str(), Wraps.to_string().as_str()),
        ("the range is empty", "the range ends behind the highest number")
    );
}

#[test]
fn an_emulator_finds_its_register_and_its_neighbours() {
    let msr = SysRegAddr::msr;
    let range = SysRegRange::inclusive(msr(0x800), msr(0x8ff)).expect("not empty");
    assert_eq!(
        [0x7ff, 0x800, 0x8ff, 0x900].map(|number| range.contains(msr(number))),
        [false, true, true, false]
    );
    assert_eq!(
        [0x7ff, 0x800, 0x80b, 0x900].map(|number| range.offset_of(msr(number))),
        [None, Some(0), Some(0xb), None]
    );
    let overlaps = |first, last| {
        let other = SysRegRange::inclusive(msr(first), msr(last)).expect("not empty");
        assert_eq!(range.overlaps(other), other.overlaps(range));
        range.overlaps(other)
    };
    assert!(
        overlaps(0x800, 0x800) && overlaps(0x8ff, 0xfff) && overlaps(0, u32::MAX) && overlaps(0x880, 0x881)
    );
    assert!(!overlaps(0, 0x7ff) && !overlaps(0x900, u32::MAX));
    let all = SysRegRange::with_count(msr(0), 1 << 32).expect("all of them");
    assert_eq!((all.last(), all.count()), (msr(u32::MAX), 1 << 32));
    assert_eq!(range.to_string(), "0x800..=0x8ff");
}
