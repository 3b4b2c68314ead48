//! Traces of runs: whether they are what the format says and the report counts, and whether a browser draws their story.

use super::Context;
use super::step::{Outcome, Step};
use crate::boot::session::Observed;
use crate::missing::MissingThings;
use crate::process;
use crate::setup;
use crate::trace::chrome;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use slat_hv_model::Cpu;
use slat_hv_protocol::Report;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Microseconds by which rounding may move the end of an event.
const ROUNDING: f64 = 0.002;

/// Things drawn, at the least: cells of memory, rows over time, bars.
const LEAST_DRAWN: u64 = 500;

/// Traces and stories of runs on the model, of each format.
pub(crate) fn steps() -> Vec<Step> {
    let each = Cpu::ALL.map(|cpu| {
        let name = format!("a trace and its story in a browser: {}", cpu.format());
        Step::new(name, move |context: &Context, output| {
            on_model(context, cpu, output).unwrap_or_else(|error| Outcome::of(Err(error)))
        })
    });
    each.into()
}

/// What the trace of a run has, if it is one and tells every fault that the report counts.
pub(crate) fn is_complete(seen: &Observed, report: &Report) -> Result<String> {
    let trace = seen.trace.as_ref().context("there is no trace")?;
    ensure!(trace.overwritten + trace.dropped == 0, "some of the trace was overwritten or dropped");
    let mut text = Vec::new();
    chrome::write(trace, "a run", &mut text)?;
    let counts = check(&String::from_utf8(text).context("the trace is no text")?)?;
    ensure!(counts.counters > 0, "the frames in use were never told");
    ensure!(counts.operations > 0 && counts.invalidations > 0, "too little was traced: {counts:?}");
    let (told, counted) = (counts.faults, report.faults.total);
    ensure!(told == counted && trace.faults() == counted, "the trace has {told} faults of {counted}");
    Ok(format!(
        "{told} faults, {} operations, {} invalidations traced",
        counts.operations, counts.invalidations
    ))
}

/// Events of a trace by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Without those for devices.
    pub(crate) faults: u64,
    pub(crate) operations: u64,
    pub(crate) invalidations: u64,
    pub(crate) counters: u64,
}

/// Whether `text` is a trace as Chrome's format has it: fields, times in order, and on each track every event either inside
/// of another one or apart from it.
pub(crate) fn check(text: &str) -> Result<Counts> {
    let trace: Value = serde_json::from_str(text).context("the trace is no JSON")?;
    let events = trace["traceEvents"].as_array().context("there are no traceEvents")?;
    let (mut counts, mut tracks, mut last) = (Counts::default(), BTreeMap::new(), 0.0);
    for event in events {
        let what = || format!("of {event}");
        let name = event["name"].as_str().with_context(what)?;
        event["pid"].as_u64().with_context(what)?;
        let phase = event["ph"].as_str().with_context(what)?;
        if phase == "M" {
            let named = event["args"]["name"].as_str().with_context(what)?;
            if name == "thread_name" {
                ensure!(named.starts_with("CPU "), "a track is called {named}");
                tracks.insert(event["tid"].as_u64().with_context(what)?, Vec::<f64>::new());
            }
            continue;
        }
        let begin = event["ts"].as_f64().with_context(what)?;
        ensure!(begin >= last, "time goes back from {last} to {begin}");
        last = begin;
        if phase == "C" {
            event["args"]["frames"].as_u64().with_context(what)?;
            counts.counters += 1;
            continue;
        }
        ensure!(phase == "X", "a phase is called {phase}");
        let end = begin + event["dur"].as_f64().filter(|length| *length >= 0.0).with_context(what)?;
        let track = tracks.get_mut(&event["tid"].as_u64().with_context(what)?);
        let track = track.with_context(|| format!("no such track: {event}"))?;
        while track.last().is_some_and(|outer| *outer <= begin + ROUNDING) {
            track.pop();
        }
        ensure!(
            track.last().is_none_or(|outer| end <= outer + ROUNDING),
            "it overlaps the one before: {event}"
        );
        track.push(end);
        let counted = match event["cat"].as_str().with_context(what)? {
            "fault" | "refused" if event["args"]["answer"] == "for a device" => continue,
            "fault" | "refused" => &mut counts.faults,
            "operation" => &mut counts.operations,
            "invalidation" => &mut counts.invalidations,
            other => bail!("a category is called {other}"),
        };
        *counted += 1;
    }
    Ok(counts)
}

