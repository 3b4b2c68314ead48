//! `cargo xtask replay`: a recorded run, repeated on the model of the hardware.

use crate::progress;
use crate::recording::Recording;
use crate::replay::{self, Outcome};
use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Repeats a run that `cargo xtask run --record FILE` recorded on the model of the hardware
///
/// The model's TLBs keep all that the architecture lets them keep, which the emulator's do not. The exit code is 0 only if no
/// CPU could have used a stale translation, and no frame came back that one could reach.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Leave out the invalidation of this number, counted from 0: where it was needed, the replay fails
    ///
    /// On Arm each TLBI counts, on Intel each INVEPT, on AMD each VMRUN that flushes and each new ASID, on RISC-V each
    /// HFENCE.GVMA and HINVAL.GVMA and each remote fence.
    #[arg(long, value_name = "N")]
    without: Option<usize>,
}

/// Carries out `cargo xtask replay`.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut recording = Recording::read(&options.file)?;
    if let Some(number) = options.without {
        let there_are = || format!("--without {number}: there are {} invalidations", recording.flushes());
        let (left, place) = recording.without_flush(number).with_context(there_are)?;
        println!("  without event {place}, {:x?}", recording.events[place]);
        recording = left;
    }
    let bar = progress::Step::counted("replaying", recording.events.len() as u64);
    let outcome = replay::replay(&recording, |number| bar.position(number as u64))?;
    bar.done("done");
    print!("{}", text(&recording, &outcome));
    match outcome.found {
        0 => Ok(ExitCode::SUCCESS),
        found => bail!("{found} violations; the first: {}", first(&outcome)),
    }
}

/// The first finding, in one line.
pub(crate) fn first(outcome: &Outcome) -> String {
    outcome
        .findings
        .first()
        .map_or_else(String::new, |(number, finding)| format!("event {number}: {finding}"))
}

fn text(recording: &Recording, outcome: &Outcome) -> String {
    let mut text = String::new();
    let features = recording.header.started.features.join(" ");
    let machine = format!("{}, {} CPUs, {features}", recording.header.arch, recording.header.cpus);
    let mut line = |name: &str, value: &dyn std::fmt::Display| _ = writeln!(text, "  {name:<28}{value}");
    line("machine", &machine.trim_end_matches([' ', ',']));
    line("events", &recording.events.len());
    line("stores to tables", &outcome.stores);
    line("TLB maintenance", &outcome.instructions);
    line("that can be left out", &recording.flushes());
    if let [first, .., last] = outcome.needed[..] {
        let middle = outcome.needed[outcome.needed.len() / 2];
        let count = outcome.needed.len();
        line("of which it would miss", &format!("{count}: {first} … {middle} … {last}"));
    }
    line("invalidations", &outcome.invalidations);
    line("entries to the guest", &outcome.entries);
    line("faults of the guest", &outcome.faults);
    if outcome.logged > 0 {
        line("pages in PML", &outcome.logged);
    }
    line("frames taken, returned", &format!("{}, {}", outcome.frames_taken, outcome.frames_returned));
    line("looks at all TLBs", &outcome.checks);
    line("stale translations", &outcome.stale);
    line("returned while reachable", &outcome.reachable);
    line("violations in all", &outcome.found);
    for (number, finding) in &outcome.findings {
        let _ = writeln!(text, "  event {number}: {finding}");
    }
    text
}
