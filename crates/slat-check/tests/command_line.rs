//! The command's own errors: one line, and a code that is not zero.

use std::process::Command;

#[test]
fn names_that_there_are_not_are_refused() {
    for (option, name, begin) in [
        ("--mistake", "Nonsense", "error: no mistake is called Nonsense: there are InvalidationMissing, "),
        ("--format", "vax", "error: no format has a name with vax in it"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_slat-check")).args([option, name]).output();
        let output = output.expect("it was built");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert!(error.starts_with(begin) && error.lines().count() == 1, "{error}");
    }
}
