//! slat's walk of guests' tables beside the model's, on every format. `SLAT_CHECK_WALKS` sets how many walks in all.

use slat::TableKind;
use slat::format::Format;
use slat_check::guest_walk::state::Distortion;
use slat_check::guest_walk::{Counts, run};
use slat_check::run::{AnyPlatform, platforms};

fn table_of(platform: &AnyPlatform) -> TableKind {
    fn of<F: Format>(_: &F) -> TableKind {
        F::TABLE
    }
    match platform {
        AnyPlatform::Stage2(format) => of(format),
        AnyPlatform::Ept(format) => of(format),
        AnyPlatform::Npt(format) => of(format),
        AnyPlatform::Gstage(format) => of(format),
    }
}

fn walks() -> u64 {
    let wanted = std::env::var("SLAT_CHECK_WALKS").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(520_000) / platforms().len() as u64
}

#[test]
fn slat_walks_as_the_model_does() {
    let mut all = Counts::default();
    for (seed, (name, platform)) in (1..).zip(platforms()) {
        let counts =
            run(&platform, seed, walks(), None).unwrap_or_else(|difference| panic!("{name}: {difference}"));
        println!("{name}: {counts:?}");
        // Each end is come to, so that a generator that has gone blind is seen.
        let Counts { translated, guest, nested_walk, nested_final, not_memory, marked } = counts;
        let least = counts.walks() / 500;
        for (what, count) in [
            ("translated", translated),
            ("guest", guest),
            ("nested_walk", nested_walk),
            ("nested_final", nested_final),
            ("not_memory", not_memory),
            ("marked", marked),
        ] {
            assert!(count > least, "{name}: {what} {count} times in {} walks", counts.walks());
        }
        all.add(counts);
    }
    println!("{} walks: {all:?}", all.walks());
}

#[test]
fn every_mistake_is_found() {
    for distortion in Distortion::ALL {
        let concerned =
            platforms().into_iter().filter(|(_, platform)| distortion.concerns(table_of(platform)));
        let mut tried = 0;
        for (name, platform) in concerned {
            tried += 1;
            let found = run(&platform, 1, 20_000, Some(distortion));
            assert!(found.is_err(), "{name}: {distortion:?} goes unnoticed");
        }
        assert!(tried > 0, "{distortion:?}");
    }
}
