//! Which source files are audited: the library's code that runs on the development machine.
//!
//! Invariant: `.cargo/mutants.toml` excludes the same files, a test says so. They are repeated here because what has
//! changed must be found out without cargo-mutants.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Where the audited files are, from the repository's root.
pub(super) const SOURCES: &str = "crates/slat/src";

/// What is left out.
const EXCLUDED: [&str; 7] = [
    "crates/slat/src/isa/**",
    "**/tests.rs",
    "**/tests/**",
    "crates/slat/src/test_util/**",
    "crates/slat/src/loom_tests.rs",
    "crates/slat/src/loom_tests/**",
    "crates/slat/src/format/conformance.rs",
];

/// Whether the file at `path`, relative to the repository's root, is audited.
pub(super) fn contains(path: &str) -> bool {
    path.starts_with(&format!("{SOURCES}/"))
        && path.ends_with(".rs")
        && !EXCLUDED.iter().any(|glob| matches(glob, path))
}

/// The audited files below `root`, relative to it, in order.
pub(super) fn files(root: &Path) -> Result<Vec<String>> {
    let (mut found, mut directories) = (Vec::new(), vec![SOURCES.to_owned()]);
    while let Some(directory) = directories.pop() {
        let path = root.join(&directory);
        let failed = || format!("cannot list {}", path.display());
        for entry in fs::read_dir(&path).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let below = format!("{directory}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().with_context(failed)?.is_dir() {
                directories.push(below);
            } else if contains(&below) {
                found.push(below);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether `path` is what `glob` stands for: `*` is anything within a name, `**` any number of whole names.
pub(super) fn matches(glob: &str, path: &str) -> bool {
    fn names(glob: &[&str], path: &[&str]) -> bool {
        match (glob, path) {
            ([], []) => true,
            (["**", rest @ ..], _) => (0..=path.len()).any(|skipped| names(rest, &path[skipped..])),
            ([first, rest @ ..], [name, below @ ..]) => within(first, name) && names(rest, below),
            _ => false,
        }
    }
    names(&glob.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
}

/// Whether one name is what one part of a glob stands for.
fn within(glob: &str, name: &str) -> bool {
    match glob.split_once('*') {
        None => glob == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().any(|(at, _)| within(after, &rest[at..])) || within(after, "")
        }),
    }
}

#[cfg(test)]
mod tests;
