//! The text screen, and what is told about written pages.

use super::*;
use slat::format::ept::{Capabilities, Ept};
use std::string::ToString;

const SCREEN: u64 = 0x4000_3000;

/// A screen with `text` at the beginning of its third line.
fn cells(text: &str) -> Vec<u8> {
    let line = (0..2 * 160).map(|index| [b' ', 7][index % 2]);
    line.chain(text.bytes().flat_map(|byte| [byte, 0x17])).collect()
}

fn with_screen(cells: &[u8], until: Option<&str>) -> Job<'static> {
    let mut content = Content::default();
    content.add(SCREEN, Vec::from(cells).leak());
    let until = until.map(ToString::to_string);
    Job { content, screen: Some(Screen { address: SCREEN, until }), ..job() }
}

/// Touches the screen, then exits again and again for nothing.
fn touch_and_idle(exits: usize) -> Vec<Exit> {
    [write(SCREEN)].into_iter().chain((0..exits).map(|_| Exit::Answered)).collect()
}

#[test]
fn the_report_shows_what_the_guest_had_on_its_screen() {
    let outcome = run(1024, with_screen(&cells("Test #4\0\x1b\u{b3}"), None), touch_and_idle(1));
    let screen = outcome.screen.expect("a screen");
    assert_eq!(screen.lines().nth(2), Some("Test #4 ..."), "an escape, and what is two bytes in UTF-8");
    assert_eq!(screen.matches('\n').count(), 24);
    assert!(screen.lines().enumerate().all(|(index, line)| index == 2 || line.is_empty()));
    assert_eq!(run(1024, job(), Vec::new()).screen, None);
}

#[test]
fn a_screen_that_nobody_has_touched_is_blank_and_takes_no_frame() {
    let outcome = run(1024, with_screen(&cells("loaded"), Some("loaded")), vec_of_idle(200));
    assert_eq!((outcome.end, outcome.faults.populated, outcome.leaves.size_4k), (End::PowerOff, 0, 1));
    assert_eq!(outcome.screen.expect("a screen").trim_end(), "");
}

fn vec_of_idle(exits: usize) -> Vec<Exit> {
    (0..exits).map(|_| Exit::Answered).collect()
}

#[test]
fn the_run_ends_soon_after_the_screen_shows_the_text() {
    let shown = |until, exits| run(1024, with_screen(&cells("Test #4"), Some(until)), touch_and_idle(exits));
    let outcome = shown("est #4", 500);
    assert_eq!((outcome.end, outcome.exits), (End::ScreenShows, 64));
    // Looked at now and then only.
    assert_eq!(shown("est #4", 62).end, End::PowerOff);
    assert_eq!(shown("est #5", 500).end, End::PowerOff);
}

#[test]
fn a_screen_that_churn_has_taken_is_shown_all_the_same() {
    let mut taken = 0;
    for seed in 0..20 {
        let churn = Some(Settings { seed, per_exit: 1, limit: 3 });
        let job = Job { churn, ..with_screen(&cells("still here"), None) };
        let outcome = run(1024, job, [write(SCREEN)].into_iter().chain(vec_of_idle(5)).collect());
        let report = outcome.churn.expect("churn ran");
        taken += report.unmapped;
        assert!(outcome.screen.expect("a screen").contains("still here"), "seed {seed}: {report:?}");
    }
    assert!(taken > 0);
}

#[test]
fn one_in_fifty_pages_that_move_can_lose_its_contents() {
    for skip_copies in [false, true] {
        let bytes = Vec::from([b'x'; 64 * 4096]).leak();
        let mut content = Content::default();
        content.add(0x4000_0000, bytes);
        let churn = Some(Settings { seed: 1, per_exit: 2, limit: 900 });
        let touches = (0..64 * 8).map(|page| write(0x4000_0000 + page % 64 * 4096));
        let print = (0..64)
            .map(|page| Exit::Buffer(BufferCall::Print, GuestPhysAddr::new(0x4000_0000 + page * 4096), 1));
        let job = Job { content, churn, skip_copies, ..job() };
        let outcome = run(2048, job, touches.chain(print).collect());
        let moved = outcome.churn.expect("churn ran").moved;
        let intact = outcome.buffer_calls.text.matches('x').count();
        assert!(moved > 150, "{moved} pages moved");
        assert_eq!(intact == 64, !skip_copies, "{intact} of 64 pages are what they were");
    }
}

#[test]
fn written_pages_are_counted_where_the_hardware_marks_them() {
    assert_eq!(run(1024, job(), [write(0x4000_0000)].into()).pages_written, None);
    let (pool, cpus) = (pool(1024, true), cpus(1));
    let capabilities = Capabilities {
        // Write-back tables, 2 MiB leaves, accessed and dirty marks, INVEPT of both kinds.
        ept_vpid_cap: 1 << 6 | 1 << 14 | 1 << 16 | 1 << 20 | 1 << 21 | 1 << 25 | 1 << 26,
        physical_bits: 48,
        mode_based_execute: false,
        accessed_dirty: true,
    };
    let format = Ept::new(capabilities, 4).expect("a format");
    let space = crate::run::space(&pool, format, 1 << 48, 0, Swap::default()).expect("a root");
    let machine = Machine::new(space, &cpus, job()).expect("regions");
    let statistics = |gpa, length| Exit::Buffer(BufferCall::Statistics, GuestPhysAddr::new(gpa), length);
    // Three pages are there; the host writes to two of them on the guest's behalf, as the hardware would.
    let exits = [write(0x4000_0000), write(0x4000_5000), statistics(0x4000_0ffe, 4)].into();
    let left = machine.run(0, &mut Script::new(0, exits));
    let Left::Ended(end) = left else { panic!("{left:?}") };
    let outcome = machine.close(end, || ()).expect("everybody has left");
    assert_eq!((outcome.pages_written, outcome.faults.populated), (Some(2), 2));
}