fn on_model(context: &Context, cpu: Cpu, output: &mut String) -> Result<Outcome> {
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let [trace, page] = ["trace.json", "page.html"].map(|name| directory.path().join(name));
    let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
    command.args(["run", "--machine", "model", "--json", "--cpus", "2", "--format", cpu.format()]);
    command.arg("--trace").arg(&trace).arg("--report").arg(&page);
    let captured = process::capture(&mut command)?;
    output.push_str(&captured.stderr);
    ensure!(captured.success, "{}", captured.complaint());
    let report: Value = serde_json::from_str(&captured.stdout).context("stdout is not one JSON object")?;
    let counts = check(&fs::read_to_string(&trace)?)?;
    let counted = report["faults_total"].as_u64().context("the report counts no faults")?;
    // By its last fault the other CPU leaves when the run is over.
    let last = counts.faults.saturating_sub(counted);
    ensure!(counts.faults >= counted && last <= 1, "the trace has {} faults of {counted}", counts.faults);
    ensure!(counts.invalidations > 0 && counts.counters > 0, "too little was traced: {counts:?}");

    let chromium = match setup::browser(&context.host) {
        Ok(chromium) => chromium,
        Err(error) => {
            let things = error.downcast_ref::<MissingThings>().map(MissingThings::things);
            let thing = things.and_then(<[_]>::first).map(ToString::to_string);
            return Ok(Outcome::Impossible(thing.unwrap_or_else(|| format!("{error:#}"))));
        }
    };
    let mut drawn = 0;
    for theme in ["light", "dark"] {
        drawn = is_drawn(&chromium, &page, theme, directory.path())?;
    }
    // The negative control: a page whose script fails is noticed.
    let broken = fs::read_to_string(&page)?.replacen("const story = {", "const story = null; ({", 1);
    let other = directory.path().join("broken.html");
    fs::write(&other, broken.replacen("};\nconst $", "});\nconst $", 1))?;
    ensure!(is_drawn(&chromium, &other, "light", directory.path()).is_err(), "a broken page is not noticed");
    Ok(Outcome::Passed(format!("{} faults, {drawn} things drawn", counts.faults)))
}

/// What the page at `url` is after its script has run, as text. The browser's own files go into `directory`.
fn dom(chromium: &Path, url: &str, directory: &Path) -> Result<String> {
    let mut command = Command::new(chromium);
    // Root has no sandbox, and the page is ours. No name of a host is resolved.
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    command.args(["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"]);
    command.arg(format!("--user-data-dir={}", directory.join("browser").display()));
    command.args(["--virtual-time-budget=5000", "--dump-dom", url]);
    let captured = process::capture(&mut command)?;
    ensure!(captured.success, "the browser failed: {}", captured.complaint());
    Ok(captured.stdout)
}

/// How many things a browser draws of the page, if its script goes through in this theme and asks for nothing else.
fn is_drawn(chromium: &Path, page: &Path, theme: &str, directory: &Path) -> Result<u64> {
    let url = format!("file://{}#{theme}", page.display());
    let dom = dom(chromium, &url, directory)?;
    let value = |name: &str| {
        let (_, rest) = dom.split_once(&format!("{name}=\""))?;
        rest.split('"').next().map(str::to_owned)
    };
    let drawn = value("data-drawn").context("the script did not come to its end")?;
    ensure!(value("data-theme").as_deref() == Some(theme), "the theme is not {theme}");
    let drawn = drawn.parse().context("it does not tell what it has drawn")?;
    ensure!(drawn >= LEAST_DRAWN, "it has drawn {drawn} things only");
    for bad in ["NaN", "undefined", "Infinity", "http://", "https://"] {
        // The name of a namespace is no address, and the script itself is no picture.
        let shown =
            dom.split("<script>").next().unwrap_or_default().replace("http://www.w3.org/2000/svg", "");
        ensure!(!shown.contains(bad), "there is {bad} in the page");
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests;
