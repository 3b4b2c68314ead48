use super::super::record::Outcome;
use super::{escaped, near, outcomes, own, put, reaching, remove_others, without_itself};
use std::collections::BTreeSet;
use std::fs;

fn tested(name: &str, summary: &str) -> String {
    format!(
        r#"{{"scenario": {{"Mutant": {{"name": "{name}", "package": "slat"}}}}, "summary": "{summary}",
            "log_path": "log/{name}.log", "phase_results": []}}"#
    )
}

#[test]
fn outcomes_are_those_of_cargo_mutants_and_a_test_that_hangs_is_a_timeout() {
    let all = [
        ("a", "CaughtMutant"),
        ("b", "MissedMutant"),
        ("c", "Unviable"),
        ("d", "Timeout"),
        ("e", "CaughtMutant"),
    ];
    let list: Vec<_> = all.map(|(name, summary)| tested(name, summary)).into();
    let json = format!(r#"{{"outcomes": [{}], "total_mutants": 5}}"#, list.join(","));
    let log =
        |path: &str| if path == "log/e.log" { "  TIMEOUT [  30.001s] slat x" } else { "  FAIL [" }.to_owned();
    let outcomes = outcomes(&json, log).expect("outcomes");
    use Outcome::{Caught, Missed, Timeout, Unviable};
    assert_eq!(outcomes.into_values().collect::<Vec<_>>(), [Caught, Missed, Unviable, Timeout, Timeout]);
}

#[test]
fn a_word_that_nobody_knows_is_an_error() {
    let json = format!(r#"{{"outcomes": [{}]}}"#, tested("a", "Success"));
    let error = outcomes(&json, |_| String::new()).unwrap_err().to_string();
    assert_eq!(error, "cargo-mutants says Success of a");
}

#[test]
fn a_name_matches_itself_only() {
    let name = "a.rs:1:2: replace <impl Source for Frames<'_, H, F>>::plan -> bool with (a|b)";
    let regex = r"a\.rs:1:2: replace <impl Source for Frames<'_, H, F>>::plan \-> bool with \(a\|b\)";
    assert_eq!(escaped(name), regex);
}

#[test]
fn the_tests_beside_a_mutant_go_first() {
    for (file, modules) in [
        ("crates/slat/src/space/regions/tree.rs", "space::regions"),
        ("crates/slat/src/table/split.rs", "table|space::tests::(lifetimes|operations|faults|errors|edges)"),
        ("crates/slat/src/format/stage2/tlbi.rs", "format::stage2"),
        ("crates/slat/src/tlb/tags.rs", "tlb"),
        ("crates/slat/src/addr.rs", "addr"),
        ("", ""),
    ] {
        assert_eq!(near(file), modules, "{file}");
    }
}

#[test]
fn the_tests_of_what_a_file_does_go_before_all() {
    for (file, modules) in [
        ("crates/slat/src/space/log.rs", "log"),
        ("crates/slat/src/table/shared.rs", "fork"),
        ("crates/slat/src/space/backend/shared.rs", "shared"),
        ("crates/slat/src/space/backend/mod.rs", "custom|shared|private|traps"),
        ("crates/slat/src/table/page_out.rs", "paged|evict"),
    ] {
        assert_eq!(own(file), modules, "{file}");
    }
}

#[test]
fn the_copy_of_the_manifest_does_not_depend_on_itself() {
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/slat/Cargo.toml"));
    let manifest = manifest.expect("it is in the tree");
    let changed = without_itself(&manifest).expect("the dependency is there");
    assert!(!changed.contains("dev-dependencies") && changed.contains("[lints]"), "{changed}");
    assert!(
        changed.contains("[features]\ndefault = [\"std\", \"tracing\"]\n"),
        "what is optional is tested: {changed}"
    );
    assert!(without_itself(&changed).is_err(), "a manifest of another form is noticed");
}

#[test]
fn a_copy_loses_what_the_original_has_not_and_keeps_the_time_of_what_is_the_same() {
    let tree = tempfile::tempdir().expect("a directory");
    let tree = tree.path();
    for file in ["kept.rs", "src/kept.rs", "src/old/gone.rs"] {
        put(&tree.join(file), b"text").expect("writable");
    }
    let time = |file: &str| fs::metadata(tree.join(file)).expect("a file").modified().expect("a time");
    let before = time("src/kept.rs");
    remove_others(tree, "", &BTreeSet::from(["kept.rs", "src/kept.rs"])).expect("removable");
    put(&tree.join("src/kept.rs"), b"text").expect("writable");
    assert!(!tree.join("src/old/gone.rs").exists());
    assert_eq!(time("src/kept.rs"), before);
    put(&tree.join("kept.rs"), b"other text").expect("writable");
    assert_eq!(fs::read(tree.join("kept.rs")).expect("a file"), b"other text");
}

#[test]
fn tests_of_something_else_are_left_out_unless_all_are_wanted() {
    assert_eq!(reaching(""), "all()");
    assert_eq!(reaching("crates/slat/src/space/regions/node.rs"), "not (test(activate_at_once))");
    let tags = reaching("crates/slat/src/tlb/tags.rs");
    assert!(tags.contains("random_changes") && !tags.contains("activate"), "{tags}");
    let others = reaching("crates/slat/src/table/map.rs");
    assert!(others.contains("random_changes") && others.contains("activate"), "{others}");
}
