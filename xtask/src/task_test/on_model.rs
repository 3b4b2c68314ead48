//! The steps in which `cargo xtask run --machine model` is run as a user would: every format, and mistakes that must fail.

use super::Context;
use super::step::{Outcome, Step};
use crate::process::{self, Captured};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use slat_hv_model::Cpu;
use std::process::Command;

/// What must be zero, in the report's object `checks`.
const CHECKS: [&str; 4] =
    ["stale_reads", "stale_translations", "frames_reachable_after_return", "rules_broken"];

/// Runs of each format that must be good: with so many CPUs and these options.
const GOOD: [(u64, &str); 3] = [
    (4, ""),
    (2, "--leaf 2m --tlb random --seed 2 --churn-seed 2"),
    // More guests than tags.
    (2, "--guests 4 --host-cpus 2"),
];

/// Runs that must fail, on every format.
const BAD: [&str; 2] = ["no-tlbi", "local-tlbi"];

/// All of them.
pub(crate) fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for format in Cpu::ALL.map(Cpu::format) {
        for (cpus, more) in GOOD {
            let name = format!("run on the model: {format}, {cpus} CPUs {more}").trim_end().to_owned();
            steps.push(Step::new(name, move |_: &Context, output| {
                Outcome::of(good(format, cpus, more, output))
            }));
        }
        for mistake in BAD {
            let name = format!("run on the model: {format}, {mistake} is noticed");
            steps.push(Step::new(name, move |_: &Context, output| Outcome::of(bad(format, mistake, output))));
        }
    }
    steps
}

fn good(format: &str, cpus: u64, more: &str, output: &mut String) -> Result<String> {
    let (captured, json) = run(format, cpus, more, output)?;
    ensure!(captured.success, "{}", captured.complaint());
    ensure!(json["ok"] == true && json["sha256_ok"] == true, "the report does not say that all is well");
    for check in CHECKS {
        ensure!(json["checks"][check] == 0, "{check}: {}", json["checks"][check]);
    }
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let changes = ["unmapped", "moved", "write_protected"].map(|kind| number(&json["churn"][kind]));
    ensure!(changes.iter().all(|count| *count > 100), "churn did little: {changes:?}");
    let exits = json["exits_by_cpu"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all_ran = exits.len() as u64 == cpus && exits.iter().all(|exits| number(exits) > 0);
    ensure!(all_ran, "not every CPU ran the guest: {exits:?}");
    ensure!(json["frames_taken"] == json["frames_returned"], "not all frames came back");
    Ok(format!("{} changes, {} exits, 0 stale", changes.iter().sum::<u64>(), json["exits"]))
}

/// The negative control: the run fails, in one line, by what the checks found or because the guest came to a stop.
fn bad(format: &str, mistake: &str, output: &mut String) -> Result<String> {
    let (captured, json) = run(format, 4, &format!("--mistake {mistake}"), output)?;
    ensure!(!captured.success, "the exit code is 0");
    let errors: Vec<_> = captured.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    ensure!(errors.len() == 1, "not one error line: {errors:?}");
    let found = CHECKS.map(|check| json["checks"][check].as_u64().unwrap_or(0));
    ensure!(json["ok"] == false && found.iter().sum::<u64>() > 0, "the checks found nothing");
    let found: Vec<_> = CHECKS.iter().zip(found).filter(|(_, count)| *count > 0).collect();
    Ok(found.iter().map(|(check, count)| format!("{check} {count}")).collect::<Vec<_>>().join(", "))
}

fn run(format: &str, cpus: u64, more: &str, output: &mut String) -> Result<(Captured, Value)> {
    let program = std::env::current_exe().context("this program has no path")?;
    let mut command = Command::new(program);
    command.args(["run", "--machine", "model", "--json", "--churn", "--memory", "16M"]);
    command.args(["--format", format, "--cpus", &cpus.to_string()]).args(more.split_whitespace());
    let captured = process::capture(&mut command)?;
    output.push_str(&captured.stderr);
    let json = serde_json::from_str(&captured.stdout).context("stdout is not one JSON object")?;
    Ok((captured, json))
}
