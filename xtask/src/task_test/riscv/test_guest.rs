//! The guest that misbehaves on request, on RISC-V: what it does by itself, and two of them on one machine, one of which writes to
//! everything that the other one has.

use super::several::frames_came_back;
use super::{Bench, Slot, step};
use crate::boot::machine::Pace;
use crate::boot::session::{Choices, Ending, Goal, Guest, Observed, Sharing};
use crate::task_test::step::Step;
use anyhow::{Context as _, Result, bail, ensure};
use slat_hv_protocol::{Churn, End, FaultPolicy, Leaf, Mistake, Report};
use std::time::Duration;

/// RAM of a test guest.
const MEMORY: u64 = 16 << 20;

/// Each takes a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

/// For one that need not end: waiting longer would show nothing more.
const WILD_PATIENCE: Duration = Duration::from_secs(6);

/// Stores that the hostile guest tries at addresses that are not its own, at least.
const LEAST_REFUSED: u64 = 10_000;

/// How a run must end.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// By power-off, after the guest found everything right.
    PowerOff,
    /// By a reset.
    Reset,
    /// By an access that is nobody's; its description has all these words.
    Fault(&'static [&'static str]),
    /// In any way but by a failure of the hypervisor; it need not end at all.
    Contained,
}

/// One misbehaviour: what the command line says behind `scenario=`, what becomes of accesses that are nobody's, and the end.
const SCENARIOS: [(&str, FaultPolicy, Expected); 12] = [
    ("ok", FaultPolicy::Stop, Expected::PowerOff),
    ("touch-all", FaultPolicy::Stop, Expected::PowerOff),
    ("reset", FaultPolicy::Stop, Expected::Reset),
    ("sbi", FaultPolicy::Stop, Expected::PowerOff),
    ("hypervisor-instructions", FaultPolicy::Stop, Expected::PowerOff),
    ("inject", FaultPolicy::Inject, Expected::PowerOff),
    ("hole", FaultPolicy::Stop, Expected::Fault(&["read", "0xa000000"])),
    ("hole-write", FaultPolicy::Stop, Expected::Fault(&["write", "0xa000000"])),
    ("too-wide", FaultPolicy::Stop, Expected::Fault(&["read", "0x40000000000"])),
    ("walk-hole", FaultPolicy::Stop, Expected::Fault(&["walk", "0xa0000"])),
    ("wild seed=1", FaultPolicy::Inject, Expected::Contained),
    ("wild seed=2", FaultPolicy::Inject, Expected::Contained),
];

/// All of them.
pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    let scenario = |(words, on_fault, expected)| {
        step(slot, &format!("test guest, {words}"), move |bench: &Bench, output: &mut String| {
            let choices = Choices { on_fault, gpa_bits: Some(41), ..Choices::default() };
            let patience = if matches!(expected, Expected::Contained) { WILD_PATIENCE } else { PATIENCE };
            let seen = boot(bench, words, 1, &choices, patience, output)?;
            judge(words, expected, &seen)
        })
    };
    let mut steps: Vec<_> = SCENARIOS.into_iter().map(scenario).collect();
    steps.push(step(slot, "a hostile guest beside another one", |bench, output| {
        isolated(bench, 1, None, output)
    }));
    steps.push(step(
        slot,
        "a hostile guest beside another one, on two harts, under churn",
        |bench, output| isolated(bench, 2, Some(Churn { seed: 1, per_exit: 1, limit: 600 }), output),
    ));
    steps.push(step(slot, "a mistake is noticed: a frame in two guests", shared_frame));
    steps
}

fn boot(
    bench: &Bench,
    words: &str,
    harts: u32,
    choices: &Choices,
    patience: Duration,
    output: &mut String,
) -> Result<Observed> {
    let guest = Guest {
        kernel: bench.test_guest.clone(),
        initrd: None,
        bootargs: format!("scenario={words}"),
        memory: MEMORY,
        sha256: None,
        results: Vec::new(),
        goal: Goal::PowerOff,
    };
    let linux = &bench.linux;
    let machine = linux.machine(linux.platform.default_cpu(), harts, Pace::Usual);
    linux.run(&guest, &machine, choices, patience, output)
}

fn report(seen: &Observed) -> Result<&Report> {
    if let Some(reason) = &seen.failed {
        bail!("the hypervisor failed: {reason}");
    }
    seen.report.as_ref().with_context(|| format!("no report; the last line was: {}", seen.last_line))
}

