//! The counts of a run, as lines that are aligned and drawn.

use super::Machine;
use slat_hv_model::{Checks, Cpu};
use slat_hv_protocol::{BufferCalls, EmulatedUart, FaultCost, PagesWritten, PagingReport, Report};
use std::fmt::Write as _;

/// Width of the drawn bars in characters.
const BAR: u64 = 24;

/// The counts of a report, group by group.
pub(super) fn counts(report: &Report, machine: Machine, churn_seed: Option<u64>) -> String {
    let Report { faults, leaves, frames, .. } = report;
    let mut text = String::new();
    let kinds = [
        ("populated", faults.populated),
        ("spurious", faults.spurious),
        ("copied", faults.copied),
        ("upgraded", faults.upgraded),
        ("restored", faults.restored),
        ("unanswered", faults.unanswered),
        ("retried", faults.retried),
    ];
    group(&mut text, machine.faults(), &format!("{} of {} exits", faults.total, report.exits));
    for (name, count) in kinds {
        line(&mut text, name, count, &bar(count, faults.total));
    }
    if let Some(cost) = report.fault_cost {
        text.push_str(&self::cost(cost, machine.tick()));
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
        line(&mut text, name, *count, if invalidates(name) { "TLB invalidations" } else { "" });
    }
    // Elsewhere the caches look after themselves.
    let maintained = match machine.kind() {
        Cpu::Arm => Some("frames cleaned and invalidated"),
        Cpu::Riscv => Some("frames in which there may be new code (FENCE.I)"),
        Cpu::Intel | Cpu::Amd => None,
    };
    if let Some(what) = maintained {
        line(&mut text, "caches", report.cache_maintenance_frames, what);
    }

    if let Some(PagesWritten { dirty, logged }) = report.pages_written {
        group(&mut text, "pages written", "by the guest, as the hardware tells");
        line(&mut text, "dirty flags", dirty, &kib(dirty * 4));
        if let Some(logged) = logged {
            line(&mut text, "in the log of the CPU", logged, "entries");
        }
    }

    if let Some(paging) = report.paging {
        text.push_str(&self::paging(paging, frames.peak));
    }

    group(&mut text, "other", "");
    for (name, count) in &report.exits_by_kind {
        line(&mut text, &format!("exits: {name}"), *count, &bar(*count, report.exits));
    }
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
    if let Some(screen) = report.screen.as_ref().filter(|screen| !screen.trim().is_empty()) {
        group(&mut text, "screen", "");
        for shown in screen.trim_end().lines() {
            let _ = writeln!(text, "{}", format!("    | {shown}").trim_end());
        }
    }
    text
}

/// What went out of the guests' memory and came back.
fn paging(paging: PagingReport, peak: u64) -> String {
    let PagingReport { pool, scans, idle, evictions, evicted, stored, same, paged_in, refused, .. } = paging;
    let mut text = String::new();
    group(&mut text, "paging", &format!("{} pages out, {paged_in} in again", idle + evicted));
    let counts = [
        ("out: idle", idle, format!("by {scans} scans")),
        ("out: evicted", evicted, format!("{evictions} times no frame was left")),
        ("copied out", stored, format!("{same} of one word; the others were in the store as they were")),
        ("in again", paged_in, String::new()),
        ("not taken", refused, String::new()),
        ("store, at most", paging.store_peak, format!("of {} pages", paging.store)),
        ("pool, least free", pool.saturating_sub(peak), format!("of {}", kib(pool * 4))),
    ];
    for (name, count, note) in counts {
        line(&mut text, name, count, &note);
    }
    text
}

/// What a fault costs, from the exit of the guest to its entry.
fn cost(cost: FaultCost, tick: &str) -> String {
    let mut text = String::new();
    if let (Some(ticks), Some(share)) = (per_fault(cost), share(cost)) {
        let note =
            format!("  {:<24}{ticks:>9.0}  {tick}, {:.2} % of the run in all", "  each", share * 100.0);
        let _ = writeln!(text, "{note}");
    }
    text
}

/// Ticks of the time-stamp counter from the exit for a fault to the entry after it.
pub(super) fn per_fault(cost: FaultCost) -> Option<f64> {
    (cost.faults > 0).then(|| cost.ticks as f64 / cost.faults as f64)
}

/// The part of the run that went into faults.
pub(super) fn share(cost: FaultCost) -> Option<f64> {
    (cost.run_ticks > 0).then(|| cost.ticks as f64 / cost.run_ticks as f64)
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

/// Whether an instruction of TLB maintenance invalidates by itself, as neither barriers nor interrupts of other CPUs do.
fn invalidates(name: &str) -> bool {
    !name.starts_with("dsb") && name != "isb" && !name.ends_with("ipi")
}

/// What must be zero.
pub(super) fn checks(checks: &Checks) -> String {
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

#[cfg(test)]
mod tests;
