use super::{bar, kib, median};

#[test]
fn the_median_of_three_is_the_middle_one() {
    assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(vec![5.0]), Some(5.0));
    assert_eq!(median(Vec::new()), None);
}

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
