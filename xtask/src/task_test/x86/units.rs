//! The unit guests on every CPU that the emulators have for them, and what each of those lacks, as data.

use super::{Bench, Slot};
use crate::boot::session::{Choices, Observed};
use crate::platform::Platform;
use crate::task_test::recorded;
use crate::task_test::step::{Outcome, Step};
use anyhow::{Result, bail, ensure};
use slat_hv_protocol::UnitOutcome;
use std::time::Duration;

/// All of them in one machine; each takes less than a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a CPU may lack that a unit guest needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feature {
    UnrestrictedGuest,
    AccessedDirty,
    Pml,
    Leaf1G,
    Xsave,
    /// That an entry with impossible control registers is refused: no emulator of SVM does that.
    EntryChecks,
    /// An exit for a shutdown: under SVM Bochs itself gives up.
    ShutdownExit,
    /// What an exit tells of an interrupted `INT n`: Bochs tells nothing of it under SVM.
    InterruptedSoftware,
}

use Feature::{
    AccessedDirty, EntryChecks, InterruptedSoftware, Leaf1G, Pml, ShutdownExit, UnrestrictedGuest, Xsave,
};

/// The vendors on which a unit guest is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Both,
    Intel,
    Amd,
}

/// A unit guest: its name, where it is there, what it needs.
#[derive(Clone, Copy, Debug)]
struct Unit(&'static str, On, &'static [Feature]);

/// All unit guests.
const UNITS: [Unit; 73] = [
    Unit("cpu-and-memory", On::Both, &[]),
    Unit("second-cpu", On::Both, &[]),
    Unit("real-mode", On::Both, &[UnrestrictedGuest]),
    Unit("protected-mode", On::Both, &[UnrestrictedGuest]),
    Unit("long-mode", On::Both, &[]),
    Unit("fault-read", On::Both, &[]),
    Unit("fault-write", On::Both, &[]),
    Unit("fault-read-modify-write", On::Both, &[]),
    Unit("fault-fetch", On::Both, &[]),
    Unit("leaf-2m", On::Both, &[]),
    Unit("leaf-1g", On::Both, &[Leaf1G]),
    Unit("read-only-page-tables", On::Both, &[AccessedDirty]),
    Unit("accessed-and-dirty", On::Both, &[AccessedDirty]),
    Unit("delivery-unmapped-idt", On::Both, &[]),
    Unit("delivery-unmapped-stack", On::Both, &[]),
    Unit("software-interrupt-unmapped-idt", On::Both, &[InterruptedSoftware]),
    Unit("software-interrupt-unmapped-stack", On::Both, &[InterruptedSoftware]),
    Unit("delivery-forgotten", On::Both, &[]),
    Unit("double-fault", On::Both, &[]),
    Unit("double-fault-shutdown", On::Both, &[]),
    Unit("exception-before-interrupt", On::Both, &[]),
    Unit("exception-before-nmi", On::Both, &[]),
    Unit("nmi", On::Both, &[]),
    Unit("interrupt-window", On::Both, &[]),
    Unit("sti-shadow", On::Both, &[]),
    Unit("cpuid", On::Both, &[]),
    Unit("msr", On::Both, &[]),
    Unit("control-registers", On::Both, &[]),
    Unit("control-registers-refused", On::Both, &[EntryChecks]),
    Unit("xsetbv", On::Both, &[Xsave]),
    Unit("ports", On::Both, &[]),
    Unit("virtualization-refused", On::Both, &[]),
    Unit("shutdown", On::Both, &[ShutdownExit]),
    Unit("mode-switch", On::Both, &[UnrestrictedGuest]),
    Unit("debug-port-and-hypercalls", On::Both, &[UnrestrictedGuest]),
    Unit("power-off-and-reset", On::Both, &[UnrestrictedGuest, ShutdownExit]),
    Unit("screen-ends-the-run", On::Both, &[UnrestrictedGuest]),
    Unit("hole-ends-the-run", On::Both, &[UnrestrictedGuest]),
    Unit("halt-behind-sti", On::Both, &[UnrestrictedGuest]),
    Unit("external-interrupt", On::Both, &[]),
    Unit("move-between-cpus", On::Both, &[]),
    Unit("dropped-elsewhere", On::Both, &[]),
    Unit("two-cpus-unmap", On::Both, &[]),
    Unit("two-cpus-unmap-without-kick", On::Both, &[]),
    Unit("two-cpus-protect", On::Both, &[]),
    Unit("two-cpus-protect-without-kick", On::Both, &[]),
    Unit("two-cpus-migrate", On::Both, &[]),
    Unit("two-cpus-split-and-collapse", On::Both, &[]),
    Unit("two-cpus-kick", On::Both, &[]),
    Unit("ept-violations", On::Intel, &[]),
    Unit("ept-violations-of-walks", On::Intel, &[]),
    Unit("ept-read-only-tables", On::Intel, &[]),
    Unit("ept-execute-only", On::Intel, &[]),
    Unit("ept-violation-in-real-mode", On::Intel, &[UnrestrictedGuest]),
    Unit("ept-misconfigurations", On::Intel, &[]),
    Unit("ept-accessed-dirty", On::Intel, &[AccessedDirty]),
    Unit("ept-log", On::Intel, &[Pml]),
    Unit("ept-log-of-a-large-leaf", On::Intel, &[Pml]),
    Unit("vmx-redelivery", On::Intel, &[]),
    Unit("vmx-lost-event", On::Intel, &[]),
    Unit("vmx-double-fault", On::Intel, &[]),
    Unit("vmx-nmi-unblocking", On::Intel, &[]),
    Unit("vmx-nmis-wait", On::Intel, &[]),
    Unit("vmx-redelivery-in-real-mode", On::Intel, &[UnrestrictedGuest]),
    Unit("vmx-interrupt-exits", On::Intel, &[]),
    Unit("vmx-interrupts-pass-through", On::Intel, &[]),
    Unit("vmx-interrupt-wakes", On::Intel, &[]),
    Unit("vmx-moves", On::Intel, &[]),
    Unit("vmx-elsewhere", On::Intel, &[]),
    Unit("vmx-drops", On::Intel, &[]),
    Unit("vmx-start-up-ipi", On::Intel, &[]),
    Unit("vmx-kicks", On::Intel, &[]),
    Unit("vmx-pdptes", On::Intel, &[UnrestrictedGuest]),
];

