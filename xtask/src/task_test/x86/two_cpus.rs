//! Linux on two CPUs, each vCPU on a CPU of its own: as it is, and under churn, where each change of one CPU's has to reach
//! the other one inside of the guest.

use super::boots::{LINUX_MEMORY, MOST_FAULTS, judged, patience, silence, step};
use super::{Bench, Slot};
use crate::boot::session::{Choices, Observed};
use crate::boot::verdict;
use crate::platform::Platform;
use crate::task_test::linux::enough_churn;
use crate::task_test::recorded;
use crate::task_test::step::Step;
use anyhow::{Context as _, Result, bail, ensure};
use slat_hv_protocol::{Churn, Leaf, Mistake, Report};

const CPUS: u32 = 2;

/// It goes on until both CPUs have been at work for a while.
const CHURN: Churn = Churn { seed: 1, per_exit: 1, limit: 25_000 };

/// Exits that each CPU has at least if it takes part in the boot.
const LEAST_EXITS: u64 = 500;

/// Kicks of a CPU inside of the guest by which changes of the other one's have to reach it in a boot under churn.
const LEAST_KICKS: u64 = 100;

/// All of them on one emulator.
pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    let mut steps = vec![
        step(slot, "Linux on two CPUs", as_it_is),
        step(slot, "Linux on two CPUs under churn", under_churn),
    ];
    if slot.platform == Platform::Amd {
        // On Bochs such a guest only stops, which takes as long as one waits.
        steps.push(step(slot, "a mistake is noticed: no kick between the guest's CPUs", without_kicks));
    }
    steps
}

fn as_it_is(bench: &Bench, output: &mut String) -> Result<String> {
    let report = boot(bench, &Choices::default(), output)?.1;
    let faults = report.faults.total;
    ensure!(faults <= MOST_FAULTS, "{faults} faults are too many");
    ensure!(report.leaves.size_2m > 0, "there is no large leaf");
    let stores = report.exits_by_kind.get("store to the local APIC").copied().unwrap_or_default();
    ensure!(stores > LEAST_EXITS, "the guest wrote to its local APICs {stores} times only");
    Ok(format!("{faults} faults, {stores} stores to local APICs"))
}

fn under_churn(bench: &Bench, output: &mut String) -> Result<String> {
    // On Bochs tens of thousands of changes, each with a kick, come before the kernel's first line.
    let silence = silence(bench.platform, Mistake::None).map(|silence| 2 * silence);
    let churn = Some(CHURN);
    let choices = Choices { churn, leaf: Leaf::Size4K, record: true, silence, ..Choices::default() };
    let (seen, report) = boot(bench, &choices, output)?;
    let note = enough_churn(&report)?;
    let kicks = report.invalidations.get("nmi ipi").copied().unwrap_or_default();
    ensure!(kicks > LEAST_KICKS, "a CPU was kicked out of the guest {kicks} times only");
    Ok(format!("{note}; {kicks} kicks; {}", recorded::is_clean_and_needs_its_flushes(&seen)?))
}

/// Boots Linux, which must use both CPUs and reach its end with everything in order.
fn boot(bench: &Bench, choices: &Choices, output: &mut String) -> Result<(Observed, Report)> {
    let guest = bench.linux_on(CPUS, LINUX_MEMORY)?;
    let cpu = (bench.platform.default_cpu(), CPUS);
    // Bochs emulates the two in turn.
    let patience = CPUS * patience(bench.platform, Mistake::None);
    let seen = bench.boot(&guest, cpu, choices, patience, output)?;
    let (seen, report) = judged(bench, &guest, seen)?;
    let console = String::from_utf8_lossy(&seen.console);
    ensure!(console.contains(&format!("{CPUS} CPUs")), "the kernel did not bring up {CPUS} CPUs");
    let least = report.exits_by_cpu.iter().min().copied().context("there are no CPUs")?;
    ensure!(least > LEAST_EXITS, "one of the CPUs left the guest {least} times only");
    Ok((seen, report))
}

/// The negative control of churn: CPUs that are inside are not made to leave.
fn without_kicks(bench: &Bench, output: &mut String) -> Result<String> {
    let guest = bench.linux_on(CPUS, LINUX_MEMORY)?;
    let mistake = Mistake::NoKick;
    let silence = silence(bench.platform, mistake);
    // Without end: whether a change meets the other CPU inside, with what it takes away in use, is a matter of luck. The run that
    // passes would only take longer.
    let churn = Some(Churn { limit: u64::MAX, ..CHURN });
    let choices = Choices { churn, leaf: Leaf::Size4K, mistake, silence, ..Choices::default() };
    let cpu = (bench.platform.default_cpu(), CPUS);
    let seen = bench.boot(&guest, cpu, &choices, patience(bench.platform, mistake), output)?;
    ensure!(seen.started.is_some(), "the guest was not even started: {}", seen.emulator_error);
    match verdict::under_slat(&guest, &seen) {
        Err(reason) => Ok(reason),
        Ok(()) => bail!("the guest reached its end all the same"),
    }
}
