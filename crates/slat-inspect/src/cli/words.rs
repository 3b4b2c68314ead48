//! What is printed of permissions, types, entries and troubles.

use super::number::Size;
use crate::{
    Cache, EntryAt, LeafFlags, Mapping, MemoryType, Pbmt, Permissions, Shareability, Stage2Type, Trouble,
    TroubleKind, X86MemoryType,
};

/// `rwx` and `u`; fetches by user mode alone are `X`, by the supervisor alone `s`.
pub(crate) fn permissions(permissions: Permissions) -> String {
    let flag = |permission, letter| if permissions.contains(permission) { letter } else { '-' };
    let execute =
        match (permissions.contains(Permissions::EXECUTE), permissions.contains(Permissions::EXECUTE_USER)) {
            (true, true) => 'x',
            (true, false) => 's',
            (false, true) => 'X',
            (false, false) => '-',
        };
    let letters =
        [flag(Permissions::READ, 'r'), flag(Permissions::WRITE, 'w'), execute, flag(Permissions::USER, 'u')];
    letters.iter().collect()
}

fn x86(kind: X86MemoryType) -> &'static str {
    match kind {
        X86MemoryType::Uncacheable => "UC",
        X86MemoryType::WriteCombining => "WC",
        X86MemoryType::WriteThrough => "WT",
        X86MemoryType::WriteProtected => "WP",
        X86MemoryType::WriteBack => "WB",
        X86MemoryType::UncachedMinus => "UC-",
        X86MemoryType::Reserved => "reserved",
    }
}

/// A memory type, as its manual calls it.
pub(crate) fn memory(memory: MemoryType) -> String {
    let cache = |cache| match cache {
        Cache::NonCacheable => "NC",
        Cache::WriteThrough => "WT",
        Cache::WriteBack => "WB",
    };
    match memory {
        MemoryType::Ept { kind, ignore_pat: false } => x86(kind).to_owned(),
        MemoryType::Ept { kind, ignore_pat: true } => format!("{}!", x86(kind)),
        MemoryType::Pat { kind, .. } => x86(kind).to_owned(),
        MemoryType::Stage2 { kind, shareability } => {
            let kind = match kind {
                Stage2Type::DevicenGnRnE => return "nGnRnE".to_owned(),
                Stage2Type::DevicenGnRE => return "nGnRE".to_owned(),
                Stage2Type::DevicenGRE => return "nGRE".to_owned(),
                Stage2Type::DeviceGRE => return "GRE".to_owned(),
                Stage2Type::Normal { outer, inner } if outer == inner => cache(outer).to_owned(),
                Stage2Type::Normal { outer, inner } => format!("{}/{}", cache(outer), cache(inner)),
                Stage2Type::NormalNonCacheable => "NC".to_owned(),
                Stage2Type::ForcedWriteBack => "WB!".to_owned(),
                Stage2Type::AsStage1 => "stage 1".to_owned(),
            };
            let shareability = match shareability {
                Shareability::NonShareable => "",
                Shareability::Outer => " OSH",
                Shareability::Inner => " ISH",
            };
            kind + shareability
        }
        MemoryType::Pbmt(Pbmt::Pma) => "PMA".to_owned(),
        MemoryType::Pbmt(Pbmt::NonCacheable) => "NC".to_owned(),
        MemoryType::Pbmt(Pbmt::Io) => "IO".to_owned(),
    }
}

/// The names of flags.
pub(crate) fn flags(flags: LeafFlags) -> Vec<&'static str> {
    let names = [
        (LeafFlags::ACCESSED, "accessed"),
        (LeafFlags::DIRTY, "dirty"),
        (LeafFlags::GLOBAL, "global"),
        (LeafFlags::NAPOT, "napot"),
        (LeafFlags::CONTIGUOUS, "contiguous"),
        (LeafFlags::DIRTY_BIT_MODIFIER, "DBM"),
    ];
    names.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| name).collect()
}

/// A number of bytes.
pub(crate) fn size(bytes: u64) -> String {
    Size(bytes.into()).to_string()
}

/// Where an entry is.
pub(crate) fn place(at: EntryAt) -> String {
    format!("entry {} of the table at {:#x}, {:#x} (level {})", at.index, at.table, at.raw, at.level)
}

/// A leaf in one line.
pub(crate) fn mapping(mapping: &Mapping) -> String {
    format!(
        "{:016x} {:>7} -> {:012x} {} {:<8} {} ({})",
        mapping.address,
        size(mapping.length),
        mapping.output,
        permissions(mapping.permissions),
        memory(mapping.leaf.memory),
        flags(mapping.flags).join(" "),
        place(mapping.at)
    )
}

/// What is wrong, in one line.
pub(crate) fn trouble(trouble: &Trouble) -> String {
    let last = trouble.address.wrapping_add(trouble.length - 1);
    let place = trouble.at.map_or_else(|| "the root table".to_owned(), place);
    let what = match trouble.kind {
        TroubleKind::Malformed(problem) => format!("malformed: {problem}: {place}"),
        TroubleKind::Unreadable { missing } => {
            format!("not in the dump: {missing:#x}, to which leads {place}")
        }
        TroubleKind::Cycle { ancestor } => {
            format!("a cycle: the table is the one of level {ancestor} on the way to it: {place}")
        }
    };
    format!("{:016x}-{last:016x} {what}", trouble.address)
}
