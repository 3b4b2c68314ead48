//! The program itself: what it prints, its exit codes, and what it makes of hostile dumps.
#![cfg(feature = "cli")]
#![expect(clippy::unwrap_used, reason = "the lint takes the helpers of tests for something else")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No answer may take anywhere near as long, whatever the dump.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory with dumps.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Raw memory from 0 on with these words: address, value.
    fn raw(&self, name: &str, size: u64, words: &[(u64, u64)]) -> String {
        let mut bytes = vec![0; size as usize];
        for (address, word) in words {
            let at = *address as usize;
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        self.file(name, &bytes)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// Runs the program; one that does not end in time is a failure.
fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slat-inspect"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let (id, begin) = (child.id(), Instant::now());
    let waiting = thread::spawn(move || child.wait_with_output().unwrap());
    while !waiting.is_finished() {
        assert!(begin.elapsed() < PATIENCE, "process {id} is still busy with {arguments:?}");
        thread::sleep(Duration::from_millis(5));
    }
    waiting.join().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs the program, which must succeed, and gives what it prints.
fn printed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{arguments:?}");
    text(&output.stdout).to_owned()
}

/// Runs the program, which must refuse: one line with these words.
fn refused(arguments: &[&str], words: &str) {
    let output = run(arguments);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
    assert!(errors.starts_with("error: ") && errors.lines().count() == 1, "{arguments:?}: {errors}");
    assert!(errors.contains(words), "`{words}` is missing in {errors}");
}

const EPT: [&str; 4] = ["--format", "ept", "--root", "0x1000"];

/// EPT: 8 pages of a device, then one of RAM that is read-only, then a page of 2 MiB.
fn guest(place: &Place) -> String {
    let mut words = vec![(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007), (0x3008, 0x0060_00b7)];
    words.extend((0..8).map(|page| (0x4000 + 8 * page, (0x900_0000 + 0x1000 * page) | 3)));
    words.push((0x4040, 0x7031));
    place.raw("guest", 0x8000, &words)
}

#[test]
fn a_guest_is_listed() {
    let place = Place::new();
    let dump = guest(&place);
    let lines = printed(&[&["list", &dump][..], &EPT].concat());
    let lines: Vec<_> =
        lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "0x0000000000000000-0x0000000000007fff 32 KiB -> 0x000009000000 rw-- UC 4 KiB --",
            "0x0000000000008000-0x0000000000008fff 4 KiB -> 0x000000007000 r--- WB 4 KiB --",
            "0x0000000000200000-0x00000000003fffff 2 MiB -> 0x000000600000 rwxu WB 2 MiB --",
        ]
    );
    let part = printed(&[&["list", &dump][..], &EPT, &["--from", "0x8000", "--to", "0x8fff"]].concat());
    assert_eq!(part.lines().count(), 1);
    assert_eq!(printed(&[&["list", &dump, "--style", "leaves"][..], &EPT].concat()).lines().count(), 10);
}

