//! Boots of Linux in QEMU that the tests of Arm and RISC-V share: what a boot is, when it is a good one, Linux under churn.

use super::recorded;
use crate::boot::machine::{Machine, Pace};
use crate::boot::session::{self, Choices, Guest, Observed};
use crate::boot::verdict;
use crate::guests::image;
use crate::guests::initramfs::TO_UART;
use crate::platform::Platform;
use crate::setup::Equipment;
use crate::task_run;
use anyhow::{Context as _, Result, ensure};
use slat_hv_protocol::{Churn, Leaf, Report};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Long enough for the slowest guest on a loaded machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// RAM of a guest, unless a test is about that.
pub(super) const MEMORY: u64 = 128 << 20;

/// What boots of Linux need.
pub(super) struct Bench {
    pub(super) platform: Platform,
    pub(super) emulator: PathBuf,
    pub(super) hypervisor: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    pub(super) sha256: String,
}

/// One boot.
pub(super) struct Boot {
    pub(super) kernel: PathBuf,
    /// Bytes of RAM.
    pub(super) memory: u64,
    pub(super) cpu: &'static str,
    /// CPUs of the machine, and of the guest unless the choices say something else.
    pub(super) cpus: u32,
    pub(super) pace: Pace,
    pub(super) choices: Choices,
    pub(super) patience: Duration,
}

impl Bench {
    /// With files that are made in `directory`.
    pub(super) fn new(
        platform: Platform,
        equipment: &Equipment,
        hypervisor: PathBuf,
        directory: &Path,
    ) -> Result<Self> {
        let kernel = equipment.kernel.clone().context("there is no kernel")?;
        let busybox = equipment.busybox.as_ref().context("there is no busybox")?;
        let initrd = directory.join("initramfs.cpio");
        let sha256 = task_run::write_initramfs(busybox, platform, &initrd)?;
        Ok(Self { platform, emulator: equipment.emulator.clone(), hypervisor, kernel, initrd, sha256 })
    }

    /// A boot of the usual kernel with nothing special.
    pub(super) fn usual(&self) -> Boot {
        Boot {
            kernel: self.kernel.clone(),
            memory: MEMORY,
            cpu: self.platform.default_cpu(),
            cpus: 1,
            pace: Pace::Usual,
            choices: Choices::default(),
            patience: PATIENCE,
        }
    }

    pub(super) fn machine(&self, cpu: &str, cpus: u32, pace: Pace) -> Machine {
        let (platform, emulator) = (self.platform, self.emulator.clone());
        Machine { platform, emulator, cpu: cpu.to_owned(), cpus, pace }
    }

    /// Linux with our own user space.
    pub(super) fn linux(&self, kernel: &Path, memory: u64) -> Result<Guest> {
        let image = image::check_file(kernel, self.platform)?;
        let bootargs = task_run::bootargs::of(self.platform, &image, memory, 1, "")?;
        Ok(Guest {
            goal: task_run::goal(self.platform, image.program),
            kernel: kernel.to_owned(),
            initrd: Some(self.initrd.clone()),
            bootargs,
            memory,
            sha256: Some(self.sha256.clone()),
            results: Vec::new(),
        })
    }

    /// Boots `guest` on `machine`; its console and the report are the step's output.
    pub(super) fn run(
        &self,
        guest: &Guest,
        machine: &Machine,
        choices: &Choices,
        patience: Duration,
        output: &mut String,
    ) -> Result<Observed> {
        let mut screen = Vec::new();
        let seen = session::under_slat(machine, &self.hypervisor, guest, choices, patience, &mut screen);
        output.push_str(&String::from_utf8_lossy(&screen));
        let seen = seen?;
        if let Some(report) = &seen.report {
            output.push_str(&format!("\n{report:?}\n"));
        }
        Ok(seen)
    }

    /// Boots Linux, whatever comes of it.
    pub(super) fn boot(&self, boot: &Boot, output: &mut String) -> Result<(Guest, Observed)> {
        let guest = self.linux(&boot.kernel, boot.memory)?;
        let machine = self.machine(boot.cpu, boot.cpus, boot.pace);
        let seen = self.run(&guest, &machine, &boot.choices, boot.patience, output)?;
        Ok((guest, seen))
    }

    /// Boots Linux, which must reach its end with everything in order.
    pub(super) fn good_boot(&self, boot: &Boot, output: &mut String) -> Result<(Observed, Report)> {
        let (guest, seen) = self.boot(boot, output)?;
        verdict::under_slat(&guest, &seen).map_err(anyhow::Error::msg)?;
        let report = seen.report.clone().context("there is no report")?;
        let started = seen.started.as_ref().context("the hypervisor did not say what it chose")?;
        ensure!(started.mechanism == self.platform.mechanism(), "the tables are {:?}", started.mechanism);
        ensure!(report.frames.taken > 0, "no frame was taken");
        if self.platform == Platform::Arm {
            let sent = &report.uart.text;
            ensure!(sent.contains(TO_UART), "the emulated serial port got {sent:?} instead of {TO_UART:?}");
        }
        Ok((seen, report))
    }

