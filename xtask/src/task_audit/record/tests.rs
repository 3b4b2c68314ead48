use super::super::listing::{Mutant, Unit};
use super::{Outcome, Record, Score};
use Outcome::{Caught, Missed, Timeout, Unviable};
use std::collections::BTreeMap;

fn unit(file: &str, function: &str, hash: &str, keys: &[&str]) -> Unit {
    let mutants =
        keys.iter().map(|key| Mutant { name: format!("{file}:1:1: {key}"), key: (*key).to_owned() });
    Unit {
        file: file.to_owned(),
        function: function.to_owned(),
        hash: hash.to_owned(),
        mutants: mutants.collect(),
    }
}

fn outcomes(all: &[(&str, Outcome)]) -> Vec<(String, Outcome)> {
    all.iter().map(|(key, outcome)| ((*key).to_owned(), *outcome)).collect()
}

/// A record of one file with one function.
fn record(all: &[(&str, Outcome)]) -> (Record, Unit) {
    let keys: Vec<_> = all.iter().map(|(key, _)| *key).collect();
    let unit = unit("crates/slat/src/a.rs", "f", "1", &keys);
    let mut record = Record::default();
    record.add(&unit, &outcomes(all));
    (record, unit)
}

fn explain(record: &mut Record, why: &str) {
    for function in record.0.values_mut().flat_map(|file| file.functions.values_mut()) {
        function.missed.values_mut().for_each(|text| *text = why.to_owned());
    }
}

#[test]
fn what_cannot_be_built_does_not_count_and_what_hangs_is_caught() {
    let score = Score { caught: 8, timeout: 1, missed: 1, unviable: 90 };
    assert_eq!(score.percent(), 90.0);
    assert_eq!(score.to_string(), "90.0 % (8 caught, 1 missed, 1 timeouts, 90 unviable)");
    assert_eq!(Score { unviable: 3, ..Score::default() }.percent(), 100.0);
}

#[test]
fn a_low_score_fails() {
    let names: Vec<String> = (0..10).map(|number| format!("mutant {number}")).collect();
    let with_missed = |missed: usize| {
        let all: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(n, name)| (name.as_str(), if n < missed { Missed } else { Caught }))
            .collect();
        let (mut record, _) = record(&all);
        explain(&mut record, "equivalent");
        record.verdict().map(|score| score.missed).map_err(|error| error.to_string())
    };
    assert_eq!(with_missed(0), Ok(0));
    assert_eq!(with_missed(1), Ok(1));
    let error = with_missed(2).unwrap_err();
    assert!(error.starts_with("80.0 % (8 caught, 2 missed,"), "{error}");
    assert!(error.ends_with("at least 90 % must be"), "{error}");
}

#[test]
fn an_empty_record_and_a_survivor_without_an_explanation_fail() {
    let error = Record::default().verdict().unwrap_err().to_string();
    assert!(error.ends_with("cargo xtask audit --mutants"), "{error}");
    let names: Vec<String> = (0..30).map(|number| format!("mutant {number:02}")).collect();
    let all: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (name.as_str(), if n < 2 { Missed } else { Caught }))
        .collect();
    let (mut record, _) = record(&all);
    let error = record.verdict().unwrap_err().to_string();
    assert!(error.contains("crates/slat/src/a.rs: f: mutant 00 may survive (and 1 more)"), "{error}");
    explain(&mut record, "only slower");
    assert!(record.verdict().is_ok());
}

#[test]
fn a_function_is_known_while_its_hash_is_the_same() {
    let (record, unit) = record(&[("x", Caught), ("y", Missed)]);
    assert!(record.knows(&unit));
    assert_eq!(record.unexplained(&unit), ["y"]);
    let changed = Unit { hash: "2".to_owned(), ..unit };
    assert!(!record.knows(&changed));
    assert!(record.unexplained(&changed).is_empty());
}

#[test]
fn an_explained_survivor_is_not_tested_again() {
    let (mut record, unit) = record(&[("x", Missed), ("y", Caught)]);
    explain(&mut record, "equivalent");
    assert!(record.unexplained(&unit).is_empty());
}

