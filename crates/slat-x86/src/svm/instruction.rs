//! The length of an instruction that has led to an exit, for CPUs that do not save the address of the next one.
//!
//! Only the opcodes that are intercepted and answered are known here; none of them has an operand in memory, an immediate or a
//! displacement, so what there is beside the opcode is prefixes.

use super::exit::code;

/// The opcode of the instruction that leads to exit `exit_code` and is answered by going on behind it.
pub(super) const fn opcode(exit_code: u64) -> Option<&'static [u8]> {
    Some(match exit_code {
        code::CPUID => &[0x0f, 0xa2],
        code::INVD => &[0x0f, 0x08],
        code::WBINVD => &[0x0f, 0x09],
        code::HLT => &[0xf4],
        // NOP with F3.
        code::PAUSE => &[0x90],
        code::VMMCALL => &[0x0f, 0x01, 0xd9],
        code::XSETBV => &[0x0f, 0x01, 0xd1],
        code::RDTSC => &[0x0f, 0x31],
        _ => return None,
    })
}

/// As [`opcode`], of RDMSR and WRMSR.
pub(super) const fn msr_opcode(write: bool) -> &'static [u8] {
    if write { &[0x0f, 0x30] } else { &[0x0f, 0x32] }
}

/// Bytes of the instruction if it is exactly `opcode`, without any prefix (but PAUSE, which is one).
pub(super) const fn bare_length(exit_code: u64, opcode: &[u8]) -> u8 {
    if exit_code == code::PAUSE { 2 } else { opcode.len() as u8 }
}

/// Bytes of the instruction at the start of `bytes`, prefixes included; `None` if it is not `opcode`. `long`: 64-bit code.
pub(super) fn length(bytes: &[u8], opcode: &[u8], long: bool) -> Option<u8> {
    let prefixes = bytes.iter().take_while(|&&byte| is_prefix(byte, long)).count();
    let rest = bytes.get(prefixes..)?;
    let length = u8::try_from(prefixes + opcode.len()).ok()?;
    // APM vol. 3, "Instruction Encoding Overview": 15 bytes at the most.
    (rest.starts_with(opcode) && length <= 15).then_some(length)
}

/// APM vol. 3, "Instruction Prefixes": legacy prefixes and, in 64-bit code, REX.
const fn is_prefix(byte: u8, long: bool) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
        || long && matches!(byte, 0x40..=0x4f)
}

#[cfg(all(test, not(loom)))]
mod tests;
