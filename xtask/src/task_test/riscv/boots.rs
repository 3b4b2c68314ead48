//! One guest: Linux as it is, under churn, on two harts and on harts that leave accessed and dirty flags to software; U-Boot;
//! and mistakes that the model of the hardware must notice, as QEMU forgets its translations at every exit.

use super::{Bench, Slot, optional_step, step};
use crate::boot::machine::Pace;
use crate::boot::session::{Choices, Goal, Guest};
use crate::boot::verdict;
use crate::guests::cache::Kernel;
use crate::task_run;
use crate::task_test::linux::{Boot, MEMORY, PATIENCE, both_took_part};
use crate::task_test::step::{Outcome, Step};
use crate::task_test::{monitor, recorded, traced};
use anyhow::{Context as _, Result, ensure};
use slat_hv_protocol::{Leaf, Mistake};

/// Guest-page faults of a whole boot with large leaves.
const MOST_FAULTS: u64 = 400;

/// Entries of the tables that are stored in such a boot at least.
pub(super) const LEAST_STORES: u64 = 40;

/// A CPU whose accessed and dirty flags are not kept by the hardware, in the emulators that have such a one.
const WITHOUT_FLAGS: &str = "rv64,h=true,svade=true,svadu=false";

/// All of them.
pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    let mut steps = vec![
        step(slot, "Linux, and the same natively", as_it_is),
        step(slot, "Linux with 4k leaves, stopped for the monitor", page_by_page),
        step(slot, "Linux on two harts", on_two_harts),
        optional_step(slot, "Linux without accessed and dirty flags", without_flags),
        step(slot, "U-Boot", u_boot),
    ];
    steps.push(step(slot, "Linux under churn", |bench, output| bench.linux.under_churn(1, 1, output)));
    steps.push(step(slot, "Linux under churn twice the same", |bench, output| {
        bench.linux.twice_under_churn(2, output)
    }));
    steps.push(step(slot, "Linux under churn on two harts", |bench, output| {
        bench.linux.under_churn(2, 1, output)
    }));
    for (what, mistake, harts, seed) in MISTAKES {
        steps.push(step(slot, &format!("a mistake is seen on the model: {what}"), move |bench, output| {
            let mut boot = bench.linux.churned(harts, seed);
            (boot.choices.mistake, boot.choices.record) = (mistake, true);
            seen_on_the_model(bench, &boot, output)
        }));
    }
    steps
}

/// Mistakes in the fences, each on so many harts, in the boot under churn with this seed, which passes without it.
const MISTAKES: [(&str, Mistake, u32, u64); 2] =
    [("no fence at all", Mistake::NoTlbi, 1, 1), ("no fence of other harts", Mistake::LocalTlbi, 2, 1)];

/// How long Linux takes beside the same natively is shown and not judged: on a loaded machine it says little.
fn as_it_is(bench: &Bench, output: &mut String) -> Result<String> {
    let native = bench.linux.natively(output)?;
    let (seen, report) = bench.linux.good_boot(&bench.linux.usual(), output)?;
    let faults = report.faults.total;
    ensure!(faults <= MOST_FAULTS, "{faults} faults are too many");
    ensure!(report.leaves.size_2m > 0, "there is no large leaf");
    let seconds = seen.seconds_to_init().context("there was no init")?;
    let ratio = seconds / native;
    Ok(format!("{faults} faults; {seconds:.1} s to init, {native:.1} s natively: {ratio:.2} times as long"))
}

