//! From the instruction word of a load or store to what a hart that reports it has in htinst.
//!
//! A hart may leave htinst at 0. Then the instruction at sepc is read from the guest's memory
//! ([`fetch_instruction`](crate::AddrSpace::fetch_instruction)), and [`transform`] makes of it what htinst would have been, so
//! that [`Trap`](super::Trap) decodes both alike.

/// Bits that the transformation keeps: opcode, funct3 and the register that is loaded, or stored.
const LOAD_KEEPS: u32 = 0x0000_7fff;
const STORE_KEEPS: u32 = 0x01f0_707f;
/// Of an atomic instruction everything but rs1, in whose place stands the address offset.
const ATOMIC_KEEPS: u32 = !(0x1f << 15);

const LOAD: u32 = 0x03;
const LOAD_FLOAT: u32 = 0x07;
const STORE: u32 = 0x23;
const STORE_FLOAT: u32 = 0x27;
const ATOMIC: u32 = 0x2f;

/// What htinst is after a guest-page fault of this load or store, if the hart reports it and no part of the access was
/// done: `bytes` begins with the instruction, and may go on behind it. Compressed ones are expanded, and bit 1 is
/// clear. (Privileged manual, "Transformed Instruction or Pseudoinstruction for mtinst or htinst"; unprivileged manual,
/// "C" and "Zcb", for 64-bit harts.)
///
/// `None` for every other instruction, and for fewer bytes than it has.
///
/// ```
/// use slat::device::AccessWidth;
/// use slat::format::gstage::{Trap, transform};
///
/// // lw a0, 16(a1) takes four bytes, c.lw a0, 16(a1) takes two: both say the same.
/// for (bytes, length) in [(&[0x03, 0xa5, 0x05, 0x01][..], 4), (&[0x88, 0x49], 2)] {
///     let trap = Trap { htinst: transform(bytes).expect("a load"), ..Trap::default() };
///     let access = trap.data_access().expect("an integer load");
///     assert_eq!((access.width, access.register), (AccessWidth::Dword, Some(10)));
///     assert_eq!(trap.instruction_length(), Some(length));
/// }
/// ```
#[must_use]
pub fn transform(bytes: &[u8]) -> Option<u64> {
    let short = u16::from_le_bytes(*bytes.first_chunk()?);
    if short & 3 != 3 {
        // As in htinst: bit 0 says that there is an instruction, bit 1 that it has four bytes.
        return Some(u64::from(expand(short)? & !2));
    }
    let word = u32::from_le_bytes(*bytes.first_chunk()?);
    let kept = match word & 0x7f {
        LOAD | LOAD_FLOAT => word & LOAD_KEEPS,
        STORE | STORE_FLOAT => word & STORE_KEEPS,
        ATOMIC => word & ATOMIC_KEEPS,
        _ => return None,
    };
    Some(u64::from(kept))
}

/// The compressed load or store as one of four bytes, transformed.
fn expand(word: u16) -> Option<u32> {
    let word = u32::from(word);
    let load = |opcode, size: u32, register: u32| Some(opcode + (register << 7) + (size << 12));
    let store = |opcode, size: u32, register: u32| Some(opcode + (size << 12) + (register << 20));
    // Three bits name registers 8 to 15.
    let short = 8 + (word >> 2 & 7);
    // "C": register-based loads and stores are in quadrant 0, those by the stack pointer in quadrant 2.
    match (word & 3, word >> 13) {
        (0, 1) => load(LOAD_FLOAT, 3, short),
        (0, 2) => load(LOAD, 2, short),
        (0, 3) => load(LOAD, 3, short),
        (0, 4) => expand_narrow(word),
        (0, 5) => store(STORE_FLOAT, 3, short),
        (0, 6) => store(STORE, 2, short),
        (0, 7) => store(STORE, 3, short),
        (2, 1) => load(LOAD_FLOAT, 3, word >> 7 & 0x1f),
        // With x0 as their target they are reserved.
        (2, 2 | 3) if word >> 7 & 0x1f == 0 => None,
        (2, size @ (2 | 3)) => load(LOAD, size, word >> 7 & 0x1f),
        (2, 5) => store(STORE_FLOAT, 3, word >> 2 & 0x1f),
        (2, 6) => store(STORE, 2, word >> 2 & 0x1f),
        (2, 7) => store(STORE, 3, word >> 2 & 0x1f),
        _ => None,
    }
}

/// "Zcb": bytes and half words.
fn expand_narrow(word: u32) -> Option<u32> {
    let register = 8 + (word >> 2 & 7);
    let load = |size: u32| Some(LOAD + (register << 7) + (size << 12));
    let store = |size: u32| Some(STORE + (size << 12) + (register << 20));
    match (word >> 10 & 7, word >> 6 & 1) {
        // funct3 of a load is 4 more where it is unsigned.
        (0, _) => load(4),
        (1, 0) => load(5),
        (1, _) => load(1),
        (2, _) => store(0),
        (3, 0) => store(1),
        _ => None,
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
