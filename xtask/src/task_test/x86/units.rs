//! The unit guests on every CPU that the emulators have for them, and what each of those lacks, as data.

mod recorded;

use super::{Bench, Slot};
use crate::boot::session::{Choices, Observed};
use crate::platform::Platform;
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

/// How a unit guest is recorded and repeated on the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeated {
    /// On a machine with one CPU, where every fault has to be one that the tables explain.
    OneCpu,
    /// On a machine with two.
    TwoCpus,
    /// It makes the mistake that the model has to find.
    WithoutKick,
    /// Not at all, and why.
    Never(&'static str),
}

use Repeated::{Never, OneCpu, TwoCpus, WithoutKick};

const NO_GUEST: &str = "it enters no guest";
const SPOILS: &str = "it writes wrong entries on purpose, behind the library's back, which are not recorded";

/// A unit guest: its name, where it is there, what it needs, how it is repeated.
#[derive(Clone, Copy, Debug)]
struct Unit(&'static str, On, &'static [Feature], Repeated);

/// All unit guests.
const UNITS: [Unit; 75] = [
    Unit("cpu-and-memory", On::Both, &[], Never(NO_GUEST)),
    Unit("second-cpu", On::Both, &[], Never(NO_GUEST)),
    Unit("real-mode", On::Both, &[UnrestrictedGuest], OneCpu),
    Unit("protected-mode", On::Both, &[UnrestrictedGuest], OneCpu),
    Unit("long-mode", On::Both, &[], OneCpu),
    Unit("fault-read", On::Both, &[], OneCpu),
    Unit("fault-write", On::Both, &[], OneCpu),
    Unit("fault-read-modify-write", On::Both, &[], TwoCpus),
    Unit("fault-fetch", On::Both, &[], OneCpu),
    Unit("leaf-2m", On::Both, &[], OneCpu),
    Unit("leaf-1g", On::Both, &[Leaf1G], OneCpu),
    Unit("read-only-page-tables", On::Both, &[AccessedDirty], OneCpu),
    Unit("accessed-and-dirty", On::Both, &[AccessedDirty], OneCpu),
    Unit("delivery-unmapped-idt", On::Both, &[], OneCpu),
    Unit("delivery-unmapped-stack", On::Both, &[], OneCpu),
    Unit("software-interrupt-unmapped-idt", On::Both, &[InterruptedSoftware], OneCpu),
    Unit("software-interrupt-unmapped-stack", On::Both, &[InterruptedSoftware], OneCpu),
    Unit("delivery-forgotten", On::Both, &[], OneCpu),
    Unit("double-fault", On::Both, &[], OneCpu),
    Unit("double-fault-shutdown", On::Both, &[], OneCpu),
    Unit("exception-before-interrupt", On::Both, &[], OneCpu),
    Unit("exception-before-nmi", On::Both, &[], OneCpu),
    Unit("dropped-elsewhere", On::Both, &[], TwoCpus),
    Unit("nmi", On::Both, &[], OneCpu),
    Unit("interrupt-window", On::Both, &[], OneCpu),
    Unit("sti-shadow", On::Both, &[], OneCpu),
    Unit("cpuid", On::Both, &[], OneCpu),
    Unit("msr", On::Both, &[], OneCpu),
    Unit("control-registers", On::Both, &[], OneCpu),
    Unit("control-registers-refused", On::Both, &[EntryChecks], OneCpu),
    Unit("xsetbv", On::Both, &[Xsave], OneCpu),
    Unit("ports", On::Both, &[], OneCpu),
    Unit("virtualization-refused", On::Both, &[], OneCpu),
    Unit("shutdown", On::Both, &[ShutdownExit], OneCpu),
    Unit("mode-switch", On::Both, &[UnrestrictedGuest], OneCpu),
    Unit("debug-port-and-hypercalls", On::Both, &[UnrestrictedGuest], OneCpu),
    Unit("power-off-and-reset", On::Both, &[UnrestrictedGuest, ShutdownExit], OneCpu),
    Unit("screen-ends-the-run", On::Both, &[UnrestrictedGuest], OneCpu),
    Unit("hole-ends-the-run", On::Both, &[UnrestrictedGuest], OneCpu),
    Unit("halt-behind-sti", On::Both, &[UnrestrictedGuest], TwoCpus),
    Unit("external-interrupt", On::Both, &[], OneCpu),
    Unit("move-between-cpus", On::Both, &[], TwoCpus),
    Unit("two-cpus-unmap", On::Both, &[], TwoCpus),
    Unit("two-cpus-unmap-without-kick", On::Both, &[], WithoutKick),
    Unit("two-cpus-protect", On::Both, &[], TwoCpus),
    Unit("two-cpus-protect-without-kick", On::Both, &[], WithoutKick),
    Unit("two-cpus-migrate", On::Both, &[], TwoCpus),
    Unit("two-cpus-split-and-collapse", On::Both, &[], TwoCpus),
    Unit("two-cpus-kick", On::Both, &[], TwoCpus),
    Unit("ept-violations", On::Intel, &[], OneCpu),
    Unit("ept-violations-of-walks", On::Intel, &[], OneCpu),
    Unit("ept-read-only-tables", On::Intel, &[], OneCpu),
    Unit("ept-execute-only", On::Intel, &[], OneCpu),
    Unit("ept-violation-in-real-mode", On::Intel, &[UnrestrictedGuest], OneCpu),
    Unit("ept-misconfigurations", On::Intel, &[], Never(SPOILS)),
    Unit("ept-accessed-dirty", On::Intel, &[AccessedDirty], OneCpu),
    Unit("ept-log", On::Intel, &[Pml], OneCpu),
    Unit("ept-log-of-a-large-leaf", On::Intel, &[Pml], OneCpu),
    Unit("ept-dirty-log", On::Intel, &[], OneCpu),
    Unit("ept-dirty-log-without-a-drain", On::Intel, &[Pml], OneCpu),
    Unit("vmx-redelivery", On::Intel, &[], OneCpu),
    Unit("vmx-lost-event", On::Intel, &[], OneCpu),
    Unit("vmx-double-fault", On::Intel, &[], OneCpu),
    Unit("vmx-nmi-unblocking", On::Intel, &[], OneCpu),
    Unit("vmx-nmis-wait", On::Intel, &[], OneCpu),
    Unit("vmx-redelivery-in-real-mode", On::Intel, &[UnrestrictedGuest], OneCpu),
    Unit("vmx-interrupt-exits", On::Intel, &[], OneCpu),
    Unit("vmx-interrupts-pass-through", On::Intel, &[], OneCpu),
    Unit("vmx-interrupt-wakes", On::Intel, &[], OneCpu),
    Unit("vmx-moves", On::Intel, &[], TwoCpus),
    Unit("vmx-elsewhere", On::Intel, &[], TwoCpus),
    Unit("vmx-drops", On::Intel, &[], TwoCpus),
    Unit("vmx-start-up-ipi", On::Intel, &[], TwoCpus),
    Unit("vmx-kicks", On::Intel, &[], TwoCpus),
    Unit("vmx-pdptes", On::Intel, &[UnrestrictedGuest], OneCpu),
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
    let recorded =
        slot.step("unit guests, recorded", |bench, output| Outcome::of(recorded::run(bench, output)));
    let step = |cpu: &'static Cpu| {
        slot.step(&format!("unit guests on {}", cpu.name), move |bench, output| {
            Outcome::of(run(bench, cpu, output))
        })
    };
    cpus.iter().map(step).chain([recorded]).collect()
}

fn run(bench: &Bench, cpu: &Cpu, output: &mut String) -> Result<String> {
    let seen = bench.units((cpu.name, 2), &["all"], &Choices::default(), PATIENCE, output)?;
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
    for Unit(name, _, needs, _) in UNITS.iter().filter(|unit| unit.1 == On::Both || unit.1 == cpu.vendor) {
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
