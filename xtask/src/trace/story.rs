//! The story of a run in pictures: one page of HTML with everything in it, which opens without a network.
//!
//! What is drawn is put together here, in bins and cells, so that a page is as small and as quick for a million events as for
//! a hundred; `page.html` draws it.

mod memory;

use super::Trace;
use anyhow::{Context, Result, ensure};
use memory::Memory;
use serde::Serialize;
use slat::trace::{Event, FaultAnswer, Operation, What};
use slat::{HostPhysAddr, MappingFlags, Reach};
use slat_hv_protocol::Report;
use std::collections::BTreeMap;

/// Parts that the time of a run is divided into.
const BINS: usize = 144;

/// Points of a line.
const POINTS: usize = 400;

/// Operations that are listed one by one, the longest ones.
const LISTED: usize = 12;

const PAGE: &str = include_str!("page.html");
/// Where in the page the data goes.
const PLACE: &str = "/*DATA*/null";

/// What the story is about.
pub(crate) struct Subject<'a> {
    /// The guest and where it ran, in a line.
    pub(crate) title: String,
    /// The machine, in a line.
    pub(crate) machine: String,
    /// Faults of the second level, in the words of the manual.
    pub(crate) faults: &'static str,
    /// First guest-physical address of RAM, and bytes.
    pub(crate) ram: (u64, u64),
    /// What the hypervisor reported, if it did.
    pub(crate) report: Option<&'a Report>,
    /// What was wrong, if anything was.
    pub(crate) verdict: Option<&'a str>,
}

/// All that the page draws.
#[derive(Debug, Serialize)]
struct Story<'a> {
    title: &'a str,
    machine: &'a str,
    fault_word: &'a str,
    verdict: Option<&'a str>,
    /// Microseconds.
    length: f64,
    measured: bool,
    events: usize,
    overwritten: u64,
    cpus: usize,
    /// Spaces that the events are of.
    spaces: usize,
    faults: Faults,
    memory: Memory,
    /// Time and frames.
    frames: Vec<(f64, u64)>,
    invalidations: Invalidations,
    operations: Vec<Kind>,
    longest: Vec<Listed>,
    exits: Vec<(String, u64)>,
    report: Option<&'a Report>,
}

