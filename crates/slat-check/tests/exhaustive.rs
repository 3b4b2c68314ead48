//! Every sequence of a few operations. `SLAT_CHECK_EXHAUSTIVE` sets the length: 3 unless told, 4 takes some minutes.

use slat_check::exhaustive;
use slat_check::run::platforms;

fn every_sequence(name: &str) {
    let wanted = std::env::var("SLAT_CHECK_EXHAUSTIVE").ok().and_then(|text| text.parse().ok());
    let (_, platform) = platforms().into_iter().find(|(known, _)| *known == name).expect("a known name");
    if let Err(failure) = exhaustive::run(&platform, wanted.unwrap_or(3), 0, 1) {
        panic!("{name}: {failure}");
    }
}

#[test]
fn stage2() {
    every_sequence("stage2-3-levels");
}

#[test]
fn ept() {
    every_sequence("ept-5-levels-marks");
}

#[test]
fn npt() {
    every_sequence("npt-4-levels");
}

#[test]
fn gstage() {
    every_sequence("gstage-sv39x4");
}
