//! Several guests on one machine: each in a space of its own, in turn on the harts that there are, with memory for all of them
//! and with too little.

use super::boots::LEAST_STORES;
use super::{Bench, Slot, step};
use crate::boot::session::{Guest, Observed, Sharing};
use crate::boot::verdict;
use crate::task_test::linux::Boot;
use crate::task_test::recorded;
use crate::task_test::step::Step;
use anyhow::{Context as _, Result, bail, ensure};
use slat_hv_protocol::{End, Report};
use std::time::Duration;

/// How long three guests have together on one hart of a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Guests at once on one hart.
const GUESTS: u32 = 3;

/// Memory in which two guests have all that they ask for, and a third one has not: each asks for about 86 MiB of its 128.
const TOO_LITTLE: u64 = 216 << 20;

/// All of them.
pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    vec![
        step(slot, "three guests at once", at_once),
        step(slot, "two guests of two CPUs each on two harts", on_two_harts),
        step(slot, "three guests with memory for two", over_commit),
    ]
}

/// Three guests on one hart; the fences between them are looked at on the model.
fn at_once(bench: &Bench, output: &mut String) -> Result<String> {
    let (guest, seen) = boot(bench, Sharing { guests: GUESTS, ..Sharing::default() }, 1, true, output)?;
    let note = all_well(&guest, &seen, GUESTS)?;
    Ok(format!("{note}; {}", recorded::is_clean_and_has(LEAST_STORES, &seen)?))
}

/// More vCPUs than harts, of guests that have several.
fn on_two_harts(bench: &Bench, output: &mut String) -> Result<String> {
    let sharing = Sharing { guests: 2, cpus: Some(2), pool: None };
    let (guest, seen) = boot(bench, sharing, 2, false, output)?;
    let console = String::from_utf8_lossy(&seen.console);
    for number in 0..sharing.guests {
        let found =
            console.lines().any(|line| line.starts_with(&format!("[{number}] ")) && line.contains("2 CPUs"));
        ensure!(found, "guest {number} did not bring up 2 CPUs");
    }
    all_well(&guest, &seen, sharing.guests)
}

/// There is not enough memory for all: one guest ends, named and with the reason, its memory comes back, and the others reach
/// their own ends, unharmed.
fn over_commit(bench: &Bench, output: &mut String) -> Result<String> {
    let sharing = Sharing { guests: GUESTS, cpus: None, pool: Some(TOO_LITTLE) };
    let (guest, seen) = boot(bench, sharing, 1, false, output)?;
    let report = report(&seen)?;
    let (mut well, mut without) = (0, Vec::new());
    for one in &report.guests {
        match &one.end {
            End::OutOfMemory { description } => {
                let name = format!("guest {}", one.guest);
                ensure!(description.contains(&name), "`{name}` is missing in: {description}");
                without.push(description.clone());
            }
            _ => {
                verdict::one_of_several(&guest, &seen, one.guest as usize)
                    .map_err(|reason| anyhow::anyhow!("guest {}: {reason}", one.guest))?;
                well += 1;
            }
        }
    }
    ensure!(matches!(report.end, End::OutOfMemory { .. }), "the end of the run is {:?}", report.end);
    frames_came_back(report)?;
    match &without[..] {
        [reason] if well == GUESTS - 1 => Ok(reason.clone()),
        _ => bail!("{well} guests are well, and for others there was no memory: {without:?}"),
    }
}

fn boot(
    bench: &Bench,
    sharing: Sharing,
    harts: u32,
    record: bool,
    output: &mut String,
) -> Result<(Guest, Observed)> {
    let mut boot = Boot { cpus: harts, patience: PATIENCE, ..bench.linux.usual() };
    boot.choices.sharing = sharing;
    boot.choices.record = record;
    bench.linux.boot(&boot, output)
}

/// All guests reached their ends, and what was said of them meanwhile is what is reported in the end.
fn all_well(guest: &Guest, seen: &Observed, guests: u32) -> Result<String> {
    verdict::under_slat(guest, seen).map_err(anyhow::Error::msg)?;
    let report = report(seen)?;
    ensure!(report.guests.len() == guests as usize, "{} guests were reported on", report.guests.len());
    ensure!(seen.guests.len() == report.guests.len(), "the ends of {} were announced", seen.guests.len());
    for one in &report.guests {
        ensure!(seen.guests.contains(one), "guest {} ended otherwise than it was announced", one.guest);
        ensure!(one.faults.total > 20 && one.exits > one.faults.total, "guest {}: {one:?}", one.guest);
    }
    let faults: Vec<_> = report.guests.iter().map(|one| one.faults.total).collect();
    ensure!(faults.iter().sum::<u64>() == report.faults.total, "the faults {faults:?} are not all of them");
    frames_came_back(report)?;
    let seconds = seen.seconds_to_init().context("not all came to init")?;
    Ok(format!("faults {faults:?}, the last init after {seconds:.1} s"))
}

fn report(seen: &Observed) -> Result<&Report> {
    seen.report.as_ref().with_context(|| format!("there is no report: {:?} {:?}", seen.ending, seen.failed))
}

pub(super) fn frames_came_back(report: &Report) -> Result<()> {
    let frames = report.frames;
    ensure!(frames.taken > 0 && frames.taken == frames.returned, "the frames are {frames:?}");
    Ok(())
}
