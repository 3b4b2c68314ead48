//! What the guest that misbehaves on request does, and how the hypervisor must answer: the table in the test
//! guest's own documentation, as tests.

use super::emulator::Bench;
use crate::boot::session::{Choices, Ending, Observed};
use anyhow::{Context, Result, bail, ensure};
use slat_hv_protocol::{End, FaultPolicy, Leaf, Mistake, Report};
use std::time::Duration;

/// RAM of the test guest.
pub(crate) const MEMORY: u64 = 16 << 20;

/// One misbehaviour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// What the step is called.
    pub(crate) title: &'static str,
    /// What the guest's command line says behind `scenario=`.
    words: &'static str,
    cpu: &'static str,
    cpus: u32,
    leaf: Leaf,
    gpa_bits: Option<u32>,
    on_fault: FaultPolicy,
    page_requests: bool,
    mistake: Mistake,
    expected: Expected,
    /// What the report must say besides.
    check: fn(&Report) -> Result<()>,
}

/// How the run must end.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// By power-off, after the guest found everything right.
    PowerOff,
    /// By a reset.
    Reset,
    /// By a reset, after the guest found something wrong.
    Complaint,
    /// By an access that is nobody's; its description has all these words.
    Fault(&'static [&'static str]),
    /// In any way but by a failure of the hypervisor; it need not end at all.
    Contained,
}

const fn scenario(words: &'static str, expected: Expected) -> Scenario {
    Scenario {
        title: words,
        words,
        cpu: "cortex-a72",
        cpus: 1,
        leaf: Leaf::Auto,
        gpa_bits: None,
        on_fault: FaultPolicy::Stop,
        page_requests: false,
        mistake: Mistake::None,
        expected,
        check: |_| Ok(()),
    }
}

const fn injecting(words: &'static str, expected: Expected) -> Scenario {
    Scenario { on_fault: FaultPolicy::Inject, ..scenario(words, expected) }
}

const fn on_two_cpus(words: &'static str, expected: Expected) -> Scenario {
    Scenario { cpus: 2, ..scenario(words, expected) }
}

/// A scenario about stale translations. Page by page, so that frames which come back are used again soon.
const fn stale(title: &'static str, words: &'static str, cpus: u32, mistake: Mistake) -> Scenario {
    let expected = match (mistake, cpus) {
        // With one CPU there is no other one that would have to be told.
        (Mistake::None, _) | (Mistake::LocalTlbi, 1) => Expected::PowerOff,
        _ => Expected::Complaint,
    };
    let leaf = Leaf::Size4K;
    Scenario { title, cpus, leaf, page_requests: true, mistake, ..injecting(words, expected) }
}

/// As [`stale`], with CPU 1 in a loop which it must not leave: exits by the thousand would mean that it asks for its
/// translations again and again.
const fn stale_on_two(words: &'static str, aborts: u64) -> Scenario {
    let check = if aborts == 1 { in_its_loop_until_refused } else { in_its_loop };
    Scenario { check, ..stale(words, words, 2, Mistake::None) }
}

fn in_its_loop(report: &Report) -> Result<()> {
    equal("aborts injected", report.injected_aborts, 0)?;
    let exits = report.exits_by_cpu.get(1).copied().unwrap_or_default();
    ensure!((1..=100).contains(&exits), "{exits} exits of CPU 1");
    Ok(())
}

fn in_its_loop_until_refused(report: &Report) -> Result<()> {
    equal("aborts injected", report.injected_aborts, 1)?;
    in_its_loop(&Report { injected_aborts: 0, ..report.clone() })
}

/// A scenario about the emulated serial port or about buffers. Nothing of it is a fault that nobody answers, and every
/// page in question may be asked to be write-protected.
const fn hostile(title: &'static str, words: &'static str, check: fn(&Report) -> Result<()>) -> Scenario {
    Scenario { title, page_requests: true, check, ..injecting(words, Expected::PowerOff) }
}

/// The control: the guest expects another answer than the right one in one comparison, and must complain.
const fn contrary(title: &'static str, words: &'static str) -> Scenario {
    Scenario { title, page_requests: true, ..injecting(words, Expected::Complaint) }
}

