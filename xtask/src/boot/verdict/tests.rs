use super::{natively, one_of_several, under_slat};
use crate::boot::printed::Printed;
use crate::boot::session::{Ending, Goal, Guest, Observed};
use slat_hv_protocol::{BufferCalls, EmulatedUart, End, Faults, Frames, GuestReport, Leaves, Report};
use std::collections::BTreeMap;

fn guest() -> Guest {
    let sha256 = Some("abc".to_owned());
    let goal = Goal::PowerOff;
    Guest {
        kernel: "k".into(),
        initrd: None,
        bootargs: String::new(),
        memory: 0,
        sha256,
        results: Vec::new(),
        goal,
    }
}

fn good() -> Observed {
    Observed {
        ending: Ending::Exited { success: true },
        printed: vec![Printed {
            seconds_to_init: Some(1.0),
            sha256: Some("abc".to_owned()),
            reached_end: true,
            results: Vec::new(),
            error: None,
        }],
        last_line: "last".to_owned(),
        console: Vec::new(),
        started: None,
        report: Some(Report {
            end: End::PowerOff,
            faults: Faults::default(),
            leaves: Leaves::default(),
            table_pages: 0,
            frames: Frames { taken: 5, zeroed: 5, returned: 5, peak: 5 },
            invalidations: BTreeMap::new(),
            cache_maintenance_frames: 0,
            churn: None,
            firmware_calls: 0,
            injected_aborts: 0,
            exits: 0,
            exits_by_cpu: Vec::new(),
            uart: EmulatedUart::default(),
            buffer_calls: BufferCalls::default(),
            exits_by_kind: BTreeMap::new(),
            pages_written: None,
            fault_cost: None,
            paging: None,
            screen: None,
            guests: Vec::new(),
        }),
        failed: None,
        emulator_error: String::new(),
        recording: None,
        trace: None,
        ran: [None; 2],
        units: Vec::new(),
        guests: Vec::new(),
        units_ended: false,
        forked: None,
        moved: None,
        saved: None,
        monitor: Vec::new(),
        monitor_open: false,
        snapshot: None,
    }
}

fn verdict_of(change: impl FnOnce(&mut Observed)) -> String {
    let mut seen = good();
    change(&mut seen);
    under_slat(&guest(), &seen).unwrap_err()
}

fn ended(end: End) -> impl FnOnce(&mut Observed) {
    move |seen| seen.report.as_mut().unwrap().end = end
}

#[test]
fn a_good_run_is_good() {
    assert_eq!(under_slat(&guest(), &good()), Ok(()));
    assert_eq!(natively(&guest(), &good()), Ok(()));
}

#[test]
fn every_bad_end_has_its_line() {
    let description = "at 0x1: read of 0x2".to_owned();
    assert_eq!(verdict_of(ended(End::Fault { description: description.clone() })), description);
    assert_eq!(verdict_of(ended(End::Unsupported { description: description.clone() })), description);
    assert!(verdict_of(ended(End::OutOfMemory { description: description.clone() })).contains(&description));
    assert!(verdict_of(ended(End::Reset)).contains("reset itself"));
    assert!(verdict_of(|seen| seen.failed = Some("why".to_owned())).contains("why"));
}

#[test]
fn a_guest_without_the_means_to_power_off_may_reset_itself() {
    let guest = Guest { goal: Goal::PowerOffOrReset, ..guest() };
    let mut seen = good();
    assert_eq!(under_slat(&guest, &seen), Ok(()));
    ended(End::Reset)(&mut seen);
    assert_eq!(under_slat(&guest, &seen), Ok(()));
    seen.console = b"[    1.0] Kernel panic - not syncing: Attempted to kill init!\r\n".to_vec();
    assert!(under_slat(&guest, &seen).unwrap_err().contains("a kernel panic?"));
    seen.console.clear();
    seen.printed[0].reached_end = false;
    assert!(under_slat(&guest, &seen).unwrap_err().contains("end marker"));
}

#[test]
fn a_memory_test_is_judged_by_its_screen() {
    let guest = Guest { goal: Goal::Screen, sha256: None, ..guest() };
    let mut seen = good();
    assert!(under_slat(&guest, &seen).unwrap_err().contains("powered itself off"));
    ended(End::ScreenShows)(&mut seen);
    assert!(under_slat(&guest, &seen).is_err(), "without a screen");
    let shown = |errors: &str| Some(format!("Test #4  [Moving]\nPass:  0        Errors: {errors}\n"));
    seen.report.as_mut().unwrap().screen = shown("0");
    assert_eq!(under_slat(&guest, &seen), Ok(()));
    seen.report.as_mut().unwrap().screen = shown("3");
    assert!(under_slat(&guest, &seen).unwrap_err().contains("3 errors"));
}

