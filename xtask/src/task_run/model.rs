//! `cargo xtask run --machine model`: slat-hv's run loop on the model of the hardware. Needs nothing but this program.

use super::options::{Options, churn_on_the_model};
use super::report::{Machine, Summary, Times};
use crate::boot::printed::Printed;
use crate::boot::session::{Ending, Goal, Guest, Observed};
use crate::boot::verdict;
use crate::guests::initramfs::sha256;
use crate::process;
use crate::trace::Trace;
use anyhow::{Context, Result, bail};
use slat_hv_model::Settings;
use slat_hv_protocol::End;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::thread;

/// Carries out `cargo xtask run --machine model`.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let choices = options.check_model()?;
    let settings = Settings {
        cpus: options.cpus as usize,
        guests: options.guests as usize,
        harts: options.host_cpus.map(|harts| harts as usize),
        pool: options.pool,
        memory: options.memory,
        leaf: options.leaf,
        churn: options.churn.then(|| churn_on_the_model(options.churn_seed)),
        mistake: options.mistake,
        keeps_old_tags: false,
        trace: options.is_traced(),
        seed: choices.seed,
        policy: choices.policy,
    };
    let ran = watch(choices.cpu, settings)?;

    let expected = sha256(&ran.image);
    let guest = Guest {
        kernel: "synthetic".into(),
        initrd: None,
        bootargs: String::new(),
        memory: options.memory,
        sha256: Some(expected.clone()),
        results: Vec::new(),
        goal: Goal::PowerOff,
    };
    let (report, failed) = match ran.report {
        Ok(report) => (Some(report), None),
        Err(reason) => (None, Some(reason)),
    };
    let printed = (0..options.guests as usize).map(|number| {
        // Each has an image of its own.
        let sum = match number {
            0 => (ran.image_read.len() == ran.image.len()).then(|| sha256(&ran.image_read)),
            _ => ran.images_right.get(number).is_some_and(|right| *right).then(|| expected.clone()),
        };
        let end = report.as_ref().map(|report| report.guests.get(number).map_or(&report.end, |one| &one.end));
        Printed {
            seconds_to_init: ran.seconds_to_up,
            sha256: sum,
            results: Vec::new(),
            reached_end: end == Some(&End::PowerOff),
            error: None,
        }
    });
    let printed = printed.collect();
    let words = ran.trace.into_iter().map(AtomicU64::new).collect();
    let trace = options.is_traced().then(|| Trace::new(words, ran.started.ticks_per_second, None));
    let seen = Observed {
        trace,
        ending: Ending::Exited { success: true },
        printed,
        console: ran.console,
        started: Some(ran.started),
        report,
        failed,
        ..Observed::new()
    };
    let mut screen: Box<dyn Write> =
        if options.json { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    screen.write_all(&seen.console).and_then(|()| screen.flush()).context("cannot show the console")?;

    let verdict = ran.checks.verdict().and_then(|()| verdict::under_slat(&guest, &seen));
    let summary = Summary {
        options,
        machine: Machine::Model(choices.cpu),
        guest: &guest,
        name: "synthetic guest".to_owned(),
        churn_seed: options.churn.then_some(options.churn_seed),
        seen: &seen,
        times: Times { to_init: seen.seconds_to_init(), native: None },
        checks: Some(&ran.checks),
        verdict: &verdict,
    };
    summary.write_trace()?;
    summary.print()?;
    match verdict {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => bail!(error),
    }
}

/// Runs the guest on a thread of its own, so that the user can end it.
fn watch(cpu: slat_hv_model::Cpu, settings: Settings) -> Result<slat_hv_model::Observed> {
    let run = thread::spawn(move || slat_hv_model::run(cpu, settings));
    while !run.is_finished() {
        if process::interrupted() {
            bail!("interrupted");
        }
        thread::sleep(process::TICK);
    }
    match run.join() {
        Ok(ran) => ran.map_err(anyhow::Error::msg),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
            bail!("the hypervisor panicked: {text}")
        }
    }
}