/// What comes of all unit guests on a CPU.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// All but those that need one of these are right.
    Lacks(&'static [Feature]),
    /// The hypervisor refuses the CPU, in one line with this word in it.
    Refused(&'static str),
}

/// A CPU of an emulator.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    name: &'static str,
    /// Whose extension it has.
    vendor: On,
    expected: Expected,
}

const fn intel(name: &'static str, lacks: &'static [Feature]) -> Cpu {
    Cpu { name, vendor: On::Intel, expected: Expected::Lacks(lacks) }
}

const fn amd(name: &'static str, lacks: &'static [Feature]) -> Cpu {
    Cpu { name, vendor: On::Amd, expected: Expected::Lacks(lacks) }
}

const fn refused(name: &'static str, vendor: On, word: &'static str) -> Cpu {
    Cpu { name, vendor, expected: Expected::Refused(word) }
}

/// Those of Bochs that EMULATORS.md names, and those between them.
const BOCHS: [Cpu; 12] = [
    refused("core2_penryn_t9600", On::Intel, "EPT"),
    intel("corei5_lynnfield_750", &[UnrestrictedGuest, AccessedDirty, Pml, Leaf1G, Xsave]),
    intel("corei5_arrandale_m520", &[AccessedDirty, Pml, Leaf1G, Xsave]),
    intel("corei7_sandy_bridge_2600k", &[AccessedDirty, Pml, Leaf1G]),
    intel("corei7_ivy_bridge_3770k", &[AccessedDirty, Pml, Leaf1G]),
    intel("corei7_haswell_4770", &[Pml]),
    intel("broadwell_ult", &[Pml]),
    intel("corei7_skylake_x", &[]),
    intel("corei7_icelake_u", &[]),
    intel("tigerlake", &[]),
    refused("athlon64_venice", On::Amd, "SVM"),
    amd("ryzen", &[EntryChecks, ShutdownExit, InterruptedSoftware]),
];

/// Those of QEMU that have SVM.
const QEMU: [Cpu; 2] = [amd("EPYC", &[EntryChecks]), amd("max", &[EntryChecks])];

/// One step for each CPU of the emulator.
pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    let cpus: &'static [Cpu] = if slot.platform == Platform::Intel { &BOCHS } else { &QEMU };
    let replayed = slot.step("unit guests on two CPUs, recorded", |bench, output| {
        Outcome::of(recorded_on_two_cpus(bench, output))
    });
    let step = |cpu: &'static Cpu| {
        slot.step(&format!("unit guests on {}", cpu.name), move |bench, output| {
            Outcome::of(run(bench, cpu, output))
        })
    };
    cpus.iter().map(step).chain([replayed]).collect()
}

