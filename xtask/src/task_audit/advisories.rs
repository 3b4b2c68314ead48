//! `cargo xtask audit --advisories`: whether a dependency has a known vulnerability, by cargo-audit and the RustSec database.
//!
//! The database is a git repository. Where it cannot be reached, a copy does ([`COPY`]); without either this is a skip, and said so:
//! an audit that has looked at nothing has not passed.

use super::{Finding, tools};
use crate::process;
use crate::workspace::{Workspace, cargo};
use anyhow::{Result, ensure};
use std::path::PathBuf;
use std::process::Command;

/// Where the database is kept by those who keep it.
const DATABASE: &str = "https://github.com/RustSec/advisory-db.git";

/// Names a directory with a copy of it.
const COPY: &str = "SLAT_ADVISORY_DB";

/// The lockfiles: that of the workspace, and those of the workspaces beside it.
const LOCKFILES: [&str; 3] = ["Cargo.lock", "bench/Cargo.lock", "fuzz/Cargo.lock"];

/// Looks all dependencies up.
pub(crate) fn audit(workspace: &Workspace) -> Result<Finding> {
    let copy = std::env::var_os(COPY).map(PathBuf::from);
    if let Some(copy) = &copy {
        ensure!(
            copy.join("crates").is_dir(),
            "{COPY}: {} is no copy of the RustSec database",
            copy.display()
        );
    } else if !is_reachable() {
        return Ok(Finding::Skipped(format!(
            "the RustSec database cannot be reached; {COPY}=DIRECTORY names a copy of it"
        )));
    }
    tools::obtain(&[tools::AUDIT])?;
    let mut looked_at = 0;
    for lockfile in LOCKFILES.iter().filter(|file| workspace.root.join(file).is_file()) {
        let mut command = Command::new(cargo());
        command.args(["audit", "--file", lockfile]).current_dir(&workspace.root);
        match &copy {
            Some(copy) => command.args(["--no-fetch", "--stale", "--db"]).arg(copy),
            None => command.arg("--db").arg(workspace.target.join("advisory-db")),
        };
        process::run_visibly(&mut command)?;
        looked_at += 1;
    }
    ensure!(looked_at > 0, "there is no lockfile");
    Ok(Finding::Fine(format!("no known vulnerability in {looked_at} lockfiles")))
}

/// Whether git gets an answer from where the database is, without asking anybody for a password.
fn is_reachable() -> bool {
    let mut git = Command::new("git");
    git.args(["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=20", "ls-remote", DATABASE, "HEAD"]);
    git.env("GIT_TERMINAL_PROMPT", "0");
    process::capture(&mut git).is_ok_and(|captured| captured.success)
}
