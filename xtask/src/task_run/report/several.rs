//! What a report says of several guests on one machine, and of a machine that is not the guest's alone.

use crate::boot::printed::Printed;
use crate::boot::session::{Guest, Observed};
use crate::task_run::options::Options;
use serde::Serialize;
use slat_hv_protocol::pause::{Forked, Moved, OwnFrames};
use slat_hv_protocol::snapshot::Saved;
use slat_hv_protocol::{End, Faults, GuestReport, Leaves};

/// How the machine is shared, if it is in any way that was asked for.
pub(super) fn sharing(options: &Options) -> Option<String> {
    let mut words = Vec::new();
    if options.guests > 1 {
        words.push(format!("{} guests at once", options.guests));
    }
    if options.host_cpus.is_some() {
        words.push(format!("{} CPUs in each guest", options.cpus));
    }
    if let Some(pool) = options.pool() {
        words.push(format!("{} MiB for their memory and tables", pool >> 20));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// One of several guests: what the hypervisor reported and what the guest printed.
struct One<'a> {
    report: &'a GuestReport,
    printed: &'a Printed,
    /// Whether it found the right checksum; `None` when the user space is not ours.
    sha256_ok: Option<bool>,
}

/// The guests, if there are several and there is a report.
fn each<'a>(guest: &'a Guest, seen: &'a Observed) -> impl Iterator<Item = One<'a>> {
    // Where there is no report, there are those of the guests that have ended.
    let reports = seen.report.as_ref().map_or(&seen.guests, |report| &report.guests);
    reports.iter().filter_map(|report| {
        let printed = seen.printed.get(report.guest as usize)?;
        let sha256_ok = guest.sha256.as_ref().map(|expected| printed.sha256.as_ref() == Some(expected));
        Some(One { report, printed, sha256_ok })
    })
}

/// A row for each of several guests: its name, and what became of it.
pub(super) fn rows(guest: &Guest, seen: &Observed) -> Vec<(String, String)> {
    let row = |One { report, printed, sha256_ok }: One<'_>| {
        let end = match &report.end {
            End::PowerOff => "powered itself off",
            End::Reset => "reset itself",
            End::Saved => "was written away",
            End::Quit => "was ended by the monitor",
            End::Moved => "has moved",
            End::ScreenShows | End::ConsoleShows => "came far enough",
            End::Fault { .. } => "ended by a fault",
            End::Unsupported { .. } => "ended by what nobody offers",
            End::OutOfMemory { .. } => "ended, as no frame was left",
        };
        let memory = match sha256_ok {
            Some(true) => ", memory unharmed",
            _ if report.end == End::Moved => "",
            Some(false) => ", memory NOT confirmed",
            None => "",
        };
        let init = match printed.seconds_to_init {
            Some(seconds) => format!("init after {seconds:.2} s"),
            None => "no init".to_owned(),
        };
        let (faults, exits, tables) = (report.faults.total, report.exits, report.table_pages);
        let own = match (&seen.forked, report.own) {
            (Some(_), OwnFrames { memory, .. }) => format!(" and {memory} pages of memory of its own"),
            (None, _) => String::new(),
        };
        let value =
            format!("{end}{memory}; {init}; {faults} faults of {exits} exits, {tables} table pages{own}");
        (format!("guest {}", report.guest), value)
    };
    each(guest, seen).map(row).collect()
}

/// Rows for what was forked, and what each fork cost.
pub(super) fn forks(forked: &Forked) -> Vec<(String, String)> {
    let Forked { ticks_per_second, parent: OwnFrames { tables, memory }, forks } = forked;
    let microseconds = |ticks: u64| ticks as f64 * 1e6 / (*ticks_per_second).max(1) as f64;
    let what = format!("{} of a guest with {memory} pages of memory and {tables} table pages", forks.len());
    let each = forks.iter().map(|fork| {
        let (space, all) = (microseconds(fork.space_ticks), microseconds(fork.ticks));
        let cost = format!("{space:.1} µs for its space, {all:.1} µs in all; {} frames", fork.frames);
        (format!("fork {}", fork.guest), cost)
    });
    [("forks".to_owned(), what)].into_iter().chain(each).collect()
}

/// Rows for what a move took.
pub(super) fn moved(moved: &Moved) -> Vec<(String, String)> {
    let Moved { ticks_per_second, guest, rounds, stop_ticks } = moved;
    let milliseconds = |ticks: u64| ticks as f64 * 1e3 / (*ticks_per_second).max(1) as f64;
    let what = format!(
        "it is guest {guest} now, after {} rounds; it stood still for {:.1} ms in the last one",
        rounds.len(),
        milliseconds(*stop_ticks)
    );
    let each = rounds.iter().zip(1..).map(|(round, number)| {
        (format!("round {number}"), format!("{} pages in {:.1} ms", round.pages, milliseconds(round.ticks)))
    });
    [("moved".to_owned(), what)].into_iter().chain(each).collect()
}

/// A row for what a snapshot took.
pub(super) fn saved(saved: Saved) -> String {
    let Saved { bytes, pages, of_pages, ticks, ticks_per_second } = saved;
    let milliseconds = ticks as f64 * 1e3 / ticks_per_second.max(1) as f64;
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{pages} of {of_pages} pages are not zero; {mib:.1} MiB in {milliseconds:.1} ms")
}

/// One of several guests in the JSON report.
#[derive(Serialize)]
pub(super) struct JsonGuest<'a> {
    guest: u32,
    end: &'a End,
    sha256_ok: Option<bool>,
    seconds_to_init: Option<f64>,
    faults_total: u64,
    faults: Faults,
    leaves: Leaves,
    table_pages: u64,
    exits: u64,
    firmware_calls: u64,
    own_table_frames: u64,
    own_memory_frames: u64,
}

/// The guests for the JSON report; empty if there is but one.
pub(super) fn json<'a>(guest: &'a Guest, seen: &'a Observed) -> Vec<JsonGuest<'a>> {
    let json = |One { report, printed, sha256_ok }: One<'a>| JsonGuest {
        guest: report.guest,
        end: &report.end,
        sha256_ok,
        seconds_to_init: printed.seconds_to_init.map(super::json::rounded),
        faults_total: report.faults.total,
        faults: report.faults,
        leaves: report.leaves,
        table_pages: report.table_pages,
        exits: report.exits,
        firmware_calls: report.firmware_calls,
        own_table_frames: report.own.tables,
        own_memory_frames: report.own.memory,
    };
    each(guest, seen).map(json).collect()
}

#[cfg(test)]
mod tests;
