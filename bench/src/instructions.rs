//! Instructions per unit: callgrind on a process of its own, told to count only what the clock would see.

use crate::contenders::Entry;
use crate::frames;
use crate::work::{Sizes, Work};
use anyhow::{Context as _, Result, bail, ensure};
use std::process::Command;

/// The works that are counted.
pub(crate) const WORKS: [Work; 5] =
    [Work::Map4k, Work::TranslateIndependent, Work::TranslateDependent, Work::Fault, Work::Protect4k];

/// Counts are exact, so the small sizes do.
const SIZES: Sizes = Sizes::QUICK;

/// Runs `work` once and prints its units: what the counting process does.
pub(crate) fn run_once(work: Work, contender: Entry) -> Result<()> {
    ensure!(
        !matches!(work, Work::OneThreadFault | Work::TwoThreadsFault),
        "{} runs in threads of its own, which are not counted",
        work.name()
    );
    frames::init(SIZES.frames());
    let Some(sample) = (contender.run)(work, &SIZES) else {
        bail!("{} cannot do {}", contender.name, work.name());
    };
    println!("{}", sample.units);
    Ok(())
}

/// Instructions per unit of `work` on `contender`.
pub(crate) fn count(work: Work, contender: Entry) -> Result<f64> {
    let itself = std::env::current_exe().context("the path of this program")?;
    let file = std::env::temp_dir().join(format!("slat-bench-{}.callgrind", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured_region*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(itself)
        .args(["--run-once", &work.name(), contender.name])
        .output()
        .context("running valgrind (Debian: apt-get install valgrind)")?;
    let report = std::fs::read_to_string(&file);
    let _ = std::fs::remove_file(&file);
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind on {} {}:\n{complaint}", work.name(), contender.name);
    let units: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("the number of units")?;
    let report = report.context("what callgrind wrote")?;
    let total =
        report.lines().find_map(|line| line.strip_prefix("totals: ")).context("the line `totals:`")?;
    let total: f64 = total.trim().parse().context("the number of instructions")?;
    ensure!(total > 0.0, "callgrind saw no instruction of {}", work.name());
    Ok(total / units)
}
