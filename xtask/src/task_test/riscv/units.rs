//! The unit guests: each shows one thing that the hardware or the library does, by guest code or by a probe from HS-mode.

use super::{Bench, Slot, step};
use crate::boot::session::{Choices, Observed};
use crate::task_test::recorded;
use crate::task_test::step::Step;
use anyhow::{Context as _, Result, bail, ensure};
use slat_hv_protocol::UnitOutcome;
use slat_hv_protocol::recording::{Event, FenceKind};
use std::time::Duration;

/// All of them in one machine; each takes less than a second.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A CPU on which several invalidations stand between two barriers that order them all.
const WITH_SVINVAL: &str = "rv64,h=true,svinval=true";

/// A CPU with leaves of 64 KiB.
const WITH_SVNAPOT: &str = "rv64,h=true,svnapot=true,svinval=true";

/// Unit guests that need such.
const NAPOT: [&str; 5] = [
    "napot-guest",
    "napot-unmap",
    "napot-unmap-without-fence",
    "napot-protect",
    "napot-protect-without-fence",
];

/// All other unit guests.
const UNITS: [&str; 43] = [
    "fault-read",
    "fault-write",
    "fault-atomic",
    "fault-load-reserved",
    "fault-fetch",
    "fault-read-only",
    "fault-execute-only",
    "fault-misaligned",
    "fault-in-tables",
    "fault-read-only-tables",
    "fault-behind-tables",
    "fault-wide-addresses",
    "virtual-instructions",
    "illegal-instructions",
    "guest-fences",
    "hlv-move",
    "hlv-move-without-fence",
    "hlv-unmap",
    "hlv-unmap-without-fence",
    "hlv-protect",
    "hlv-protect-without-fence",
    "hlv-protect-several",
    "hlv-retired-table",
    "hlv-retired-table-without-fence",
    "hlv-retired-table-by-address",
    "hlv-split-and-collapse",
    "hlv-populate-and-relax",
    "hlv-reused-vmid",
    "hlv-reused-vmid-without-fence",
    "hlv-two-vmids",
    "hlv-tags-roll-over",
    "hlv-tags-roll-over-without-fence",
    "two-harts",
    "two-harts-move",
    "two-harts-move-local-fence",
    "two-harts-move-without-fence",
    "two-harts-unmap",
    "two-harts-unmap-local-fence",
    "two-harts-protect",
    "two-harts-protect-local-fence",
    "two-harts-retired-table",
    "two-harts-retired-table-local-fence",
    "two-harts-split-and-collapse",
];

/// All of them.
pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    vec![
        step(slot, "unit guests", |bench, output| {
            let cpu = bench.linux.platform.default_cpu();
            judge(&bench.units(cpu, &["all"], &Choices::default(), output)?, &[])
        }),
        step(slot, "unit guests, Svnapot", |bench, output| {
            let all = judge(&bench.units(WITH_SVNAPOT, &["all"], &Choices::default(), output)?, &NAPOT)?;
            Ok(format!("{all}; {}", recorded_in(bench, WITH_SVNAPOT, &NAPOT, output)?))
        }),
        step(slot, "unit guests, recorded", recorded),
    ]
}