#[test]
fn a_changed_function_begins_anew_and_keeps_the_explanations_of_its_lines() {
    let (mut record, old) = record(&[("x", Missed), ("y", Missed), ("z", Caught), ("u", Unviable)]);
    explain(&mut record, "equivalent");
    let new = Unit { hash: "2".to_owned(), ..old };
    record.add(&new, &outcomes(&[("x", Missed), ("y", Timeout), ("n", Missed)]));
    let function = &record.0[&new.file].functions["f"];
    let missed: Vec<_> = function.missed.iter().map(|(key, why)| (key.as_str(), why.as_str())).collect();
    assert_eq!(missed, [("n", ""), ("x", "equivalent")]);
    assert_eq!((function.caught, function.timeout, function.unviable), (0, 1, 0));
}

#[test]
fn testing_survivors_again_changes_nothing_else() {
    let (mut record, unit) = record(&[("x", Missed), ("y", Missed), ("z", Caught)]);
    explain(&mut record, "equivalent");
    record.add(&unit, &outcomes(&[("x", Caught), ("y", Missed)]));
    let (_, total) = record.scores();
    assert_eq!(total, Score { caught: 2, missed: 1, ..Score::default() });
    assert_eq!(record.missed().collect::<Vec<_>>(), [("crates/slat/src/a.rs", "f", "y", "equivalent")]);
}

#[test]
fn a_file_is_held_once_all_of_it_is_recorded_and_what_is_gone_is_dropped() {
    let (mut record, f) = record(&[("x", Caught)]);
    let g = unit("crates/slat/src/a.rs", "g", "7", &["x"]);
    record.add(&unit("crates/slat/src/gone.rs", "h", "1", &["x"]), &outcomes(&[("x", Caught)]));
    let names = ["crates/slat/src/a.rs", "crates/slat/src/without_mutants.rs"];
    let files: BTreeMap<_, _> = names.map(|name| (name.to_owned(), "text".to_owned())).into();
    let units = [f, g.clone()];
    record.settle(&files, &units);
    assert!(!record.holds(names[0], "text"), "g is not recorded");
    assert!(record.holds(names[1], "text"));
    assert!(!record.0.contains_key("crates/slat/src/gone.rs"));
    record.add(&g, &outcomes(&[("x", Caught)]));
    record.settle(&files, &units);
    assert!(record.holds(names[0], "text"));
    assert!(!record.holds(names[0], "other text"));
    record.settle(&files, &units[..1]);
    assert_eq!(record.0[names[0]].functions.keys().collect::<Vec<_>>(), ["f"]);
}

#[test]
fn the_record_has_a_line_for_each_function_and_survivor_and_survives_its_file() {
    let (mut record, f) = record(&[("x `a\"b`", Missed), ("y", Caught)]);
    let g = unit(&f.file, "g", "7", &["x"]);
    record.add(&g, &outcomes(&[("x", Timeout)]));
    explain(&mut record, "equivalent");
    let files = [f.file.clone(), "crates/slat/src/b.rs".to_owned()].map(|name| (name, "text".to_owned()));
    record.settle(&files.into(), &[f, g]);
    let text = record.json();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    let lines = [
        r#"{"#,
        r#"  "crates/slat/src/a.rs": {"hash":"text","functions":{"#,
        r#"    "f": {"hash":"1","caught":1,"missed":{"#,
        r#"      "x `a\"b`": "equivalent""#,
        r#"    }},"#,
        r#"    "g": {"hash":"7","timeout":1}"#,
        r#"  }},"#,
        r#"  "crates/slat/src/b.rs": {"hash":"text","functions":{}}"#,
        r#"}"#,
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
}

#[test]
fn readers_see_survivors_by_their_reasons() {
    let (mut record, _) = record(&[("x", Missed), ("y", Missed), ("z", Caught)]);
    explain(&mut record, "Only slower");
    let text = record.rendered();
    assert!(text.contains("| a.rs | 1 of 3 | 33.3 % |\n"), "{text}");
    assert!(text.ends_with("**Only slower** (2)\n\n- a.rs, `f`: x\n- a.rs, `f`: y\n"), "{text}");
    explain(&mut record, "");
    assert!(record.rendered().contains("**Not explained yet** (2)"));
}

#[test]
fn a_page_that_is_not_of_the_record_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(directory.path().join("docs")).expect("a directory in it");
    let (record, _) = record(&[("x", Missed)]);
    record.write(directory.path()).expect("writable");
    assert_eq!(Record::read(directory.path()).expect("just written"), record);
    assert!(record.check_rendered(directory.path()).is_ok());
    let mut explained = record.clone();
    explain(&mut explained, "equivalent");
    assert!(explained.check_rendered(directory.path()).is_err());
}
