//! Boots that were recorded, repeated on the model of the hardware.

use crate::boot::session::Observed;
use crate::recording::Recording;
use crate::replay::{self, Outcome};
use crate::task_replay;
use anyhow::{Context as _, Result, ensure};

/// The model has nothing to say against the run.
pub(crate) fn is_clean(seen: &Observed) -> Result<String> {
    let (recording, outcome) = repeated(seen)?;
    let Outcome { found, checks, stores, entries, faults, frames_taken, .. } = outcome;
    ensure!(found == 0, "on the model: {found} violations; the first: {}", task_replay::first(&outcome));
    ensure!(stores > 1000 && entries > faults && faults > 20 && checks > 20, "too little was recorded");
    ensure!(frames_taken == outcome.frames_returned, "frames are missing from the recording");
    Ok(format!("{} events on the model, {checks} looks, 0 stale", recording.events.len()))
}

/// The model finds translations that are stale, and frames that came back although a CPU could reach them.
pub(crate) fn is_stale(seen: &Observed) -> Result<String> {
    let outcome = repeated(seen)?.1;
    let Outcome { stale, reachable, .. } = outcome;
    ensure!(stale > 0, "the model finds nothing stale");
    ensure!(reachable > 0, "the model finds no frame that came back too early");
    Ok(format!("{stale} stale translations and {reachable} early frames on the model"))
}

/// The control of [`is_clean`]: without one of its invalidations the same run is one in which the model finds something. A
/// few of them are left out, each by itself. Not each of them has to be noticed: the first comes before anything was
/// translated, and one that another follows at once is not missed.
pub(crate) fn is_stale_without_a_flush(seen: &Observed) -> Result<String> {
    const SAMPLES: usize = 6;
    let recording = seen.recording.as_ref().context("there is no recording")?;
    let flushes = recording.flushes();
    ensure!(flushes > SAMPLES, "only {flushes} invalidations were recorded");
    let mut noticed = 0;
    for sample in 1..=SAMPLES {
        let without = recording.without_flush(sample * (flushes - 1) / SAMPLES);
        let outcome = replay::replay(&without.context("there are not so many")?.0, |_| ())?;
        noticed += usize::from(outcome.stale > 0 || outcome.reachable > 0);
    }
    ensure!(noticed > SAMPLES / 2, "of {SAMPLES} invalidations that are left out {noticed} are noticed");
    Ok(format!("{noticed} of {SAMPLES} that are left out are noticed, of {flushes}"))
}

fn repeated(seen: &Observed) -> Result<(&Recording, Outcome)> {
    let recording = seen.recording.as_ref().context("there is no recording")?;
    Ok((recording, replay::replay(recording, |_| ())?))
}
