//! The report as one JSON object.

use super::counts::{per_fault, share};
use super::several::{self, JsonGuest};
use super::{Machine, Summary};
use crate::platform::Platform;
use anyhow::{Context, Result};
use serde::Serialize;
use slat_hv_protocol::pause::{Forked, Moved};
use slat_hv_protocol::snapshot::Saved;
use slat_hv_protocol::{
    BufferCalls, ChurnReport, EmulatedUart, End, Faults, Leaves, Mechanism, PagesWritten, PagingReport,
};
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Json<'a> {
    machine: &'a str,
    arch: &'a str,
    vendor: Option<&'a str>,
    emulator: Option<&'a str>,
    format: &'a str,
    ok: bool,
    error: Option<&'a str>,
    guest: &'a str,
    guest_image: String,
    cpu: &'a str,
    cpus: u32,
    machine_cpus: u32,
    memory_bytes: u64,
    pool_bytes: Option<u64>,
    leaf: slat_hv_protocol::Leaf,
    end: Option<&'a End>,
    sha256_ok: Option<bool>,
    levels: Option<u32>,
    gpa_bits: Option<u32>,
    features: Option<&'a [String]>,
    physical_bits: Option<u32>,
    ept_vpid_cap: Option<String>,
    accessed_dirty: Option<bool>,
    hgatp: Option<String>,
    vmid_bits: Option<u32>,
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
    exits_by_kind: Option<&'a BTreeMap<String, u64>>,
    pages_written: Option<PagesWritten>,
    fault_cost: Option<JsonFaultCost>,
    paging: Option<PagingReport>,
    screen: Option<&'a str>,
    emulated_uart: Option<&'a EmulatedUart>,
    buffer_calls: Option<&'a BufferCalls>,
    seconds_to_init: Option<f64>,
    seconds_native: Option<f64>,
    ratio: Option<f64>,
    checks: Option<JsonChecks>,
    forked: Option<&'a Forked>,
    moved: Option<&'a Moved>,
    saved: Option<Saved>,
    guests: Vec<JsonGuest<'a>>,
}

#[derive(Serialize)]
struct JsonChecks {
    stale_reads: u64,
    stale_translations: u64,
    frames_reachable_after_return: u64,
    rules_broken: u64,
}

#[derive(Serialize)]
struct JsonFaultCost {
    faults: u64,
    ticks: u64,
    run_ticks: u64,
    tick: &'static str,
    ticks_per_fault: Option<f64>,
    share_of_run: Option<f64>,
}

#[derive(Serialize)]
struct JsonChurn {
    seed: u64,
    #[serde(flatten)]
    counts: Option<ChurnReport>,
}

impl Summary<'_> {
    /// The report as JSON with a line end.
    pub(super) fn json(&self) -> Result<String> {
        let report = self.seen.report.as_ref();
        let started = self.seen.started.as_ref();
        let format = self.machine.kind().format();
        let (machine, arch, cpu, platform) = match self.machine {
            Machine::Emulator(platform) => ("emulator", platform.arch(), self.options.cpu(), Some(platform)),
            Machine::Model(cpu) => ("model", cpu.architecture(), cpu.description(), None),
        };
        // What only some have stands for nothing elsewhere.
        let of = |mechanisms: &[Mechanism]| started.filter(|started| mechanisms.contains(&started.mechanism));
        let x86 = of(&[Mechanism::Ept, Mechanism::Npt]);
        let riscv = of(&[Mechanism::Gstage]);
        let json = Json {
            machine,
            arch,
            vendor: platform.and_then(Platform::vendor),
            emulator: platform.map(Platform::emulator_title),
            format,
            ok: self.verdict.is_ok(),
            error: self.verdict.as_ref().err().map(String::as_str),
            guest: &self.name,
            guest_image: self.guest.kernel.display().to_string(),
            cpu,
            cpus: self.options.cpus,
            machine_cpus: self.options.machine_cpus(),
            memory_bytes: self.guest.memory,
            pool_bytes: self.options.pool(),
            leaf: self.options.leaf,
            end: report.map(|report| &report.end),
            sha256_ok: self.sha256_ok(),
            levels: started.map(|started| started.levels),
            gpa_bits: started.map(|started| started.gpa_bits),
            features: started.map(|started| started.features.as_slice()),
            physical_bits: x86.map(|started| started.physical_bits),
            ept_vpid_cap: x86
                .filter(|started| started.mechanism == Mechanism::Ept)
                .map(|started| format!("{:#x}", started.ept_vpid_cap)),
            accessed_dirty: x86.or(riscv).map(|started| started.accessed_dirty),
            hgatp: riscv.map(|started| format!("{:#x}", started.hgatp)),
            vmid_bits: riscv.map(|started| started.vmid_bits),
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
            exits_by_kind: report.map(|report| &report.exits_by_kind),
            pages_written: report.and_then(|report| report.pages_written),
            fault_cost: report.and_then(|report| report.fault_cost).map(|cost| JsonFaultCost {
                faults: cost.faults,
                ticks: cost.ticks,
                run_ticks: cost.run_ticks,
                tick: self.machine.tick(),
                ticks_per_fault: per_fault(cost).map(rounded),
                share_of_run: share(cost).map(rounded),
            }),
            paging: report.and_then(|report| report.paging),
            screen: report.and_then(|report| report.screen.as_deref()),
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
            forked: self.seen.forked.as_ref(),
            moved: self.seen.moved.as_ref(),
            saved: self.seen.saved,
            guests: several::json(self.guest, self.seen),
        };
        let mut text = serde_json::to_string_pretty(&json).context("cannot write the report")?;
        text.push('\n');
        Ok(text)
    }
}

/// Milliseconds are all that a wall clock can tell here.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
