use super::{Unit, hash, units};

const TEXT: &str = "\
const BIT: u64 = 1 << 5;

/// Adds.
fn add(a: u64, b: u64) -> u64 {
    a + b
}

impl Range {
    fn holds(&self, at: u64) -> bool {
        at >= self.start && at < self.end
    }
}
";

/// As `cargo mutants --list --json` says it, without what nobody reads.
const LIST: &str = r#"[
    {"file": "a.rs", "function": null, "genre": "BinaryOperator", "name": "a.rs:1:20: replace << with >>",
     "span": {"start": {"line": 1, "column": 20}, "end": {"line": 1, "column": 22}}},
    {"file": "a.rs", "name": "a.rs:5:5: replace add -> u64 with 0",
     "function": {"function_name": "add", "span": {"start": {"line": 4, "column": 1}, "end": {"line": 6, "column": 2}}},
     "span": {"start": {"line": 5, "column": 5}, "end": {"line": 5, "column": 10}}},
    {"file": "a.rs", "name": "a.rs:5:7: replace + with - in add",
     "function": {"function_name": "add", "span": {"start": {"line": 4, "column": 1}, "end": {"line": 6, "column": 2}}},
     "span": {"start": {"line": 5, "column": 7}, "end": {"line": 5, "column": 8}}},
    {"file": "a.rs", "name": "a.rs:10:12: replace >= with < in Range::holds",
     "function": {"function_name": "Range::holds", "span": {"start": {"line": 9, "column": 5}, "end": {"line": 11, "column": 6}}},
     "span": {"start": {"line": 10, "column": 12}, "end": {"line": 10, "column": 14}}}
]"#;

fn of(text: &str, list: &str) -> Vec<Unit> {
    units(list, |file| {
        assert_eq!(file, "a.rs");
        Ok(text.to_owned())
    })
    .expect("a list")
}

#[test]
fn mutants_are_grouped_by_function_and_constants_are_a_group() {
    let units = of(TEXT, LIST);
    let names: Vec<_> = units.iter().map(|unit| (unit.function.as_str(), unit.mutants.len())).collect();
    assert_eq!(names, [("constants", 1), ("add", 2), ("Range::holds", 1)]);
    assert_eq!(units[0].hash, hash("const BIT: u64 = 1 << 5;"));
    assert_eq!(units[1].hash, hash("fn add(a: u64, b: u64) -> u64 {\na + b\n}"));
}

#[test]
fn a_mutant_is_known_by_its_line_and_not_by_where_that_is() {
    let units = of(TEXT, LIST);
    let keys: Vec<_> =
        units.iter().flat_map(|unit| &unit.mutants).map(|mutant| mutant.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "replace << with >> @20 `const BIT: u64 = 1 << 5;`",
            "replace -> u64 with 0 @1 `a + b`",
            "replace + with - @3 `a + b`",
            "replace >= with < @4 `at >= self.start && at < self.end`",
        ]
    );
    assert_eq!(units[1].mutants[1].name, "a.rs:5:7: replace + with - in add");
}

#[test]
fn two_functions_of_one_name_and_two_equal_lines_stay_apart() {
    let text = "fn f() -> u8 {\n1 + 1\n}\nfn f() -> u8 {\n1 + 1\n1 + 1\n}\n";
    let mutant = |first: usize, last: usize, line: usize| {
        format!(
            r#"{{"file": "a.rs", "name": "a.rs:{line}:3: replace + with - in f", "function": {{"function_name": "f",
                "span": {{"start": {{"line": {first}, "column": 1}}, "end": {{"line": {last}, "column": 2}}}}}},
                "span": {{"start": {{"line": {line}, "column": 3}}, "end": {{"line": {line}, "column": 4}}}}}}"#
        )
    };
    let units = of(text, &format!("[{}, {}, {}]", mutant(1, 3, 2), mutant(4, 7, 5), mutant(4, 7, 6)));
    assert_eq!(units.iter().map(|unit| unit.function.as_str()).collect::<Vec<_>>(), ["f", "f (2)"]);
    let keys: Vec<_> = units[1].mutants.iter().map(|mutant| mutant.key.as_str()).collect();
    assert_eq!(keys, ["replace + with - @3 `1 + 1`", "replace + with - @3 `1 + 1` (2)"]);
}

#[test]
fn only_code_counts_for_a_hash() {
    let plain = hash("fn f() {\n    g()\n}\n");
    assert_eq!(plain.len(), 16);
    assert_eq!(hash("    /// Says g.\n    fn f() {\n\n        // Why.\n        g()\n    }\n"), plain);
    assert_ne!(hash("fn f() {\n    h()\n}\n"), plain);
    assert_ne!(hash("fn f() {\n    g() // same\n}\n"), plain, "what follows code is taken for code");
}

#[test]
fn what_is_no_list_is_an_error() {
    assert!(units("error: no such package", |_| Ok(String::new())).is_err());
}
