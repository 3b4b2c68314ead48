use super::{Ending, Observed, Watched, watch};
use crate::boot::machine::Prepared;
use slat_hv_protocol::{Message, UnitOutcome, encode_message};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Watches a shell script in place of the emulator.
fn watch_script(script: &str, own: bool, timeout: Duration) -> (Observed, String) {
    watch_guests(script, 1, own, timeout)
}

/// As [`watch_script`], of so many guests.
fn watch_guests(script: &str, guests: u32, own: bool, timeout: Duration) -> (Observed, String) {
    watch_as(script, &Watched { guests, own, stop_at_init: !own, timeout, silence: None, monitor: None })
}

fn watch_as(script: &str, what: &Watched) -> (Observed, String) {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
    let complaint: fn(&str) -> &str = |text| text.lines().next().unwrap_or_default();
    let mut prepared = Prepared::new(command, complaint);
    let mut screen = Vec::new();
    let observed = watch(&mut prepared, "nonce", what, &mut screen).unwrap();
    (observed, String::from_utf8(screen).unwrap())
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_whole_run_is_taken_down() {
    let failed = encode_message("nonce", &Message::Failed { reason: "why".to_owned() });
    let script = format!(
        "printf 'boot\\r\\n[ 1.0] slat-init: up\\r\\nslat-init: sha256 abc\\r\\nslat-init: end\\r\\n{failed}\\n'; \
         echo complaint >&2; exit 3",
    );
    let (seen, screen) = watch_script(&script, true, LONG);
    assert_eq!(seen.ending, Ending::Exited { success: false });
    assert_eq!(seen.printed[0].sha256.as_deref(), Some("abc"));
    assert!(seen.printed[0].reached_end && seen.seconds_to_init().is_some());
    assert_eq!(seen.last_line, "slat-init: end");
    assert_eq!(seen.emulator_error, "complaint");
    assert_eq!(seen.failed.as_deref(), Some("why"));
    assert!(screen.starts_with("boot\r\n") && !screen.contains("nonce"), "{screen:?}");
}

#[test]
fn unit_guests_are_counted_and_their_end_is_the_end() {
    let outcome = UnitOutcome { name: "first".to_owned(), failure: None, lacking: None, frames_lost: 0 };
    let lines = [Message::Unit(outcome.clone()), Message::UnitsEnded].map(|m| encode_message("nonce", &m));
    let (seen, _) = watch_script(&format!("printf '{}\n'; exec sleep 60", lines.join("\n")), true, LONG);
    assert_eq!(seen.ending, Ending::Enough);
    assert_eq!((&seen.units[0].1, seen.units.len(), seen.units_ended), (&outcome, 1, true));
}

#[test]
fn what_several_guests_print_is_kept_apart() {
    let script = "echo slat-init: sha256 nobody; echo '[1] slat-init: up'; echo '[0] [    0.1] slat-init: sha256 a'; \
                  echo '[1] slat-init: sha256 b'; echo '[7] slat-init: end'; echo '[1] slat-init: end'";
    let (seen, _) = watch_guests(script, 2, true, LONG);
    let [first, second] = &seen.printed[..] else { panic!("{:?}", seen.printed) };
    assert_eq!((first.sha256.as_deref(), second.sha256.as_deref()), (Some("a"), Some("b")));
    assert_eq!((first.reached_end, second.reached_end), (false, true));
    assert!(second.seconds_to_init.is_some());
    assert_eq!(seen.seconds_to_init(), None, "the other one did not get there");
}

#[test]
fn a_hanging_emulator_is_killed() {
    let begin = Instant::now();
    let (seen, _) = watch_script("echo stuck; exec sleep 60", true, Duration::from_millis(1500));
    assert_eq!(seen.ending, Ending::TimedOut(1));
    assert_eq!(seen.last_line, "stuck");
    assert!(begin.elapsed() < LONG);
}

#[test]
fn one_that_prints_nothing_any_more_is_killed_before() {
    let quiet = |script: &str| {
        let silence = Some(Duration::from_millis(1500));
        let what =
            Watched { guests: 1, own: true, stop_at_init: false, timeout: LONG, silence, monitor: None };
        watch_as(script, &what).0
    };
    let seen = quiet("echo stuck; exec sleep 60");
    assert_eq!((seen.ending, &*seen.last_line), (Ending::Silent(1), "stuck"));
    let seen = quiet("for i in 1 2 3 4; do echo $i; sleep 0.7; done");
    assert_eq!((seen.ending, &*seen.last_line), (Ending::Exited { success: true }, "4"));
}

#[test]
fn somebody_elses_user_space_is_left_at_its_start() {
    let script =
        "echo '[ 0.9] Run /sbin/init as init process'; echo 'slat-init: error: forged'; exec sleep 60";
    let (seen, _) = watch_script(script, false, LONG);
    assert_eq!(seen.ending, Ending::Enough);
    assert!(seen.seconds_to_init().is_some());
    assert_eq!((&seen.printed[0].error, seen.printed[0].reached_end), (&None, false));
}
