//! Where fields are, and which clean bit each of them has.

use super::*;
use slat::test_util::HeapHal;

fn word<H: Hal>(vmcb: &Vmcb<H>, offset: usize) -> u64 {
    vmcb.frame.word(offset)
}

#[test]
fn a_field_is_its_own_bytes_and_no_others() {
    let hal = HeapHal::new();
    let mut vmcb = Vmcb::new(&hal).expect("a frame");
    for field in [fields::ASID, fields::TLB_CONTROL, fields::INTERCEPT_1, fields::CPL, fields::RIP] {
        vmcb.set(field, u64::MAX);
    }
    assert_eq!(word(&vmcb, 0x058), 0x0000_00ff_ffff_ffff);
    assert_eq!(word(&vmcb, 0x008), 0xffff_ffff_0000_0000);
    assert_eq!(word(&vmcb, 0x4c8), 0xff << 24);
    assert_eq!(word(&vmcb, 0x578), u64::MAX);
    vmcb.set(fields::TLB_CONTROL, 3);
    assert_eq!((vmcb.get(fields::TLB_CONTROL), vmcb.get(fields::ASID)), (3, 0xffff_ffff));
    vmcb.set(fields::ASID, 7);
    assert_eq!((vmcb.get(fields::TLB_CONTROL), vmcb.get(fields::ASID)), (3, 7));
}

#[test]
fn fields_are_where_the_manual_has_them() {
    // APM vol. 2, appendix B.
    let table = [
        (fields::INTERCEPT_2, 0x010, 4),
        (fields::IOPM_BASE, 0x040, 8),
        (fields::MSRPM_BASE, 0x048, 8),
        (fields::VIRTUAL_INTERRUPT, 0x060, 8),
        (fields::INTERRUPT_SHADOW, 0x068, 8),
        (fields::EXIT_CODE, 0x070, 8),
        (fields::EXIT_INTERRUPT_INFO, 0x088, 8),
        (fields::EVENT_INJECTION, 0x0a8, 8),
        (fields::NESTED_CR3, 0x0b0, 8),
        (fields::CLEAN, 0x0c0, 4),
        (fields::NEXT_RIP, 0x0c8, 8),
        (fields::EFER, 0x4d0, 8),
        (fields::CR0, 0x558, 8),
        (fields::RFLAGS, 0x570, 8),
        (fields::RSP, 0x5d8, 8),
        (fields::RAX, 0x5f8, 8),
        (fields::CR2, 0x640, 8),
        (fields::PAT, 0x668, 8),
    ];
    for (field, offset, bytes) in table {
        assert_eq!((field.offset, field.bytes), (offset, bytes));
    }
}

#[test]
fn what_was_changed_is_not_clean() {
    let hal = HeapHal::new();
    let mut vmcb = Vmcb::new(&hal).expect("a frame");
    let clean = |vmcb: &mut Vmcb<_>| {
        vmcb.set_clean(true);
        vmcb.get(fields::CLEAN)
    };
    assert_eq!(clean(&mut vmcb), 0, "no CPU has seen it");
    vmcb.entered();
    assert_eq!(clean(&mut vmcb), 0x7ff);
    let bits = [
        (fields::INTERCEPT_CR, 0),
        (fields::MSRPM_BASE, 1),
        (fields::ASID, 2),
        (fields::VIRTUAL_INTERRUPT, 3),
        (fields::NESTED_CR3, 4),
        (fields::PAT, 4),
        (fields::EFER, 5),
        (fields::CR3, 5),
        (fields::DR6, 6),
        (fields::CPL, 8),
        (fields::CR2, 9),
    ];
    for (field, bit) in bits {
        vmcb.set(field, 0x1000);
        vmcb.set(field, 0x21);
        assert_eq!(clean(&mut vmcb), 0x7ff & !(1 << bit), "{field:?}");
        vmcb.entered();
        vmcb.set(field, 0x21);
        assert_eq!(clean(&mut vmcb), 0x7ff, "the same value is no change");
    }
    vmcb.set_table(fields::GDTR, TableRegister { base: 1, limit: 2 });
    assert_eq!(clean(&mut vmcb), 0x7ff & !(1 << 7));
    vmcb.entered();
    vmcb.set_segment(SegmentName::Ss, Segment::flat(8, false, false));
    assert_eq!(clean(&mut vmcb), 0x7ff & !(1 << 8));
    vmcb.entered();
    for field in [fields::RIP, fields::RSP, fields::RAX, fields::RFLAGS, fields::EVENT_INJECTION] {
        vmcb.set(field, 5);
    }
    vmcb.set(fields::TLB_CONTROL, 1);
    vmcb.set_segment(SegmentName::Tr, Segment::flat(8, false, false));
    assert_eq!(clean(&mut vmcb), 0x7ff, "read at every entry");
    vmcb.set_clean(false);
    assert_eq!(vmcb.get(fields::CLEAN), 0, "a CPU that keeps nothing");
    vmcb.forget_kept();
    assert_eq!(clean(&mut vmcb), 0);
}

#[test]
fn segments_come_back_as_they_were() {
    let hal = HeapHal::new();
    let mut vmcb = Vmcb::new(&hal).expect("a frame");
    let segments = [
        Segment::flat(0x10, true, true),
        Segment::flat(0x10, true, false),
        Segment::flat(0x18, false, false),
        Segment::real(0xf000, true),
        Segment { selector: 0x28, base: 0xffff_8000_0000_0000, limit: 0x67, rights: 0x8b },
        Segment::UNUSABLE,
    ];
    for name in SegmentName::ALL {
        for segment in segments {
            vmcb.set_segment(name, segment);
            assert_eq!(vmcb.segment(name), segment, "{name:?}");
        }
    }
    // CS: selector, attributes, limit; base.
    vmcb.set_segment(SegmentName::Cs, Segment { base: 0x1234, ..Segment::flat(0x10, true, true) });
    assert_eq!((word(&vmcb, 0x410), word(&vmcb, 0x418)), (0xffff_ffff_0a9b_0010, 0x1234));
    let table = TableRegister { base: 0x1_0000_0000, limit: 0xfff };
    vmcb.set_table(fields::IDTR, table);
    assert_eq!((vmcb.table(fields::IDTR), word(&vmcb, 0x488)), (table, 0x1_0000_0000));
    assert_eq!(word(&vmcb, 0x480), 0xfff << 32);
}

#[test]
fn fetched_bytes_are_counted() {
    let hal = HeapHal::new();
    let mut vmcb = Vmcb::new(&hal).expect("a frame");
    vmcb.frame.set_word(0x0d0, 0x0706_0504_0302_0103);
    vmcb.frame.set_word(0x0d8, 0x0f0e_0d0c_0b0a_0908);
    let (bytes, count) = vmcb.fetched();
    assert_eq!(count, 3);
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
}