/// Every page that was populated is a leaf of its own; and the monitor tells of them.
fn page_by_page(bench: &Bench, output: &mut String) -> Result<String> {
    let mut boot = bench.linux.usual();
    (boot.choices.leaf, boot.choices.trace) = (Leaf::Size4K, true);
    boot.choices.monitor = Some(monitor::asking(bench.linux.platform));
    let (seen, report) = bench.linux.good_boot(&boot, output)?;
    let (populated, leaves) = (report.faults.populated, report.leaves);
    ensure!(report.faults.spurious == 0, "{} spurious faults", report.faults.spurious);
    ensure!(leaves.size_2m == 0 && leaves.size_4k == populated, "{populated} faults made {leaves:?}");
    ensure!((8_000..=30_000).contains(&populated), "{populated} faults are not what a boot takes");
    let (traced, answered) =
        (traced::is_complete(&seen, &report)?, monitor::answered(bench.linux.platform, &seen)?);
    Ok(format!("{populated} faults; {traced}; {answered}"))
}

/// Two vCPUs on two harts, which fault at the same time; recorded, so that fences of the other hart are looked at as well.
fn on_two_harts(bench: &Bench, output: &mut String) -> Result<String> {
    let mut boot = Boot { cpus: 2, ..bench.linux.usual() };
    boot.choices.record = true;
    let (seen, report) = bench.linux.good_boot(&boot, output)?;
    both_took_part(&seen, &report, 2)?;
    let faults = report.faults.total;
    ensure!(faults <= MOST_FAULTS, "{faults} faults are too many");
    let replayed = recorded::is_clean_and_has(LEAST_STORES, &seen)?;
    Ok(format!("{faults} faults, exits {:?}; {replayed}", report.exits_by_cpu))
}

fn without_flags(bench: &Bench, output: &mut String) -> Outcome {
    let boot = Boot { cpu: WITHOUT_FLAGS, ..bench.linux.usual() };
    let mut run = || -> Result<Outcome> {
        let (guest, seen) = bench.linux.boot(&boot, output)?;
        // QEMU before 9.2 does not know the property.
        if seen.started.is_none() && seen.emulator_error.contains("svad") {
            return Ok(Outcome::Skipped(seen.emulator_error));
        }
        verdict::under_slat(&guest, &seen).map_err(anyhow::Error::msg)?;
        let started = seen.started.as_ref().context("the hypervisor did not say what it chose")?;
        ensure!(!started.accessed_dirty, "the hypervisor takes the flags to be kept");
        let report = seen.report.as_ref().context("there is no report")?;
        ensure!(report.faults.total <= MOST_FAULTS, "{} faults are too many", report.faults.total);
        Ok(Outcome::Passed(format!("{} faults", report.faults.total)))
    };
    run().unwrap_or_else(|error| Outcome::of(Err(error)))
}

/// A guest with nothing of Linux: it runs until it asks for a command.
fn u_boot(bench: &Bench, output: &mut String) -> Result<String> {
    let platform = bench.linux.platform;
    let image = Kernel::UBoot.check(&bench.u_boot, platform)?;
    let guest = Guest {
        kernel: bench.u_boot.clone(),
        initrd: None,
        bootargs: task_run::bootargs::of(platform, &image, MEMORY, 1, "")?,
        memory: MEMORY,
        sha256: None,
        results: Vec::new(),
        goal: task_run::goal(platform, image.program),
    };
    ensure!(guest.goal == Goal::Prompt, "it has no prompt");
    let machine = bench.linux.machine(platform.default_cpu(), 1, Pace::Usual);
    let seen = bench.linux.run(&guest, &machine, &Choices::default(), PATIENCE, output)?;
    verdict::under_slat(&guest, &seen).map_err(anyhow::Error::msg)?;
    let title = image.title().context("it has no name")?;
    let console = String::from_utf8_lossy(&seen.console);
    ensure!(console.contains(&title), "`{title}` is not on its console");
    let report = seen.report.context("there is no report")?;
    Ok(format!("{title}: {} faults, {} firmware calls", report.faults.total, report.firmware_calls))
}

/// QEMU does not mind a missing fence, whatever comes of the boot: but the model does.
fn seen_on_the_model(bench: &Bench, boot: &Boot, output: &mut String) -> Result<String> {
    let seen = bench.linux.boot(boot, output)?.1;
    ensure!(seen.started.is_some(), "the guest was not even started");
    recorded::is_stale(&seen)
}
