//! Linux and memtest86+: as they are, under churn, and with mistakes that must be noticed.

use super::{Bench, Slot};
use crate::boot::machine::Pace;
use crate::boot::session::{self, Choices, Guest, Observed};
use crate::boot::verdict;
use crate::platform::Platform;
use crate::task_test::linux::enough_churn;
use crate::task_test::step::{Outcome, Step};
use crate::task_test::{monitor, recorded, traced};
use anyhow::{Context as _, Result, bail, ensure};
use slat_hv_protocol::{Churn, Leaf, Mistake, Report};
use std::time::Duration;

/// RAM of Linux, and of memtest86+, which writes all of it several times.
pub(super) const LINUX_MEMORY: u64 = 128 << 20;
const MEMTEST_MEMORY: u64 = 6 << 20;

/// EPT violations or nested page faults of a whole boot with large leaves.
pub(super) const MOST_FAULTS: u64 = 300;

/// How long a guest has on a loaded machine, and one that a mistake makes hang.
pub(super) fn patience(platform: Platform, mistake: Mistake) -> Duration {
    Duration::from_secs(match (platform, mistake) {
        (Platform::Intel, Mistake::None) => 120,
        (_, Mistake::None) => 60,
        (Platform::Intel, _) => 60,
        (_, _) => 25,
    })
}

/// How long a guest may print nothing before it counts as one that hangs: longer than until its first line on a loaded machine. One
/// under which a mistake is made is expected to hang.
pub(super) fn silence(platform: Platform, mistake: Mistake) -> Option<Duration> {
    Some(Duration::from_secs(match (platform, mistake) {
        (Platform::Intel, Mistake::None) => 45,
        (Platform::Intel, _) => 15,
        (_, _) => 10,
    }))
}

/// All of them on one emulator.
pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    let cpus: &[&'static str] = match slot.platform {
        Platform::Intel => &["corei7_haswell_4770", "corei7_skylake_x"],
        _ => &["EPYC"],
    };
    let mut steps = Vec::new();
    if slot.platform.has_native() {
        steps.push(step(slot, "Linux natively", natively));
    }
    for (index, &cpu) in cpus.iter().enumerate() {
        // The last one is stopped for the monitor.
        let (asked, what) = match index + 1 == cpus.len() {
            true => (true, ", stopped for the monitor"),
            false => (false, ""),
        };
        steps.push(step(slot, &format!("Linux on {cpu}{what}"), move |bench, output| {
            linux(bench, cpu, asked, output)
        }));
    }
    steps.push(step(slot, "Linux under churn", |bench, output| {
        under_churn(bench, &bench.linux(LINUX_MEMORY)?, output)
    }));
    steps.push(step(slot, "memtest86+ under churn", |bench, output| {
        under_churn(bench, &bench.memtest(MEMTEST_MEMORY)?, output)
    }));
    for (what, mistake) in MISTAKES {
        steps.push(step(slot, &format!("a mistake is noticed: {what}"), move |bench, output| {
            noticed(bench, mistake, output)
        }));
    }
    steps
}

/// Mistakes under which Linux, under churn, must not reach its end.
const MISTAKES: [(&str, Mistake); 2] =
    [("an event is lost", Mistake::NoRedelivery), ("one page in 50 is not copied", Mistake::SkippedCopies)];

/// Churn that goes on for the whole boot: each exit makes hardly more than another one.
const CHURN: Churn = Churn { seed: 1, per_exit: 1, limit: 1_000_000 };

pub(super) fn step(
    slot: &Slot,
    name: &str,
    work: impl FnOnce(&Bench, &mut String) -> Result<String> + Send + 'static,
) -> Step {
    slot.step(name, |bench, output| Outcome::of(work(bench, output)))
}

/// Boots a guest, which must reach its end with everything in order.
fn good(
    bench: &Bench,
    guest: &Guest,
    cpu: (&str, u32),
    choices: &Choices,
    output: &mut String,
) -> Result<(Observed, Report)> {
    let seen = bench.boot(guest, cpu, choices, patience(bench.platform, Mistake::None), output)?;
    judged(bench, guest, seen)
}

