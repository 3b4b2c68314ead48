//! Instructions per unit: callgrind on a process of its own, told to count only what the clock would see.

use crate::contenders::Entry;
use crate::frames;
use crate::measure;
use crate::report::short;
use crate::work::{Sizes, Work};
use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressBar;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// Counts are exact, so the small sizes do.
const SIZES: Sizes = Sizes::QUICK;

/// The C library picks its `memcpy` and `memset` by CPU; a program with no choice counts the same on every machine.
/// Names that a CPU or a library does not know are ignored.
const SAME_EVERYWHERE: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM");

/// The most instructions per unit that slat is meant to take, the mock allocator included.
const TARGETS: [(Work, f64); 6] = [
    (Work::Map4k, 8.0),
    (Work::Map2m, 8.0),
    (Work::TranslateIndependent, 40.0),
    (Work::TranslateDependent, 40.0),
    (Work::ReadObj, 52.0),
    (Work::Fault, 130.0),
];

/// Whether `work` can be counted: threads run outside of `measured_region`.
pub(crate) const fn can_count(work: Work) -> bool {
    !matches!(work, Work::OneThreadFault | Work::TwoThreadsFault)
}

/// What callgrind counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    pub(crate) work: Work,
    pub(crate) contender: Entry,
    pub(crate) instructions: f64,
}

impl Count {
    /// What the contender is meant to take at most, if it is ours.
    fn target(&self) -> Option<f64> {
        let of_work = TARGETS.iter().find(|(work, _)| self.contender.is_ours() && *work == self.work);
        of_work.map(|&(_, target)| target)
    }
}

/// Runs `work` once and prints its units, none if the contender cannot do it: what the counting process does. Without
/// a contender, only the benchmark's own loop runs.
pub(crate) fn run_once(work: Work, contender: Option<Entry>) -> Result<()> {
    ensure!(can_count(work), "{} runs in threads of its own, which are not counted", work.name());
    let sample = match contender {
        Some(contender) => {
            frames::init(SIZES.frames());
            (contender.run)(work, &SIZES)
        }
        None => measure::run_loop(work, &SIZES),
    };
    println!("{}", sample.map_or(0, |sample| sample.units));
    Ok(())
}

/// The name of the benchmark's own loop, where a contender is asked for.
pub(crate) const LOOP: &str = "loop";

/// Counts what can be done of `wanted`, as many at a time as there are CPUs; the order is kept.
pub(crate) fn count_all(wanted: &[(Work, Entry)], bar: &ProgressBar) -> Result<Vec<Count>> {
    bar.set_length(wanted.len() as u64);
    let mut loops = Vec::new();
    for &(work, _) in wanted {
        if loops.iter().all(|&(known, _)| known != work) {
            bar.set_message(format!("instructions: the loop of {}", work.name()));
            loops.push((work, count(work, LOOP)?.unwrap_or(0.0)));
        }
    }
    let loop_of = |work| loops.iter().find(|&&(known, _)| known == work).map_or(0.0, |&(_, own)| own);
    let queue = Mutex::new(wanted.iter().enumerate());
    let next = || queue.lock().ok()?.next();
    let work_off = || {
        let mut counts = Vec::new();
        while let Some((index, &(work, contender))) = next() {
            bar.set_message(format!("instructions: {} on {}", work.name(), contender.name));
            let counted = count(work, contender.name)?.map(|total| total - loop_of(work));
            counts.extend(counted.map(|instructions| (index, Count { work, contender, instructions })));
            bar.inc(1);
        }
        Ok(counts)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let parts: Result<Vec<Vec<(usize, Count)>>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work_off)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread that counts does not panic"))
            .collect()
    });
    bar.finish_and_clear();
    let mut counts: Vec<(usize, Count)> = parts?.into_iter().flatten().collect();
    counts.sort_by_key(|&(index, _)| index);
    Ok(counts.into_iter().map(|(_, count)| count).collect())
}

/// Instructions per unit of `work` on `contender`, the benchmark's loop included; `None` if it cannot do that.
fn count(work: Work, contender: &str) -> Result<Option<f64>> {
    let itself = std::env::current_exe().context("the path of this program")?;
    let name = format!("slat-bench-{}-{}-{}.callgrind", std::process::id(), work.name(), contender);
    let file = std::env::temp_dir().join(name);
    let output = Command::new("valgrind")
        .env(SAME_EVERYWHERE.0, SAME_EVERYWHERE.1)
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured_region*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(itself)
        .args(["--run-once", &work.name(), contender])
        .output()
        .context("running valgrind (Debian: apt-get install valgrind)")?;
    let report = std::fs::read_to_string(&file);
    let _ = std::fs::remove_file(&file);
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind on {} {contender}:\n{complaint}", work.name());
    let units: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("the number of units")?;
    if units == 0.0 {
        return Ok(None);
    }
    let report = report.context("what callgrind wrote")?;
    let total =
        report.lines().find_map(|line| line.strip_prefix("totals: ")).context("the line `totals:`")?;
    let total: f64 = total.trim().parse().context("the number of instructions")?;
    ensure!(total > 0.0, "callgrind saw no instruction of {}", work.name());
    Ok(Some(total / units))
}

/// One line per count, and whether it is over its target.
pub(crate) fn text(counts: &[Count]) -> String {
    let mut text = format!("Instructions per unit, by callgrind, with {}:\n", env!("SLAT_BENCH_COMPILER"));
    for count in counts {
        let Count { work, contender, instructions } = count;
        let verdict = match count.target() {
            Some(target) if *instructions > target => format!("  over the target of {target}"),
            Some(target) => format!("  within the target of {target}"),
            None => String::new(),
        };
        text.push_str(&format!("  {} {} {}{verdict}\n", work.name(), contender.name, short(*instructions)));
    }
    text
}

/// A list of objects, one per count.
pub(crate) fn json(counts: &[Count]) -> String {
    let objects: Vec<String> = counts
        .iter()
        .map(|count| {
            let (work, contender) = (count.work.name(), count.contender.name);
            let target = count.target().map_or_else(|| String::from("null"), |target| target.to_string());
            format!(
                "  {{\"work\": \"{work}\", \"contender\": \"{contender}\", \"instructions\": {:.6}, \
                 \"target\": {target}}}",
                count.instructions
            )
        })
        .collect();
    format!("[\n{}\n]\n", objects.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contenders;

    fn count(work: Work, contender: &str, instructions: f64) -> Count {
        let contender = contenders::ALL.iter().copied().find(|entry| entry.name == contender);
        Count { work, contender: contender.unwrap(), instructions }
    }

    #[test]
    fn what_is_over_its_target_says_so() {
        let counts = [
            count(Work::Fault, "slat", 130.1),
            count(Work::Fault, "slat-stage2", 130.0),
            count(Work::Fault, "floor", 130.1),
            count(Work::Split1g, "slat", 9999.0),
        ];
        let text = text(&counts);
        let lines: Vec<_> = text.lines().skip(1).map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "fault slat 130  over the target of 130",
                "fault slat-stage2 130  within the target of 130",
                "fault floor 130",
                "split-1g slat 9999"
            ]
        );
        assert!(json(&counts).contains(
            "{\"work\": \"fault\", \"contender\": \"slat\", \"instructions\": 130.100000, \"target\": 130}"
        ));
    }
}