    /// Control of the whole arrangement: the same guest, nothing below it. Its seconds to init.
    pub(super) fn natively(&self, output: &mut String) -> Result<f64> {
        let guest = self.linux(&self.kernel, MEMORY)?;
        let machine = self.machine(self.platform.default_cpu(), 1, Pace::Usual);
        let mut screen = Vec::new();
        let seen = session::natively(&machine, &guest, PATIENCE, &mut screen);
        output.push_str(&String::from_utf8_lossy(&screen));
        let seen = seen?;
        verdict::natively(&guest, &seen).map_err(anyhow::Error::msg)?;
        seen.seconds_to_init().context("there was no init")
    }

    /// Linux under churn with this seed. Seed 1 and what runs on several CPUs is repeated on the model of the hardware as well.
    pub(super) fn under_churn(&self, cpus: u32, seed: u64, output: &mut String) -> Result<String> {
        let mut boot = self.churned(cpus, seed);
        boot.choices.record = seed == 1 || cpus > 1;
        let (seen, report) = self.good_boot(&boot, output)?;
        if cpus > 1 {
            both_took_part(&seen, &report, cpus)?;
        }
        let note = enough_churn(&report)?;
        match &seen.recording {
            Some(_) => Ok(format!("{note}; {}", recorded::is_clean(&seen)?)),
            None => Ok(note),
        }
    }

    /// Linux under churn with this seed twice, with a clock that counts instructions: both runs print the same, report the same
    /// and did the same to the tables and the TLBs, from the first byte to the last.
    pub(super) fn twice_under_churn(&self, seed: u64, output: &mut String) -> Result<String> {
        let mut boot = Boot { pace: Pace::Counted, ..self.churned(1, seed) };
        boot.choices.record = true;
        let (first, report) = self.good_boot(&boot, output)?;
        let (second, again) = self.good_boot(&boot, output)?;
        let note = enough_churn(&report)?;
        let [one, other] = [&first, &second].map(|seen| String::from_utf8_lossy(&seen.console));
        let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
        ensure!(differs.is_none(), "the consoles differ: {differs:?}");
        ensure!(one == other, "one console is longer than the other");
        ensure!(report == again, "the reports differ: {report:?} and {again:?}");
        let (one, other) = first.recording.zip(second.recording).context("there are no recordings")?;
        let differs = one.events.iter().zip(&other.events).position(|(one, other)| one != other);
        ensure!(differs.is_none(), "the recordings differ from event {} on", differs.unwrap_or_default());
        let (events, bytes) = (one.events.len(), first.console.len());
        ensure!(events == other.events.len(), "one recording is longer than the other");
        Ok(format!("{note}; {bytes} bytes and {events} events, twice the same"))
    }

    /// A boot under churn: page by page, with a window around each fault, or in large leaves, which churn then has to split.
    pub(super) fn churned(&self, cpus: u32, seed: u64) -> Boot {
        /// On RISC-V each fence of another hart waits for the firmware there, and so for the host to give that hart a turn.
        /// Slowly, so that it is not over before the guest has started its other CPU.
        const LESS: (u32, u64) = (2, 6_000);
        let mut boot = Boot { cpus, ..self.usual() };
        let churn = task_run::churn(seed);
        let slow = self.platform == Platform::Riscv && cpus > 1;
        boot.choices.churn =
            Some(if slow { Churn { per_exit: LESS.0, limit: LESS.1, ..churn } } else { churn });
        boot.choices.leaf = [Leaf::Size4K, Leaf::Auto, Leaf::Size2M][seed as usize % 3];
        boot
    }
}

/// Whether Linux found so many CPUs and used each.
pub(super) fn both_took_part(seen: &Observed, report: &Report, cpus: u32) -> Result<()> {
    let console = String::from_utf8_lossy(&seen.console);
    ensure!(console.contains(&format!("{cpus} CPUs")), "the kernel did not bring up {cpus} CPUs");
    let least = report.exits_by_cpu.iter().min().copied().unwrap_or_default();
    ensure!(least > 500, "one of the CPUs left the guest {least} times only");
    Ok(())
}

/// What churn did, if that was enough.
pub(super) fn enough_churn(report: &Report) -> Result<String> {
    let counts = report.churn.context("churn did not report")?;
    let counts = [counts.unmapped, counts.moved, counts.write_protected];
    let [unmapped, moved, write_protected] = counts;
    let note = format!("{unmapped} pages unmapped, {moved} moved, {write_protected} write-protected");
    let enough = counts.iter().all(|&count| count > 300) && counts.iter().sum::<u64>() > 2000;
    ensure!(enough, "too little churn: {note}");
    Ok(note)
}
