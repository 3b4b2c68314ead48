use super::{BINS, PAGE, PLACE, POINTS, Subject, by_powers, exits, page, story, thinned};
use crate::trace::Trace;
use crate::trace::tests::{RAM, trace};
use slat_hv_protocol::Report;
use std::collections::BTreeMap;

fn subject(title: &str) -> Subject<'static> {
    Subject {
        title: title.to_owned(),
        machine: "a machine".to_owned(),
        faults: "faults",
        ram: (RAM, 128 << 20),
        report: None,
        verdict: None,
    }
}

#[test]
fn the_story_has_what_happened() {
    let subject = subject("a run");
    let story = story(&trace(), &subject);
    assert_eq!((story.events, story.cpus, story.length), (12, 2, 1000.0));
    assert_eq!((story.faults.total, story.faults.accesses), (4, [2, 1, 1]));
    let answers: Vec<_> =
        story.faults.answers.iter().map(|(name, bad, bins)| (*name, *bad, bins.iter().sum())).collect();
    let expected: [(&str, bool, u64); 3] =
        [("populated", false, 2), ("for a device", false, 1), ("outside of the space", true, 1)];
    assert_eq!(answers, expected);
    assert_eq!((story.invalidations.total, story.invalidations.on_all.len()), (1, BINS));
    let named: Vec<_> = story.operations.iter().map(|kind| (kind.name, kind.count, kind.refused)).collect();
    assert_eq!(named, [("populate_around", 1, 0), ("unmap", 2, 1), ("map_alloc", 1, 0)]);
    assert_eq!((story.longest[0].name, story.longest[0].took), ("populate_around", 40.0));
    assert_eq!(story.frames, [(100.0, 64), (1000.0, 0)]);
}

#[test]
fn a_page_has_its_data_and_nothing_of_others() {
    let page = page(&trace(), &subject("</script><b>")).unwrap();
    assert!(!page.contains(PLACE) && page.contains("\\u003c/script>\\u003cb>"));
    assert_eq!((page.matches("<script>").count(), page.matches("</script>").count()), (1, 1));
    // The name of a namespace is never asked for.
    let addresses = PAGE.matches("http").count() - PAGE.matches("http://www.w3.org/2000/svg").count();
    assert_eq!((addresses, PAGE.matches("src=").count(), PAGE.matches("@import").count()), (0, 0, 0));
}

#[test]
fn an_empty_trace_has_a_page_too() {
    let empty = Trace::new(vec![], 1_000_000, None);
    assert!(page(&empty, &subject("nothing")).is_ok());
}

#[test]
fn durations_are_counted_by_powers_of_two() {
    assert_eq!(by_powers(&[]), (vec![], 0));
    assert_eq!(by_powers(&[0.0, 0.001, 0.003, 0.004, 0.0079]), (vec![1, 1, 2], 0));
    assert_eq!(by_powers(&[1.1, 1.5, 2.1]), (vec![2, 1], 10));
}

#[test]
fn lines_have_no_more_points_than_can_be_seen() {
    let points = |count: u64| (0..count).map(|n| (n as f64, n)).collect::<Vec<_>>();
    assert_eq!(thinned(points(5)), points(5));
    let many = thinned(points(12_345));
    assert!(many.len() <= POINTS + 1 && many.last() == Some(&(12_344.0, 12_344)), "{}", many.len());
    assert!(thinned(vec![]).is_empty());
}

#[test]
fn exits_are_named_where_the_machine_names_them() {
    let mut report: Report = serde_json::from_str(
        r#"{"end":{"kind":"power-off"},"faults":{"total":5,"populated":5,"spurious":0,"restored":0,"unanswered":0,"retried":0},
            "leaves":{"4k":1,"2m":0,"1g":0},"table_pages":1,"frames":{"taken":1,"zeroed":1,"returned":1,"peak":1},
            "invalidations":{},"cache_maintenance_frames":0,"churn":null,"firmware_calls":2,"injected_aborts":0,"exits":10,
            "exits_by_cpu":[10],"uart":{"accesses":0,"refused":0,"bytes":0,"text":""},
            "buffer_calls":{"done":0,"refused":0,"bytes":0,"text":""}}"#,
    )
    .expect("a report");
    let names = |report: &Report| {
        exits(report).into_iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>()
    };
    let told = names(&report);
    assert_eq!(
        told,
        ["5 second-level faults", "3 waits, registers, everything else", "2 calls to the firmware"]
    );
    report.exits_by_kind =
        BTreeMap::from([("cpuid".to_owned(), 1), ("hlt".to_owned(), 9), ("none".to_owned(), 0)]);
    assert_eq!(names(&report), ["9 hlt", "1 cpuid"]);
}
