//! Random sequences on every format, with one, two and four CPUs: a few of those that `cargo xtask test` runs a million
//! operations of. `SLAT_CHECK_OPERATIONS` sets how many operations in all.

use slat_check::run::{platforms, run_random};

fn random_operations(part: &str) {
    let wanted = std::env::var("SLAT_CHECK_OPERATIONS").ok().and_then(|text| text.parse().ok());
    let operations: u64 = wanted.unwrap_or(40_000);
    let all = platforms();
    let each = operations / all.len() as u64;
    for (name, platform) in all.into_iter().filter(|(name, _)| name.starts_with(part)) {
        for seed in 0..each.div_ceil(190) {
            if let Err(failure) = run_random(&platform, seed, 200, None) {
                panic!("{name}, seed {seed}: {failure}");
            }
        }
    }
}

#[test]
fn stage2() {
    random_operations("stage2");
}

#[test]
fn ept() {
    random_operations("ept");
}

#[test]
fn npt() {
    random_operations("npt");
}

#[test]
fn gstage() {
    random_operations("gstage");
}
