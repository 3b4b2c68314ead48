//! The step that counts the library's instructions again and holds them against those in the tree.

use super::Context;
use super::step::{Outcome, Step};
use crate::instructions::{self, Record, Setting, Verdict};
use crate::missing::MissingThings;
use crate::{process, setup};
use anyhow::Result;

/// One step.
pub(crate) fn steps() -> Vec<Step> {
    vec![Step::new("instruction counts have not grown", |context, output| {
        check(context, output).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")))
    })]
}

fn check(context: &Context, output: &mut String) -> Result<Outcome> {
    let Context { host, workspace } = context;
    let (recorded, here) = (Record::read(workspace)?, Setting::here(workspace)?);
    if let Some(reason) = recorded.setting.differs(&here) {
        return Ok(Outcome::Skipped(reason));
    }
    if let Err(error) = setup::counter(host) {
        let things = error.downcast_ref::<MissingThings>().map(MissingThings::things);
        let thing = things.and_then(<[_]>::first).map(ToString::to_string);
        return Ok(Outcome::Impossible(thing.unwrap_or_else(|| format!("{error:#}"))));
    }
    let build = |command: &mut _| process::output_of(command).map(drop);
    let (now, text) = instructions::measure(workspace, here, build)?;
    output.push_str(&text);
    Ok(match recorded.compare(&now) {
        Verdict::Held(note) => Outcome::Passed(note),
        Verdict::Failed(complaints) => {
            Outcome::Failed(format!("{} complaints\n{}", complaints.len(), complaints.join("\n")))
        }
    })
}