fn judge(words: &str, expected: Expected, seen: &Observed) -> Result<String> {
    ensure!(seen.started.is_some(), "the guest was not even started: {}", seen.emulator_error);
    if seen.failed.is_none() && matches!((expected, &seen.ending), (Expected::Contained, Ending::TimedOut(_)))
    {
        return Ok("it went on until the time was up".to_owned());
    }
    let report = report(seen)?;
    let note = match (expected, &report.end) {
        (Expected::PowerOff, End::PowerOff) => {
            let name = words.split(' ').next().unwrap_or_default();
            let console = String::from_utf8_lossy(&seen.console);
            let all_right = format!("test-guest: {name}: ok");
            ensure!(console.contains(&all_right), "the guest powered off without `{all_right}`");
            String::new()
        }
        (Expected::Reset, End::Reset) => String::new(),
        (Expected::Fault(words), End::Fault { description }) => {
            ensure!(!description.contains('\n'), "the description is more than a line: {description}");
            for word in words {
                ensure!(description.contains(word), "`{word}` is missing in: {description}");
            }
            description.clone()
        }
        (Expected::Contained, end) => format!("{end:?}"),
        (_, end) => bail!("it ended by {end:?}; the last line was: {}", seen.last_line),
    };
    frames_came_back(report)?;
    Ok(note)
}

fn two_guests(mistake: Mistake, churn: Option<Churn>) -> Choices {
    Choices {
        on_fault: FaultPolicy::Inject,
        gpa_bits: Some(41),
        leaf: Leaf::Size4K,
        churn,
        mistake,
        sharing: Sharing { guests: 2, cpus: Some(1), pool: None },
        ..Choices::default()
    }
}

/// Guest 0 sums its memory up while guest 1 writes to each address, its own or not: the sums are right, and each access to what is
/// not its own was refused and counted.
fn isolated(bench: &Bench, harts: u32, churn: Option<Churn>, output: &mut String) -> Result<String> {
    let choices = two_guests(Mistake::None, churn);
    let seen = boot(bench, "isolation", harts, &choices, 3 * PATIENCE, output)?;
    let report = report(&seen)?;
    let console = String::from_utf8_lossy(&seen.console);
    for guest in &report.guests {
        ensure!(guest.end == End::PowerOff, "guest {} ended by {:?}", guest.guest, guest.end);
        let all_right = format!("[{}] test-guest: isolation: ok", guest.guest);
        ensure!(console.contains(&all_right), "`{all_right}` is missing");
    }
    ensure!(report.guests.len() == 2, "{} guests have ended", report.guests.len());
    let refused = console.lines().find_map(|line| {
        let (number, _) = line.split_once("test-guest: isolation: ")?.1.split_once(" stores of ")?;
        number.parse::<u64>().ok()
    });
    let refused = refused.context("the hostile guest did not say how much was refused")?;
    let Report { injected_aborts: injected, faults, uart, .. } = report;
    ensure!(refused >= LEAST_REFUSED, "{refused} stores were refused only");
    ensure!(*injected == refused, "{refused} stores were refused, and {injected} access faults given");
    // A flat binary has the emulated serial port, which takes no store of 8 bytes.
    let nobodys = faults.unanswered + uart.refused;
    ensure!(nobodys == refused, "{nobodys} faults were nobody's");
    if let Some(done) = &report.churn {
        ensure!(done.moved > 100, "{} pages were moved only", done.moved);
    }
    frames_came_back(report)?;
    Ok(format!("{refused} stores refused and reported, every checksum right"))
}

/// The control: one frame is in both guests, and the one that computes finds that its memory has changed.
fn shared_frame(bench: &Bench, output: &mut String) -> Result<String> {
    let choices = two_guests(Mistake::SharedFrame, None);
    let seen = boot(bench, "isolation", 1, &choices, 3 * PATIENCE, output)?;
    ensure!(seen.started.is_some(), "the guests were not even started: {}", seen.emulator_error);
    let console = String::from_utf8_lossy(&seen.console);
    let complaint = console.lines().find_map(|line| line.strip_prefix("[0] test-guest: isolation: FAILED: "));
    Ok(complaint.context("the guest whose memory was written to did not notice")?.trim_end().to_owned())
}
