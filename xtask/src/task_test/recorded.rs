//! Boots that were recorded, repeated on the model of the hardware.

use crate::boot::session::Observed;
use crate::recording::Recording;
use crate::replay::{self, Outcome};
use crate::task_replay;
use anyhow::{Context as _, Result, ensure};

/// The model has nothing to say against the run.
pub(crate) fn is_clean(seen: &Observed) -> Result<String> {
    is_clean_and_has(1000, seen)
}

/// As [`is_clean`], of a run in which at least so many entries of the tables were stored: few where leaves are large.
pub(crate) fn is_clean_and_has(least_stores: u64, seen: &Observed) -> Result<String> {
    let (recording, outcome) = repeated(seen)?;
    let Outcome { found, checks, stores, entries, faults, frames_taken, .. } = outcome;
    ensure!(found == 0, "on the model: {found} violations; the first: {}", task_replay::first(&outcome));
    let enough = stores > least_stores && entries > faults && faults > 20 && checks * 50 >= least_stores;
    ensure!(
        enough,
        "too little was recorded: {stores} stores, {entries} entries, {faults} faults, {checks} looks"
    );
    ensure!(frames_taken == outcome.frames_returned, "frames are missing from the recording");
    Ok(format!("{} events on the model, {checks} looks, 0 stale", recording.events.len()))
}

/// As [`is_clean`], of unit guests: a few changes of small spaces, one after the other. And without
/// an invalidation the model finds something: each is left out by itself, and most are missed. (What a CPU remembers and uses no more before it forgets it
/// for another reason is not missed.)
pub(crate) fn units_are_clean(seen: &Observed) -> Result<String> {
    let (recording, outcome) = repeated(seen)?;
    let Outcome { found, stores, entries, .. } = &outcome;
    ensure!(*found == 0, "on the model: {found} violations; the first: {}", task_replay::first(&outcome));
    let (events, flushes) = (recording.events.len(), recording.flushes());
    ensure!(
        *stores > 50 && *entries > 10 && flushes > 0,
        "too little was recorded: {stores} stores, {entries} entries, {flushes} invalidations"
    );
    let (mut tried, mut missed) = (0, 0);
    // Some thirty of them: a replay takes a while.
    for number in (0..flushes).step_by(flushes.div_ceil(30)) {
        let (without, _) = recording.without_flush(number).context("there are not so many")?;
        tried += 1;
        missed += usize::from(replay::replay(&without, |_| ())?.found > 0);
    }
    ensure!(missed > 0, "of {tried} invalidations none is missed");
    Ok(format!(
        "{events} events on the model, 0 stale; {missed} of {tried} invalidations that were left out are missed"
    ))
}

/// The model finds something.
pub(crate) fn is_missed(seen: &Observed) -> Result<String> {
    let Outcome { stale, reachable, found, .. } = repeated(seen)?.1;
    ensure!(found > 0, "the model finds nothing");
    Ok(format!("{stale} stale translations and {reachable} early frames on the model"))
}

/// The model finds translations that are stale, and frames that came back although a CPU could reach them.
pub(crate) fn is_stale(seen: &Observed) -> Result<String> {
    let outcome = repeated(seen)?.1;
    let Outcome { stale, reachable, .. } = outcome;
    ensure!(stale > 0, "the model finds nothing stale");
    ensure!(reachable > 0, "the model finds no frame that came back too early");
    Ok(format!("{stale} stale translations and {reachable} early frames on the model"))
}

/// The control of [`is_clean`], of x86: without one of the invalidations that the run needs, which the replay itself tells, the model
/// finds something, as no emulator does. A few of them are left out, each by itself.
pub(crate) fn is_stale_without_a_flush(seen: &Observed) -> Result<String> {
    const SAMPLES: usize = 5;
    let (recording, Outcome { needed, .. }) = repeated(seen)?;
    let flushes = recording.flushes();
    ensure!(needed.len() >= SAMPLES, "of {flushes} invalidations only {} are needed", needed.len());
    for sample in 0..SAMPLES {
        // The middle of each part.
        let number = needed[needed.len() * (2 * sample + 1) / (2 * SAMPLES)];
        let (without, place) = recording.without_flush(number).context("there are not so many")?;
        let Outcome { stale, reachable, .. } = replay::replay(&without, |_| ())?;
        ensure!(
            stale > 0 || reachable > 0,
            "the model finds nothing without invalidation {number}, event {place}"
        );
    }
    Ok(format!("{SAMPLES} of {} needed invalidations left out, each is missed", needed.len()))
}

fn repeated(seen: &Observed) -> Result<(&Recording, Outcome)> {
    let recording = seen.recording.as_ref().context("there is no recording")?;
    Ok((recording, replay::replay(recording, |_| ())?))
}
