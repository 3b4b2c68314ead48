//! The steps in which what is published is built with none of its features and with each alone, for the host and for each bare-metal
//! target, and documented for each. Which features there are, the manifests say: a new one needs no line here, unless it wants `std`.

use super::Context;
use super::step::{Outcome, Step};
use crate::process;
use crate::toolchain::{self, Plan, Toolchain};
use crate::workspace::{Workspace, cargo};
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::process::Command;

/// Features that no bare-metal target has.
const WITH_STD: [&str; 1] = ["std"];

/// What is built for each bare-metal target.
const BARE: [(&str, &str, &[&str]); 3] = [
    ("Arm", toolchain::AARCH64, &["slat"]),
    ("x86-64", toolchain::X86_64, &["slat", "slat-x86"]),
    ("RISC-V", toolchain::RISCV64, &["slat"]),
];

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    features: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// One step for the host and one for each bare-metal target.
pub(crate) fn steps(published: &'static [&'static str]) -> Vec<Step> {
    let host = Step::new("each feature alone, for the host", move |context, output| {
        Outcome::of(check(&context.workspace, published, None, output))
    });
    let bare = |(name, target, packages): (&str, &'static str, &'static [&'static str])| {
        Step::new(
            format!("each feature alone and documentation, for bare metal, {name}"),
            move |context, output| on_bare_metal(context, target, packages, output),
        )
    };
    std::iter::once(host).chain(BARE.into_iter().map(bare)).collect()
}

fn on_bare_metal(context: &Context, target: &str, packages: &[&str], output: &mut String) -> Outcome {
    let plan = toolchain::plan(&context.host, target);
    if plan == Plan::Impossible {
        return Outcome::Impossible(toolchain::missing(&context.host, target).to_string());
    }
    match toolchain::obtain(&context.host, &plan, target) {
        Ok(Toolchain::InUse) => Outcome::of(
            check(&context.workspace, packages, Some(target), output)
                .and_then(|note| document(&context.workspace, packages, target, output).map(|()| note)),
        ),
        Ok(Toolchain::Distribution) => {
            Outcome::Skipped("the distribution's toolchain builds its library anew for each".to_owned())
        }
        Err(error) => Outcome::Impossible(format!("{error:#}")),
    }
}

/// Builds the packages with each choice of features, without warnings.
fn check(
    workspace: &Workspace,
    packages: &[&str],
    target: Option<&str>,
    output: &mut String,
) -> Result<String> {
    let arguments = ["metadata", "--no-deps", "--format-version=1"];
    let json = process::output_of(Command::new(cargo()).args(arguments).current_dir(&workspace.root))?;
    let choices = choices(&json, packages, target.is_some())?;
    for (package, feature) in &choices {
        let mut command = Command::new(cargo());
        command.args(["check", "--no-default-features", "--package", package, "--features", feature]);
        complain(for_target(&mut command, workspace, target), output)
            .with_context(|| format!("{package} with features \"{feature}\""))?;
    }
    Ok(format!("{} choices of features", choices.len()))
}

/// Which packages are built, each with which feature; none is an empty name.
fn choices(json: &str, packages: &[&str], bare: bool) -> Result<Vec<(String, String)>> {
    let metadata: Metadata = serde_json::from_str(json).context("cannot read `cargo metadata`")?;
    let mut choices = Vec::new();
    for wanted in packages {
        let package = metadata.packages.iter().find(|package| package.name == *wanted);
        let package = package.with_context(|| format!("there is no package {wanted}"))?;
        let known = package.features.keys().map(String::as_str);
        let fits = |feature: &&str| *feature != "default" && !(bare && WITH_STD.contains(feature));
        let features = std::iter::once("").chain(known.filter(fits));
        choices.extend(features.map(|feature| (package.name.clone(), feature.to_owned())));
    }
    Ok(choices)
}

fn document(workspace: &Workspace, packages: &[&str], target: &str, output: &mut String) -> Result<()> {
    let mut command = Command::new(cargo());
    command.args(["doc", "--no-deps"]).args(packages.iter().flat_map(|package| ["--package", package]));
    command.env("RUSTDOCFLAGS", "-D warnings");
    complain(for_target(&mut command, workspace, Some(target)), output).context("documentation")
}

fn for_target<'c>(command: &'c mut Command, workspace: &Workspace, target: Option<&str>) -> &'c mut Command {
    if let Some(target) = target {
        command.args(["--target", target, "--target-dir"]).arg(workspace.target.join("bare"));
    }
    command.current_dir(&workspace.root)
}

/// Runs a command, which must end well and without warnings.
fn complain(command: &mut Command, output: &mut String) -> Result<()> {
    let captured = process::capture(command)?;
    output.push_str(&captured.stderr);
    ensure!(captured.success, "{}", captured.complaint());
    let warning = captured.stderr.lines().find(|line| line.starts_with("warning"));
    ensure!(warning.is_none(), "{}", warning.unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests;
