//! What is printed of a leaf in the columns of a listing. Everything else is said as the library says it.

use crate::{Bytes, Format, LeafFlags, Letters, Mapping, MemoryType, Permissions};

/// Permissions in letters.
pub(crate) fn permissions(format: Format, permissions: Permissions) -> String {
    Letters(format, permissions).to_string()
}

/// A memory type, without the index into the PAT that x86 leaves have, which `query` shows.
pub(crate) fn memory(memory: MemoryType) -> String {
    match memory {
        MemoryType::Pat { kind, .. } => kind.to_string(),
        memory => memory.to_string(),
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
        (LeafFlags::DIRTY_BIT_MODIFIER, "dbm"),
    ];
    names.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| name).collect()
}

/// A leaf in one line, with its entry.
pub(crate) fn mapping(format: Format, mapping: &Mapping) -> String {
    let flags: String = flags(mapping.flags).iter().map(|flag| format!(" {flag}")).collect();
    let at = mapping.at;
    format!(
        "{:#018x} {:>7} -> {:#014x} {} {}{flags} ({} {} at {:#x} = {:#x})",
        mapping.address,
        Bytes(mapping.length).to_string(),
        mapping.output,
        Letters(format, mapping.permissions),
        memory(mapping.leaf.memory),
        format.entry_name(at.level),
        at.index,
        at.address(),
        at.raw
    )
}
