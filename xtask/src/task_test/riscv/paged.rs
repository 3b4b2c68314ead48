//! Linux with less memory in the machine than it uses: idle pages go out, come back when they are used, and the guest finds in them what
//! it wrote.

use super::boots::LEAST_STORES;
use super::several::frames_came_back;
use super::{Bench, Slot, step};
use crate::boot::session::{Guest, Observed, Paged};
use crate::boot::verdict;
use crate::guests::commands;
use crate::task_run::options::paging::{IDLE_SCANS, filled_pages};
use crate::task_test::linux::MEMORY;
use crate::task_test::recorded;
use crate::task_test::step::Step;
use anyhow::{Context as _, Result, ensure};
use slat_hv_protocol::{Mistake, PagingReport, Report};
use std::time::Duration;

/// How long it has on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the guest's memory and tables are taken from: it uses half as much again.
const POOL: u64 = 40 << 20;

/// Room for all of its pages.
const STORE: Paged = Paged { store: MEMORY + (1 << 20), idle_scans: IDLE_SCANS };

/// All of them.
pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    vec![
        step(slot, "paging: a guest that uses more than there is goes on", paged),
        step(slot, "paging: the same on two harts, looked at on the model", on_two_harts),
        step(slot, "no paging: such a guest ends for want of a frame", not_paged),
        step(slot, "paging: a page that is lost while it is out is seen by what the guest prints", lost),
        step(slot, "paging: a page that is damaged while it is out never reaches the guest", damaged),
    ]
}

/// The guest that fills pages, leaves them alone and looks at them.
fn boot(
    bench: &Bench,
    paging: Option<Paged>,
    (harts, mistake): (u32, Mistake),
    output: &mut String,
) -> Result<(Guest, Observed)> {
    let linux = &bench.linux;
    let mut guest = linux.linux(&linux.kernel, MEMORY)?;
    let pages = filled_pages(MEMORY);
    guest.bootargs = format!("{} {}", guest.bootargs, commands::pages_variable(pages));
    guest.results = vec![commands::pages_results(pages)];
    let mut boot = linux.usual();
    (boot.choices.paging, boot.choices.mistake) = (paging, mistake);
    boot.choices.sharing.pool = Some(POOL);
    boot.choices.record = harts > 1;
    let machine = linux.machine(boot.cpu, harts, boot.pace);
    let seen = linux.run(&guest, &machine, &boot.choices, PATIENCE, output)?;
    Ok((guest, seen))
}

fn report(seen: &Observed) -> Result<&Report> {
    seen.report.as_ref().with_context(|| format!("there is no report: {:?} {:?}", seen.ending, seen.failed))
}

/// The guest has reached its end, unharmed, and many pages went out and came back.
fn all_well(guest: &Guest, seen: &Observed) -> Result<String> {
    verdict::under_slat(guest, seen).map_err(anyhow::Error::msg)?;
    let report = report(seen)?;
    frames_came_back(report)?;
    let paging = report.paging.context("nothing was paged")?;
    let PagingReport { pool, scans, idle, evicted, paged_in, refused, .. } = paging;
    ensure!(pool << 12 == POOL && report.frames.peak <= pool, "{paging:?}, {:?}", report.frames);
    ensure!(scans > IDLE_SCANS.into() && idle > 500 && paged_in > 1000 && refused == 0, "{paging:?}");
    ensure!(idle + evicted > filled_pages(MEMORY), "{paging:?}");
    Ok(format!("{idle} idle pages and {evicted} others out, {paged_in} in, {scans} scans"))
}

fn paged(bench: &Bench, output: &mut String) -> Result<String> {
    let (guest, seen) = boot(bench, Some(STORE), (1, Mistake::None), output)?;
    all_well(&guest, &seen)
}

fn on_two_harts(bench: &Bench, output: &mut String) -> Result<String> {
    let (guest, seen) = boot(bench, Some(STORE), (2, Mistake::None), output)?;
    let note = all_well(&guest, &seen)?;
    let report = report(&seen)?;
    let least = report.exits_by_cpu.iter().min().copied().unwrap_or_default();
    ensure!(report.exits_by_cpu.len() == 2 && least > 500, "one of the CPUs did nothing: {least} exits");
    Ok(format!("{note}; {}", recorded::is_clean_and_has(LEAST_STORES, &seen)?))
}

/// The control of the whole arrangement: it does use more than there is.
fn not_paged(bench: &Bench, output: &mut String) -> Result<String> {
    refused(bench, None, Mistake::None, "no frame was left for the guest", output)
}

/// The control of what the guest looks at: in place of one page there is what it began with.
fn lost(bench: &Bench, output: &mut String) -> Result<String> {
    refused(bench, Some(STORE), Mistake::LostPageOut, "what it was told to do came to", output)
}

/// The control of the store's checksums.
fn damaged(bench: &Bench, output: &mut String) -> Result<String> {
    let words = "1 pages in the store are not what was paged out";
    refused(bench, Some(STORE), Mistake::DamagedPageOut, words, output)
}

/// The run comes to nothing, with these words; all frames come back.
fn refused(
    bench: &Bench,
    paging: Option<Paged>,
    mistake: Mistake,
    words: &str,
    output: &mut String,
) -> Result<String> {
    let (guest, seen) = boot(bench, paging, (1, mistake), output)?;
    let reason = verdict::under_slat(&guest, &seen).err().context("nobody has noticed")?;
    ensure!(reason.contains(words), "`{words}` is missing in: {reason}");
    frames_came_back(report(&seen)?)?;
    Ok(reason)
}