#[test]
fn a_boot_loader_has_come_far_enough_when_it_asks_for_a_command() {
    let guest = Guest { goal: Goal::Prompt, sha256: None, ..guest() };
    let mut seen = good();
    assert!(under_slat(&guest, &seen).unwrap_err().contains("powered itself off"));
    ended(End::ConsoleShows)(&mut seen);
    assert_eq!(under_slat(&guest, &seen), Ok(()));
    assert!(verdict_of(ended(End::ConsoleShows)).contains("waits for somebody to type"));
}

/// Three guests, all of them good.
fn three() -> Observed {
    let mut seen = good();
    seen.printed = vec![seen.printed[0].clone(); 3];
    let (faults, leaves) = (Faults::default(), Leaves::default());
    let of = |guest| GuestReport {
        guest,
        end: End::PowerOff,
        faults,
        leaves,
        table_pages: 0,
        exits: 0,
        firmware_calls: 0,
        own: Default::default(),
    };
    seen.report.as_mut().unwrap().guests = (0..3).map(of).collect();
    seen
}

#[test]
fn each_of_several_guests_has_to_be_good() {
    assert_eq!(under_slat(&guest(), &three()), Ok(()));
    let mut seen = three();
    seen.printed[1].sha256 = None;
    assert!(
        under_slat(&guest(), &seen).unwrap_err().starts_with("guest 1: the guest ended before it printed")
    );
    let mut seen = three();
    seen.report.as_mut().unwrap().guests[2].end = End::OutOfMemory { description: "at 0x1".to_owned() };
    assert_eq!(under_slat(&guest(), &seen).unwrap_err(), "guest 2: no frame was left for the guest: at 0x1");
    let each = [0, 1, 2].map(|number| one_of_several(&guest(), &seen, number).is_ok());
    assert_eq!(each, [true, true, false]);
    let mut seen = three();
    seen.report.as_mut().unwrap().guests.pop();
    assert_eq!(under_slat(&guest(), &seen).unwrap_err(), "guest 2: nothing was reported on it");
    let mut seen = three();
    seen.report.as_mut().unwrap().frames.returned = 4;
    assert!(under_slat(&guest(), &seen).unwrap_err().contains("4 came back"));
}

#[test]
fn power_off_alone_is_not_enough() {
    assert!(verdict_of(|seen| seen.printed[0].reached_end = false).contains("end marker"));
    assert!(verdict_of(|seen| seen.printed[0].sha256 = None).contains("checksum"));
    assert!(
        verdict_of(|seen| seen.printed[0].sha256 = Some("abd".to_owned())).contains("abd instead of abc")
    );
    assert!(verdict_of(|seen| seen.printed[0].error = Some("tar".to_owned())).contains("tar"));
    let lost = verdict_of(|seen| seen.report.as_mut().unwrap().frames.returned = 4);
    assert_eq!(lost, "5 frames were taken and 4 came back");
}

#[test]
fn somebody_elses_user_space_need_only_end() {
    let mut seen = good();
    seen.printed = vec![Printed::default()];
    assert_eq!(under_slat(&Guest { sha256: None, ..guest() }, &seen), Ok(()));
}

#[test]
fn a_run_without_a_report_says_what_was_last_seen() {
    let silent = |seen: &mut Observed| {
        seen.report = None;
        seen.ending = Ending::TimedOut(60);
    };
    assert_eq!(verdict_of(silent), "no end after 60 s; the last line was: last");
    let complaint = verdict_of(|seen| {
        seen.report = None;
        seen.emulator_error = "qemu: no such CPU".to_owned();
    });
    assert_eq!(complaint, "the emulator ended without a report; qemu: no such CPU");
    assert_eq!(verdict_of(|seen| seen.ending = Ending::Interrupted), "interrupted");
}

#[test]
fn what_a_guest_was_told_to_do_must_have_come_to_the_right_thing() {
    let results = vec![vec!["a".to_owned()], vec!["b".to_owned()], Vec::new()];
    let guest = Guest { results, ..guest() };
    let mut seen = three();
    for (number, result) in [(0, "a"), (1, "b")] {
        assert!(
            under_slat(&guest, &seen).unwrap_err().starts_with(&format!("guest {number}: what it was told"))
        );
        seen.printed[number].results.push(result.to_owned());
    }
    assert_eq!(under_slat(&guest, &seen), Ok(()));
    seen.printed[2].results.push("c".to_owned());
    assert!(under_slat(&guest, &seen).unwrap_err().contains("came to `c` instead of ``"));
}

#[test]
fn whoever_quits_by_the_monitor_gets_no_complaint() {
    let mut seen = good();
    seen.report.as_mut().unwrap().end = End::Quit;
    seen.printed[0] = Printed::default();
    assert_eq!(under_slat(&guest(), &seen), Ok(()));
    seen.report.as_mut().unwrap().frames.returned = 4;
    assert_eq!(under_slat(&guest(), &seen), Err("5 frames were taken and 4 came back".to_owned()));
}
