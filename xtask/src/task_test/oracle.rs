//! The steps in which slat runs beside a model of the hardware and a naive specification.

use super::Context;
use super::step::{Outcome, Step};
use crate::process;
use crate::workspace::cargo;
use std::process::Command;

/// Operations that are asked for, over all formats; a few sequences are shorter, and a million is to remain.
const OPERATIONS: &str = "1050000";

/// One step.
pub(crate) fn steps() -> Vec<Step> {
    vec![Step::new("slat beside the model of the hardware", random)]
}

/// Random sequences on all formats. The seeds are always the same; `cargo run --release -p slat-check` takes others.
fn random(context: &Context, output: &mut String) -> Outcome {
    let mut command = Command::new(cargo());
    command.args([
        "run",
        "--release",
        "--quiet",
        "--package",
        "slat-check",
        "--",
        "--operations",
        OPERATIONS,
    ]);
    command.current_dir(&context.workspace.root);
    match process::capture(&mut command) {
        Ok(captured) => {
            output.push_str(&captured.stdout);
            output.push_str(&captured.stderr);
            let total = captured.stdout.lines().find_map(|line| line.strip_prefix("all: "));
            match (captured.success, total) {
                (true, Some(total)) => Outcome::Passed(total.to_owned()),
                (true, None) => Outcome::Failed("it did not say how many operations it checked".to_owned()),
                (false, _) => Outcome::Failed(captured.complaint()),
            }
        }
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}
