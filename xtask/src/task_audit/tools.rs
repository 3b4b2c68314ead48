//! Gets the tools of the audit, which are subcommands of cargo.

use crate::missing::{Missing, MissingThings};
use crate::process;
use crate::progress::Step;
use crate::workspace::cargo;
use anyhow::Result;
use std::process::Command;

/// A subcommand of cargo that comes in a package of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) subcommand: &'static str,
    pub(crate) package: &'static str,
}

pub(crate) const MUTANTS: Tool = Tool { subcommand: "mutants", package: "cargo-mutants" };
pub(crate) const NEXTEST: Tool = Tool { subcommand: "nextest", package: "cargo-nextest" };
pub(crate) const COVERAGE: Tool = Tool { subcommand: "llvm-cov", package: "cargo-llvm-cov" };
pub(crate) const AUDIT: Tool = Tool { subcommand: "audit", package: "cargo-audit" };
pub(crate) const SEMVER: Tool = Tool { subcommand: "semver-checks", package: "cargo-semver-checks" };

impl Tool {
    /// Whether it can be called.
    pub(crate) fn is_there(self) -> bool {
        let version = process::capture(Command::new(cargo()).args([self.subcommand, "--version"]));
        version.is_ok_and(|captured| captured.success)
    }

    /// What to tell where it is missing.
    pub(crate) fn missing(self) -> Missing {
        Missing::new(self.package, format!("cargo install --locked {}", self.package))
    }
}

/// Installs those of `tools` that are missing.
pub(crate) fn obtain(tools: &[Tool]) -> Result<()> {
    let mut missing = Vec::new();
    for tool in tools.iter().filter(|tool| !tool.is_there()) {
        let step = Step::new(format!("{}: cargo install", tool.package));
        let installed = process::capture(Command::new(cargo()).args(["install", "--locked", tool.package]));
        anyhow::ensure!(!process::interrupted(), "interrupted");
        match installed {
            Ok(captured) if captured.success => step.done("there"),
            Ok(captured) => missing.push(because(*tool, &captured.complaint())),
            Err(error) => missing.push(because(*tool, &format!("{error:#}"))),
        }
    }
    MissingThings::check(missing)
}

fn because(tool: Tool, reason: &str) -> Missing {
    let mut missing = tool.missing();
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    missing.what.push_str(&format!(" ({reason})"));
    missing
}
