use super::{EXCLUDED, contains, files, matches};
use std::path::Path;

#[test]
fn a_star_stays_within_a_name_and_two_cross_names() {
    for (glob, path) in [
        ("src/*.rs", "src/addr.rs"),
        ("src/**/mod.rs", "src/mod.rs"),
        ("src/**/mod.rs", "src/a/b/mod.rs"),
        ("**/tests/**", "src/space/tests/naive.rs"),
        ("src/isa/**", "src/isa/mod.rs"),
        ("*_tests*", "loom_tests.rs"),
        ("*.rs", "é.rs"),
        ("*", ""),
    ] {
        assert!(matches(glob, path), "{glob} is {path}");
    }
    for (glob, path) in [
        ("src/*.rs", "src/space/mod.rs"),
        ("**/tests.rs", "src/my_tests.rs"),
        ("src/isa/**", "src/isa.rs"),
        ("src/*.rs", "src/addr.rs.bak"),
        ("src/mod.rs", "mod.rs"),
    ] {
        assert!(!matches(glob, path), "{glob} is not {path}");
    }
}

#[test]
fn tests_and_instructions_are_not_audited() {
    assert!(contains("crates/slat/src/space/regions/tree.rs"));
    for path in [
        "crates/slat/src/isa/mod.rs",
        "crates/slat/src/space/tests.rs",
        "crates/slat/src/space/tests/naive.rs",
        "crates/slat/src/test_util/mod.rs",
        "crates/slat/tests/footprint.rs",
        "crates/slat-check/src/lib.rs",
        "crates/slat/src/README.md",
    ] {
        assert!(!contains(path), "{path}");
    }
}

#[test]
fn cargo_mutants_is_told_to_leave_out_the_same_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's root");
    let text = std::fs::read_to_string(root.join(".cargo/mutants.toml")).expect("it is in the tree");
    let listed: Vec<_> =
        text.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect();
    assert_eq!(listed, EXCLUDED);
}

#[test]
fn the_files_of_the_library_are_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's root");
    let files = files(root).expect("a readable tree");
    assert!(files.contains(&"crates/slat/src/addr.rs".to_owned()));
    assert!(files.contains(&"crates/slat/src/space/regions/node.rs".to_owned()));
    assert!(files.is_sorted() && files.iter().all(|file| contains(file)));
}
