use super::{Outcome, Score, judge, judge_sample};

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

#[test]
fn a_sample_is_judged_by_its_share_and_says_of_how_many_it_is() {
    let score = |caught, missed| Score { caught, missed, ..Score::default() };
    let Outcome::Passed(text) = judge_sample(900, &score(32, 8), &[]) else {
        panic!("four of five are caught")
    };
    assert!(text.contains("900 mutants"), "{text}");
    let survivors = ["a.rs: f: replace + with -".to_owned()];
    let Outcome::Failed(text) = judge_sample(900, &score(11, 9), &survivors) else {
        panic!("too many survive")
    };
    assert!(text.ends_with("a.rs: f: replace + with -"), "{text}");
}
