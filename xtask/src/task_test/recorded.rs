//! Boots that were recorded, repeated on the model of the hardware.

use crate::boot::session::Observed;
use crate::recording::Recording;
use crate::replay::{self, Outcome};
use crate::task_replay;
use anyhow::{Context as _, Result, ensure};

/// Entries that are stored in a boot page by page, at least.
const LEAST_STORES: u64 = 1000;

/// Stores for each look at all TLBs, at most: there is one after each invalidation, and few of those where leaves are large.
const STORES_OF_A_LOOK: u64 = 50;

/// The model has nothing to say against the run.
pub(crate) fn is_clean(seen: &Observed) -> Result<String> {
    is_clean_and_has(LEAST_STORES, seen)
}

/// As [`is_clean`], of a run in which at least so many entries of the tables were stored: few where leaves are large.
pub(crate) fn is_clean_and_has(least_stores: u64, seen: &Observed) -> Result<String> {
    let (recording, outcome) = repeated(seen)?;
    judge_clean(recording, &outcome, least_stores)
}

fn judge_clean(recording: &Recording, outcome: &Outcome, least_stores: u64) -> Result<String> {
    let &Outcome { found, checks, stores, entries, faults, frames_taken, .. } = outcome;
    ensure!(found == 0, "on the model: {found} violations; the first: {}", task_replay::first(outcome));
    let enough =
        stores > least_stores && entries > faults && faults > 20 && checks > least_stores / STORES_OF_A_LOOK;
    ensure!(
        enough,
        "too little was recorded: {stores} stores, {entries} entries, {faults} faults, {checks} looks"
    );
    ensure!(frames_taken == outcome.frames_returned, "frames are missing from the recording");
    Ok(format!("{} events on the model, {checks} looks, 0 stale", recording.events.len()))
}

/// As [`is_clean`], of unit guests: changes of small spaces, one after the other. Without an invalidation that a run needs the
/// model finds something: some of them are left out, each by itself. Where the replay itself does not tell which are needed (a change of the
/// other CPU's may not be complete yet when this one has forgotten what it remembers) some of all are left out, and one has to be missed.
pub(crate) fn units_are_clean(seen: &Observed) -> Result<String> {
    let (recording, outcome) = repeated(seen)?;
    let Outcome { found, stores, entries, faults, ref needed, .. } = outcome;
    ensure!(found == 0, "on the model: {found} violations; the first: {}", task_replay::first(&outcome));
    let (events, flushes) = (recording.events.len(), recording.flushes());
    ensure!(
        stores > 50 && entries > 10 && faults > 0 && flushes > 0,
        "too little was recorded: {stores} stores, {entries} entries, {faults} faults, {flushes} invalidations"
    );
    let told = !needed.is_empty();
    let (from, samples) = if told { (needed.clone(), 3) } else { ((0..flushes).collect(), 16) };
    let tried = spread(&from, samples);
    let mut missed = 0;
    for &number in &tried {
        missed += usize::from(is_needed(recording, number)?);
    }
    ensure!(
        missed > 0 && (!told || missed == tried.len()),
        "of {} invalidations {missed} are missed",
        tried.len()
    );
    Ok(format!(
        "{events} events on the model, 0 stale; {missed} of {} invalidations that were left out are missed",
        tried.len()
    ))
}

/// So many of them, or all: the middle of each part.
fn spread(numbers: &[usize], samples: usize) -> Vec<usize> {
    let samples = samples.min(numbers.len());
    (0..samples).map(|sample| numbers[numbers.len() * (2 * sample + 1) / (2 * samples)]).collect()
}

/// The model finds something stale, or a frame that came back too early.
pub(crate) fn is_missed(seen: &Observed) -> Result<()> {
    let Outcome { stale, reachable, .. } = repeated(seen)?.1;
    ensure!(stale > 0 || reachable > 0, "the model finds nothing stale and no early frame");
    Ok(())
}

/// The model finds translations that are stale, and frames that came back although a CPU could reach them.
pub(crate) fn is_stale(seen: &Observed) -> Result<String> {
    let outcome = repeated(seen)?.1;
    let Outcome { stale, reachable, .. } = outcome;
    ensure!(stale > 0, "the model finds nothing stale");
    ensure!(reachable > 0, "the model finds no frame that came back too early");
    Ok(format!("{stale} stale translations and {reachable} early frames on the model"))
}

/// As [`is_clean`], of x86, with its control: without one of the invalidations that the run needs, which the replay itself tells, the
/// model finds something, as no emulator does. A few of them are left out, each by itself.
pub(crate) fn is_clean_and_needs_its_flushes(seen: &Observed) -> Result<String> {
    const SAMPLES: usize = 5;
    let (recording, outcome) = repeated(seen)?;
    let clean = judge_clean(recording, &outcome, LEAST_STORES)?;
    let (needed, flushes) = (outcome.needed, recording.flushes());
    ensure!(needed.len() >= SAMPLES, "of {flushes} invalidations only {} are needed", needed.len());
    for number in spread(&needed, SAMPLES) {
        ensure!(is_needed(recording, number)?, "the model finds nothing without invalidation {number}");
    }
    Ok(format!("{clean}; {SAMPLES} of {} needed invalidations left out, each is missed", needed.len()))
}

/// Whether the model finds something without this invalidation.
fn is_needed(recording: &Recording, number: usize) -> Result<bool> {
    let (without, _) = recording.without_flush(number).context("there are not so many")?;
    replay::is_stale(&without)
}

fn repeated(seen: &Observed) -> Result<(&Recording, Outcome)> {
    let recording = seen.recording.as_ref().context("there is no recording")?;
    Ok((recording, replay::replay(recording, |_| ())?))
}
