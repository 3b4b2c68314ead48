//! The steps that hold the documents against the repository: what a link names must be there, a step that is named must be one,
//! and the lists of what is dangerous and of what an ISA consists of must be complete.
//!
//! A link whose text is a name in code style ([`name`](file.rs)) names something in that file: a test, mostly.

use super::Context;
use super::step::{Outcome, Step};
use super::tidy::{self, File};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The list of files with unsafe code.
const UNSAFE: &str = "docs/unsafe.md";

/// What tells such a file.
const UNSAFE_MARK: &str = "[expect(unsafe_code, reason = \"";

/// How to bring slat to another ISA.
const PORTING: &str = "docs/porting.md";

/// The formats that there are, each of which is an example of how to make one.
const FORMATS: &str = "crates/slat/src/format";

pub(super) const LINKS: &str = "documents: links lead to what they name";
pub(super) const STEPS: &str = "documents: steps that are named exist";
pub(super) const UNSAFE_LIST: &str = "documents: every file with unsafe code is listed";
pub(super) const PORTS: &str = "documents: every ISA is an example in docs/porting.md";

/// The steps; `names` are those of all others.
pub(crate) fn steps(names: BTreeSet<String>) -> Vec<Step> {
    vec![
        Step::new(LINKS, |context, _| judge(context, links)),
        Step::new(STEPS, move |context, _| judge(context, |_, file| unknown_steps(&names, file))),
        Step::new(UNSAFE_LIST, |context, _| unsafe_list(context)),
        Step::new(PORTS, |context, _| ports(&context.workspace.root)),
    ]
}

/// Applies a check to every document. One that stands at a second place as a link to the first is looked at there.
fn judge(context: &Context, check: impl Fn(&Path, File<'_>) -> Vec<String>) -> Outcome {
    let root = &context.workspace.root;
    let files = match tidy::files(context) {
        Ok(files) => files,
        Err(error) => return Outcome::Failed(format!("{error:#}")),
    };
    let (mut complaints, mut documents) = (Vec::new(), 0);
    for path in files.iter().filter(|path| path.ends_with(".md")) {
        let whole = root.join(path);
        if let (false, Ok(text)) = (whole.is_symlink(), fs::read_to_string(&whole)) {
            documents += 1;
            complaints.extend(check(root, File { path, text: &text }));
        }
    }
    outcome(&complaints, format!("{documents} documents"))
}

fn outcome(complaints: &[String], note: String) -> Outcome {
    if complaints.is_empty() { Outcome::Passed(note) } else { Outcome::Failed(complaints.join("\n")) }
}

/// Links of a document to files, each with its line and text.
fn links_of(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    text.lines().enumerate().flat_map(|(index, line)| {
        line.match_indices("](").filter_map(move |(middle, _)| {
            let target = line[middle + 2..].split(')').next()?;
            let label = &line[..middle];
            let label = &label[label.rfind('[')? + 1..];
            // Rustdoc itself looks up what is named by a path of Rust's.
            let elsewhere = target.contains("::") || target.contains("://") || target.starts_with('#');
            (!elsewhere).then_some((index + 1, label, target.split('#').next().unwrap_or(target)))
        })
    })
}

/// Complaints about links of a document that lead nowhere, or to a file that does not have what the link's text names.
fn links(root: &Path, file: File<'_>) -> Vec<String> {
    let directory = root.join(file.path).parent().map(PathBuf::from).unwrap_or_default();
    let mut complaints = Vec::new();
    for (line, label, target) in links_of(file.text) {
        let path = directory.join(target);
        if !path.exists() {
            complaints.push(format!("{}:{line}: {target} is not there", file.path));
        } else if let Some(name) = identifier(label).filter(|_| target.ends_with(".rs")) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if !text
                .split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
                .any(|word| word == name)
            {
                complaints.push(format!("{}:{line}: {target} has no `{name}`", file.path));
            }
        }
    }
    complaints
}

/// The identifier that the text of a link is, in code style.
fn identifier(label: &str) -> Option<&str> {
    let name = label.strip_prefix('`')?.strip_suffix('`')?;
    let is_name = name.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
    (is_name && !name.is_empty()).then_some(name)
}

