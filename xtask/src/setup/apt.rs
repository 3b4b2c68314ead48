//! Installs packages of the distribution. Only for root on a Debian-like machine: see [`Host::can_install`].
//!
//! [`Host::can_install`]: crate::host::Host::can_install

use crate::process;
use crate::progress::Step;
use anyhow::{Result, bail};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

static UPDATED: AtomicBool = AtomicBool::new(false);

/// Installs `packages`; refreshes the package index first only when it has to.
pub(crate) fn install(what: &str, packages: &[&str]) -> Result<()> {
    let step = Step::new(format!("Installing {what}: apt-get install {}", packages.join(" ")));
    let attempt = || {
        // Nothing that somebody installed may go for our sake.
        let options = ["install", "-y", "--no-remove", "--no-install-recommends"];
        process::capture(apt_get().args(options).args(packages))
    };
    let mut captured = attempt()?;
    if !captured.success && !UPDATED.load(Ordering::Relaxed) {
        // No index yet, or one so old that its packages are gone from the server.
        update_once()?;
        captured = attempt()?;
    }
    if !captured.success {
        bail!("apt-get install failed: {}", captured.complaint());
    }
    step.done("installed");
    Ok(())
}

/// Refreshes the package index, unless this process has already done so.
pub(crate) fn update_once() -> Result<()> {
    if !UPDATED.load(Ordering::Relaxed) {
        let captured = process::capture(apt_get().arg("update"))?;
        if !captured.success {
            bail!("apt-get update failed: {}", captured.complaint());
        }
        UPDATED.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// The command, in a language that can be read and without questions.
pub(super) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}
