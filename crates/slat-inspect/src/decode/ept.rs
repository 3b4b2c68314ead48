//! Intel EPT: SDM volume 3C, "EPT Translation Mechanism" and "EPT Misconfigurations".

use super::{Decoder, Masks, bit, field, mask, shift};
use crate::entry::{Entry, Leaf, LeafFlags, MemoryType, Permissions, Table, X86MemoryType};
use crate::format::Cpu;
use crate::problem::ProblemKind;

/// Bit n: memory type n is reserved in a leaf.
const RESERVED_TYPES: u64 = 1 << 2 | 1 << 3 | 1 << 7;

pub(super) fn masks(cpu: &Cpu, level: u8) -> Masks {
    let wide = mask(51, cpu.physical_bits);
    let large = matches!(level, 1 | 2);
    let unsupported = (level == 1 && !cpu.page_2m) || (level == 2 && !cpu.page_1g);
    Masks {
        large,
        leaf_reserved: wide
            | if large { mask(shift(level) - 1, 12) } else { 0 }
            | if unsupported { 1 << 7 } else { 0 },
        // In a PML4E and PML5E bit 7 is reserved too.
        table_reserved: wide | mask(if level >= 3 { 7 } else { 6 }, 3),
        leaf_address: mask(51, shift(level)),
        table_address: mask(51, 12),
    }
}

fn is_present(cpu: &Cpu, raw: u64) -> bool {
    raw & 7 != 0 || (cpu.mode_based_execute && bit(raw, 10))
}

fn permissions(cpu: &Cpu, raw: u64) -> Permissions {
    let user = bit(raw, if cpu.mode_based_execute { 10 } else { 2 });
    let user = if user { Permissions::EXECUTE_USER } else { Permissions::empty() };
    Permissions::from_bits_retain(raw as u8 & 7) | user | Permissions::USER
}

fn flags(cpu: &Cpu, raw: u64, mask: u64) -> LeafFlags {
    LeafFlags::from_bits_retain((raw >> 8 & mask) as u8 & if cpu.sets_accessed { 3 } else { 0 })
}

#[inline]
pub(super) fn decode(decoder: &Decoder, level: u8, raw: u64) -> Entry {
    let (cpu, masks) = (&decoder.cpu, &decoder.levels[usize::from(level)]);
    if !is_present(cpu, raw) {
        return Entry::Absent;
    }
    let unreadable = !bit(raw, 0) && (bit(raw, 1) || !cpu.execute_only);
    if level == 0 || (masks.large && bit(raw, 7)) {
        let reserved_type = RESERVED_TYPES >> field(raw, 5, 3) & 1 != 0;
        if unreadable || reserved_type || raw & masks.leaf_reserved != 0 {
            return decoder.malformed(level, raw);
        }
        let kind = X86MemoryType::from_number(field(raw, 5, 3) as u8);
        return Entry::Leaf(Leaf {
            address: raw & masks.leaf_address,
            size: 1 << shift(level),
            permissions: permissions(cpu, raw),
            memory: MemoryType::Ept { kind, ignore_pat: bit(raw, 6) },
            flags: flags(cpu, raw, 3),
        });
    }
    if unreadable || raw & masks.table_reserved != 0 {
        return decoder.malformed(level, raw);
    }
    Entry::Table(Table {
        address: raw & masks.table_address,
        permissions: permissions(cpu, raw),
        flags: flags(cpu, raw, 1),
    })
}

pub(super) fn problems(decoder: &Decoder, level: u8, raw: u64, report: &mut dyn FnMut(ProblemKind, u64)) {
    let (cpu, masks) = (&decoder.cpu, &decoder.levels[usize::from(level)]);
    if !is_present(cpu, raw) {
        return;
    }
    if !bit(raw, 0) {
        report(ProblemKind::WriteWithoutRead, raw & 2);
        if !cpu.execute_only {
            let user = if cpu.mode_based_execute { 1 << 10 } else { 0 };
            report(ProblemKind::ExecuteWithoutRead, raw & (4 | user));
        }
    }
    report(ProblemKind::AddressTooWide, raw & mask(51, cpu.physical_bits));
    if level == 0 || (masks.large && bit(raw, 7)) {
        report(ProblemKind::LargePage, raw & masks.leaf_reserved & 1 << 7);
        let low = masks.leaf_reserved & !(mask(51, cpu.physical_bits) | 1 << 7);
        report(ProblemKind::Misaligned, raw & low);
        if RESERVED_TYPES >> field(raw, 5, 3) & 1 != 0 {
            report(ProblemKind::MemoryType, raw & mask(5, 3));
        }
    } else {
        report(ProblemKind::ReservedBits, raw & mask(7, 3) & masks.table_reserved);
    }
}
