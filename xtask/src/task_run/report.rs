//! The report of a run: for people, aligned and drawn, and for programs, as one JSON object.

mod counts;
mod gstage;
mod json;
mod several;
mod traced;

use super::options::Options;
use crate::boot::screen;
use crate::boot::session::{Goal, Guest, Observed};
use crate::platform::Platform;
use anyhow::{Context, Result};
use slat_hv_model::{Checks, Cpu};
use slat_hv_protocol::{End, Mechanism};
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Seconds from the emulator's start to the first sign of the guest's user space.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Times {
    /// Under slat.
    pub(crate) to_init: Option<f64>,
    /// Natively.
    pub(crate) native: Option<f64>,
}

impl Times {
    fn ratio(self) -> Option<f64> {
        Some(self.to_init? / self.native?)
    }
}

/// The middle of `values`.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// What the guest ran on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Machine {
    /// The emulator of this platform, with the CPU that the options name.
    Emulator(Platform),
    /// The model of this CPU.
    Model(Cpu),
}

impl Machine {
    /// A CPU with this kind of table.
    fn kind(self) -> Cpu {
        match self {
            Self::Emulator(platform) => match platform.mechanism() {
                Mechanism::Stage2 => Cpu::Arm,
                Mechanism::Ept => Cpu::Intel,
                Mechanism::Npt => Cpu::Amd,
                Mechanism::Gstage => Cpu::Riscv,
            },
            Self::Model(cpu) => cpu,
        }
    }

    /// What its time-stamp counter counts.
    fn tick(self) -> &'static str {
        match self {
            // Of a single CPU; Bochs has no other clock.
            Self::Emulator(Platform::Intel) => "instructions",
            Self::Emulator(_) | Self::Model(_) => "ticks",
        }
    }

    /// Faults of the second level, in the words of the manual.
    fn faults(self) -> &'static str {
        match self.kind() {
            Cpu::Arm => "stage-2 faults",
            Cpu::Intel => "EPT violations",
            Cpu::Amd => "nested page faults",
            Cpu::Riscv => "guest-page faults",
        }
    }
}

/// All that a report tells.
pub(crate) struct Summary<'a> {
    pub(crate) options: &'a Options,
    pub(crate) machine: Machine,
    pub(crate) guest: &'a Guest,
    pub(crate) name: String,
    pub(crate) churn_seed: Option<u64>,
    pub(crate) seen: &'a Observed,
    pub(crate) times: Times,
    /// What the model of the hardware found.
    pub(crate) checks: Option<&'a Checks>,
    pub(crate) verdict: &'a Result<(), String>,
}

