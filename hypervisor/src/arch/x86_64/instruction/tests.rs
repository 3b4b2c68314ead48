use super::*;
use General::{R9, Rax, Rcx, Rsi};

fn store(source: Source, length: u8) -> Option<Store> {
    Some(Store { source, length })
}

#[test]
fn stores_that_compilers_make_are_found() {
    use Mode::{Bits16, Bits32, Bits64};
    let cases: [(&[u8], Mode, Source, u8); 17] = [
        // mov [rdi - 0xa03000], esi, as Linux writes to its APIC.
        (&[0x89, 0xb7, 0x00, 0xd0, 0x5f, 0xff], Bits64, Source::Register(Rsi), 6),
        // mov [0xffffffffff5fc0b0], 0 by a 32-bit displacement in a SIB byte.
        (
            &[0xc7, 0x04, 0x25, 0xb0, 0xc0, 0x5f, 0xff, 0x78, 0x56, 0x34, 0x12],
            Bits64,
            Source::Immediate(0x1234_5678),
            11,
        ),
        // mov [rip + 4], eax.
        (&[0x89, 0x05, 4, 0, 0, 0], Bits64, Source::Register(Rax), 6),
        (&[0x89, 0x0e], Bits64, Source::Register(Rcx), 2),
        // mov [rsp + 8], r9d: REX.R names the register.
        (&[0x44, 0x89, 0x4c, 0x24, 8], Bits64, Source::Register(R9), 5),
        // A REX prefix before another prefix is none.
        (&[0x44, 0x65, 0x89, 0x0e], Bits64, Source::Register(Rcx), 4),
        // A base of R13 with no displacement does not exist: there is one.
        (&[0x41, 0x89, 0x4d, 0], Bits64, Source::Register(Rcx), 4),
        // lock xchg [rdi], ecx.
        (&[0xf0, 0x87, 0x0f], Bits64, Source::Exchange(Rcx), 3),
        (&[0xa3, 0, 0, 0xe0, 0xfe, 0, 0, 0, 0], Bits64, Source::Register(Rax), 9),
        (&[0x67, 0xa3, 0, 0, 0xe0, 0xfe], Bits64, Source::Register(Rax), 6),
        (&[0xa3, 0, 0, 0xe0, 0xfe], Bits32, Source::Register(Rax), 5),
        (&[0x89, 0x0d, 0, 0, 0xe0, 0xfe], Bits32, Source::Register(Rcx), 6),
        // In 16-bit code operands are to be made 32 bits wide.
        (&[0x66, 0x89, 0x0e, 0x34, 0x12], Bits16, Source::Register(Rcx), 5),
        (&[0x66, 0x67, 0x89, 0x0d, 0, 0, 0xe0, 0xfe], Bits16, Source::Register(Rcx), 8),
        (&[0x66, 0x89, 0x0f], Bits16, Source::Register(Rcx), 3),
        (&[0x66, 0x89, 0x4f, 1], Bits16, Source::Register(Rcx), 4),
        (&[0x66, 0x89, 0x8f, 1, 2], Bits16, Source::Register(Rcx), 5),
    ];
    for (bytes, mode, source, length) in cases {
        assert_eq!(decode(bytes, mode), store(source, length), "{bytes:x?}");
        // What follows does not count, and nothing may be missing.
        assert_eq!(decode(&[bytes, &[0xcc; 4]].concat(), mode), store(source, length), "{bytes:x?}");
        for shorter in 0..bytes.len() {
            assert_eq!(decode(&bytes[..shorter], mode), None, "{bytes:x?} cut to {shorter}");
        }
    }
}

#[test]
fn anything_else_is_refused() {
    let cases: [(&[u8], Mode); 10] = [
        // To a register; of a byte; of 16 and of 64 bits; a load.
        (&[0x89, 0xc8], Mode::Bits64),
        (&[0x88, 0x0e], Mode::Bits64),
        (&[0x66, 0x89, 0x0e], Mode::Bits64),
        (&[0x48, 0x89, 0x0e], Mode::Bits64),
        (&[0x8b, 0x0e], Mode::Bits64),
        (&[0x89, 0x0e], Mode::Bits16),
        (&[0x89, 0xc8], Mode::Bits16),
        // LOCK MOV, and C7 /1, are no instructions.
        (&[0xf0, 0x89, 0x0e], Mode::Bits64),
        (&[0xc7, 0x0e, 0, 0, 0, 0], Mode::Bits64),
        (&[0x0f, 0x11, 0x06], Mode::Bits64),
    ];
    for (bytes, mode) in cases {
        let padded = [bytes, &[0; 8]].concat();
        assert_eq!(decode(&padded, mode), None, "{bytes:x?} in {mode:?}");
    }
}

#[test]
fn no_bytes_are_too_many_and_none_too_strange() {
    // Prefixes without end; a store whose last byte is the 16th.
    assert_eq!(decode(&[0x66; 40], Mode::Bits16), None);
    let mut long = [0x2e; 16];
    long[14..].copy_from_slice(&[0x89, 0x0e]);
    assert_eq!(decode(&long, Mode::Bits64), None);
    assert_eq!(decode(&long[1..], Mode::Bits64), store(Source::Register(Rcx), 15));
    assert_eq!(decode(&[], Mode::Bits32), None);
    // Bytes of a simple generator: none of them panics, and what is found has a length that exists.
    let mut state = 1_u64;
    for _ in 0..200_000 {
        let bytes: [u8; 16] = core::array::from_fn(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 56) as u8
        });
        for mode in [Mode::Bits16, Mode::Bits32, Mode::Bits64] {
            let length = usize::from(bytes[15] & 15);
            if let Some(found) = decode(&bytes[..length], mode) {
                assert!((1..=length).contains(&usize::from(found.length)));
            }
        }
    }
}

#[test]
fn the_mode_is_that_of_the_code_segment() {
    assert_eq!(Mode::of(0xa09b, true), Mode::Bits64);
    assert_eq!(Mode::of(0xc09b, true), Mode::Bits32);
    assert_eq!(Mode::of(0xa09b, false), Mode::Bits16);
    assert_eq!(Mode::of(0x9b, false), Mode::Bits16);
}