/// The unit guests in which one CPU changes a space while the other one is inside, repeated on the model: as they are, without
/// each invalidation that they need, and with the kicks left out.
fn recorded_on_two_cpus(bench: &Bench, output: &mut String) -> Result<String> {
    const RIGHT: [&str; 5] = [
        "two-cpus-unmap",
        "two-cpus-protect",
        "two-cpus-migrate",
        "two-cpus-split-and-collapse",
        "two-cpus-kick",
    ];
    const WRONG: [&str; 2] = ["two-cpus-unmap-without-kick", "two-cpus-protect-without-kick"];
    let choices = Choices { record: true, ..Choices::default() };
    // The newest CPU.
    let cpu = if bench.platform == Platform::Intel { "tigerlake" } else { "EPYC" };
    let mut recorded = |names: &[&str]| -> Result<Observed> {
        let seen = bench.units(cpu, names, &choices, PATIENCE, output)?;
        let good = |(_, unit): &(f64, UnitOutcome)| unit.failure.is_none() && unit.lacking.is_none();
        ensure!(seen.units.len() == names.len() && seen.units.iter().all(good), "{:?}", seen.units);
        Ok(seen)
    };
    let right = recorded::units_are_clean(&recorded(&RIGHT)?)?;
    let wrong = recorded::is_missed(&recorded(&WRONG)?)?;
    Ok(format!("{right}; without kicks {wrong}"))
}

fn run(bench: &Bench, cpu: &Cpu, output: &mut String) -> Result<String> {
    let seen = bench.units(cpu.name, &["all"], &Choices::default(), PATIENCE, output)?;
    judge(cpu, &seen)
}

/// Compares what was seen with what is expected of the CPU.
fn judge(cpu: &Cpu, seen: &Observed) -> Result<String> {
    let lacks = match (cpu.expected, &seen.failed) {
        (Expected::Refused(word), Some(reason)) => {
            ensure!(reason.contains(word), "`{word}` is missing in: {reason}");
            return Ok(reason.clone());
        }
        (Expected::Refused(_), None) => bail!("the hypervisor does not refuse this CPU"),
        (Expected::Lacks(_), Some(reason)) => bail!("the hypervisor failed: {reason}"),
        (Expected::Lacks(lacks), None) => lacks,
    };
    let mut wrong = Vec::new();
    let mut lacking = Vec::new();
    for Unit(name, _, needs) in UNITS.iter().filter(|unit| unit.1 == On::Both || unit.1 == cpu.vendor) {
        let expected = needs.iter().any(|feature| lacks.contains(feature));
        match seen.units.iter().map(|(_, unit)| unit).find(|unit| unit.name == *name) {
            None => wrong.push(format!("{name}: not run")),
            Some(UnitOutcome { failure: Some(reason), .. }) => wrong.push(format!("{name}: {reason}")),
            Some(UnitOutcome { frames_lost: lost @ 1.., .. }) => {
                wrong.push(format!("{name}: {lost} frames are lost"));
            }
            Some(UnitOutcome { lacking: Some(reason), .. }) if !expected => {
                wrong.push(format!("{name}: it lacks {reason}, which this CPU should have"));
            }
            Some(UnitOutcome { lacking: None, .. }) if expected => {
                wrong.push(format!("{name}: it was run, and this CPU should lack what it needs"));
            }
            Some(UnitOutcome { lacking: Some(_), .. }) => lacking.push(*name),
            Some(_) => {}
        }
    }
    let is_known = |unit: &&UnitOutcome| UNITS.iter().any(|known| known.0 == unit.name);
    for unit in seen.units.iter().map(|(_, unit)| unit).filter(|unit| !is_known(unit)) {
        wrong.push(format!("{}: nobody knows it", unit.name));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(seen.units_ended, "the last of them did not end: {}", seen.last_line);
    let count = seen.units.len() - lacking.len();
    let slowest = slowest(seen)
        .map_or(String::new(), |(seconds, name)| format!(", the slowest ({name}) {seconds:.1} s"));
    let without =
        if lacking.is_empty() { String::new() } else { format!("; lacking: {}", lacking.join(", ")) };
    Ok(format!("{count} guests{slowest}{without}"))
}

/// The guest that took longest, and its seconds: each is reported when it has ended. The first one's include the start of the
/// machine and do not count.
fn slowest(seen: &Observed) -> Option<(f64, &str)> {
    let taken = seen.units.windows(2).filter_map(|pair| match pair {
        [(before, _), (after, unit)] => Some((after - before, &*unit.name)),
        _ => None,
    });
    taken.max_by(|one, other| one.0.total_cmp(&other.0))
}

#[cfg(test)]
mod tests;
