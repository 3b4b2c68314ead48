//! What is done with a guest in the middle of its work: the options for that, and what they do not go with.

use super::{Options, refuse};
use crate::guests::cache::Kernel;
use crate::platform::Platform;
use anyhow::{Result, ensure};
use slat_hv_protocol::GUESTS_MAX;
use slat_hv_protocol::pause::Then;

/// At most one of them.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct PauseOptions {
    /// Fork the guest so many times (up to 7) in the middle of its user space; it and each fork do something else then, and all
    /// are looked at; with --arch riscv64
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..GUESTS_MAX as i64))]
    pub(crate) fork: Option<u32>,
}

impl PauseOptions {
    /// What is done with the guest, if anything is.
    pub(crate) fn then(&self) -> Option<Then> {
        self.fork.map(|children| Then::Fork { children })
    }

    /// The options, by their names, and whether they were given.
    pub(super) fn given(&self) -> [(&'static str, bool); 1] {
        [("--fork", self.fork.is_some())]
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
            ],
        )
    }
}
