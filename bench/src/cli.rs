//! The command line.

use crate::contenders::{self, Entry};
use crate::instructions::{self, Count};
use crate::memory;
use crate::plot;
use crate::report;
use crate::rounds::{self, Outcome};
use crate::sharing;
use crate::work::{Sizes, Work};
use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use clap::ValueEnum as _;
use std::path::{Path, PathBuf};

const ALSO: &str =
    "`cargo xtask bench` also takes --record-instructions and --code-size: `cargo xtask help bench`.";

/// Measures slat side by side with the crates that a hypervisor would use instead.
#[derive(Parser)]
#[command(name = "slat-bench", version, max_term_width = 100, after_help = ALSO)]
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
    /// Only count instructions, and write them to FILE: a list of objects with work, contender, instructions, target
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "svg", "bytes", "json_bytes"])]
    instructions_only: Option<PathBuf>,
    /// Only say what takes how much memory (a run without --only says it as well)
    #[arg(long, conflicts_with_all = ["json", "svg", "only", "instructions"])]
    bytes: bool,
    /// Write what takes how much memory to FILE: a list of objects with work, contender, bytes
    #[arg(long, value_name = "FILE")]
    json_bytes: Option<PathBuf>,
    /// Only time forks, first writes after them and resets, and say which are within their limits; --json writes objects
    /// with work, format, min_ns, median_ns, against, against_ns, limit_ratio, limit_ns, met
    #[arg(long, conflicts_with_all = ["svg", "only", "contender", "instructions", "instructions_only", "bytes", "json_bytes"])]
    sharing: bool,
    /// Run WORK once on CONTENDER and print its units: for counting the instructions of `measured_region`
    #[arg(long, num_args = 2, value_names = ["WORK", "CONTENDER"], exclusive = true)]
    run_once: Vec<String>,
}

fn contender(name: &str) -> Result<Entry, String> {
    let found = contenders::ALL.iter().copied().find(|entry| entry.name == name);
    found.ok_or_else(|| {
        let names = contenders::ALL.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
        format!("the contenders are {names}")
    })
}

/// Does what the command line asks for.
pub(crate) fn run() -> Result<()> {
    let options = Options::parse();
    if let [work, name] = options.run_once.as_slice() {
        let work = Work::from_str(work, false).map_err(anyhow::Error::msg)?;
        let entry = if name == instructions::LOOP { None } else { Some(contender(name)) };
        return instructions::run_once(work, entry.transpose().map_err(anyhow::Error::msg)?);
    }
    let works: Vec<Work> = Work::value_variants()
        .iter()
        .copied()
        .filter(|work| options.only.is_empty() || options.only.contains(work))
        .collect();
    let chosen = |entry: &Entry| {
        options.contender.is_empty() || options.contender.iter().any(|wanted| wanted.name == entry.name)
    };
    let contenders: Vec<Entry> = contenders::ALL.iter().copied().filter(chosen).collect();
    for path in
        [&options.json, &options.svg, &options.json_bytes, &options.instructions_only].into_iter().flatten()
    {
        check_writable(path)?;
    }

    if options.sharing {
        return share(&options);
    }
    if let Some(path) = &options.instructions_only {
        let counts = count(&works, &contenders, &options)?;
        print!("{}", instructions::text(&counts));
        return write(path, &instructions::json(&counts));
    }
    if !options.bytes {
        measure_time(&works, &contenders, &options)?;
    }
    if options.bytes || options.json_bytes.is_some() || options.only.is_empty() {
        let answers = memory::measure(&contenders);
        print!("{}{}", if options.bytes { "" } else { "\n" }, memory::text(&answers, &contenders));
        if let Some(path) = &options.json_bytes {
            write(path, &memory::json(&answers))?;
        }
    }
    Ok(())
}

/// The table of what spaces share.
fn share(options: &Options) -> Result<()> {
    let (rounds, many) = if options.quick { (5, 16) } else { (15, 64) };
    let rounds = options.rounds.map_or(rounds, usize::from);
    let outcomes = sharing::measure(rounds, many);
    print!("{}", sharing::text(&outcomes, rounds));
    options.json.as_ref().map_or(Ok(()), |path| write(path, &sharing::json(&outcomes)))
}

/// The rounds, and everything that is said about them.
fn measure_time(works: &[Work], contenders: &[Entry], options: &Options) -> Result<()> {
    let sizes = if options.quick { Sizes::QUICK } else { Sizes::FULL };
    let rounds = options.rounds.map_or(if options.quick { 5 } else { 15 }, usize::from);
    let timed: Vec<Work> = works.iter().copied().filter(|work| !work.is_sharing()).collect();
    let mut outcomes = rounds::measure(&timed, contenders, &sizes, rounds);
    let counts = if options.instructions { count(works, contenders, options)? } else { Vec::new() };
    for Count { work, contender, instructions } in &counts {
        let of_same = |outcome: &&mut Outcome| outcome.work == *work && outcome.contender == contender.name;
        if let Some(outcome) = outcomes.iter_mut().find(of_same) {
            outcome.instructions = Some(*instructions);
        }
    }
    print!("{}", report::text(&outcomes, &timed, contenders, rounds));
    if options.instructions {
        print!("\n{}", instructions::text(&counts));
    }
    if let Some(path) = &options.json {
        write(path, &report::json(&outcomes))?;
    }
    if let Some(path) = &options.svg {
        write(path, &plot::svg(&outcomes, &timed, contenders))?;
    }
    Ok(())
}

/// Counts the instructions of slat's formats, or of every contender that was named.
fn count(works: &[Work], contenders: &[Entry], options: &Options) -> Result<Vec<Count>> {
    let counted = |entry: &&Entry| entry.is_ours() || !options.contender.is_empty();
    let able = |work: &&Work| instructions::can_count(**work);
    let wanted: Vec<(Work, Entry)> = contenders
        .iter()
        .filter(counted)
        .flat_map(|&entry| works.iter().filter(able).map(move |&work| (work, entry)))
        .collect();
    instructions::count_all(&wanted, &rounds::progress(0))
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
