//! Lengths, with everything that may stand before an opcode.

use super::*;

#[test]
fn prefixes_belong_to_the_instruction() {
    let cpuid = opcode(code::CPUID).expect("known");
    let table: [(&[u8], bool, Option<u8>); 9] = [
        (&[0x0f, 0xa2], true, Some(2)),
        (&[0x0f, 0xa2, 0x90, 0x90], false, Some(2)),
        (&[0x66, 0x0f, 0xa2], true, Some(3)),
        (&[0x48, 0x0f, 0xa2], true, Some(3)),
        // DEC EAX, and then CPUID.
        (&[0x48, 0x0f, 0xa2], false, None),
        (&[0xf3, 0x2e, 0x67, 0x4f, 0x0f, 0xa2], true, Some(6)),
        (&[0x0f, 0x31], true, None),
        (&[0x0f], true, None),
        (&[], true, None),
    ];
    for (bytes, long, expected) in table {
        assert_eq!(length(bytes, cpuid, long), expected, "{bytes:x?}");
    }
    let longest = [0x66; 13].into_iter().chain([0x0f, 0xa2]).collect::<Vec<_>>();
    assert_eq!(length(&longest, cpuid, true), Some(15));
    let too_long = [0x66; 14].into_iter().chain([0x0f, 0xa2]).collect::<Vec<_>>();
    assert_eq!(length(&too_long, cpuid, true), None);
    assert_eq!(length(&[0x66; 15], cpuid, true), None);
}

#[test]
fn each_opcode_is_the_one_of_its_exit() {
    let table: [(u64, &[u8], u8); 6] = [
        (code::CPUID, &[0x0f, 0xa2], 2),
        (code::HLT, &[0xf4], 1),
        (code::PAUSE, &[0xf3, 0x90], 2),
        (code::VMMCALL, &[0x0f, 0x01, 0xd9], 3),
        (code::XSETBV, &[0x0f, 0x01, 0xd1], 3),
        (code::INVD, &[0x0f, 0x08], 2),
    ];
    for (exit, bytes, expected) in table {
        let opcode = opcode(exit).expect("known");
        assert_eq!(length(bytes, opcode, true), Some(expected), "{exit:#x}");
        assert_eq!(bare_length(exit, opcode), expected, "{exit:#x}");
    }
    assert_eq!((msr_opcode(false), msr_opcode(true)), (&[0x0f, 0x32][..], &[0x0f, 0x30][..]));
    for none in [code::NMI, code::NESTED_PAGE_FAULT, code::SHUTDOWN, code::VMRUN, code::IOIO] {
        assert_eq!(opcode(none), None, "{none:#x}");
    }
}
