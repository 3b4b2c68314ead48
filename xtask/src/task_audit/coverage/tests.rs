use super::{Lines, read, verdict};
use std::path::Path;

const EXPORT: &str = r#"{"data": [{"files": [
    {"filename": "/work/crates/slat/src/table/map.rs", "summary": {"lines": {"count": 100, "covered": 94, "percent": 94.0}}},
    {"filename": "/work/crates/slat/src/addr.rs", "summary": {"lines": {"count": 100, "covered": 96, "percent": 96.0}}},
    {"filename": "/work/crates/slat/src/space/tests.rs", "summary": {"lines": {"count": 900, "covered": 900, "percent": 100.0}}},
    {"filename": "/work/crates/slat/src/isa/mod.rs", "summary": {"lines": {"count": 9, "covered": 0, "percent": 0.0}}},
    {"filename": "/work/crates/slat-check/src/lib.rs", "summary": {"lines": {"count": 9, "covered": 9, "percent": 100.0}}}
], "totals": {}}], "type": "llvm.coverage.json.export"}"#;

#[test]
fn only_audited_files_count() {
    let files = read(EXPORT, Path::new("/work")).expect("an export");
    let lines = |covered| Lines { count: 100, covered };
    assert_eq!(
        files,
        [
            ("crates/slat/src/addr.rs".to_owned(), lines(96)),
            ("crates/slat/src/table/map.rs".to_owned(), lines(94))
        ]
    );
    assert_eq!(verdict(&files).expect("95 % are enough"), "95.0 % of 200 lines are executed");
    assert!(read(EXPORT, Path::new("/elsewhere")).is_err(), "no file at all is no coverage");
}

#[test]
fn low_coverage_fails() {
    let files = [("crates/slat/src/addr.rs".to_owned(), Lines { count: 1000, covered: 949 })];
    let error = verdict(&files).unwrap_err().to_string();
    assert_eq!(error, "94.9 % of 1000 lines are executed, at least 95 % must be");
}
