//! Negative controls: each check must find a text that breaks its rule.

use super::{UNSAFE_MARK, compare_unsafe, links, listed, missing_formats, reasons, unknown_steps};
use crate::task_test::tidy::File;
use std::fs;

fn file<'a>(path: &'a str, text: &'a str) -> File<'a> {
    File { path, text }
}

#[test]
fn links_that_lead_nowhere_are_found() {
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir(root.path().join("docs")).expect("a directory");
    fs::write(root.path().join("code.rs"), "fn one_test() {}\n").expect("a file");
    let found = |text: &str| links(root.path(), file("docs/x.md", text));
    assert!(found("[a](../code.rs), [`one_test`](../code.rs) and [b](https://example.org/x.rs)").is_empty());
    assert!(found("[c](#section) and [d](../code.rs#L1)").is_empty());
    assert_eq!(found("[a](code.rs)"), ["docs/x.md:1: code.rs is not there"]);
    assert_eq!(found("\n[`one`](../code.rs)"), ["docs/x.md:2: ../code.rs has no `one`"]);
    assert_eq!(found("[a](../code.rs) [b](../other.rs)").len(), 1);
}

#[test]
fn steps_that_are_none_are_found() {
    let names = ["package".to_owned()].into();
    assert!(unknown_steps(&names, file("x.md", "by step `package`, and `something` else")).is_empty());
    let complaints = unknown_steps(&names, file("x.md", "step `package` and step `pack`"));
    assert_eq!(complaints, ["x.md:1: there is no step `pack`"]);
    let complaints = unknown_steps(&names, file("x.md", "one\nby step\n`pack` or so"));
    assert_eq!(complaints, ["x.md:2: there is no step `pack`"]);
}

#[test]
fn unsafe_code_that_is_not_listed_is_found() {
    let code =
        format!("#!{UNSAFE_MARK}moves bytes\")]\n    #{UNSAFE_MARK}a test\")]\n// #!{UNSAFE_MARK}no\")]\n");
    let found = [("a.rs".to_owned(), reasons(file("a.rs", &code)))].into();
    let complaints = |list: &str| compare_unsafe(&found, &listed(list));
    assert!(
        complaints("| file | why |\n|---|---|\n| [`a.rs`](../a.rs) | a test; moves bytes |\n").is_empty()
    );
    assert_eq!(complaints(""), ["docs/unsafe.md does not list a.rs: a test; moves bytes"]);
    assert_eq!(
        complaints("| [`a.rs`](../a.rs) | a test |"),
        ["docs/unsafe.md: a.rs says: a test; moves bytes"]
    );
    let two = "| [`a.rs`](../a.rs) | a test; moves bytes |\n| [`b.rs`](../b.rs) | moves bytes |";
    assert_eq!(complaints(two), ["docs/unsafe.md lists b.rs, which has no unsafe code"]);
}

#[test]
fn a_format_that_is_no_example_is_found() {
    let formats = ["ept".to_owned(), "npt".to_owned()];
    let text = "[a](../crates/slat/src/format/ept/mod.rs)";
    assert_eq!(missing_formats(&formats, text), ["docs/porting.md does not name crates/slat/src/format/npt"]);
    assert!(missing_formats(&formats[..1], text).is_empty());
    assert_eq!(missing_formats(&[], text).len(), 1);
}
