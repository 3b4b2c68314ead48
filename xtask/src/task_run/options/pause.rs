//! What is done with a guest in the middle of its work: the options for that, and what they do not go with.

use super::{Options, refuse};
use crate::guests::cache::Kernel;
use crate::platform::Platform;
use anyhow::{Context, Result, ensure};
use slat_hv_protocol::GUESTS_MAX;
use slat_hv_protocol::pause::Then;
use slat_hv_protocol::snapshot::{Snapshot, State};
use std::path::{Path, PathBuf};

/// At most one of them.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct PauseOptions {
    /// Fork the guest so many times (up to 7) in the middle of its user space; it and each fork do something else then, and all
    /// are looked at; with --arch riscv64
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..GUESTS_MAX as i64))]
    pub(crate) fork: Option<u32>,

    /// Move the guest to another place of the machine while it works: its memory is copied in rounds, by the log of what it writes to,
    /// and the last one while it stands still; with --arch riscv64
    #[arg(long)]
    pub(crate) migrate: bool,

    /// Write the guest to a file in the middle of its user space, and end; with --arch riscv64
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,

    /// Let a guest go on that was written to a file with --snapshot; with --arch riscv64
    #[arg(long, value_name = "FILE")]
    pub(crate) restore: Option<PathBuf>,
}

impl PauseOptions {
    /// What is done with the guest, if anything is.
    pub(crate) fn then(&self) -> Option<Then> {
        let snapshot = self.snapshot.as_ref().map(|_| Then::Snapshot);
        let restore = self.restore.as_ref().map(|_| Then::Restore);
        let migrate = self.migrate.then_some(Then::Migrate);
        self.fork.map(|children| Then::Fork { children }).or(migrate).or(snapshot).or(restore)
    }

    /// The options, by their names, and whether they were given.
    pub(super) fn given(&self) -> [(&'static str, bool); 4] {
        [
            ("--fork", self.fork.is_some()),
            ("--migrate", self.migrate),
            ("--snapshot", self.snapshot.is_some()),
            ("--restore", self.restore.is_some()),
        ]
    }
}

impl Options {
    /// Guests at once at the most.
    pub(crate) fn most_guests(&self) -> u32 {
        self.guests + self.pause.then().map_or(0, Then::more_guests)
    }

    /// Whether what is to be done with the guest goes with everything else.
    pub(super) fn check_pause(&self, platform: Platform) -> Result<()> {
        let given: Vec<_> = self.pause.given().into_iter().filter(|(_, given)| *given).collect();
        let Some((name, _)) = given.first() else { return Ok(()) };
        ensure!(given.len() == 1, "{name}: not with {}", given.get(1).map_or("", |(other, _)| other));
        ensure!(platform == Platform::Riscv, "{name}: with --arch riscv64 only");
        let ours = self.initrd.is_none() && self.fetched().is_none_or(|kernel| kernel != Kernel::UBoot);
        refuse(
            name,
            &[
                ("--guest u-boot or --initrd, as the user space has to be our own", !ours),
                ("--guests", self.guests > 1),
                ("--cpus", self.cpus > 1),
                ("--churn", self.churn),
                ("--compare", self.compare),
                ("--record", self.record.is_some()),
                ("--guest", self.guest.is_some() && self.pause.restore.is_some()),
                ("--append", !self.append.is_empty() && self.pause.restore.is_some()),
            ],
        )?;
        match &self.pause.restore {
            Some(file) => check_snapshot(file, self.memory),
            None => Ok(()),
        }
    }
}

/// Whether a guest with so many bytes of memory can go on from the snapshot in `file`, as far as that can be told here.
fn check_snapshot(file: &Path, memory: u64) -> Result<()> {
    let name = file.display();
    let bytes = std::fs::read(file).with_context(|| format!("--restore: cannot read {name}"))?;
    let snapshot = Snapshot::read(&bytes).with_context(|| format!("--restore: {name} cannot be used"))?;
    let State { arch, ram, .. } = &snapshot.state;
    ensure!(arch == Platform::Riscv.arch(), "--restore: the guest in {name} is of {arch}");
    let its = ram.size >> 20;
    ensure!(ram.size == memory, "--memory: the guest in {name} has {its}M");
    Ok(())
}
