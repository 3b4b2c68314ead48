//! The report of a run: for people, aligned and drawn, and for programs, as one JSON object.

use super::options::Options;
use crate::boot::session::{Guest, Observed};
use anyhow::{Context, Result};
use serde::Serialize;
use slat_hv_model::{Checks, Cpu};
use slat_hv_protocol::{BufferCalls, ChurnReport, EmulatedUart, End, Faults, Leaves, Report};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Width of the drawn bars in characters.
const BAR: u64 = 24;

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
    /// The emulator, with the CPU that the options name.
    Emulator,
    /// The model of this CPU.
    Model(Cpu),
}

impl Machine {
    /// The second-level translation in the words of its manual.
    fn format(self) -> &'static str {
        match self {
            Self::Emulator => Cpu::Arm.format_title(),
            Self::Model(cpu) => cpu.format_title(),
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

#[derive(Serialize)]
struct Json<'a> {
    machine: &'a str,
    arch: &'a str,
    format: &'a str,
    ok: bool,
    error: Option<&'a str>,
    guest: &'a str,
    guest_image: String,
    cpu: &'a str,
    cpus: u32,
    memory_bytes: u64,
    leaf: slat_hv_protocol::Leaf,
    end: Option<&'a End>,
    sha256_ok: Option<bool>,
    levels: Option<u32>,
    gpa_bits: Option<u32>,
    features: Option<&'a [String]>,
    faults_total: Option<u64>,
    faults: Option<Faults>,
    leaves: Option<Leaves>,
    table_pages: Option<u64>,
    frames_taken: Option<u64>,
    frames_zeroed: Option<u64>,
    frames_returned: Option<u64>,
    frames_peak: Option<u64>,
    invalidations: Option<&'a BTreeMap<String, u64>>,
    cache_maintenance_frames: Option<u64>,
    churn: Option<JsonChurn>,
    firmware_calls: Option<u64>,
    injected_aborts: Option<u64>,
    exits: Option<u64>,
    exits_by_cpu: Option<&'a [u64]>,
    emulated_uart: Option<&'a EmulatedUart>,
    buffer_calls: Option<&'a BufferCalls>,
    seconds_to_init: Option<f64>,
    seconds_native: Option<f64>,
    ratio: Option<f64>,
    checks: Option<JsonChecks>,
}

#[derive(Serialize)]
struct JsonChecks {
    stale_reads: u64,
    stale_translations: u64,
    frames_reachable_after_return: u64,
    rules_broken: u64,
}

#[derive(Serialize)]
struct JsonChurn {
    seed: u64,
    #[serde(flatten)]
    counts: Option<ChurnReport>,
}

impl Summary<'_> {
    /// Whether the guest found the right checksum; `None` when the user space is not ours.
    fn sha256_ok(&self) -> Option<bool> {
        let expected = self.guest.sha256.as_ref()?;
        Some(self.seen.sha256.as_ref() == Some(expected))
    }

    /// Prints the report in the form that the options ask for.
    pub(crate) fn print(&self) -> Result<()> {
        let text = if self.options.json { self.json()? } else { self.text() };
        io::stdout().write_all(text.as_bytes()).context("cannot print the report")
    }

    /// The report as JSON with a line end.
    fn json(&self) -> Result<String> {
        let report = self.seen.report.as_ref();
        let started = self.seen.started.as_ref();
        let (machine, arch, format, cpu) = match self.machine {
            Machine::Emulator => ("emulator", self.options.arch(), Cpu::Arm.format(), self.options.cpu()),
            Machine::Model(cpu) => ("model", cpu.architecture(), cpu.format(), cpu.description()),
        };
        let json = Json {
            machine,
            arch,
            format,
            ok: self.verdict.is_ok(),
            error: self.verdict.as_ref().err().map(String::as_str),
            guest: &self.name,
            guest_image: self.guest.kernel.display().to_string(),
            cpu,
            cpus: self.options.cpus,
            memory_bytes: self.guest.memory,
            leaf: self.options.leaf,
            end: report.map(|report| &report.end),
            sha256_ok: self.sha256_ok(),
            levels: started.map(|started| started.levels),
            gpa_bits: started.map(|started| started.gpa_bits),
            features: started.map(|started| started.features.as_slice()),
            faults_total: report.map(|report| report.faults.total),
            faults: report.map(|report| report.faults),
            leaves: report.map(|report| report.leaves),
            table_pages: report.map(|report| report.table_pages),
            frames_taken: report.map(|report| report.frames.taken),
            frames_zeroed: report.map(|report| report.frames.zeroed),
            frames_returned: report.map(|report| report.frames.returned),
            frames_peak: report.map(|report| report.frames.peak),
            invalidations: report.map(|report| &report.invalidations),
            cache_maintenance_frames: report.map(|report| report.cache_maintenance_frames),
            churn: self
                .churn_seed
                .map(|seed| JsonChurn { seed, counts: report.and_then(|report| report.churn) }),
            firmware_calls: report.map(|report| report.firmware_calls),
            injected_aborts: report.map(|report| report.injected_aborts),
            exits: report.map(|report| report.exits),
            exits_by_cpu: report.map(|report| report.exits_by_cpu.as_slice()),
            emulated_uart: report.map(|report| &report.uart),
            buffer_calls: report.map(|report| &report.buffer_calls),
            seconds_to_init: self.times.to_init.map(rounded),
            seconds_native: self.times.native.map(rounded),
            ratio: self.times.ratio().map(rounded),
            checks: self.checks.map(|checks| JsonChecks {
                stale_reads: checks.stale_reads,
                stale_translations: checks.stale_translations,
                frames_reachable_after_return: checks.reachable_frames,
                rules_broken: checks.rules_broken,
            }),
        };
        let mut text = serde_json::to_string_pretty(&json).context("cannot write the report")?;
        text.push('\n');
        Ok(text)
    }

