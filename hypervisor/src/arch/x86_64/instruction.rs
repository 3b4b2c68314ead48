//! Stores of 32 bits to memory, for those to the local APIC, which the hypervisor carries out.
//!
//! Only what the store takes from and how long the instruction is are of interest: where it goes, the CPU has said already.
//! Any bytes may stand here, the guest may even have changed them since the CPU saw them: what is not such a store is `None`.
//! (Intel SDM vol. 2A, chapter 2, "Instruction Format".)

use slat_x86::General;

/// The size of addresses and operands where no prefix says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16 bits: real mode, and 16-bit segments.
    Bits16,
    /// 32 bits.
    Bits32,
    /// Addresses of 64 bits, operands of 32.
    Bits64,
}

impl Mode {
    /// The mode of code in a segment with these rights (as `slat_x86::Segment` has them), on a CPU in long mode or not.
    #[must_use]
    pub const fn of(rights: u32, long: bool) -> Self {
        if long && rights >> 13 & 1 != 0 {
            Self::Bits64
        } else if rights >> 14 & 1 != 0 {
            Self::Bits32
        } else {
            Self::Bits16
        }
    }
}

/// Where the value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The lower half of a register.
    Register(General),
    /// The instruction itself.
    Immediate(u32),
    /// As [`Register`](Self::Register), which receives what was there before.
    Exchange(General),
}

/// A store of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Its value.
    pub source: Source,
    /// Bytes of the instruction, 1 to 15.
    pub length: u8,
}

/// Prefixes that change what is stored, or how long the instruction is.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    operand: bool,
    address: bool,
    lock: bool,
    rex: u8,
}

/// The bytes, taken one after the other.
struct Bytes<'a> {
    bytes: &'a [u8],
    taken: usize,
}

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.taken).copied()?;
        self.taken += 1;
        Some(byte)
    }

    fn skip(&mut self, count: usize) {
        self.taken += count;
    }

    fn next_32(&mut self) -> Option<u32> {
        let bytes = self.bytes.get(self.taken..)?.first_chunk::<4>()?;
        self.taken += 4;
        Some(u32::from_le_bytes(*bytes))
    }
}

/// The store at the start of `bytes`, if there is one: MOV from a register, from EAX to an offset, of an immediate; XCHG.
#[must_use]
pub fn decode(bytes: &[u8], mode: Mode) -> Option<Store> {
    // Nothing longer is an instruction.
    let bytes = bytes.get(..bytes.len().min(15))?;
    let mut rest = Bytes { bytes, taken: 0 };
    let mut prefixes = Prefixes::default();
    let opcode = loop {
        let byte = rest.next()?;
        match byte {
            // Segments; repetition, which means nothing here, or is a hint.
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf2 | 0xf3 => {}
            0x66 => prefixes.operand = true,
            0x67 => prefixes.address = true,
            0xf0 => prefixes.lock = true,
            0x40..=0x4f if mode == Mode::Bits64 => {
                prefixes.rex = byte;
                continue;
            }
            opcode => break opcode,
        }
        // Only one right before the opcode counts.
        prefixes.rex = 0;
    };
    let wide = prefixes.rex & 8 != 0;
    if wide || prefixes.operand == (mode != Mode::Bits16) {
        return None;
    }
    // LOCK goes with an exchange only.
    if prefixes.lock && opcode != 0x87 {
        return None;
    }
    let source = match opcode {
        0x89 => Source::Register(operand(&mut rest, mode, prefixes)?),
        0x87 => Source::Exchange(operand(&mut rest, mode, prefixes)?),
        0xc7 => {
            // The field of the register is part of the opcode: 0, whatever REX adds to it.
            if operand(&mut rest, mode, Prefixes { rex: 0, ..prefixes })? != General::Rax {
                return None;
            }
            Source::Immediate(rest.next_32()?)
        }
        0xa3 => {
            rest.skip(address_bytes(mode, prefixes));
            Source::Register(General::Rax)
        }
        _ => return None,
    };
    let length = u8::try_from(rest.taken).ok().filter(|_| rest.taken <= bytes.len())?;
    Some(Store { source, length })
}

/// Bytes of an address.
const fn address_bytes(mode: Mode, prefixes: Prefixes) -> usize {
    match (mode, prefixes.address) {
        (Mode::Bits64, false) => 8,
        (Mode::Bits64 | Mode::Bits16, true) | (Mode::Bits32, false) => 4,
        (Mode::Bits32, true) | (Mode::Bits16, false) => 2,
    }
}

/// The register of a ModR/M byte whose other operand is in memory; passes over everything that belongs to that.
fn operand(rest: &mut Bytes<'_>, mode: Mode, prefixes: Prefixes) -> Option<General> {
    let byte = rest.next()?;
    let (kind, register, memory) = (byte >> 6, byte >> 3 & 7, byte & 7);
    let displacement = if address_bytes(mode, prefixes) == 2 {
        match (kind, memory) {
            (0, 6) | (2, _) => 2,
            (1, _) => 1,
            (0, _) => 0,
            _ => return None,
        }
    } else {
        let base = if memory == 4 && kind != 3 { rest.next()? & 7 } else { memory };
        match (kind, base) {
            (0, 5) | (2, _) => 4,
            (1, _) => 1,
            (0, _) => 0,
            // A register.
            _ => return None,
        }
    };
    rest.skip(displacement);
    Some(General::from_number(u64::from(prefixes.rex & 4) << 1 | u64::from(register)))
}

#[cfg(test)]
mod tests;