fn port_is_used_well(report: &Report) -> Result<()> {
    let uart = &report.uart;
    equal("accesses refused", uart.refused, 0)?;
    ensure!(uart.text == "widths\n", "the port got {:?}", uart.text);
    equal("accesses answered", uart.accesses, 8 + 1 + 7 + 1 + 1 + 10 + 1 + 2 + 1 + 3)
}

fn port_refuses(report: &Report) -> Result<()> {
    let uart = &report.uart;
    ensure!(uart.refused >= 21, "only {} accesses were refused", uart.refused);
    // Those, a fetch, and three accesses beside the port.
    equal("aborts injected", report.injected_aborts, uart.refused + 4)?;
    equal("faults unanswered", report.faults.unanswered, 4)?;
    ensure!(uart.text == "!", "the port got {:?}", uart.text);
    Ok(())
}

fn buffers_are_answered(report: &Report) -> Result<()> {
    let calls = &report.buffer_calls;
    ensure!(calls.text.starts_with("buffer!\n"), "the guest printed {:?}", calls.text);
    ensure!(calls.done > 500 && calls.refused > 1000, "{} calls done, {} refused", calls.done, calls.refused);
    equal("aborts injected", report.injected_aborts, 0)?;
    equal("accesses to the port", report.uart.accesses + report.uart.refused, 0)
}

/// All of them.
pub(crate) const SCENARIOS: [Scenario; 46] = [
    scenario("ok", Expected::PowerOff),
    Scenario {
        check: |report| equal("leaves populated", report.faults.populated, MEMORY >> 21),
        ..scenario("touch-all", Expected::PowerOff)
    },
    Scenario {
        title: "touch-all with 4k leaves",
        leaf: Leaf::Size4K,
        check: |report| equal("leaves populated", report.faults.populated, MEMORY >> 12),
        ..scenario("touch-all", Expected::PowerOff)
    },
    scenario("write-device-ok", Expected::PowerOff),
    scenario("wfi-storm", Expected::PowerOff),
    scenario("psci-cpu-on", Expected::PowerOff),
    on_two_cpus("second-cpu", Expected::PowerOff),
    on_two_cpus("change-places", Expected::PowerOff),
    on_two_cpus("off-while-busy", Expected::PowerOff),
    on_two_cpus("off-while-waiting", Expected::PowerOff),
    on_two_cpus("off-from-second", Expected::PowerOff),
    on_two_cpus("hole-on-second", Expected::Fault(&["read", "0xa000000"])),
    stale_on_two("stale-move", 0),
    stale_on_two("stale-protect", 1),
    stale_on_two("stale-renew", 0),
    stale_on_two("stale-table", 0),
    stale("mistake is seen on two CPUs: LocalTlbi, stale-move", "stale-move", 2, Mistake::LocalTlbi),
    stale("mistake is seen on two CPUs: LocalTlbi, stale-protect", "stale-protect", 2, Mistake::LocalTlbi),
    stale("mistake is seen on two CPUs: LocalTlbi, stale-renew", "stale-renew", 2, Mistake::LocalTlbi),
    stale("mistake is seen on two CPUs: LocalTlbi, stale-table", "stale-table", 2, Mistake::LocalTlbi),
    Scenario {
        check: |report| equal("aborts injected", report.injected_aborts, 1),
        ..stale("stale-alone", "stale-alone", 1, Mistake::None)
    },
    // One CPU sees other mistakes in the same scenario, but not this one: that is why there are two.
    stale("mistake is seen on one CPU: NoTlbi, stale-alone", "stale-alone", 1, Mistake::NoTlbi),
    stale("mistake goes unseen on one CPU: LocalTlbi, stale-alone", "stale-alone", 1, Mistake::LocalTlbi),
    hostile("emulated-uart", "emulated-uart", port_is_used_well),
    hostile("hostile-uart", "hostile-uart", port_refuses),
    Scenario { cpu: "max", ..hostile("hostile-uart, with atomics", "hostile-uart", port_refuses) },
    hostile("hostile-buffer", "hostile-buffer", buffers_are_answered),
    Scenario {
        leaf: Leaf::Size4K,
        ..hostile("hostile-buffer with 4k leaves", "hostile-buffer", buffers_are_answered)
    },
    contrary("a wrong value is noticed: emulated-uart", "emulated-uart contrary=7"),
    contrary("a wrong value is noticed: hostile-uart", "hostile-uart contrary=1"),
    contrary("a wrong answer is noticed: hostile-buffer", "hostile-buffer contrary=300"),
    scenario("smc", Expected::PowerOff),
    scenario("hvc-unknown", Expected::PowerOff),
    scenario("undef-sysreg", Expected::PowerOff),
    Scenario {
        check: |report| equal("aborts injected", report.injected_aborts, 3),
        ..injecting("inject", Expected::PowerOff)
    },
    Scenario {
        check: |report| equal("aborts injected", report.injected_aborts, 1),
        ..injecting("inject-device", Expected::PowerOff)
    },
    scenario("reset", Expected::Reset),
    scenario("hole", Expected::Fault(&["read", "0xa000000"])),
    scenario("hole-write", Expected::Fault(&["write", "0xa000000"])),
    // Narrower than the CPU, so that the guest can name an address that is too wide for stage 2.
    Scenario { gpa_bits: Some(40), ..scenario("too-wide", Expected::Fault(&["read", "0x40000000000"])) },
    scenario("exec-device", Expected::Fault(&["fetch", "0x9000000"])),
    scenario("walk-hole", Expected::Fault(&["walk", "0xa000"])),
    injecting("no-vector", Expected::Contained),
    Scenario { title: "wild, seed 1", ..injecting("wild seed=1", Expected::Contained) },
    Scenario { title: "wild, seed 2", ..injecting("wild seed=2", Expected::Contained) },
    Scenario { title: "wild, seed 3", ..injecting("wild seed=3", Expected::Contained) },
];

