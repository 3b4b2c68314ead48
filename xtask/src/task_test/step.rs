//! Steps, their outcomes, and the board that runs and counts them.

use super::Context;
use crate::process;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::VecDeque;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Numbers of tests by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Lines of output that are shown of a step that failed.
const SHOWN_LINES: usize = 60;

/// What became of a step.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All is well; with a few words on what was seen.
    Passed(String),
    /// It failed, and this is why.
    Failed(String),
    /// This machine cannot do it, and this is why: a skip, but in CI a failure.
    Impossible(String),
    /// There is nothing to do in the way that this machine is set up, and this is why: a skip everywhere.
    Skipped(String),
    /// The step is many tests.
    Counted(Tally),
}

impl Outcome {
    /// `Ok` passes, `Err` fails.
    pub(crate) fn of(result: anyhow::Result<String>) -> Self {
        match result {
            Ok(note) => Self::Passed(note),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}

/// What a step does; its output goes into the buffer.
type Work = Box<dyn FnOnce(&Context, &mut String) -> Outcome + Send>;

/// One step.
pub(crate) struct Step {
    name: String,
    work: Work,
}

impl Step {
    pub(crate) fn new(
        name: impl Into<String>,
        work: impl FnOnce(&Context, &mut String) -> Outcome + Send + 'static,
    ) -> Self {
        Self { name: name.into(), work: Box::new(work) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Runs steps, shows and counts their outcomes.
pub(crate) struct Board {
    verbose: bool,
    ci: bool,
    begin: Instant,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    tally: Tally,
    failures: Vec<String>,
    running: Vec<String>,
    bar: Option<ProgressBar>,
}

impl Board {
    /// A board that prints to `out`. In CI a step that is impossible has failed.
    pub(crate) fn new(verbose: bool, ci: bool, out: Box<dyn Write + Send>) -> Self {
        let state =
            State { out, tally: Tally::default(), failures: Vec::new(), running: Vec::new(), bar: None };
        Self { verbose, ci, begin: Instant::now(), state: Mutex::new(state) }
    }

    /// Runs `steps` on so many threads at a time.
    pub(crate) fn run(&mut self, steps: Vec<Step>, context: &Context, threads: usize) {
        if steps.is_empty() {
            return;
        }
        self.lock().bar = spinner();
        let queue = Mutex::new(VecDeque::from(steps));
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(step) = next() {
                        if process::interrupted() {
                            break;
                        }
                        self.run_one(step, context);
                    }
                });
            }
        });
        if let Some(bar) = self.lock().bar.take() {
            bar.finish_and_clear();
        }
    }

    fn run_one(&self, step: Step, context: &Context) {
        let Step { name, work } = step;
        self.lock().announce(&name, true);
        let begin = Instant::now();
        let mut output = String::new();
        let outcome = work(context, &mut output);
        let mut state = self.lock();
        state.announce(&name, false);
        let seconds = begin.elapsed().as_secs_f64();
        let (word, note, shown) = match outcome {
            Outcome::Passed(note) => {
                state.tally.passed += 1;
                ("ok", note, self.verbose)
            }
            Outcome::Counted(tally) => {
                state.tally.passed += tally.passed;
                state.tally.failed += tally.failed;
                state.tally.skipped += tally.skipped;
                if tally.failed > 0 {
                    state.failures.push(name.clone());
                }
                (
                    if tally.failed > 0 { "FAILED" } else { "ok" },
                    tally.to_string(),
                    self.verbose || tally.failed > 0,
                )
            }
            Outcome::Impossible(reason) if self.ci => {
                state.tally.failed += 1;
                state.failures.push(name.clone());
                ("FAILED", reason, true)
            }
            Outcome::Impossible(reason) | Outcome::Skipped(reason) => {
                state.tally.skipped += 1;
                ("skipped", reason, self.verbose)
            }
            Outcome::Failed(reason) => {
                state.tally.failed += 1;
                state.failures.push(name.clone());
                ("FAILED", reason, true)
            }
        };
        let mut text = format!("{word:>7} {seconds:6.1} s  {name}");
        if !note.is_empty() {
            text.push_str(&format!(": {}", note.trim_end().replace('\n', "\n    ")));
        }
        if shown {
            let lines: Vec<_> = output.lines().collect();
            let from = if self.verbose { 0 } else { lines.len().saturating_sub(SHOWN_LINES) };
            for line in &lines[from..] {
                text.push_str(&format!("\n    | {}", line.trim_end()));
            }
        }
        state.print(&text);
    }

    /// Prints what failed, and the counts as the last line; whether nothing failed.
    pub(crate) fn finish(self) -> bool {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut text = format!("\n{:.0} s in all\n", self.begin.elapsed().as_secs_f64());
        for name in &state.failures {
            text.push_str(&format!("failed: {name}\n"));
        }
        let text = format!("{text}{}", state.tally);
        state.print(&text);
        state.tally.failed == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Shows which steps run at the moment.
    fn announce(&mut self, name: &str, begins: bool) {
        if begins {
            self.running.push(name.to_owned());
        } else {
            self.running.retain(|running| running != name);
        }
        if let Some(bar) = &self.bar {
            bar.set_message(self.running.join(" | "));
        }
    }

    fn print(&mut self, text: &str) {
        let out = &mut self.out;
        // A reader that has gone away is no reason to stop testing.
        let mut print = || drop(writeln!(out, "{text}").and_then(|()| out.flush()));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

fn spinner() -> Option<ProgressBar> {
    std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    })
}

#[cfg(test)]
mod tests;