/// Faults over time, and what they were.
#[derive(Debug, Serialize)]
struct Faults {
    total: u64,
    /// For each answer that there was its name, whether it is a refusal, and how many in each bin.
    answers: Vec<(&'static str, bool, Vec<u64>)>,
    /// Reads, writes, fetches.
    accesses: [u64; 3],
    /// How many took as long as 2 to the n nanoseconds, from the second number on, and less than twice as long; without those
    /// that began and ended at the same tick.
    durations: (Vec<u64>, u32),
    /// Microseconds: the middle one, and the one that one in a hundred exceeds.
    median: f64,
    slow: f64,
}

#[derive(Debug, Serialize)]
struct Invalidations {
    total: u64,
    /// On all CPUs, in each bin; on the CPU at hand.
    on_all: Vec<u64>,
    on_one: Vec<u64>,
    scopes: BTreeMap<&'static str, u64>,
}

/// Operations of one name.
#[derive(Debug, Serialize)]
struct Kind {
    name: &'static str,
    count: u64,
    refused: u64,
    /// Microseconds in all.
    time: f64,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: &'static str,
    start: String,
    bytes: u64,
    at: f64,
    took: f64,
    refused: Option<&'static str>,
}

/// The page.
pub(crate) fn page(trace: &Trace, subject: &Subject<'_>) -> Result<String> {
    let story = story(trace, subject);
    let data = serde_json::to_string(&story).context("the story cannot be written as JSON")?;
    // Whatever a guest has printed, it does not end the script.
    let data = data.replace('<', "\\u003c");
    ensure!(PAGE.matches(PLACE).count() == 1, "the page has no place for its data");
    Ok(PAGE.replacen(PLACE, &data, 1))
}

fn story<'a>(trace: &Trace, subject: &'a Subject<'a>) -> Story<'a> {
    let time = Bins { length: trace.length() };
    let spaces = spaces(trace);
    let busiest = spaces.iter().max_by_key(|(_, faults)| **faults).map(|(space, _)| *space);
    Story {
        title: &subject.title,
        machine: &subject.machine,
        fault_word: subject.faults,
        verdict: subject.verdict,
        length: time.length,
        measured: trace.measured,
        events: trace.events.len(),
        overwritten: trace.overwritten,
        cpus: trace.cpus().len(),
        spaces: spaces.len(),
        faults: faults(trace, &time),
        memory: memory::fill(trace, subject.ram, busiest, &time),
        frames: thinned(trace.frames().collect()),
        invalidations: invalidations(trace, &time),
        operations: operations(trace),
        longest: longest(trace),
        exits: subject.report.map(exits).unwrap_or_default(),
        report: subject.report,
    }
}

/// The time of a run in equal parts.
struct Bins {
    /// Microseconds.
    length: f64,
}

impl Bins {
    fn of(&self, microseconds: f64) -> usize {
        let bin = if self.length > 0.0 { microseconds / self.length * BINS as f64 } else { 0.0 };
        (bin as usize).min(BINS - 1)
    }
}

/// The spaces, by their roots, and how many faults each answered.
fn spaces(trace: &Trace) -> BTreeMap<HostPhysAddr, u64> {
    let mut spaces = BTreeMap::new();
    for event in &trace.events {
        if !matches!(event.what, What::Host { .. }) {
            let faults: &mut u64 = spaces.entry(event.root).or_default();
            *faults += u64::from(matches!(event.what, What::Fault { .. }));
        }
    }
    spaces
}

fn each_fault(trace: &Trace) -> impl Iterator<Item = (&Event, MappingFlags, FaultAnswer)> {
    trace.events.iter().filter_map(|event| match event.what {
        What::Fault { access, answer, .. } => Some((event, access, answer)),
        _ => None,
    })
}

fn faults(trace: &Trace, time: &Bins) -> Faults {
    let mut answers: Vec<_> = FaultAnswer::ALL.iter().map(|answer| (*answer, vec![0; BINS])).collect();
    let (mut accesses, mut durations) = ([0; 3], Vec::new());
    for (event, access, answer) in each_fault(trace) {
        if let Some((_, bins)) = answers.iter_mut().find(|(other, _)| *other == answer) {
            bins[time.of(trace.microseconds(event.begin))] += 1;
        }
        accesses[kind_of(access)] += 1;
        durations.push(trace.duration(event));
    }
    durations.sort_by(f64::total_cmp);
    let at = |part: usize| durations.get(durations.len() * part / 100).copied().unwrap_or_default();
    let (median, slow) = (at(50), at(99));
    answers.retain(|(_, bins)| bins.iter().any(|count| *count > 0));
    Faults {
        total: durations.len() as u64,
        answers: answers
            .into_iter()
            .map(|(answer, bins)| (answer.name(), answer.is_refused(), bins))
            .collect(),
        accesses,
        durations: by_powers(&durations),
        median,
        slow,
    }
}

/// 0 for a read, 1 for a write, 2 for a fetch.
fn kind_of(access: MappingFlags) -> usize {
    if access.contains(MappingFlags::EXECUTE) { 2 } else { usize::from(access.contains(MappingFlags::WRITE)) }
}

/// How many of these microseconds lie between one power of two of nanoseconds and the next, and which power the first is.
fn by_powers(durations: &[f64]) -> (Vec<u64>, u32) {
    let power = |microseconds: &f64| ((microseconds * 1e3) as u64).checked_ilog2();
    let powers: Vec<u32> = durations.iter().filter_map(power).collect();
    let (Some(first), Some(last)) = (powers.iter().min(), powers.iter().max()) else { return (vec![], 0) };
    let mut counts = vec![0; (last - first + 1) as usize];
    powers.iter().for_each(|power| counts[(power - first) as usize] += 1);
    (counts, *first)
}

fn invalidations(trace: &Trace, time: &Bins) -> Invalidations {
    let mut found =
        Invalidations { total: 0, on_all: vec![0; BINS], on_one: vec![0; BINS], scopes: BTreeMap::new() };
    for event in &trace.events {
        let What::Invalidation { scope, reach, .. } = event.what else { continue };
        let bins = if reach == Reach::AllCpus { &mut found.on_all } else { &mut found.on_one };
        bins[time.of(trace.microseconds(event.begin))] += 1;
        found.total += 1;
        *found.scopes.entry(scope.name()).or_default() += 1;
    }
    found
}

fn operations(trace: &Trace) -> Vec<Kind> {
    let each = Operation::ALL.iter().map(|operation| {
        let mut kind = Kind { name: operation.name(), count: 0, refused: 0, time: 0.0 };
        for event in &trace.events {
            match event.what {
                What::Operation { operation: other, result, .. } if other == *operation => {
                    kind.count += 1;
                    kind.refused += u64::from(result.is_err());
                    kind.time += trace.duration(event);
                }
                _ => {}
            }
        }
        kind
    });
    let mut kinds: Vec<_> = each.filter(|kind| kind.count > 0).collect();
    kinds.sort_by(|one, other| other.time.total_cmp(&one.time));
    kinds
}

fn longest(trace: &Trace) -> Vec<Listed> {
    let each = trace.events.iter().filter_map(|event| match event.what {
        What::Operation { operation, start, size, result } => Some(Listed {
            name: operation.name(),
            start: format!("{:#x}", start.as_u64()),
            bytes: size,
            at: trace.microseconds(event.begin),
            took: trace.duration(event),
            refused: result.err().map(|refusal| refusal.name()),
        }),
        _ => None,
    });
    let mut listed: Vec<_> = each.collect();
    listed.sort_by(|one, other| other.took.total_cmp(&one.took));
    listed.truncate(LISTED);
    listed
}

/// Where the exits went: by kind where the machine tells, and what is known of them elsewhere.
fn exits(report: &Report) -> Vec<(String, u64)> {
    let mut exits: Vec<(String, u64)> = if report.exits_by_kind.is_empty() {
        let known = [
            ("second-level faults", report.faults.total),
            ("the emulated serial port", report.uart.accesses + report.uart.refused),
            ("calls to the firmware", report.firmware_calls),
        ];
        let rest = known.iter().fold(report.exits, |rest, (_, count)| rest.saturating_sub(*count));
        let rest = ("waits, registers, everything else", rest);
        known.into_iter().chain([rest]).map(|(name, count)| (name.to_owned(), count)).collect()
    } else {
        report.exits_by_kind.clone().into_iter().collect()
    };
    exits.retain(|(_, count)| *count > 0);
    exits.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    exits
}

/// As many points as can be told apart: of each stretch the last one.
fn thinned(points: Vec<(f64, u64)>) -> Vec<(f64, u64)> {
    let step = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let kept = points.iter().enumerate().filter(|(number, _)| number % step == step - 1 || *number == last);
    kept.map(|(_, point)| *point).collect()
}

#[cfg(test)]
pub(crate) mod tests;