fn equal(what: &str, found: u64, expected: u64) -> Result<()> {
    ensure!(found == expected, "{what}: {found} instead of {expected}");
    Ok(())
}

/// Boots the guest and checks how the run ended.
pub(crate) fn run(bench: &Bench, scenario: Scenario, output: &mut String) -> Result<String> {
    let choices = Choices {
        leaf: scenario.leaf,
        gpa_bits: scenario.gpa_bits,
        on_fault: scenario.on_fault,
        page_requests: scenario.page_requests,
        mistake: scenario.mistake,
        ..Choices::default()
    };
    let patience = match scenario.expected {
        // It need not end, so waiting longer would show nothing more.
        Expected::Contained => Duration::from_secs(6),
        _ => Duration::from_secs(15),
    };
    let bootargs = format!("scenario={}", scenario.words);
    let seen = bench.boot_test_guest(&bootargs, (scenario.cpu, scenario.cpus), &choices, patience, output)?;
    judge(&scenario, &seen)
}

fn judge(scenario: &Scenario, seen: &Observed) -> Result<String> {
    if let Some(reason) = &seen.failed {
        bail!("the hypervisor failed: {reason}");
    }
    ensure!(seen.started.is_some(), "the guest was not even started: {}", seen.emulator_error);
    if matches!((scenario.expected, &seen.ending), (Expected::Contained, Ending::TimedOut(_))) {
        return Ok("it went on until the time was up".to_owned());
    }
    let report =
        seen.report.as_ref().with_context(|| format!("no report; the last line was: {}", seen.last_line))?;
    let note = match (scenario.expected, &report.end) {
        (Expected::PowerOff, End::PowerOff) => {
            let name = scenario.words.split(' ').next().unwrap_or_default();
            let console = String::from_utf8_lossy(&seen.console);
            let all_right = format!("test-guest: {name}: ok");
            ensure!(console.contains(&all_right), "the guest powered off without `{all_right}`");
            String::new()
        }
        (Expected::Reset, End::Reset) => String::new(),
        (Expected::Complaint, End::Reset) => {
            let console = String::from_utf8_lossy(&seen.console);
            let complaint = console.lines().find_map(|line| line.split_once(": FAILED: "));
            complaint.context("the guest reset itself without a complaint")?.1.trim_end().to_owned()
        }
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
    equal("frames given back", report.frames.returned, report.frames.taken)?;
    (scenario.check)(report)?;
    Ok(note)
}
