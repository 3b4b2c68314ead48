//! Negative controls: an example that says too little, or something else than it prints, is told.

use super::{LONGEST, compare, promise};

const GOOD: &str = "//! What it is.\n//!\n//! `cargo run --example x`\n//!\n//! ```text\n//! one\n//!\n//! two\n//! ```\n\nfn main() {}\n";

#[test]
fn the_header_is_read() {
    assert_eq!(promise("x", GOOD).expect("a good header"), "one\n\ntwo\n");
}

#[test]
fn what_the_header_lacks_is_told() {
    let complaint = |text: &str| promise("x", text).expect_err("a bad header").to_string();
    assert!(promise("y", GOOD).is_err(), "the command of another one");
    assert!(complaint(&GOOD.replace("```text", "")).contains("what it prints"));
    assert!(complaint("fn main() {}").contains("does not say `cargo run"));
    assert!(complaint(&GOOD.replace("//! ```\n", "")).contains("no end"));
    assert!(complaint(&GOOD.replace("//! one\n//!\n//! two\n", "")).contains("nothing"));
    assert!(complaint(&format!("{GOOD}{}", "\n".repeat(LONGEST))).contains("at most"));
}

#[test]
fn every_difference_is_told() {
    assert!(compare("one\ntwo\n", "one\ntwo\n").is_ok());
    assert!(compare("one\ntwo\n", "one\n").is_err());
    assert!(compare("one\n", "one\ntwo\n").is_err());
    assert!(compare("one\n", "two\n").is_err());
}
