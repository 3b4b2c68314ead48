//! The unit guests once more, recorded and repeated on the model: as they are, without invalidations that they need, and with the
//! kicks left out.

use super::{Cpu, Expected, On, PATIENCE, Repeated, UNITS, Unit};
use crate::boot::session::{Choices, Observed};
use crate::platform::Platform;
use crate::task_test::recorded;
use crate::task_test::x86::Bench;
use anyhow::{Context as _, Result, ensure};
use slat_hv_protocol::UnitOutcome;

/// All that are recorded, on the newest CPU.
pub(super) fn run(bench: &Bench, output: &mut String) -> Result<String> {
    let cpu = if bench.platform == Platform::Intel { newest(&super::BOCHS) } else { &super::QEMU[0] };
    let mut seen = |cpus, names: &[&str]| -> Result<Observed> {
        let choices = Choices { record: true, ..Choices::default() };
        let seen = bench.units((cpu.name, cpus), names, &choices, PATIENCE, output)?;
        let good = |(_, unit): &(f64, UnitOutcome)| unit.failure.is_none() && unit.lacking.is_none();
        ensure!(seen.units.len() == names.len() && seen.units.iter().all(good), "{:?}", seen.units);
        Ok(seen)
    };
    let mut notes = Vec::new();
    for (cpus, repeated) in [(1, Repeated::OneCpu), (2, Repeated::TwoCpus)] {
        let names = names(cpu, repeated);
        let clean = recorded::units_are_clean(&seen(cpus, &names)?)?;
        notes.push(format!("{} guests on {cpus} CPUs: {clean}", names.len()));
    }
    let wrong = names(cpu, Repeated::WithoutKick);
    // Each by itself: one that is found would hide the others.
    for name in &wrong {
        recorded::is_missed(&seen(2, &[*name])?).with_context(|| (*name).to_owned())?;
    }
    notes.push(format!("{} without kicks, each is missed", wrong.len()));
    Ok(notes.join("; "))
}

/// The Intel CPU that lacks nothing, the last one of them.
fn newest(cpus: &'static [Cpu]) -> &'static Cpu {
    let is_complete = |cpu: &&Cpu| {
        cpu.vendor == On::Intel && matches!(cpu.expected, Expected::Lacks(lacks) if lacks.is_empty())
    };
    cpus.iter().rfind(is_complete).unwrap_or(&cpus[0])
}

/// The guests that `cpu` has and that are repeated like this.
fn names(cpu: &Cpu, repeated: Repeated) -> Vec<&'static str> {
    let lacks = match cpu.expected {
        Expected::Lacks(lacks) => lacks,
        Expected::Refused(_) => return Vec::new(),
    };
    let is_there = |unit: &&Unit| {
        (unit.1 == On::Both || unit.1 == cpu.vendor) && !unit.2.iter().any(|feature| lacks.contains(feature))
    };
    UNITS.iter().filter(is_there).filter(|unit| unit.3 == repeated).map(|unit| unit.0).collect()
}
