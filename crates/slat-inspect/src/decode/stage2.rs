//! Arm stage 2, 4 KiB granule without FEAT_LPA2: Arm ARM chapter D8, "VMSAv8-64 translation table format descriptors" and
//! "Stage 2 memory type and Cacheability attributes".

use super::{Decoder, Masks, bit, field, mask, shift};
use crate::access::Denial;
use crate::entry::{Cache, Entry, Leaf, LeafFlags, MemoryType, Permissions, Shareability, Stage2Type, Table};
use crate::format::Cpu;
use crate::problem::ProblemKind;

pub(super) fn masks(cpu: &Cpu, level: u8) -> Masks {
    let wide = mask(47, cpu.physical_bits);
    let large = matches!(level, 1 | 2);
    let nt = if cpu.block_nt { 1 << 16 } else { 0 };
    Masks {
        large,
        leaf_reserved: wide
            | mask(50, 48)
            | if large { mask(shift(level) - 1, 12) & !nt } else { 0 }
            | if cpu.execute_never_per_level { 0 } else { 1 << 53 },
        table_reserved: wide,
        leaf_address: mask(47, shift(level)),
        table_address: mask(47, 12),
    }
}

fn memory_kind(cpu: &Cpu, attributes: u64) -> Option<Stage2Type> {
    let cache = |bits| match bits {
        1 => Some(Cache::NonCacheable),
        2 => Some(Cache::WriteThrough),
        3 => Some(Cache::WriteBack),
        _ => None,
    };
    Some(match attributes {
        0 => Stage2Type::DevicenGnRnE,
        1 => Stage2Type::DevicenGnRE,
        2 => Stage2Type::DevicenGRE,
        3 => Stage2Type::DeviceGRE,
        5 if cpu.force_write_back => Stage2Type::NormalNonCacheable,
        6 if cpu.force_write_back => Stage2Type::ForcedWriteBack,
        7 if cpu.force_write_back => Stage2Type::AsStage1,
        _ if cpu.force_write_back => return None,
        _ => Stage2Type::Normal { outer: cache(attributes >> 2)?, inner: cache(attributes & 3)? },
    })
}

fn shareability(raw: u64) -> Option<Shareability> {
    Some(match field(raw, 9, 8) {
        0 => Shareability::NonShareable,
        2 => Shareability::Outer,
        3 => Shareability::Inner,
        _ => return None,
    })
}

#[inline]
pub(super) fn decode(decoder: &Decoder, level: u8, raw: u64) -> Entry {
    let (cpu, masks) = (&decoder.cpu, &decoder.levels[usize::from(level)]);
    let leaf = match (raw & 3, level) {
        (3, 0) | (1, 1 | 2) => true,
        (3, _) => false,
        (1, _) => return decoder.malformed(level, raw),
        _ => return Entry::Absent,
    };
    if !leaf {
        if raw & masks.table_reserved != 0 {
            return decoder.malformed(level, raw);
        }
        return Entry::Table(Table {
            address: raw & masks.table_address,
            permissions: Permissions::all(),
            flags: LeafFlags::empty(),
        });
    }
    let (Some(kind), Some(shareability), 0) =
        (memory_kind(cpu, field(raw, 5, 2)), shareability(raw), raw & masks.leaf_reserved)
    else {
        return decoder.malformed(level, raw);
    };
    let modifier = bit(raw, 51);
    let mut permissions = Permissions::USER;
    permissions.set(Permissions::READ, bit(raw, 6));
    permissions.set(Permissions::WRITE, bit(raw, 7) || (modifier && cpu.sets_dirty));
    // XN: 00 both, 01 EL0 only, 10 none, 11 EL1 only.
    let (xn1, xn0) = (bit(raw, 54), bit(raw, 53));
    permissions.set(Permissions::EXECUTE, xn1 == xn0);
    permissions.set(Permissions::EXECUTE_USER, !xn1);
    let mut flags = LeafFlags::empty();
    flags.set(LeafFlags::ACCESSED, bit(raw, 10));
    flags.set(LeafFlags::DIRTY, modifier && bit(raw, 7));
    flags.set(LeafFlags::DIRTY_BIT_MODIFIER, modifier);
    flags.set(LeafFlags::CONTIGUOUS, bit(raw, 52));
    Entry::Leaf(Leaf {
        address: raw & masks.leaf_address,
        size: 1 << shift(level),
        permissions,
        memory: MemoryType::Stage2 { kind, shareability },
        flags,
    })
}

pub(super) fn problems(decoder: &Decoder, level: u8, raw: u64, report: &mut dyn FnMut(ProblemKind, u64)) {
    let (cpu, masks) = (&decoder.cpu, &decoder.levels[usize::from(level)]);
    let leaf = match (raw & 3, level) {
        (3, 0) | (1, 1 | 2) => true,
        (3, _) => false,
        (1, _) => return report(ProblemKind::DescriptorType, raw & 3),
        _ => return,
    };
    report(ProblemKind::AddressTooWide, raw & mask(47, cpu.physical_bits));
    if leaf {
        report(ProblemKind::ReservedBits, raw & mask(50, 48));
        report(ProblemKind::Misaligned, raw & masks.leaf_reserved & mask(shift(level) - 1, 12));
        report(ProblemKind::ExecuteNever, raw & masks.leaf_reserved & 1 << 53);
        if memory_kind(cpu, field(raw, 5, 2)).is_none() {
            report(ProblemKind::MemoryType, raw & mask(5, 2));
        }
        if shareability(raw).is_none() {
            report(ProblemKind::Shareability, raw & mask(9, 8));
        }
    }
}

/// A clear access flag faults unless VTCR_EL2.HA.
pub(super) fn denial(cpu: &Cpu, flags: LeafFlags) -> Option<Denial> {
    (!cpu.sets_accessed && !flags.contains(LeafFlags::ACCESSED)).then_some(Denial::NotAccessed)
}
