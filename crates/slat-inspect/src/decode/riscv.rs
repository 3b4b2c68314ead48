//! RISC-V: Privileged ISA, "Virtual Address Translation Process", "Svnapot", "Svpbmt", and "Guest Physical Address Translation" for
//! the G-stage, whose entries have the same format.

use super::{Decoder, Masks, bit, field, mask, shift};
use crate::access::{Access, AccessKind, Denial};
use crate::entry::{Entry, Leaf, LeafFlags, MemoryType, Pbmt, Permissions, Table};
use crate::format::{Cpu, Format};
use crate::problem::ProblemKind;

/// D, A and U, which a pointer to a table must not have.
const LEAF_BITS: u64 = 0xd0;

pub(super) fn masks(cpu: &Cpu, level: u8) -> Masks {
    let reserved = mask(if cpu.svrsw60t59b { 58 } else { 60 }, 54);
    let memory_type = mask(62, 61);
    Masks {
        large: true,
        leaf_reserved: reserved
            // In the entry, the address is shifted right by 2.
            | mask(shift(level) - 3, 10)
            | if level == 0 && cpu.svnapot { 0 } else { 1 << 63 }
            | if cpu.svpbmt { 0 } else { memory_type },
        table_reserved: reserved | LEAF_BITS | memory_type | 1 << 63,
        leaf_address: mask(53, shift(level) - 2),
        table_address: mask(53, 10),
    }
}

#[inline]
pub(super) fn decode(decoder: &Decoder, level: u8, raw: u64) -> Entry {
    let (cpu, masks) = (&decoder.cpu, &decoder.levels[usize::from(level)]);
    if !bit(raw, 0) {
        return Entry::Absent;
    }
    if raw & 0xe == 0 {
        if level == 0 || raw & masks.table_reserved != 0 {
            return decoder.malformed(level, raw);
        }
        let mut flags = LeafFlags::empty();
        flags.set(LeafFlags::GLOBAL, bit(raw, 5) && !decoder.format.is_second_stage());
        return Entry::Table(Table {
            address: (raw & masks.table_address) << 2,
            permissions: Permissions::all(),
            flags,
        });
    }
    let memory = match field(raw, 62, 61) {
        0 => Pbmt::Pma,
        1 => Pbmt::NonCacheable,
        2 => Pbmt::Io,
        _ => return decoder.malformed(level, raw),
    };
    if raw & masks.leaf_reserved != 0 || raw & 6 == 4 {
        return decoder.malformed(level, raw);
    }
    let execute = bit(raw, 3);
    let mut permissions = Permissions::from_bits_retain((raw >> 1 & 3) as u8 | (raw & 16) as u8);
    permissions.set(Permissions::EXECUTE | Permissions::EXECUTE_USER, execute);
    permissions.set(Permissions::READ, bit(raw, 1) || (execute && cpu.make_executable_readable));
    let mut flags = LeafFlags::from_bits_retain((raw >> 6 & 3) as u8);
    flags.set(LeafFlags::GLOBAL, bit(raw, 5) && !decoder.format.is_second_stage());
    let mut address = (raw & masks.leaf_address) << 2;
    let mut size = 1 << shift(level);
    if bit(raw, 63) {
        // 64 KiB is the only size there is, encoded by ppn[3:0] = 1000.
        if field(address, 15, 12) != 8 {
            return decoder.malformed(level, raw);
        }
        (address, size) = (address & !0xffff, 1 << 16);
        flags |= LeafFlags::NAPOT;
    }
    Entry::Leaf(Leaf { address, size, permissions, memory: MemoryType::Pbmt(memory), flags })
}

pub(super) fn problems(decoder: &Decoder, level: u8, raw: u64, report: &mut dyn FnMut(ProblemKind, u64)) {
    let (cpu, masks) = (&decoder.cpu, &decoder.levels[usize::from(level)]);
    if !bit(raw, 0) {
        return;
    }
    report(ProblemKind::ReservedBits, raw & masks.table_reserved & mask(60, 54));
    let napot = raw & 1 << 63;
    if raw & 0xe == 0 {
        if level == 0 {
            report(ProblemKind::PointerAtLastLevel, 1);
        }
        return report(ProblemKind::PointerWithLeafBits, raw & (LEAF_BITS | mask(62, 61)) | napot);
    }
    if raw & 6 == 4 {
        report(ProblemKind::WriteWithoutRead, 4);
    }
    if !cpu.svpbmt {
        report(ProblemKind::NoSvpbmt, raw & mask(62, 61));
    } else if field(raw, 62, 61) == 3 {
        report(ProblemKind::MemoryType, raw & mask(62, 61));
    }
    if level != 0 || !cpu.svnapot {
        report(ProblemKind::Napot, napot);
    } else if napot != 0 && field(raw, 13, 10) != 8 {
        report(ProblemKind::Napot, napot | mask(13, 10));
    }
    report(ProblemKind::Misaligned, raw & mask(shift(level) - 3, 10));
}

/// The G-stage checks every access as one of user mode; in a single stage S-mode never fetches from user pages, and reads them
/// with SUM, which is taken for set.
pub(super) fn denial(format: Format, permissions: Permissions, access: Access) -> Option<Denial> {
    let user = permissions.contains(Permissions::USER);
    if format.is_second_stage() || access.user {
        return (!user).then_some(Denial::NotUser);
    }
    (user && access.kind == AccessKind::Execute).then_some(Denial::UserPage)
}

/// Svade: what the hardware does not set has to be set.
pub(super) fn check_flags(cpu: &Cpu, flags: LeafFlags, access: Access) -> Result<(), Denial> {
    if !cpu.sets_accessed && !flags.contains(LeafFlags::ACCESSED) {
        return Err(Denial::NotAccessed);
    }
    if !cpu.sets_dirty && access.kind == AccessKind::Write && !flags.contains(LeafFlags::DIRTY) {
        return Err(Denial::NotDirty);
    }
    Ok(())
}