impl Summary<'_> {
    /// Whether the guest, or each of several, found the right checksum; `None` when the user space is not ours.
    fn sha256_ok(&self) -> Option<bool> {
        let expected = self.guest.sha256.as_ref()?;
        // Of a guest that has moved that counts which it is in the end.
        let first = usize::from(self.seen.moved.is_some());
        Some(self.seen.printed.iter().skip(first).all(|printed| printed.sha256.as_ref() == Some(expected)))
    }

    /// Prints the report in the form that the options ask for.
    pub(crate) fn print(&self) -> Result<()> {
        let text = if self.options.json { self.json()? } else { self.text() };
        io::stdout().write_all(text.as_bytes()).context("cannot print the report")
    }

    /// The report for people.
    fn text(&self) -> String {
        let mut text = "\n".to_owned();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<20}{value}");
        };
        let memory = self.guest.memory >> 20;
        let cpus = match (self.machine, self.options.machine_cpus()) {
            (Machine::Emulator(_), 1) => self.options.cpu().to_owned(),
            (Machine::Emulator(_), cpus) => format!("{cpus} times {}", self.options.cpu()),
            (Machine::Model(cpu), 1) => cpu.description().to_owned(),
            (Machine::Model(cpu), cpus) => format!("{}, {cpus} CPUs", cpu.description()),
        };
        match several::sharing(self.options) {
            None => row("guest", format!("{}, {memory} MiB of RAM, {cpus}", self.name)),
            Some(sharing) => {
                row("guest", format!("{}, {memory} MiB of RAM", self.name));
                row("machine", format!("{cpus}; {sharing}"));
            }
        }
        row("end", self.end());
        if let Some(saved) = self.seen.saved {
            row("snapshot", several::saved(saved));
        }
        let forks = self.seen.forked.as_ref().map(several::forks).unwrap_or_default();
        let moved = self.seen.moved.as_ref().map(several::moved).unwrap_or_default();
        for (title, value) in forks.into_iter().chain(moved).chain(several::rows(self.guest, self.seen)) {
            row(&title, value);
        }
        row(
            "guest's memory",
            match self.sha256_ok() {
                _ if self.guest.goal == Goal::Saved => "not checked yet".to_owned(),
                Some(true) if self.checks.is_some() => {
                    "unharmed: the sha256 of the guest's image as it read it equals the host's".to_owned()
                }
                Some(true) => "unharmed: the guest's sha256 of its file equals the host's".to_owned(),
                Some(false) => "not confirmed: no matching sha256 from the guest".to_owned(),
                None if self.guest.goal == Goal::Screen => self.memory_test(),
                None => "not checked: the user space is not ours".to_owned(),
            },
        );
        let restored = self.options.pause.restore.is_some();
        if !matches!(self.guest.goal, Goal::Screen | Goal::Prompt) && !restored {
            row("time to init", self.time());
        }
        if let Some(started) = &self.seen.started {
            let root = match started.root_tables {
                0 | 1 => String::new(),
                tables => format!(", {tables} tables side by side as the root"),
            };
            row(
                self.machine.kind().format_title(),
                format!("{} levels, {}-bit guest addresses{root}", started.levels, started.gpa_bits),
            );
            if started.physical_bits > 0 {
                let flags = if started.accessed_dirty { "kept" } else { "not kept" };
                let flags = format!("accessed and dirty flags are {flags}");
                row("CPU", format!("{}-bit physical addresses, {flags}", started.physical_bits));
            }
            if started.ept_vpid_cap > 0 {
                row("EPT_VPID_CAP", format!("{:#x} (IA32_VMX_EPT_VPID_CAP)", started.ept_vpid_cap));
            }
            if let Some(register) = gstage::hgatp(started) {
                row("hgatp", register);
            }
            if !started.features.is_empty() {
                row("CPU features used", started.features.join(", "));
            }
        }
        if let Some(report) = &self.seen.report {
            text.push_str(&counts::counts(report, self.machine, self.churn_seed));
        }
        if let Some(checks) = self.checks {
            text.push_str(&counts::checks(checks));
        }
        text.push('\n');
        text
    }

    fn end(&self) -> String {
        match (self.seen.report.as_ref().map(|report| &report.end), self.verdict) {
            (Some(End::PowerOff), Ok(())) if self.guest.goal == Goal::Moved => {
                "the guest powered itself off where it had moved to".to_owned()
            }
            (Some(End::PowerOff), Ok(())) if self.options.most_guests() > 1 => {
                "each guest powered itself off".to_owned()
            }
            (Some(End::PowerOff), Ok(())) => "the guest powered itself off".to_owned(),
            (Some(End::Quit), Ok(())) => "the monitor ended the run".to_owned(),
            (Some(End::Saved), Ok(())) => "the guest was written away".to_owned(),
            (Some(End::Reset), Ok(())) => "the guest reset itself when it had done its work".to_owned(),
            (Some(End::ScreenShows), Ok(())) => format!("the screen showed `{}`", screen::FAR_ENOUGH),
            (Some(End::ConsoleShows), Ok(())) => "the guest waits for a command".to_owned(),
            (_, Err(error)) => error.clone(),
            (_, Ok(())) => "the guest ended".to_owned(),
        }
    }

    /// What memtest86+ found.
    fn memory_test(&self) -> String {
        let screen = self.seen.report.as_ref().and_then(|report| report.screen.as_deref());
        match screen::check(screen.unwrap_or_default()) {
            Ok(()) => "unharmed: memtest86+ found no error in it".to_owned(),
            Err(reason) => format!("not confirmed: {reason}"),
        }
    }

    fn time(&self) -> String {
        let under_slat = match self.times.to_init {
            Some(seconds) if self.options.most_guests() > 1 => {
                format!("{seconds:.2} s until the last guest was there")
            }
            Some(seconds) => format!("{seconds:.2} s under slat"),
            None => "not reached".to_owned(),
        };
        match (self.times.native, self.times.ratio()) {
            (Some(native), Some(ratio)) => {
                format!("{under_slat}, {native:.2} s natively: {ratio:.2} times as long")
            }
            (Some(native), None) => format!("{under_slat}, {native:.2} s natively"),
            (None, _) => under_slat,
        }
    }
}

#[cfg(test)]
mod tests;
