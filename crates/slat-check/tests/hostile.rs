//! Hostile accesses: a few, and flaws that they must find.

use slat_check::hostile::{Flaw, run};

#[test]
fn hostile_accesses_do_what_the_oracle_says() {
    let (accesses, refused) = run(12_000, 1, None).unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(accesses, 12_000);
    assert!((3_000..10_000).contains(&refused), "{refused} of {accesses} are refused: neither all nor none");
}

#[test]
fn the_oracle_finds_what_is_wrong() {
    for flaw in [Flaw::Done, Flaw::Longer, Flaw::Wide] {
        assert!(run(8_000, 2, Some(flaw)).is_err(), "{flaw:?}");
    }
}