/// Those in which a fence is missing are as wrong on the model as on QEMU, and the others are right there, with Svinval, too.
fn recorded(bench: &Bench, output: &mut String) -> Result<String> {
    let choices = Choices { record: true, ..Choices::default() };
    let cpu = bench.linux.platform.default_cpu();
    // QEMU does not look at the address of a fence, and the model does.
    let marks = ["-without-fence", "-local-fence", "-by-address"];
    let is_wrong = |name: &&str| marks.iter().any(|mark| name.ends_with(mark));
    let fenced = |name: &&str| name.starts_with("hlv-") || name.starts_with("two-harts");
    let (wrong, right): (Vec<_>, Vec<_>) = UNITS.into_iter().filter(fenced).partition(is_wrong);
    let mut run = |cpu, names: &[&str]| -> Result<Observed> {
        let seen = bench.units(cpu, names, &choices, output)?;
        let good = |(_, unit): &(f64, UnitOutcome)| unit.failure.is_none() && unit.lacking.is_none();
        ensure!(seen.units.len() == names.len() && seen.units.iter().all(good), "{:?}", seen.units);
        Ok(seen)
    };
    let batched = run(WITH_SVINVAL, &right)?;
    let is_piece = |event: &Event| matches!(event, Event::Fence { kind: FenceKind::HinvalGvma, .. });
    let events = batched.recording.iter().flat_map(|recording| &recording.events);
    let pieces = events.filter(|(_, event)| is_piece(event)).count();
    ensure!(pieces > 1, "with Svinval there were {pieces} HINVAL.GVMA");
    recorded::units_are_clean(&batched)?;
    let right = recorded::units_are_clean(&run(cpu, &right)?)?;
    // Each by itself: one that is found would hide the others.
    for name in &wrong {
        recorded::is_missed(&run(cpu, &[*name])?).with_context(|| (*name).to_owned())?;
    }
    let wrong = wrong.len();
    Ok(format!(
        "{right}; {wrong} with fences left out, each is missed; {pieces} HINVAL.GVMA where there are such"
    ))
}

/// Unit guests with leaves of 64 KiB: right on the model where they fence, and missed each by itself where they do not.
fn recorded_in(bench: &Bench, cpu: &str, names: &[&str], output: &mut String) -> Result<String> {
    let choices = Choices { record: true, ..Choices::default() };
    let (wrong, mut right): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| name.ends_with("-without-fence"));
    // Of the fences for sixteen pages no single one is missed, for each drops all of the leaf; of these, each is.
    right.extend(["hlv-unmap", "hlv-protect"]);
    let clean = recorded::units_are_clean(&bench.units(cpu, &right, &choices, output)?)?;
    for name in &wrong {
        let seen = bench.units(cpu, &[*name], &choices, output)?;
        recorded::is_missed(&seen).with_context(|| (*name).to_owned())?;
    }
    Ok(format!("{clean}; {} with fences left out, each is missed", wrong.len()))
}

/// All of them were run, none failed, and none is there that nobody knows. Of [`NAPOT`] the CPU can run `napot`, all or none.
fn judge(seen: &Observed, napot: &[&str]) -> Result<String> {
    if let Some(reason) = &seen.failed {
        bail!("the hypervisor failed: {reason}");
    }
    let mut wrong = Vec::new();
    for name in UNITS.into_iter().chain(NAPOT) {
        let lacks = NAPOT.contains(&name) && !napot.contains(&name);
        match seen.units.iter().map(|(_, unit)| unit).find(|unit| unit.name == name) {
            None => wrong.push(format!("{name}: not run")),
            Some(UnitOutcome { failure: Some(reason), .. }) => wrong.push(format!("{name}: {reason}")),
            Some(UnitOutcome { lacking: Some(_), .. }) if lacks => {}
            Some(_) if lacks => wrong.push(format!("{name}: this CPU should lack what it needs")),
            Some(UnitOutcome { lacking: Some(reason), .. }) => {
                wrong.push(format!("{name}: it lacks {reason}, which this CPU should have"));
            }
            Some(UnitOutcome { frames_lost: lost @ 1.., .. }) => {
                wrong.push(format!("{name}: {lost} frames are lost"));
            }
            Some(_) => {}
        }
    }
    for (_, unit) in
        seen.units.iter().filter(|(_, unit)| UNITS.iter().chain(&NAPOT).all(|name| *name != unit.name))
    {
        wrong.push(format!("{}: nobody knows it", unit.name));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(seen.units_ended, "the last of them did not end: {}", seen.last_line);
    Ok(format!("{} guests", UNITS.len() + napot.len()))
}

#[cfg(test)]
mod tests;
