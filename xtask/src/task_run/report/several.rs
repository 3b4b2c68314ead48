//! What a report says of several guests on one machine, and of a machine that is not the guest's alone.

use crate::boot::printed::Printed;
use crate::boot::session::{Guest, Observed};
use crate::task_run::options::Options;
use serde::Serialize;
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
    if let Some(pool) = options.pool {
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
            End::ScreenShows | End::ConsoleShows => "came far enough",
            End::Fault { .. } => "ended by a fault",
            End::Unsupported { .. } => "ended by what nobody offers",
            End::OutOfMemory { .. } => "ended, as no frame was left",
        };
        let memory = match sha256_ok {
            Some(true) => ", memory unharmed",
            Some(false) => ", memory NOT confirmed",
            None => "",
        };
        let init = match printed.seconds_to_init {
            Some(seconds) => format!("init after {seconds:.2} s"),
            None => "no init".to_owned(),
        };
        let (faults, exits, tables) = (report.faults.total, report.exits, report.table_pages);
        let value = format!("{end}{memory}; {init}; {faults} faults of {exits} exits, {tables} table pages");
        (format!("guest {}", report.guest), value)
    };
    each(guest, seen).map(row).collect()
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
    };
    each(guest, seen).map(json).collect()
}

#[cfg(test)]
mod tests;