/// Complaints about steps of `cargo xtask test` that a document names (step `NAME`) and that are none.
fn unknown_steps(names: &BTreeSet<String>, file: File<'_>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (start, word) in file.text.match_indices("step") {
        // The name may stand on the next line.
        let Some(name) = file.text[start + word.len()..].trim_start().strip_prefix('`') else { continue };
        let name = name.split('`').next().unwrap_or_default();
        if !names.contains(name) {
            let line = file.text[..start].lines().count().max(1);
            complaints.push(format!("{}:{line}: there is no step `{name}`", file.path));
        }
    }
    complaints
}

/// The reasons that a file gives for its unsafe code, as they stand there.
fn reasons(file: File<'_>) -> BTreeSet<String> {
    let lines = file.text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let reason = |line: &str| Some(line.split_once(UNSAFE_MARK)?.1.split('"').next()?.to_owned());
    lines.filter_map(reason).collect()
}

/// The list of unsafe code has each file that has some, with its reasons, and no other.
fn unsafe_list(context: &Context) -> Outcome {
    let root = &context.workspace.root;
    let (files, list) = match (tidy::files(context), fs::read_to_string(root.join(UNSAFE))) {
        (Ok(files), Ok(list)) => (files, list),
        (Err(error), _) => return Outcome::Failed(format!("{error:#}")),
        (_, Err(error)) => return Outcome::Failed(format!("cannot read {UNSAFE}: {error}")),
    };
    let mut found = BTreeMap::new();
    // A file that only this one could take for unsafe is its own test.
    for path in files
        .iter()
        .filter(|path| path.ends_with(".rs") && !path.starts_with("xtask/src/task_test/documents"))
    {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        let reasons = reasons(File { path, text: &text });
        if !reasons.is_empty() {
            found.insert(path.clone(), reasons);
        }
    }
    outcome(&compare_unsafe(&found, &listed(&list)), format!("{} files", found.len()))
}

/// What the list says: the rows of its tables, each with a file, relative to the repository, and its reasons.
fn listed(list: &str) -> BTreeMap<String, BTreeSet<String>> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| [")?.split(" | ");
        let target = cells.next()?.split_once("](../")?.1.trim_end_matches(')').to_owned();
        let reasons = cells.next()?.trim_end_matches(" |").split("; ").map(str::to_owned).collect();
        Some((target, reasons))
    };
    list.lines().filter_map(row).collect()
}

fn compare_unsafe(
    found: &BTreeMap<String, BTreeSet<String>>,
    listed: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, reasons) in found {
        let said = reasons.iter().cloned().collect::<Vec<_>>().join("; ");
        match listed.get(path) {
            None => complaints.push(format!("{UNSAFE} does not list {path}: {said}")),
            Some(listed) if listed != reasons => complaints.push(format!("{UNSAFE}: {path} says: {said}")),
            Some(_) => {}
        }
    }
    let gone = listed.keys().filter(|path| !found.contains_key(*path));
    complaints.extend(gone.map(|path| format!("{UNSAFE} lists {path}, which has no unsafe code")));
    complaints
}

/// Each format is a column of the table of what an ISA consists of.
fn ports(root: &Path) -> Outcome {
    let text = match fs::read_to_string(root.join(PORTING)) {
        Ok(text) => text,
        Err(error) => return Outcome::Failed(format!("cannot read {PORTING}: {error}")),
    };
    let formats: Vec<String> = match root.join(FORMATS).read_dir() {
        Ok(entries) => entries
            .flatten()
            .filter(|entry| entry.path().join("mod.rs").exists())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect(),
        Err(error) => return Outcome::Failed(format!("cannot read {FORMATS}: {error}")),
    };
    outcome(&missing_formats(&formats, &text), format!("{} formats", formats.len()))
}

fn missing_formats(formats: &[String], text: &str) -> Vec<String> {
    let mut complaints: Vec<String> = formats
        .iter()
        .filter(|format| !text.contains(&format!("](../{FORMATS}/{format}/mod.rs)")))
        .map(|format| format!("{PORTING} does not name {FORMATS}/{format}"))
        .collect();
    if formats.is_empty() {
        complaints.push(format!("there is no format in {FORMATS}"));
    }
    complaints
}

#[cfg(test)]
mod tests;
