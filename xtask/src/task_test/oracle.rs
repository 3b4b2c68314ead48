//! The steps in which slat runs beside a model of the hardware and a naive specification.

use super::Context;
use super::step::{Outcome, Step};
use crate::process;
use crate::workspace::cargo;
use std::process::Command;

/// Operations that are asked for, over all formats; a few sequences are shorter, and a million is to remain.
const OPERATIONS: &str = "1120000";

/// The formats of which every sequence of four is run: one whose tables have permissions, and one whose tables have none. All four ISAs take
/// five minutes; the host tests run every sequence of three on each.
const EXHAUSTIVE: &str = "stage2-3-levels,ept-5-levels-marks";

/// Three steps.
pub(crate) fn steps() -> Vec<Step> {
    vec![
        // The seeds are always the same; `cargo run --bin slat-check` takes others.
        Step::new("slat beside the model of the hardware", |context, output| {
            check(&["--operations", OPERATIONS], context, output)
        }),
        Step::new("every sequence of four operations", |context, output| {
            check(&["--exhaustive", "4", "--format", EXHAUSTIVE], context, output)
        }),
        Step::new("a million hostile accesses", |context, output| check(&["--hostile"], context, output)),
    ]
}

fn check(arguments: &[&str], context: &Context, output: &mut String) -> Outcome {
    let mut command = Command::new(cargo());
    command.args(["run", "--quiet", "--bin", "slat-check", "--"]).args(arguments);
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
