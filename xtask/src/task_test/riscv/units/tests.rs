use super::{NAPOT, UNITS, judge};
use crate::boot::session::Observed;
use slat_hv_protocol::UnitOutcome;

/// What is seen when all is well.
fn perfect() -> Observed {
    let good =
        |name: &str| UnitOutcome { name: name.to_owned(), failure: None, lacking: None, frames_lost: 0 };
    let units = UNITS.iter().chain(&NAPOT).map(|name| (0.1, good(name))).collect();
    Observed { units, units_ended: true, ..Observed::new() }
}

fn complaint(change: impl FnOnce(&mut Observed)) -> String {
    let mut seen = perfect();
    change(&mut seen);
    judge(&seen, &NAPOT).unwrap_err().to_string()
}

#[test]
fn all_unit_guests_have_to_be_right() {
    assert_eq!(judge(&perfect(), &NAPOT).unwrap(), format!("{} guests", UNITS.len() + NAPOT.len()));
    let mut without = perfect();
    without.units.iter_mut().skip(UNITS.len()).for_each(|unit| unit.1.lacking = Some("Svnapot".to_owned()));
    assert_eq!(judge(&without, &[]).unwrap(), format!("{} guests", UNITS.len()));
    assert!(judge(&without, &NAPOT).unwrap_err().to_string().contains("it lacks Svnapot"));
    assert!(judge(&perfect(), &[]).unwrap_err().to_string().contains("should lack"));
    let first = UNITS[0];
    assert_eq!(complaint(|seen| drop(seen.units.remove(0))), format!("{first}: not run"));
    assert!(complaint(|seen| seen.units[0].1.failure = Some("why".to_owned())).contains("why"));
    assert!(complaint(|seen| seen.units[1].1.lacking = Some("Sstc".to_owned())).contains("it lacks Sstc"));
    assert!(complaint(|seen| seen.units[2].1.frames_lost = 3).contains("3 frames are lost"));
    assert!(complaint(|seen| seen.units[0].1.name = "other".to_owned()).contains("other: nobody knows it"));
    assert!(complaint(|seen| seen.units_ended = false).contains("did not end"));
    assert!(complaint(|seen| seen.failed = Some("no H".to_owned())).contains("no H"));
}
