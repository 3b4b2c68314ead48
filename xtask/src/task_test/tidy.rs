//! The repository's own rules, which no compiler knows. Each check is a plain function from a file to complaints;
//! the unit tests feed each of them a text that breaks its rule.

use super::Context;
use super::step::{Outcome, Step};
use crate::process;
use anyhow::Result;
use std::process::Command;

/// The longest Rust file that is tolerated, in lines.
const LONGEST: usize = 600;

/// How far above an `unsafe` block its justification may begin.
const SAFETY_REACH: usize = 8;

/// One file of the repository.
#[derive(Clone, Copy, Debug)]
pub(super) struct File<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
}

/// A rule: its name and its check.
type Rule = (&'static str, fn(File<'_>) -> Vec<String>);

const RULES: [Rule; 5] = [
    ("tidy: nothing outside the repository is mentioned", outside_paths),
    ("tidy: assembly and architectures stay in their places", architectures),
    ("tidy: no long files", long_files),
    ("tidy: every unsafe block is justified", unsafe_blocks),
    ("tidy: nothing is left unfinished", unfinished),
];

/// One step for each rule.
pub(crate) fn steps() -> Vec<Step> {
    RULES.into_iter().map(|(name, check)| Step::new(name, move |context, _| apply(context, check))).collect()
}

fn apply(context: &Context, check: fn(File<'_>) -> Vec<String>) -> Outcome {
    let files = match files(context) {
        Ok(files) => files,
        Err(error) => return Outcome::Failed(format!("{error:#}")),
    };
    let mut complaints = Vec::new();
    for path in &files {
        // A file may be deleted and not yet committed; binary files are nobody's text.
        if let Ok(text) = std::fs::read_to_string(context.workspace.root.join(path)) {
            complaints.extend(check(File { path, text: &text }));
        }
    }
    if complaints.is_empty() {
        Outcome::Passed(format!("{} files", files.len()))
    } else {
        Outcome::Failed(format!("{} complaints\n{}", complaints.len(), complaints.join("\n")))
    }
}

/// All files that are committed or about to be.
pub(super) fn files(context: &Context) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]);
    let list = process::output_of(git.current_dir(&context.workspace.root))?;
    Ok(list.lines().map(str::to_owned).collect())
}

fn is_rust(file: File<'_>) -> bool {
    file.path.ends_with(".rs")
}

/// Complaints about the lines of `file` that `is_wrong`.
fn complain(file: File<'_>, what: &str, is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = file.text.lines().enumerate().filter(|(_, line)| is_wrong(line));
    lines.map(|(index, _)| format!("{}:{}: {what}", file.path, index + 1)).collect()
}

fn outside_paths(file: File<'_>) -> Vec<String> {
    // Put together from parts, so that this file does not complain about itself.
    let needles = [["..", "/shared"].concat(), ["/work", "/shared"].concat()];
    complain(file, "a path outside the repository", |line| needles.iter().any(|needle| line.contains(needle)))
}

fn architectures(file: File<'_>) -> Vec<String> {
    let crate_isa = file.path.strip_prefix("crates/").and_then(|path| path.split_once('/'));
    let in_place = crate_isa.is_some_and(|(_, path)| path.starts_with("src/isa/") || path == "src/isa.rs")
        || file.path.starts_with("hypervisor/src/arch/")
        || file.path.starts_with("hypervisor/test-guest/src/arch/");
    if !is_rust(file) || in_place {
        return Vec::new();
    }
    let macros = ["asm", "global_asm", "naked_asm"].map(|name| format!("{name}!"));
    let condition = ["target", "_arch"].concat();
    complain(file, "assembly or an architecture outside the directories for them", |line| {
        !is_comment(line)
            && (macros.iter().any(|name| contains_word(line, name))
                || (line.contains("cfg") && line.contains(&condition)))
    })
}

fn long_files(file: File<'_>) -> Vec<String> {
    let lines = file.text.lines().count();
    if is_rust(file) && lines > LONGEST {
        vec![format!("{}: {lines} lines; at most {LONGEST}", file.path)]
    } else {
        Vec::new()
    }
}

fn unsafe_blocks(file: File<'_>) -> Vec<String> {
    if !is_rust(file) {
        return Vec::new();
    }
    let block = ["unsafe", " {"].concat();
    let lines: Vec<_> = file.text.lines().collect();
    let is_justified = |index: usize| {
        let above = &lines[index.saturating_sub(SAFETY_REACH)..=index];
        above.iter().any(|line| line.contains("SAFETY:"))
    };
    let unjustified = lines
        .iter()
        .enumerate()
        .filter(|&(index, line)| !is_comment(line) && contains_word(line, &block) && !is_justified(index));
    unjustified.map(|(index, _)| format!("{}:{}: no SAFETY comment", file.path, index + 1)).collect()
}

fn unfinished(file: File<'_>) -> Vec<String> {
    if !is_rust(file) {
        return Vec::new();
    }
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!"));
    complain(file, "unfinished work", |line| {
        !is_comment(line) && macros.iter().any(|name| contains_word(line, name))
    })
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Whether `line` contains `word` not as the end of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(start, _)| {
        !line[..start].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '"')
    })
}

#[cfg(test)]
mod tests;
