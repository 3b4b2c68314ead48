//! The command line.

use crate::contenders::{self, Entry, SLAT};
use crate::instructions;
use crate::plot;
use crate::report;
use crate::rounds;
use crate::work::{Sizes, Work};
use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use clap::ValueEnum as _;
use std::path::{Path, PathBuf};

/// Measures slat side by side with the crates that a hypervisor would use instead.
#[derive(Parser)]
#[command(name = "slat-bench", version, max_term_width = 100)]
struct Options {
    /// Smaller sizes and 5 rounds: to see that everything runs
    #[arg(long)]
    quick: bool,
    /// Only this work (may be given several times)
    #[arg(long, value_name = "WORK", value_enum)]
    only: Vec<Work>,
    /// Only this contender (may be given several times)
    #[arg(long, value_name = "NAME", value_parser = contender)]
    contender: Vec<Entry>,
    /// Rounds that count, after one that does not [default: 15, with --quick 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Write the figures to FILE: a list of objects with work, contender, median_ns, min_ns, max_ns, instructions
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the figures to FILE
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Count instructions as well, with callgrind: of slat, or of every --contender
    #[arg(long)]
    instructions: bool,
    /// Run WORK once on CONTENDER and print its units: for counting the instructions of `measured_region`
    #[arg(long, num_args = 2, value_names = ["WORK", "CONTENDER"], exclusive = true)]
    run_once: Vec<String>,
}

fn contender(name: &str) -> Result<Entry, String> {
    let found = contenders::ALL.into_iter().find(|entry| entry.name == name);
    found.ok_or_else(|| {
        let names = contenders::ALL.map(|entry| entry.name).join(", ");
        format!("the contenders are {names}")
    })
}

/// Does what the command line asks for.
pub(crate) fn run() -> Result<()> {
    let options = Options::parse();
    if let [work, name] = options.run_once.as_slice() {
        let work = Work::from_str(work, false).map_err(anyhow::Error::msg)?;
        return instructions::run_once(work, contender(name).map_err(anyhow::Error::msg)?);
    }
    let works: Vec<Work> = Work::value_variants()
        .iter()
        .copied()
        .filter(|work| options.only.is_empty() || options.only.contains(work))
        .collect();
    let chosen = |entry: &Entry| {
        options.contender.is_empty() || options.contender.iter().any(|wanted| wanted.name == entry.name)
    };
    let contenders: Vec<Entry> = contenders::ALL.into_iter().filter(chosen).collect();
    let sizes = if options.quick { Sizes::QUICK } else { Sizes::FULL };
    let rounds = options.rounds.map_or(if options.quick { 5 } else { 15 }, usize::from);
    for path in options.json.iter().chain(&options.svg) {
        check_writable(path)?;
    }

    let mut outcomes = rounds::measure(&works, &contenders, &sizes, rounds);
    if options.instructions {
        for outcome in &mut outcomes {
            let wanted = outcome.contender == SLAT || !options.contender.is_empty();
            let entry = contenders.iter().find(|entry| entry.name == outcome.contender);
            if let (true, true, Some(&entry)) = (wanted, instructions::WORKS.contains(&outcome.work), entry) {
                outcome.instructions = Some(instructions::count(outcome.work, entry)?);
            }
        }
    }
    print!("{}", report::text(&outcomes, &works, &contenders, rounds));
    if options.instructions {
        println!("\nInstructions per unit, by callgrind, with {}:", env!("SLAT_BENCH_COMPILER"));
        for outcome in &outcomes {
            if let Some(instructions) = outcome.instructions {
                println!("  {} {} {}", outcome.work.name(), outcome.contender, report::short(instructions));
            }
        }
    }
    if let Some(path) = &options.json {
        write(path, &report::json(&outcomes))?;
    }
    if let Some(path) = &options.svg {
        write(path, &plot::svg(&outcomes, &works, &contenders))?;
    }
    Ok(())
}

/// Finds out before a run of minutes, not after it.
fn check_writable(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(directory.is_dir(), "{} is not a directory", directory.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
