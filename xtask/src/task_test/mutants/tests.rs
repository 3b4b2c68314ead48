use super::{Outcome, judge};

#[test]
fn a_survivor_fails_and_is_named() {
    let Outcome::Failed(reason) = judge("75.0 %", &["a.rs: f: replace + with -".to_owned()]) else {
        panic!("a survivor passed")
    };
    assert!(reason.ends_with("must be caught:\na.rs: f: replace + with -"), "{reason}");
}

#[test]
fn changes_whose_mutants_are_caught_pass() {
    assert!(matches!(judge("100.0 %", &[]), Outcome::Passed(_)));
}
