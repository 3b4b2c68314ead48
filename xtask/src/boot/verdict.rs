//! What is concluded from a run: either that all is well, or the first thing that was not, in one line.

use super::printed::Printed;
use super::screen;
use super::session::{Ending, Goal, Guest, Observed};
use slat_hv_protocol::{End, Report};

/// Judges a run under slat. All is well only when the guest reached its own end, our user space found what it
/// had to find, and every frame came back.
pub(crate) fn under_slat(guest: &Guest, seen: &Observed) -> Result<(), String> {
    if seen.ending == Ending::Interrupted {
        return Err("interrupted".to_owned());
    }
    if let Some(reason) = &seen.failed {
        return Err(format!("the hypervisor failed: {reason}"));
    }
    let Some(report) = &seen.report else { return Err(no_report(seen)) };
    let guests = seen.printed.len();
    for number in 0..guests {
        one_of_several(guest, seen, number).map_err(|reason| match guests {
            1 => reason,
            _ => format!("guest {number}: {reason}"),
        })?;
    }
    if guests > 1 && report.guests.len() != guests {
        return Err(format!("of {guests} guests {} were reported on", report.guests.len()));
    }
    frames(report)
}

/// Judges the end of one guest, all of which are like `guest`, and what it printed; of a run that has a report.
pub(crate) fn one_of_several(guest: &Guest, seen: &Observed, number: usize) -> Result<(), String> {
    let report = seen.report.as_ref().ok_or_else(|| no_report(seen))?;
    let of_this = report.guests.iter().find(|one| one.guest as usize == number);
    let end = match (seen.printed.len(), of_this) {
        (1, _) => &report.end,
        (_, Some(one)) => &one.end,
        (_, None) => return Err("nothing was reported on it".to_owned()),
    };
    match end {
        // Whoever ended it knows why.
        End::Quit => return Ok(()),
        End::Saved if guest.goal == Goal::Saved => return Ok(()),
        End::Moved if guest.goal == Goal::Moved && number == 0 => return Ok(()),
        End::Moved => return Err("the guest has moved".to_owned()),
        End::PowerOff if guest.goal == Goal::Moved && number == 0 => {
            return Err("the guest ended before it had moved".to_owned());
        }
        End::Saved => return Err("the guest was written away".to_owned()),
        End::PowerOff if !matches!(guest.goal, Goal::Screen | Goal::Prompt | Goal::Saved) => {}
        End::PowerOff => return Err("the guest powered itself off".to_owned()),
        End::ScreenShows => {
            screen::check(report.screen.as_deref().unwrap_or_default())?;
        }
        End::ConsoleShows if guest.goal == Goal::Prompt => {}
        End::ConsoleShows => return Err("the guest waits for somebody to type".to_owned()),
        End::Reset if guest.goal == Goal::PowerOffOrReset && !panicked(seen) => {}
        End::Reset => return Err("the guest reset itself (a kernel panic?)".to_owned()),
        End::Fault { description } | End::Unsupported { description } => return Err(description.clone()),
        End::OutOfMemory { description } => {
            return Err(format!("no frame was left for the guest: {description}"));
        }
    }
    match seen.printed.get(number) {
        Some(printed) => user_space(guest, number, printed),
        None => Err("it printed nothing".to_owned()),
    }
}

/// Judges a native run.
pub(crate) fn natively(guest: &Guest, seen: &Observed) -> Result<(), String> {
    match &seen.ending {
        Ending::Interrupted => Err("interrupted".to_owned()),
        Ending::Enough => Ok(()),
        Ending::Exited { success: true } if seen.seconds_to_init().is_none() => {
            Err("the guest ended before its init".to_owned())
        }
        Ending::Exited { success: true } => match seen.printed.first() {
            Some(printed) => user_space(guest, 0, printed),
            None => Err("the guest printed nothing".to_owned()),
        },
        Ending::Exited { success: false } | Ending::TimedOut(_) | Ending::Silent(_) => Err(no_report(seen)),
    }
}

/// Whether Linux complained about its own end.
fn panicked(seen: &Observed) -> bool {
    String::from_utf8_lossy(&seen.console).contains("Kernel panic")
}

/// The machine ended, or had to be ended, without a word from the hypervisor.
fn no_report(seen: &Observed) -> String {
    let context = match (seen.emulator_error.as_str(), seen.last_line.as_str()) {
        ("", "") => "; nothing was printed".to_owned(),
        ("", line) => format!("; the last line was: {line}"),
        (complaint, _) => format!("; {complaint}"),
    };
    match seen.ending {
        Ending::TimedOut(seconds) => format!("no end after {seconds} s{context}"),
        Ending::Silent(seconds) => format!("nothing new for {seconds} s{context}"),
        _ => format!("the emulator ended without a report{context}"),
    }
}

fn user_space(guest: &Guest, number: usize, printed: &Printed) -> Result<(), String> {
    let Some(expected) = &guest.sha256 else { return Ok(()) };
    if let Some(error) = &printed.error {
        return Err(format!("the guest's user space failed: {error}"));
    }
    match &printed.sha256 {
        None => return Err("the guest ended before it printed its checksum".to_owned()),
        Some(sum) if sum != expected => {
            return Err(format!(
                "the guest's memory is not what it was given: sha256 {sum} instead of {expected}"
            ));
        }
        Some(_) => {}
    }
    let wanted = guest.results.get(number).map_or(&[][..], Vec::as_slice);
    if printed.results != wanted {
        let (found, wanted) = (printed.results.join("; "), wanted.join("; "));
        return Err(format!("what it was told to do came to `{found}` instead of `{wanted}`"));
    }
    if printed.reached_end { Ok(()) } else { Err("the guest ended before its end marker".to_owned()) }
}

fn frames(report: &Report) -> Result<(), String> {
    let frames = report.frames;
    if frames.taken == frames.returned {
        return Ok(());
    }
    Err(format!("{} frames were taken and {} came back", frames.taken, frames.returned))
}

#[cfg(test)]
mod tests;