    /// The report for people.
    fn text(&self) -> String {
        let mut text = "\n".to_owned();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<20}{value}");
        };
        let memory = self.guest.memory >> 20;
        let cpus = match (self.machine, self.options.cpus) {
            (Machine::Emulator, 1) => self.options.cpu().to_owned(),
            (Machine::Emulator, cpus) => format!("{cpus} times {}", self.options.cpu()),
            (Machine::Model(cpu), 1) => cpu.description().to_owned(),
            (Machine::Model(cpu), cpus) => format!("{}, {cpus} CPUs", cpu.description()),
        };
        row("guest", format!("{}, {memory} MiB of RAM, {cpus}", self.name));
        row("end", self.end());
        row(
            "guest's memory",
            match self.sha256_ok() {
                Some(true) if self.checks.is_some() => {
                    "unharmed: the sha256 of the guest's image as it read it equals the host's".to_owned()
                }
                Some(true) => "unharmed: the guest's sha256 of its file equals the host's".to_owned(),
                Some(false) => "not confirmed: no matching sha256 from the guest".to_owned(),
                None => "not checked: the user space is not ours".to_owned(),
            },
        );
        row("time to init", self.time());
        if let Some(started) = &self.seen.started {
            let root = match started.root_tables {
                0 | 1 => String::new(),
                tables => format!(", {tables} tables side by side as the root"),
            };
            row(
                self.machine.format(),
                format!("{} levels, {}-bit guest addresses{root}", started.levels, started.gpa_bits),
            );
            if !started.features.is_empty() {
                row("CPU features used", started.features.join(", "));
            }
        }
        if let Some(report) = &self.seen.report {
            text.push_str(&counts(report, self.machine, self.churn_seed));
        }
        if let Some(checks) = self.checks {
            text.push_str(&self::checks(checks));
        }
        text.push('\n');
        text
    }

    fn end(&self) -> String {
        match (self.seen.report.as_ref().map(|report| &report.end), self.verdict) {
            (Some(End::PowerOff), Ok(())) => "the guest powered itself off".to_owned(),
            (_, Err(error)) => error.clone(),
            (_, Ok(())) => "the guest ended".to_owned(),
        }
    }

    fn time(&self) -> String {
        let under_slat = match self.times.to_init {
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

/// The counts of a report, group by group.
fn counts(report: &Report, machine: Machine, churn_seed: Option<u64>) -> String {
    let Report { faults, leaves, frames, .. } = report;
    let mut text = String::new();
    let kinds = [
        ("populated", faults.populated),
        ("spurious", faults.spurious),
        ("restored", faults.restored),
        ("unanswered", faults.unanswered),
        ("retried", faults.retried),
    ];
    let title = match machine {
        Machine::Emulator | Machine::Model(Cpu::Arm) => "stage-2 faults".to_owned(),
        Machine::Model(cpu) => format!("{} faults", cpu.format_title()),
    };
    group(&mut text, &title, &format!("{} of {} exits", faults.total, report.exits));
    for (name, count) in kinds {
        line(&mut text, name, count, &bar(count, faults.total));
    }

    let sizes = [
        ("4 KiB", leaves.size_4k, 4_u64),
        ("2 MiB", leaves.size_2m, 2 << 10),
        ("1 GiB", leaves.size_1g, 1 << 20),
    ];
    let mapped: u64 = sizes.iter().map(|(_, count, kib)| count * kib).sum();
    group(
        &mut text,
        "leaves at the end",
        &format!("{} map {}", sizes.iter().map(|size| size.1).sum::<u64>(), kib(mapped)),
    );
    for (name, count, unit) in sizes {
        let share = if count == 0 {
            String::new()
        } else {
            format!("{} {}", bar(count * unit, mapped), kib(count * unit))
        };
        line(&mut text, name, count, &share);
    }
    line(&mut text, "table pages", report.table_pages, &kib(report.table_pages * 4));

    group(
        &mut text,
        "frames of 4 KiB",
        if frames.taken == frames.returned { "all came back" } else { "NOT all came back" },
    );
    for (name, count) in [("taken", frames.taken), ("given back", frames.returned), ("zeroed", frames.zeroed)]
    {
        line(&mut text, name, count, "");
    }
    line(&mut text, "most at one time", frames.peak, &kib(frames.peak * 4));

    group(&mut text, "maintenance", "");
    for (name, count) in &report.invalidations {
        line(&mut text, name, *count, if is_barrier(name) { "" } else { "TLB invalidations" });
    }
    line(&mut text, "caches", report.cache_maintenance_frames, "frames cleaned and invalidated");

    group(&mut text, "other", "");
    line(&mut text, "firmware calls", report.firmware_calls, "");
    line(&mut text, "injected aborts", report.injected_aborts, "");
    if report.exits_by_cpu.len() > 1 {
        for (cpu, exits) in report.exits_by_cpu.iter().enumerate() {
            line(&mut text, &format!("exits of CPU {cpu}"), *exits, "");
        }
    }
    text.push_str(&emulated(report));
    if let (Some(seed), Some(churn)) = (churn_seed, &report.churn) {
        group(&mut text, "churn", &format!("seed {seed}"));
        for (name, count) in
            [("unmapped", churn.unmapped), ("moved", churn.moved), ("write-protected", churn.write_protected)]
        {
            line(&mut text, name, count, "");
        }
    }
    text
}

/// What the guest did with the emulated serial port and by calls about buffers; nothing where it did neither.
fn emulated(report: &Report) -> String {
    let EmulatedUart { accesses, refused, bytes, text: sent } = &report.uart;
    let mut text = String::new();
    if accesses + refused > 0 {
        group(&mut text, "emulated UART", &first_line(sent));
        for (name, count) in [("accesses", accesses), ("accesses refused", refused), ("bytes sent", bytes)] {
            line(&mut text, name, *count, "");
        }
    }
    let BufferCalls { done, refused, bytes, text: printed } = &report.buffer_calls;
    if done + refused > 0 {
        group(&mut text, "buffer calls", &first_line(printed));
        for (name, count) in [("done", done), ("refused", refused), ("bytes printed", bytes)] {
            line(&mut text, name, *count, "");
        }
    }
    text
}

/// The first line of what a guest has written, in quotation marks.
fn first_line(text: &str) -> String {
    text.lines().next().map(|line| format!("{line:?}")).unwrap_or_default()
}

/// Whether an instruction of TLB maintenance invalidates nothing by itself.
fn is_barrier(name: &str) -> bool {
    name.starts_with("dsb") || name == "isb"
}

/// What must be zero.
fn checks(checks: &Checks) -> String {
    let mut text = String::new();
    group(&mut text, "checks", if checks.verdict().is_ok() { "" } else { "FAILED" });
    let counts = [
        ("stale reads", checks.stale_reads, "accesses that did not find what was there"),
        ("stale translations", checks.stale_translations, "accesses by what the tables had no longer"),
        ("frames reachable", checks.reachable_frames, "by a CPU, after they went back"),
        ("rules broken", checks.rules_broken, "break-before-make, caches, reserved bits"),
    ];
    for (name, count, note) in counts {
        line(&mut text, name, count, note);
    }
    text
}

fn group(text: &mut String, title: &str, note: &str) {
    let _ = writeln!(text, "\n{}", format!("  {title:<20}{note}").trim_end());
}

fn line(text: &mut String, name: &str, count: u64, note: &str) {
    let _ = writeln!(text, "{}", format!("    {name:<24}{count:>9}  {note}").trim_end());
}

/// `part` of `whole` as a bar; something that is not nothing shows.
fn bar(part: u64, whole: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if part == 0 || whole == 0 {
        return String::new();
    }
    let eighths = (u128::from(part) * u128::from(BAR) * 8 / u128::from(whole)).clamp(1, u128::from(BAR) * 8);
    let eighths = usize::try_from(eighths).unwrap_or(1);
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// A size given in KiB.
fn kib(size: u64) -> String {
    match size {
        0..2048 => format!("{size} KiB"),
        _ => format!("{:.1} MiB", size as f64 / 1024.0),
    }
}

/// Milliseconds are all that a wall clock can tell here.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests;
