use super::{bar, cost, counts, kib, per_fault, share};
use crate::platform::Platform;
use crate::task_run::report::Machine;
use slat_hv_protocol::{FaultCost, PagesWritten, PagingReport, Report};

#[test]
fn bars_are_proportional_and_never_hide_a_count() {
    assert_eq!(bar(0, 10), "");
    assert_eq!(bar(1, 0), "");
    assert_eq!(bar(10, 10), "█".repeat(24));
    assert_eq!(bar(5, 10), "█".repeat(12));
    assert_eq!(bar(1, 1_000_000), "▏");
    assert_eq!(bar(u64::MAX, u64::MAX), "█".repeat(24));
}

#[test]
fn sizes_are_readable() {
    assert_eq!(kib(20), "20 KiB");
    assert_eq!(kib(131_072), "128.0 MiB");
}

#[test]
fn a_fault_has_its_cost_and_its_share_of_the_run() {
    let measured = FaultCost { faults: 4, ticks: 1000, run_ticks: 100_000 };
    assert_eq!((per_fault(measured), share(measured)), (Some(250.0), Some(0.01)));
    let text = cost(measured, "ticks");
    assert!(text.contains("250  ticks, 1.00 % of the run"), "{text}");
    let none = FaultCost::default();
    assert_eq!((per_fault(none), share(none), cost(none, "ticks").as_str()), (None, None, ""));
}

#[test]
fn each_mechanism_has_its_words() {
    let report: Report = serde_json::from_str(REPORT).unwrap();
    let text = |platform| counts(&report, Machine::Emulator(platform), None);
    assert!(text(Platform::Arm).contains("stage-2 faults") && text(Platform::Arm).contains("caches"));
    assert!(text(Platform::Intel).contains("EPT violations") && !text(Platform::Intel).contains("caches"));
    assert!(text(Platform::Amd).contains("nested page faults"));
}

#[test]
fn what_only_x86_tells_is_shown_when_it_is_there() {
    let mut report: Report = serde_json::from_str(REPORT).unwrap();
    let machine = Machine::Emulator(Platform::Intel);
    for absent in ["pages written", "in the log", "exits: cpuid", "screen"] {
        assert!(!counts(&report, machine, None).contains(absent), "{absent}");
    }
    report.pages_written = Some(PagesWritten { dirty: 512, logged: Some(7) });
    report.exits_by_kind.insert("cpuid".to_owned(), 3);
    report.screen = Some("Test #4\n\nErrors: 0".to_owned());
    let text = counts(&report, machine, None);
    for present in
        ["pages written", "512  2.0 MiB", "in the log of the CPU", "exits: cpuid", "    | Test #4\n    |\n"]
    {
        assert!(text.contains(present), "{present} is missing in {text}");
    }
}

#[test]
fn what_was_paged_is_shown_when_anything_was() {
    let mut report: Report = serde_json::from_str(REPORT).unwrap();
    let machine = Machine::Emulator(Platform::Riscv);
    assert!(!counts(&report, machine, None).contains("paging"));
    let paging = PagingReport {
        pool: 10_240,
        scans: 43,
        idle: 500,
        evictions: 8,
        evicted: 12,
        stored: 490,
        same: 70,
        paged_in: 300,
        refused: 0,
        store: 1000,
        store_peak: 420,
    };
    (report.paging, report.frames.peak) = (Some(paging), 10_200);
    let text = counts(&report, machine, None);
    for present in [
        "512 pages out, 300 in again",
        "500  by 43 scans",
        "12  8 times no frame was left",
        "490  70 of one word",
        "420  of 1000 pages",
        "40  of 40.0 MiB",
    ] {
        assert!(text.contains(present), "{present} is missing in {text}");
    }
}

const REPORT: &str = r#"{"end":{"kind":"power-off"},
    "faults":{"total":0,"populated":0,"spurious":0,"restored":0,"unanswered":0,"retried":0},
    "leaves":{"4k":0,"2m":0,"1g":0},"table_pages":0,"frames":{"taken":0,"zeroed":0,"returned":0,"peak":0},
    "invalidations":{},"cache_maintenance_frames":0,"churn":null,"firmware_calls":0,"injected_aborts":0,"exits":3,
    "exits_by_cpu":[],"uart":{"accesses":0,"refused":0,"bytes":0,"text":""},
    "buffer_calls":{"done":0,"refused":0,"bytes":0,"text":""}}"#;
