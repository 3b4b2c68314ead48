//! x86 long mode: SDM volume 3A, "4-Level Paging and 5-Level Paging"; APM volume 2, "Long-Mode Page Translation" and "Nested
//! Paging", whose tables have the same format.

use super::{Decoder, Masks, bit, field, mask, shift};
use crate::access::{Access, AccessKind, Denial};
use crate::entry::{Entry, Leaf, LeafFlags, MemoryType, Permissions, Table, X86MemoryType};
use crate::format::{Cpu, Format};
use crate::problem::ProblemKind;

pub(super) fn masks(cpu: &Cpu, format: Format, level: u8) -> Masks {
    let always = mask(51, cpu.physical_bits) | if cpu.no_execute { 0 } else { 1 << 63 };
    let large = matches!(level, 1 | 2);
    let unsupported = (level == 1 && !cpu.page_2m) || (level == 2 && !cpu.page_1g);
    Masks {
        large,
        leaf_reserved: always
            // Bit 12 is PAT.
            | if large { mask(shift(level) - 1, 13) } else { 0 }
            | if unsupported { 1 << 7 } else { 0 },
        // AMD says so of bit 8 too; Intel ignores it.
        table_reserved: always
            | match (level, format) {
                (0..=2, _) => 0,
                (_, Format::Npt) => mask(8, 7),
                _ => 1 << 7,
            },
        leaf_address: mask(51, shift(level)),
        table_address: mask(51, 12),
    }
}

fn permissions(raw: u64) -> Permissions {
    let mut permissions = Permissions::READ;
    permissions.set(Permissions::WRITE, bit(raw, 1));
    permissions.set(Permissions::USER, bit(raw, 2));
    permissions.set(Permissions::EXECUTE | Permissions::EXECUTE_USER, !bit(raw, 63));
    permissions
}

fn pat(cpu: &Cpu, index: u8) -> MemoryType {
    let kind = X86MemoryType::from_number((cpu.pat >> (8 * index)) as u8 & 7);
    MemoryType::Pat { index, kind }
}

#[inline]
pub(super) fn decode(decoder: &Decoder, level: u8, raw: u64) -> Entry {
    let masks = &decoder.levels[usize::from(level)];
    if !bit(raw, 0) {
        return Entry::Absent;
    }
    let large = masks.large && bit(raw, 7);
    if level == 0 || large {
        if raw & masks.leaf_reserved != 0 {
            return decoder.malformed(level, raw);
        }
        let mut flags = LeafFlags::from_bits_retain((raw >> 5 & 3) as u8);
        flags.set(LeafFlags::GLOBAL, bit(raw, 8) && decoder.format == Format::X86_64);
        let index = u8::from(bit(raw, if large { 12 } else { 7 })) << 2 | field(raw, 4, 3) as u8;
        return Entry::Leaf(Leaf {
            address: raw & masks.leaf_address,
            size: 1 << shift(level),
            permissions: permissions(raw),
            memory: pat(&decoder.cpu, index),
            flags,
        });
    }
    if raw & masks.table_reserved != 0 {
        return decoder.malformed(level, raw);
    }
    Entry::Table(Table {
        address: raw & masks.table_address,
        permissions: permissions(raw),
        flags: LeafFlags::from_bits_retain((raw >> 5 & 1) as u8),
    })
}

pub(super) fn problems(decoder: &Decoder, level: u8, raw: u64, report: &mut dyn FnMut(ProblemKind, u64)) {
    let (cpu, masks) = (&decoder.cpu, &decoder.levels[usize::from(level)]);
    if !bit(raw, 0) {
        return;
    }
    let wide = mask(51, cpu.physical_bits);
    report(ProblemKind::AddressTooWide, raw & wide);
    if !cpu.no_execute {
        report(ProblemKind::NoExecute, raw & 1 << 63);
    }
    if level == 0 || (masks.large && bit(raw, 7)) {
        report(ProblemKind::LargePage, raw & masks.leaf_reserved & 1 << 7);
        report(ProblemKind::Misaligned, raw & masks.leaf_reserved & !(wide | 1 << 63 | 1 << 7));
    } else {
        report(ProblemKind::ReservedBits, raw & masks.table_reserved & !(wide | 1 << 63));
    }
}

/// "All guest physical accesses ... are treated as user accesses": APM, "Nested Table Walk"; GMET: "Guest Mode Execute Trap".
pub(super) fn nested_denial(cpu: &Cpu, permissions: Permissions, access: Access) -> Option<Denial> {
    let user = permissions.contains(Permissions::USER);
    if !cpu.guest_mode_execute_trap {
        return (!user).then_some(Denial::NotUser);
    }
    match (access.kind, user) {
        (AccessKind::Execute, false) if access.user => Some(Denial::NotUser),
        (AccessKind::Execute, true) if !access.user => Some(Denial::UserPage),
        _ => None,
    }
}

/// User mode needs U/S at every level. What the supervisor may do with user pages is up to SMEP and SMAP, which are not known.
pub(super) fn denial(permissions: Permissions, access: Access) -> Option<Denial> {
    (access.user && !permissions.contains(Permissions::USER)).then_some(Denial::NotUser)
}
