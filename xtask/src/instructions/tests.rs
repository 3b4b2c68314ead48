use super::{Record, Setting, Verdict, release_profile, rounded};

fn record(figures: &[(&str, &str, f64)]) -> Record {
    let setting = Setting {
        compiler: "rustc 1.95.0 (59807616e 2026-04-14)".to_owned(),
        target: "x86_64-unknown-linux-gnu".to_owned(),
        profile: "release (lto = \"fat\")".to_owned(),
    };
    let mut record = Record { setting, instructions: Default::default() };
    for &(contender, work, instructions) in figures {
        record.instructions.entry(contender.to_owned()).or_default().insert(work.to_owned(), instructions);
    }
    record
}

fn complaints(recorded: &[(&str, &str, f64)], measured: &[(&str, &str, f64)]) -> Vec<String> {
    match record(recorded).compare(&record(measured)) {
        Verdict::Failed(complaints) => complaints,
        Verdict::Held(_) => Vec::new(),
    }
}

#[test]
fn five_percent_more_is_tolerated_and_what_is_beyond_is_named() {
    let recorded = [("slat", "fault", 100.0), ("slat", "map-4k", 8.0), ("slat-stage2", "fault", 0.5)];
    let within = [("slat", "fault", 104.9), ("slat", "map-4k", 8.0), ("slat-stage2", "fault", 0.5249)];
    assert_eq!(complaints(&recorded, &within), [""; 0]);
    let grown = [("slat", "fault", 105.1), ("slat", "map-4k", 8.39), ("slat-stage2", "fault", 0.526)];
    assert_eq!(
        complaints(&recorded, &grown),
        [
            "fault on slat: 105.1 instead of 100 instructions (+5.1 %)",
            "fault on slat-stage2: 0.526 instead of 0.5 instructions (+5.2 %)",
        ]
    );
}

#[test]
fn a_figure_that_is_missing_on_either_side_fails() {
    let both = [("slat", "fault", 100.0), ("slat", "map-4k", 8.0)];
    let command = "cargo xtask bench --record-instructions";
    let missing = format!("map-4k on slat is recorded and was not measured: {command}");
    assert_eq!(complaints(&both, &both[..1]), [missing]);
    let new = format!("map-4k on slat is not recorded: {command}");
    assert_eq!(complaints(&both[..1], &both), [new]);
    assert_eq!(complaints(&[], &both).len(), 2);
    assert_eq!(complaints(&both, &[]).len(), 2);
}

#[test]
fn nothing_holds_against_a_recorded_zero() {
    assert_eq!(complaints(&[("slat", "fault", 0.0)], &[("slat", "fault", 0.0)]).len(), 1);
    assert_eq!(complaints(&[("slat", "fault", 0.0)], &[("slat", "fault", 9.0)]).len(), 1);
}

#[test]
fn what_is_clearly_lower_is_a_hint() {
    let recorded = record(&[("slat", "fault", 100.0), ("slat", "map-4k", 8.0)]);
    let lower = record(&[("slat", "fault", 60.0), ("slat", "map-4k", 7.9)]);
    let Verdict::Held(note) = recorded.compare(&lower) else { panic!("lower is no failure") };
    assert!(note.starts_with("2 figures; lower, so cargo xtask bench --record-instructions:\n"), "{note}");
    assert!(note.ends_with("\nfault on slat: 60 instead of 100"), "{note}");
    assert_eq!(recorded.compare(&recorded), Verdict::Held("2 figures".to_owned()));
}

#[test]
fn another_compiler_or_target_cannot_be_compared() {
    let recorded = record(&[]).setting;
    assert_eq!(recorded.differs(&recorded), None);
    let newer = Setting { compiler: "rustc 1.96.0 (ac68faa20 2026-05-25)".to_owned(), ..recorded.clone() };
    assert_eq!(
        recorded.differs(&newer).unwrap(),
        "the counts in the tree are those of rustc 1.95.0 (59807616e 2026-04-14), \
         this is rustc 1.96.0 (ac68faa20 2026-05-25)"
    );
    let arm = Setting { target: "aarch64-unknown-linux-gnu".to_owned(), ..recorded.clone() };
    assert!(recorded.differs(&arm).unwrap().ends_with("this is aarch64-unknown-linux-gnu"));
}

#[test]
fn another_profile_of_the_same_tree_fails() {
    let recorded = record(&[("slat", "fault", 100.0)]);
    let mut now = recorded.clone();
    now.setting.profile = "release ()".to_owned();
    assert_eq!(recorded.setting.differs(&now.setting), None, "the tree decides the profile, not the machine");
    let Verdict::Failed(complaints) = recorded.compare(&now) else { panic!("it is another profile") };
    assert!(complaints[0].starts_with("recorded with the profile release (lto = \"fat\"), now"));
}

#[test]
fn the_profile_is_read_from_the_manifest() {
    let manifest = "[a]\nlto = false\n\n[profile.release]\ncodegen-units = 1\n# why\nlto = \"fat\"\n\n[profile.test]\nb = 1\n";
    assert_eq!(release_profile(manifest), "release (codegen-units = 1, lto = \"fat\")");
    assert_eq!(release_profile("[profile.test]\nb = 1\n"), "release ()");
}

#[test]
fn figures_keep_what_a_comparison_needs() {
    assert_eq!(rounded(348.659_149), 348.66);
    assert_eq!(rounded(0.005_798_34), 0.005_798);
}

#[test]
fn a_record_survives_its_file() {
    let written = record(&[("slat", "fault", 348.66), ("slat-stage2", "map-4k", 7.74)]);
    let text = serde_json::to_string(&written).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), written);
}