#[test]
fn every_command_speaks_json() {
    let place = Place::new();
    let dump = guest(&place);
    let json = |command: &[&str], more: &[&str]| -> serde_json::Value {
        let output = run(&[command, &[&dump], more, &EPT[..], &["--json"]].concat());
        assert!(output.stderr.is_empty(), "{command:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let list = json(&["list"], &[]);
    assert_eq!(list["ranges"].as_array().unwrap().len(), 3);
    assert_eq!((&list["complete"], &list["format"]), (&true.into(), &"ept".into()));
    assert_eq!(list["ranges"][1]["output"], "0x7000");
    assert_eq!(json(&["list", "--style", "leaves"], &[])["leaves"].as_array().unwrap().len(), 10);
    let query = json(&["query"], &["0x20_1234", "0x9000"]);
    assert_eq!(query["queries"][0]["output"], "0x601234");
    assert_eq!(query["queries"][0]["steps"].as_array().unwrap().len(), 3);
    assert_eq!(query["queries"][1]["result"], "absent");
    let reverse = json(&["reverse"], &["0x7000"]);
    assert_eq!(reverse["mappings"][0]["address"], "0x8000");
    assert_eq!(json(&["reverse"], &["0x4000"])["mappings"][0]["kind"], "table");
    assert_eq!(json(&["stats"], &[])["mapped"]["leaves"], 10);
    assert_eq!(json(&["diff", &dump], &[])["differences"], 0);
    assert_eq!(json(&["lint"], &[])["notes"], 1);
    let root: serde_json::Value =
        serde_json::from_str(&printed(&["root", "--hgatp", "0x8000000000080000", "--json"])).unwrap();
    assert_eq!(root["root"], "0x80000000");
    let fault: serde_json::Value =
        serde_json::from_str(&printed(&["decode", "npf", "0x100000007", "0x1234", "--json"])).unwrap();
    assert_eq!(fault["address"], "0x1234");
}

#[test]
fn exit_codes_tell_what_was_found() {
    let place = Place::new();
    let dump = guest(&place);
    let code = |arguments: &[&str]| run(&[arguments, &EPT[..]].concat()).status.code();
    assert_eq!(code(&["query", &dump, "0x8000"]), Some(0));
    assert_eq!(code(&["query", &dump, "0x9000"]), Some(1));
    assert_eq!(code(&["reverse", &dump, "0x7000"]), Some(0));
    assert_eq!(code(&["reverse", &dump, "0xabc000"]), Some(1));
    let mut other = fs::read(&dump).unwrap();
    other[0x4040] ^= 2;
    let other = place.file("other", &other);
    assert_eq!(code(&["diff", &dump, &dump]), Some(0));
    assert_eq!(code(&["diff", &dump, &other]), Some(1));
}

#[test]
fn wrong_command_lines_are_one_line() {
    let place = Place::new();
    let dump = guest(&place);
    refused(
        &["list", "/nonexistent/dump", "--format", "ept", "--root", "0"],
        "cannot open /nonexistent/dump",
    );
    refused(&["list", &dump], "--format and --root, or a root register, are needed");
    refused(&["list", &dump, "--root", "0x1000"], "--format is needed");
    refused(&["list", &dump, "--format", "ept", "--root", "0x1001"], "not a multiple of");
    refused(&["list", &dump, "--format", "ept", "--root", "0x1000", "--levels", "3"], "ept has none such");
    refused(&["list", &dump, "--format", "pae", "--root", "0"], "not a format");
    refused(&["list", &dump, "--eptp", "0x1000"], "EPTP");
    refused(&["list", &dump, "--eptp", "0x101e", "--cr3", "0x1000"], "only one of");
    refused(&["list", &dump, "--eptp", "0x101e", "--root", "0x1000"], "the register says");
    refused(&["list", &dump, "--cr3", "0x1000", "--format", "ept"], "the register says that it is x86-64");
    refused(&["list", &dump, "--vttbr", "0x1000"], "--vtcr");
    refused(&["list", &dump, "--satp", "0x1000"], "Bare");
    refused(&["list", &dump, "--cr3", "zero"], "is no number");
    refused(&[&["list", &dump, "--style", "qemu-tlb"][..], &EPT].concat(), "no such listing of ept");
    refused(&[&["list", &dump, "--from", "2", "--to", "1"][..], &EPT].concat(), "--from");
    refused(&[&["draw", &dump, "-o", "picture.png"][..], &EPT].concat(), "neither with .html nor with .svg");
    refused(&["frobnicate"], "unrecognized subcommand");
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let place = Place::new();
    // More than a pipe holds: every second page of 2 GiB.
    let mut words = vec![(0x1000, 0x2007), (0x2000, 0x3007), (0x2008, 0x4007)];
    for table in 0..1024 {
        words.push((0x3000 + 8 * table, 0x5000 | 7));
    }
    words.extend((0..512).step_by(2).map(|page| (0x5000 + 8 * page, (0x10_0000 + 0x1000 * page) | 0x37)));
    let dump = place.raw("dump", 0x6000, &words);
    let mut command = Command::new(env!("CARGO_BIN_EXE_slat-inspect"));
    command.args([&["list", &dump][..], &EPT].concat()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

/// Each command on a dump whose tables are hostile ends with an answer, or with one line.
fn answered(dump: &str, tables: &[&str], place: &Place) -> Vec<String> {
    let (page, svg) = (place.path("page.html"), place.path("picture.svg"));
    let commands: [&[&str]; 9] = [
        &["list", dump],
        &["list", dump, "--style", "leaves", "--json"],
        &["query", dump, "0", "0x1000", "0xffff_ffff_ffff_f000"],
        &["reverse", dump, "0x1000"],
        &["stats", dump],
        &["lint", dump],
        &["diff", dump, dump],
        &["draw", dump, "-o", page.to_str().unwrap()],
        &["draw", dump, "-o", svg.to_str().unwrap()],
    ];
    let mut answers = Vec::new();
    for command in commands {
        // What a machine reads in a moment.
        let limit: &[&str] = if command[0] == "query" { &[] } else { &["--limit", "200000"] };
        let output = run(&[command, tables, limit].concat());
        let errors = text(&output.stderr);
        match output.status.code() {
            Some(0 | 1) => assert_eq!(errors, "", "{command:?}"),
            Some(2) => {
                assert!(
                    errors.starts_with("error: ") && errors.lines().count() == 1,
                    "{command:?}: {errors}"
                );
            }
            code => panic!("{command:?} ended with {code:?}: {errors}"),
        }
        answers.push(format!("{}{errors}", text(&output.stdout)));
    }
    answers
}

/// 512 entries from `table` on.
fn all(table: u64, entry: impl Fn(u64) -> u64) -> Vec<(u64, u64)> {
    (0..512).map(|index| (table + 8 * index, entry(index))).collect()
}

/// What is hostile about some words of memory, the words, and what is to be said of them.
type Hostile = (&'static str, Vec<(u64, u64)>, &'static str);

#[test]
fn hostile_tables_are_answered() {
    let place = Place::new();
    let size = 0x10_0000_u64;
    let cases: [Hostile; 8] = [
        ("a table that is its own", all(0x1000, |_| 0x1007), "led here"),
        (
            "a cycle over levels",
            [all(0x1000, |_| 0x2007), all(0x2000, |_| 0x3007), all(0x3000, |_| 0x1007)].concat(),
            "led here",
        ),
        (
            "512 times the same table on each level",
            [
                all(0x1000, |_| 0x2007),
                all(0x2000, |_| 0x3007),
                all(0x3000, |_| 0x4007),
                all(0x4000, |index| (index << 12) | 0x37),
            ]
            .concat(),
            "entries were read",
        ),
        (
            "large pages everywhere, by way of the same table",
            [all(0x1000, |_| 0x2007), all(0x2000, |index| index << 30 | 0xb7)].concat(),
            "1 GiB",
        ),
        ("wild pointers", all(0x1000, |index| (index + 1) << 40 | 7), "not all in the memory"),
        ("pointers to the end of memory", all(0x1000, |_| 0xf_ffff_ffff_f007), "not all in the memory"),
        ("reserved bits everywhere", all(0x1000, |_| u64::MAX), "reserved"),
        (
            "noise",
            (0..size / 8)
                .map(|word| (8 * word, (word + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (word % 40)))
                .collect(),
            "",
        ),
    ];
    for (name, words, expected) in cases {
        let dump = place.raw("dump", size, &words);
        let answers = answered(&dump, &EPT, &place);
        assert!(answers[0].contains(expected), "{name}: `{expected}` is missing in {}", &answers[0]);
        for more in
            [["--format", "x86-64"], ["--format", "sv57"], ["--format", "stage2"], ["--format", "sv39x4"]]
        {
            // The root table of a G-stage is aligned to its size.
            answered(&dump, &[&more[..], &["--root", "0x4000"]].concat(), &place);
        }
    }
}

#[test]
fn a_root_table_outside_of_the_dump_is_said_to_be() {
    let place = Place::new();
    let dump = place.raw("dump", 0x1000, &[]);
    let answers = answered(&dump, &["--format", "npt", "--root", "0x5555_5000"], &place);
    assert!(answers[0].contains("0x55555000"), "{}", answers[0]);
}

#[test]
fn hostile_files_are_one_line() {
    let place = Place::new();
    let list = |dump: &str, words: &str| refused(&[&["list", dump][..], &EPT].concat(), words);
    list(&place.file("empty", b""), "it is empty");
    list(&place.file("short", b"1234567"), "it is empty");
    list(place.0.path().to_str().unwrap(), "no regular file");
    list(&place.file("elf", b"\x7fELF"), "cut off");
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0xff);
    list(&place.file("absurd", &elf), "no core file");
    (elf[16], elf[17]) = (4, 0);
    list(&place.file("core", &elf), "not there");
    elf[56..58].copy_from_slice(&[1, 0]);
    list(&place.file("headers", &elf), "not within the file");
    list(&place.file("kdump", b"KDUMP   , and more"), "compressed");
    let (first, second) = (place.raw("first", 0x2000, &[]), place.raw("second", 0x2000, &[]));
    list(&format!("{first}@0,{second}@0x1000"), "overlap");
    list(&format!("{first}@0xffff_ffff_ffff_f000"), "beyond the end of memory");
    list(&format!("{first}@0,{second}@everywhere"), "is no number");
}

#[test]
fn a_dump_in_several_files_is_one() {
    let place = Place::new();
    let whole = guest(&place);
    let bytes = fs::read(Path::new(&whole)).unwrap();
    let low = place.file("low", &bytes[..0x4000]);
    let high = place.file("high", &bytes[0x4000..]);
    let list = |dump: &str| printed(&[&["list", dump][..], &EPT].concat());
    assert_eq!(list(&format!("{high}@0x4000,{low}@0")), list(&whole));
    assert_ne!(list(&format!("{high}@0x5000,{low}@0")), list(&whole));
}

/// The kinds of what `lint` finds, in order.
fn lint(dump: &str, tables: &[&str]) -> Vec<String> {
    let output = run(&[&["lint", dump, "--json"][..], tables].concat());
    assert_eq!(text(&output.stderr), "");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!findings.is_empty())));
    findings.iter().map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn lint_names_what_is_wrong() {
    let place = Place::new();
    let good = [(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007), (0x4000, 0x10_0033)];
    assert!(lint(&place.raw("good", 0x8000, &good), &EPT).is_empty());
    // What stands at the second page, and what it is.
    let pages: [(u64, &str); 8] = [
        (0x10_0033, "aliases"),
        (0x20_0032, "malformed"),
        (0x20_0003 | 2 << 3, "malformed"),
        (1 << 51 | 0x20_0033, "malformed"),
        (0x20_0037, "writable-and-executable"),
        (0x4033, "maps-tables"),
        (0x2031, "maps-tables"),
        (0xfec0_0033, "cacheable-device"),
    ];
    for (entry, kind) in pages {
        let dump = place.raw("page", 0x8000, &[&good[..], &[(0x4008, entry)]].concat());
        let options = [&EPT[..], &["--device", "0xfec0_0000+4K", "--physical-bits", "48"]].concat();
        assert_eq!(lint(&dump, &options), [kind], "{entry:#x}");
    }
    // The same frames by two large leaves that overlap in part.
    let overlapping = [&good[..], &[(0x3008, 0x0040_00b3), (0x2008, 0x00b3)]].concat();
    assert_eq!(
        lint(&place.raw("large", 0x8000, &overlapping), &EPT).last().map(String::as_str),
        Some("aliases")
    );
    // A whole table of pages that one large page could be.
    let mut small = good[..3].to_vec();
    small.extend(all(0x4000, |page| (0x20_0000 + page * 0x1000) | 0x33));
    assert_eq!(lint(&place.raw("small", 0x8000, &small), &EPT), ["small-leaves"]);
    small.pop();
    assert!(lint(&place.raw("small", 0x8000, &small), &EPT).is_empty());
    // Arm may say that a page is writable and not readable.
    let stage2 = [(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x0040_0000_0010_073f | 2 << 6)];
    let dump = place.raw("stage2", 0x8000, &stage2);
    assert_eq!(lint(&dump, &["--format", "stage2", "--root", "0x1000"]), ["write-only"]);
}
