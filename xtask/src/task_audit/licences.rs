//! `cargo xtask audit --licences`: whether what the publishable crates need may be used wherever they may be.
//!
//! From `cargo metadata` alone: each package on the way from a publishable crate, development dependencies left out, must
//! offer a licence of the list below.

use crate::process;
use crate::workspace::{Workspace, cargo};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Licences whose terms a user under MIT or Apache-2.0 fulfils anyway, or that ask for no more than a notice.
const COMPATIBLE: [&str; 10] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "Unicode-3.0",
];

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// The registries that it may go to; an empty list for none.
    publish: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Graph {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Graph,
}

/// Looks at all dependencies of the crates that may be published.
pub(crate) fn audit(workspace: &Workspace) -> Result<String> {
    let arguments = ["metadata", "--format-version=1", "--all-features", "--locked"];
    let json = process::output_of(Command::new(cargo()).args(arguments).current_dir(&workspace.root))?;
    judge(&json)
}

fn judge(json: &str) -> Result<String> {
    let metadata: Metadata = serde_json::from_str(json).context("cannot read `cargo metadata`")?;
    let packages: BTreeMap<_, _> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: BTreeMap<_, _> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let publishable = |id: &&str| {
        packages.get(id).is_some_and(|package| package.publish.as_ref().is_none_or(|to| !to.is_empty()))
    };
    let mut open: Vec<&str> =
        metadata.workspace_members.iter().map(String::as_str).filter(publishable).collect();
    let (mut seen, mut refused) = (BTreeSet::new(), Vec::new());
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let package = packages.get(id).with_context(|| format!("`cargo metadata` does not describe {id}"))?;
        match &package.license {
            Some(licence) if is_compatible(licence) => {}
            Some(licence) => refused.push(format!("{} {} has {licence}", package.name, package.version)),
            None => refused.push(format!("{} {} names no licence", package.name, package.version)),
        }
        let used = |dependency: &&Dependency| {
            dependency.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
        };
        let dependencies = nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
        open.extend(dependencies.iter().filter(used).map(|dependency| dependency.pkg.as_str()));
    }
    match (refused.is_empty(), seen.is_empty()) {
        (_, true) => bail!("the workspace has no crate that may be published"),
        (true, _) => Ok(format!("{} packages with compatible licences", seen.len())),
        (false, _) => bail!("{}", refused.join("; ")),
    }
}

/// Whether an SPDX expression offers compatible licences. Cargo's old form `MIT/Apache-2.0` is a choice.
fn is_compatible(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    choice(&mut rest) == Some(true) && rest.is_empty()
}

/// `a OR b`: OR binds weaker than AND. `None` where it is no expression.
fn choice(words: &mut &[&str]) -> Option<bool> {
    let mut compatible = all(words)?;
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        compatible |= all(words)?;
    }
    Some(compatible)
}

/// `a AND b`.
fn all(words: &mut &[&str]) -> Option<bool> {
    let mut compatible = one(words)?;
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        compatible &= one(words)?;
    }
    Some(compatible)
}

/// A licence, one with an exception, or an expression in parentheses.
fn one(words: &mut &[&str]) -> Option<bool> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    match *first {
        "(" => {
            let compatible = choice(words)?;
            let (close, rest) = words.split_first()?;
            *words = rest;
            (*close == ")").then_some(compatible)
        }
        ")" | "AND" | "OR" | "WITH" => None,
        licence => {
            if words.first() == Some(&"WITH") {
                // An exception only allows more.
                *words = words.get(2..)?;
            }
            Some(COMPATIBLE.contains(&licence))
        }
    }
}

#[cfg(test)]
mod tests;
