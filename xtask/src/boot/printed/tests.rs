use super::{Printed, numbered};
use std::time::Duration;

fn printed(lines: &[&str], own: bool) -> Printed {
    let mut printed = Printed::default();
    for (second, line) in (1..).zip(lines) {
        printed.take(line, own, Duration::from_secs(second));
    }
    printed
}

#[test]
fn the_kernels_time_before_a_line_does_not_matter() {
    let lines = ["Run /init as init process", "[    2.77] slat-init: up", "[    3.2] slat-init: sha256 abc "];
    let mut expected =
        Printed { seconds_to_init: Some(2.0), sha256: Some("abc".to_owned()), ..Printed::default() };
    assert_eq!(printed(&lines, true), expected);
    let lines = [&lines[..], &["slat-init: up", "[ 4.0] slat-init: end"]].concat();
    expected.reached_end = true;
    assert_eq!(printed(&lines, true), expected);
    let failed = printed(&["slat-init: error: tar failed"], true);
    assert_eq!(failed.error.as_deref(), Some("tar failed"));
}

#[test]
fn of_somebody_elses_user_space_only_the_start_is_seen() {
    let lines = ["[ 0.9] Run /sbin/init as init process", "slat-init: end"];
    assert_eq!(printed(&lines, false), Printed { seconds_to_init: Some(1.0), ..Printed::default() });
}

#[test]
fn a_line_of_several_guests_says_whose_it_is() {
    assert_eq!(numbered("[2] [    1.2] slat-init: up"), Some((2, "[    1.2] slat-init: up")));
    assert_eq!(numbered("[10] "), Some((10, "")));
    for line in ["OpenSBI v1.1", "[    1.234567] printk", "[1.5] x", "[+1] x", "[] x", "[1]x", "x [1] y"] {
        assert_eq!(numbered(line), None, "{line}");
    }
}
