//! Start states against the manual.

use super::*;

#[test]
fn registers_are_told_apart() {
    let mut registers = GeneralRegisters::default();
    for (number, register) in General::ALL.into_iter().enumerate() {
        assert_eq!(General::from_number(number as u64 | 16), register);
        registers.set(register, 0x100 + number as u64);
    }
    for (number, register) in General::ALL.into_iter().enumerate() {
        assert_eq!(registers.get(register), 0x100 + number as u64);
    }
    registers.set_edx_eax(0x1234_5678_9abc_def0);
    assert_eq!((registers.get(General::Rax), registers.get(General::Rdx)), (0x9abc_def0, 0x1234_5678));
    registers.set(General::Rax, u64::MAX);
    assert_eq!(registers.edx_eax(), 0x1234_5678_ffff_ffff);
}

#[test]
fn the_start_states_are_those_of_the_manual() {
    let real = CpuState::real_mode(0x9a00, 0x10);
    let code = real.segment(SegmentName::Cs);
    assert_eq!((code.base, code.limit, code.rights, real.rip), (0x9_a000, 0xffff, 0x9b, 0x10));
    assert_eq!((real.cr0, real.cr4, real.efer, real.rflags), (0x10, 0, 0, 2));
    assert_eq!(real.segment(SegmentName::Tr).rights, 0x8b);

    let protected = CpuState::protected_mode(0x10_0000);
    assert_eq!((protected.cr0, protected.rip), (0x11, 0x10_0000));
    assert_eq!(protected.segment(SegmentName::Cs).rights, 0xc09b);
    assert_eq!(protected.segment(SegmentName::Ss).rights, 0xc093);
    assert_eq!(protected.segment(SegmentName::Ldtr), Segment::UNUSABLE);

    let long = CpuState::long_mode(0x20_0000, 0x1000);
    assert_eq!((long.cr0, long.cr3, long.cr4, long.efer), (0x8000_0011, 0x1000, 0x20, 0x500));
    assert_eq!(long.segment(SegmentName::Cs).rights, 0xa09b);
    assert_eq!(long.segment(SegmentName::Ds).limit, u32::MAX);
}
