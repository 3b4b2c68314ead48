//! The monitor: its options, and what they do not go with.

use super::{Options, refuse};
use crate::boot::session::Asking;
use anyhow::Result;

/// How the monitor is asked.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct MonitorOptions {
    /// Stop the guest with Ctrl-] and Enter, and ask about it: `help` lists the commands, `continue` lets it go on. Where standard input
    /// is no terminal its lines are the commands, asked once when the guest's user space begins
    #[arg(long)]
    monitor: bool,

    /// Stop the guest when its user space begins and ask these, separated by semicolons; then it goes on
    #[arg(long, value_name = "COMMANDS")]
    monitor_commands: Option<String>,
}

impl MonitorOptions {
    /// Who asks, if anybody is to.
    pub(crate) fn asking(&self) -> Option<Asking> {
        match &self.monitor_commands {
            // Asked for once in the life of this program.
            Some(commands) => Some(Asking::Script(commands.clone().leak())),
            None => self.monitor.then_some(Asking::Input),
        }
    }

    /// The options, by their names, and whether they were given.
    pub(super) fn given(&self) -> [(&'static str, bool); 2] {
        [("--monitor", self.monitor), ("--monitor-commands", self.monitor_commands.is_some())]
    }
}

impl Options {
    /// Whether the monitor goes with everything else.
    pub(super) fn check_monitor(&self) -> Result<()> {
        let given = self.monitor.given().into_iter().find(|(_, given)| *given);
        let Some((name, _)) = given else { return Ok(()) };
        refuse(
            name,
            &[
                ("--guests", self.guests > 1),
                ("--fork, --migrate, --snapshot or --restore", self.pause.then().is_some()),
                ("--compare", self.compare),
            ],
        )
    }
}
