//! What is printed of a leaf in the columns of a listing. Everything else is said as the library says it.

use crate::{Bytes, Format, Letters, Mapping, Mark, Permissions, TypeOnly};

/// Permissions in letters.
pub(crate) fn permissions(format: Format, permissions: Permissions) -> String {
    Letters(format, permissions).to_string()
}

/// How many of several leaves have a mark.
pub(crate) fn mark(mark: Mark) -> &'static str {
    match mark {
        Mark::None => "none",
        Mark::Some => "some",
        Mark::All => "all",
    }
}

/// A leaf in one line, with its entry.
pub(crate) fn mapping(format: Format, mapping: &Mapping) -> String {
    let flags: String = mapping.flags.words().map(|flag| format!(" {flag}")).collect();
    let at = mapping.at;
    format!(
        "{:#018x} {:>7} -> {:#014x} {} {}{flags} ({} {} at {:#x} = {:#x})",
        mapping.address,
        Bytes(mapping.length).to_string(),
        mapping.output,
        Letters(format, mapping.permissions),
        TypeOnly(mapping.leaf.memory),
        format.entry_name(at.level),
        at.index,
        at.address(),
        at.raw
    )
}
