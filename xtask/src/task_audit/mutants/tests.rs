use super::super::listing::{Mutant, Unit};
use super::super::record::{Outcome, Record};
use super::{BATCH, Choice, Shard, batches, changed_files, count, hashes, table};

fn unit(file: &str, function: usize, mutants: usize) -> Unit {
    let mutant =
        |number: usize| Mutant { name: format!("{file}:{function}:{number}"), key: format!("m{number}") };
    Unit {
        file: format!("crates/slat/src/{file}.rs"),
        function: format!("f{function}"),
        hash: "1".to_owned(),
        mutants: (0..mutants).map(mutant).collect(),
    }
}

fn all_missed(unit: &Unit) -> Vec<(String, Outcome)> {
    let first = |n| if n == 0 { Outcome::Missed } else { Outcome::Caught };
    unit.mutants.iter().enumerate().map(|(n, mutant)| (mutant.key.clone(), first(n))).collect()
}

#[test]
fn a_batch_is_of_one_file_and_not_too_large() {
    let mut units: Vec<Unit> = (0..10).map(|function| unit("a", function, BATCH / 4)).collect();
    units.extend([unit("b", 0, 1), unit("b", 1, 3 * BATCH), unit("b", 2, 1)]);
    let batches = batches(&Record::default(), &units, &Choice::default());
    let sizes: Vec<_> = batches.iter().map(|batch| count(std::slice::from_ref(batch))).collect();
    assert_eq!(sizes, [BATCH, BATCH, BATCH / 4 * 2, 1, 3 * BATCH, 1], "a function is never divided");
    assert!(batches.iter().all(|batch| batch.iter().all(|(unit, _)| unit.file == batch[0].0.file)));
}

#[test]
fn what_is_recorded_is_not_tested_again_unless_it_survived_and_that_is_asked_for() {
    let units = [unit("a", 0, 3), unit("a", 1, 3)];
    let mut record = Record::default();
    record.add(&units[0], &all_missed(&units[0]));
    let tested = |choice: &Choice| -> Vec<String> {
        let batches = batches(&record, &units, choice);
        batches.into_iter().flatten().flat_map(|(_, mutants)| mutants).map(|mutant| mutant.name).collect()
    };
    assert_eq!(tested(&Choice::default()), ["a:1:0", "a:1:1", "a:1:2"]);
    let again = Choice { retest_missed: true, ..Choice::default() };
    assert_eq!(tested(&again), ["a:0:0", "a:1:0", "a:1:1", "a:1:2"]);
    let changed = [Unit { hash: "2".to_owned(), ..units[0].clone() }];
    assert_eq!(
        count(&batches(&record, &changed, &Choice::default())),
        3,
        "a changed function is tested whole"
    );
}

#[test]
fn shards_are_all_of_it_and_share_nothing() {
    let units: Vec<Unit> = (0..11).map(|function| unit("a", function, 2)).collect();
    let mut seen: Vec<String> = Vec::new();
    for number in 1..=3 {
        let shard = format!("{number}/3").parse::<Shard>().expect("a shard");
        let choice = Choice { shard: Some(shard), ..Choice::default() };
        let batches = batches(&Record::default(), &units, &choice);
        seen.extend(batches.into_iter().flatten().map(|(unit, _)| unit.function));
    }
    let mut all: Vec<_> = units.iter().map(|unit| unit.function.clone()).collect();
    seen.sort();
    all.sort();
    assert_eq!(seen, all);
    for wrong in ["0/3", "4/3", "1", "a/b", "1/0", ""] {
        assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
    }
}

#[test]
fn only_files_that_are_asked_for_are_tested() {
    let units = [unit("table/map", 0, 1), unit("addr", 0, 1)];
    let choice = Choice { files: vec!["crates/slat/src/table/*".to_owned()], ..Choice::default() };
    let batches = batches(&Record::default(), &units, &choice);
    assert_eq!(
        batches.iter().map(|batch| batch[0].0.file.as_str()).collect::<Vec<_>>(),
        ["crates/slat/src/table/map.rs"]
    );
}

#[test]
fn a_changed_file_is_found_without_any_tool() {
    let root = tempfile::tempdir().expect("a directory");
    let source = root.path().join("crates/slat/src");
    std::fs::create_dir_all(&source).expect("a directory in it");
    let write = |file: &str, text: &str| std::fs::write(source.join(file), text).expect("writable");
    write("a.rs", "fn a() {}\n");
    write("b.rs", "fn b() {}\n");
    let mut record = Record::default();
    record.settle(&hashes(root.path()).expect("readable"), &[]);
    let changed = |record: &Record| changed_files(root.path(), record).expect("readable");
    assert!(changed(&record).is_empty());
    write("a.rs", "// Better described.\nfn a() {}\n");
    assert!(changed(&record).is_empty());
    write("a.rs", "fn a() { b() }\n");
    write("c.rs", "fn c() {}\n");
    assert_eq!(changed(&record), ["crates/slat/src/a.rs", "crates/slat/src/c.rs"]);
}

#[test]
fn the_table_marks_files_below_the_least() {
    let (good, bad) = (unit("good", 0, 20), unit("bad", 0, 2));
    let mut record = Record::default();
    record.add(&good, &all_missed(&good));
    record.add(&bad, &all_missed(&bad));
    let table = table(&record);
    let lines: Vec<_> = table.lines().map(str::trim).collect();
    assert_eq!(
        lines[0],
        "bad.rs  50.0 % (1 caught, 1 missed, 0 timeouts, 0 unviable)  below the least for all"
    );
    assert_eq!(lines[1], "good.rs  95.0 % (19 caught, 1 missed, 0 timeouts, 0 unviable)");
    assert!(lines[2].starts_with("all  90.9 %"), "{table}");
}
