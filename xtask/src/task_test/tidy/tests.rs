//! Negative controls: each rule must find a text that breaks it. The texts are put together from parts, because
//! this file is under the same rules.

use super::{File, LONGEST, architectures, long_files, outside_paths, unfinished, unsafe_blocks};

fn found(check: fn(File<'_>) -> Vec<String>, path: &str, text: &str) -> usize {
    check(File { path, text }).len()
}

#[test]
fn paths_outside_are_found_in_every_file() {
    let text = ["see ..", "/shared/X.md"].concat();
    assert_eq!(found(outside_paths, "README.md", &text), 1);
    assert_eq!(found(outside_paths, "README.md", "see ../other/X.md"), 0);
}

#[test]
fn assembly_is_found_outside_its_places() {
    let text = ["    as", "m!(\"nop\");\n"].concat();
    assert_eq!(found(architectures, "crates/slat/src/lib.rs", &text), 1);
    assert_eq!(found(architectures, "xtask/src/main.rs", &text), 1);
    assert_eq!(found(architectures, "crates/slat/src/isa/aarch64.rs", &text), 0);
    assert_eq!(found(architectures, "hypervisor/src/arch/aarch64/boot.rs", &text), 0);
    assert_eq!(found(architectures, "hypervisor/test-guest/src/arch/riscv64/boot.rs", &text), 0);
    assert_eq!(found(architectures, "hypervisor/test-guest/src/main.rs", &text), 1);
    assert_eq!(found(architectures, "crates/slat/src/lib.rs", &format!("// {text}")), 0);
    assert_eq!(found(architectures, "README.md", &text), 0);
}

#[test]
fn conditions_on_the_architecture_are_found_outside_their_places() {
    let text = ["#[cfg(target", "_arch = \"aarch64\")]"].concat();
    assert_eq!(found(architectures, "crates/slat/src/space.rs", &text), 1);
    assert_eq!(found(architectures, "crates/slat/src/isa/mod.rs", &text), 0);
}

#[test]
fn long_files_are_found() {
    assert_eq!(found(long_files, "a.rs", &"\n".repeat(LONGEST + 1)), 1);
    assert_eq!(found(long_files, "a.rs", &"\n".repeat(LONGEST)), 0);
    assert_eq!(found(long_files, "a.md", &"\n".repeat(LONGEST + 1)), 0);
}

#[test]
fn unjustified_blocks_are_found() {
    let block = ["    let x = un", "safe { f() };\n"].concat();
    assert_eq!(found(unsafe_blocks, "a.rs", &block), 1);
    assert_eq!(found(unsafe_blocks, "a.rs", &format!("// SAFETY: f is fine.\n{block}")), 0);
    assert_eq!(found(unsafe_blocks, "a.rs", &format!("// SAFETY: too far.\n{}{block}", "\n".repeat(9))), 1);
    assert_eq!(found(unsafe_blocks, "a.rs", &format!("// {block}")), 0);
}

#[test]
fn unfinished_work_is_found() {
    for name in ["todo", "unimplemented", "dbg"] {
        assert_eq!(found(unfinished, "a.rs", &format!("    {name}!(x)")), 1, "{name}");
        assert_eq!(found(unfinished, "a.rs", &format!("    my_{name}!(x)")), 0, "{name}");
    }
}