/// What was seen, and the report in it, if the guest reached its end with everything in order.
pub(super) fn judged(bench: &Bench, guest: &Guest, seen: Observed) -> Result<(Observed, Report)> {
    verdict::under_slat(guest, &seen).map_err(anyhow::Error::msg)?;
    let report = seen.report.clone().context("there is no report")?;
    ensure!(report.frames.taken > 0, "no frame was taken");
    let started = seen.started.as_ref().context("the hypervisor did not say what it chose")?;
    ensure!(started.mechanism == bench.platform.mechanism(), "the tables are {:?}", started.mechanism);
    Ok((seen, report))
}

/// Control of the whole arrangement: the same guest, nothing below it.
fn natively(bench: &Bench, output: &mut String) -> Result<String> {
    let guest = bench.linux(LINUX_MEMORY)?;
    let machine = bench.machine(bench.platform.default_cpu(), 1, Pace::Usual);
    let patience = patience(bench.platform, Mistake::None);
    let mut screen = Vec::new();
    let seen = session::natively(&machine, &guest, patience, &mut screen);
    let seen = super::take_down(seen, &screen, output)?;
    verdict::natively(&guest, &seen).map_err(anyhow::Error::msg)?;
    Ok(format!("{:.1} s to init", seen.seconds_to_init().unwrap_or_default()))
}

fn linux(bench: &Bench, cpu: &str, asked: bool, output: &mut String) -> Result<String> {
    let monitor = asked.then_some(monitor::asking(bench.platform));
    let choices = Choices { monitor, trace: true, ..Choices::default() };
    let (seen, report) = good(bench, &bench.linux(LINUX_MEMORY)?, (cpu, 1), &choices, output)?;
    let answers =
        if asked { format!("; {}", monitor::answered(bench.platform, &seen)?) } else { String::new() };
    let traced = traced::is_complete(&seen, &report)?;
    let faults = report.faults.total;
    ensure!(faults <= MOST_FAULTS, "{faults} faults are too many");
    ensure!(report.leaves.size_2m > 0, "there is no large leaf");
    let cost = report.fault_cost.context("nobody measured what a fault costs")?;
    ensure!(cost.faults > 0 && cost.ticks > 0 && cost.run_ticks > cost.ticks, "{cost:?} cannot be");
    let accessed_dirty = seen.started.is_some_and(|started| started.accessed_dirty);
    let written = report.pages_written.filter(|written| written.dirty > 0);
    ensure!(written.is_some() == accessed_dirty, "the pages written are {:?}", report.pages_written);
    Ok(format!("{faults} faults, each {} ticks; {traced}{answers}", cost.ticks / cost.faults))
}

/// Page by page, moved, taken away and write-protected while the guest runs; and all of that once more on the model, which
/// notices when one invalidation is left out.
fn under_churn(bench: &Bench, guest: &Guest, output: &mut String) -> Result<String> {
    // As little patience as with a mistake: what is silent for so long there is so because of the mistake.
    let (churn, silence) = (Some(CHURN), silence(bench.platform, Mistake::None));
    let choices = Choices { churn, leaf: Leaf::Size4K, record: true, silence, ..Choices::default() };
    let (seen, report) = good(bench, guest, (bench.platform.default_cpu(), 1), &choices, output)?;
    let note = enough_churn(&report)?;
    Ok(format!("{note}; {}", recorded::is_clean_and_needs_its_flushes(&seen)?))
}

/// The negative control. With the first seed it is the very run that passes without the mistake; the others are only for events.
fn noticed(bench: &Bench, mistake: Mistake, output: &mut String) -> Result<String> {
    // QEMU's time is the machine's, so that an event which is lost may be one that nobody waits for.
    let attempts = if mistake == Mistake::NoRedelivery { 3 } else { 1 };
    let guest = bench.linux(LINUX_MEMORY)?;
    let cpu = (bench.platform.default_cpu(), 1);
    for seed in 1..=attempts {
        let churn = Some(Churn { seed, ..CHURN });
        let silence = silence(bench.platform, mistake);
        let choices = Choices { churn, leaf: Leaf::Size4K, mistake, silence, ..Choices::default() };
        let seen = bench.boot(&guest, cpu, &choices, patience(bench.platform, mistake), output)?;
        ensure!(seen.started.is_some(), "the guest was not even started: {}", seen.emulator_error);
        if let Err(reason) = verdict::under_slat(&guest, &seen) {
            return Ok(reason);
        }
    }
    bail!("the guest reached its end all the same, {attempts} times")
}
