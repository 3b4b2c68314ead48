//! The step that holds the library against the record of its mutants: nothing to do while no function has changed, and
//! the mutants of those that have.

use super::Context;
use super::step::{Outcome, Step};
use crate::missing::MissingThings;
use crate::task_audit::mutants::{self, Changes};
use crate::task_audit::record::{LEAST, Record};
use crate::task_audit::tools::{self, MUTANTS, NEXTEST};
use anyhow::Result;

/// So many mutants are tested here: of more it would take hours, and they are a skip that says so.
const MOST: usize = 40;

/// How to record, as the user types it.
const AUDIT: &str = "cargo xtask audit --mutants";

/// One step.
pub(crate) fn steps() -> Vec<Step> {
    vec![Step::new("mutants of what has changed", |context, output| {
        check(context, output).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")))
    })]
}

fn check(context: &Context, output: &mut String) -> Result<Outcome> {
    let root = &context.workspace.root;
    let record = Record::read(root)?;
    let total = record.verdict()?;
    record.check_rendered(root)?;
    let files = mutants::changed_files(root, &record)?;
    if files.is_empty() {
        return Ok(Outcome::Passed(format!("nothing has changed; recorded are {total}")));
    }
    output.push_str(&format!("changed: {}\n", files.join(", ")));
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
    let tools = [MUTANTS, NEXTEST];
    // It takes minutes to install them: nothing that a test should do by itself on somebody's machine.
    if let Some(tool) = tools.iter().find(|tool| !ci && !tool.is_there()) {
        return Ok(Outcome::Impossible(tool.missing().to_string()));
    }
    if let Err(error) = tools::obtain(&tools) {
        let things = error.downcast_ref::<MissingThings>().map(MissingThings::things);
        let thing = things.and_then(<[_]>::first).map(ToString::to_string);
        return Ok(Outcome::Impossible(thing.unwrap_or_else(|| format!("{error:#}"))));
    }
    Ok(match mutants::test_changes(&context.workspace, &record, MOST)? {
        Changes::None => Outcome::Passed(format!("no function has changed; recorded are {total}")),
        Changes::TooMany(count) => {
            Outcome::Skipped(format!("{count} mutants of changed functions are not tested: {AUDIT}"))
        }
        Changes::Tested(score, survivors) => judge(&score.to_string(), &survivors),
    })
}

fn judge(score: &str, survivors: &[String]) -> Outcome {
    if survivors.is_empty() {
        return Outcome::Passed(format!("{score} of changed functions; {AUDIT} records them"));
    }
    let survivors = survivors.join("\n");
    Outcome::Failed(format!(
        "{score}; what survives wants a test, or after {AUDIT} an explanation in the record, \
         of which {LEAST} % must be caught:\n{survivors}"
    ))
}

#[cfg(test)]
mod tests;
