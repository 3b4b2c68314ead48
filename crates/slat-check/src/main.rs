//! `slat-check`: random or exhaustive checking from the command line.

use clap::Parser;
use slat_check::run::{Case, Counts, minimise, platforms, random_case, run_random};
use slat_check::{exhaustive, hostile, mistakes::Mistake};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Runs slat beside a model of the hardware and a specification, and prints how fast.
#[derive(Parser)]
struct Arguments {
    /// Operations to check.
    #[arg(long, default_value_t = 200_000)]
    operations: u64,
    /// Seed of the first sequence.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Operations of one sequence.
    #[arg(long, default_value_t = 200)]
    length: usize,
    /// Only formats whose name contains this, or one of these with commas between them.
    #[arg(long, default_value = "", value_delimiter = ',')]
    format: Vec<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Every sequence of this length instead of random ones.
    #[arg(long)]
    exhaustive: Option<u32>,
    /// Makes this mistake.
    #[arg(long)]
    mistake: Option<String>,
    /// Hostile accesses of the host instead of operations.
    #[arg(long)]
    hostile: bool,
    /// How many of them.
    #[arg(long, default_value_t = 1_000_000)]
    accesses: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.hostile {
        return be_hostile(arguments.accesses, arguments.seed, arguments.threads.max(1));
    }
    let mistake = match arguments.mistake.as_deref().map(mistake).transpose() {
        Ok(mistake) => mistake,
        Err(error) => return refuse(&error),
    };
    let mut failed = false;
    let chosen: Vec<_> = platforms()
        .into_iter()
        .filter(|(name, _)| arguments.format.iter().any(|part| name.contains(part)))
        .collect();
    if chosen.is_empty() {
        return refuse(&format!("no format has a name with {} in it", arguments.format.join(" or ")));
    }
    let each = arguments.operations / chosen.len().max(1) as u64;
    let mut total = Counts::default();
    let start = Instant::now();
    for (name, platform) in chosen {
        let began = Instant::now();
        let sequences = each.div_ceil(arguments.length.max(1) as u64);
        let next = AtomicU64::new(0);
        let work = |thread: u64| {
            if let Some(length) = arguments.exhaustive {
                return exhaustive::run(&platform, length, thread, arguments.threads)
                    .map_err(|failure| (0, failure));
            }
            let mut counts = Counts::default();
            loop {
                let sequence = next.fetch_add(1, Ordering::Relaxed);
                if sequence >= sequences {
                    return Ok(counts);
                }
                let seed = arguments.seed + sequence;
                match run_random(&platform, seed, arguments.length, mistake) {
                    Ok(more) => counts.add(more),
                    Err(failure) => return Err((seed, failure)),
                }
            }
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..arguments.threads).map(|thread| scope.spawn(move || work(thread))).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        let mut counts = Counts::default();
        for result in results {
            match result {
                Ok(Ok(more)) => counts.add(more),
                Ok(Err((seed, failure))) => {
                    let Case { shape, settings, .. } = random_case(&platform, seed, 0);
                    let failure = if arguments.exhaustive.is_some() {
                        failure
                    } else {
                        minimise(&platform, &shape, settings, mistake, failure)
                    };
                    println!("{name}, seed {seed}, shape {}: {failure}", shape.name);
                    failed = true;
                }
                Err(_) => failed = true,
            }
        }
        print_rate(name, counts, began);
        total.add(counts);
    }
    print_rate("all", total, start);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The mistake with this name.
fn mistake(name: &str) -> Result<Mistake, String> {
    let named = |mistake: &&Mistake| format!("{mistake:?}").eq_ignore_ascii_case(name);
    let found = Mistake::ALL.iter().find(named).copied();
    found.ok_or_else(|| {
        let all: Vec<_> = Mistake::ALL.iter().map(|mistake| format!("{mistake:?}")).collect();
        format!("no mistake is called {name}: there are {}", all.join(", "))
    })
}

fn refuse(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

fn be_hostile(accesses: u64, seed: u64, threads: u64) -> ExitCode {
    let began = Instant::now();
    let share = |thread: u64| accesses / threads + u64::from(thread < accesses % threads);
    let results: Vec<_> = std::thread::scope(|scope| {
        let run = |thread| scope.spawn(move || hostile::run(share(thread), seed * threads + thread, None));
        let running: Vec<_> = (0..threads).map(run).collect();
        running.into_iter().map(|thread| thread.join()).collect()
    });
    let (mut done, mut refused, mut failed) = (0, 0, false);
    for result in results {
        match result {
            Ok(Ok((more, of_them))) => (done, refused) = (done + more, refused + of_them),
            Ok(Err(difference)) => {
                println!("{difference}");
                failed = true;
            }
            Err(_) => failed = true,
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    if failed {
        return ExitCode::FAILURE;
    }
    println!("all: {done} hostile accesses, {refused} of them refused, no difference, in {seconds:.1} s");
    ExitCode::SUCCESS
}

fn print_rate(name: &str, counts: Counts, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    let Counts { operations, stores, looks } = counts;
    println!(
        "{name}: {operations} operations, {stores} stores, {looks} looks in {seconds:.1} s: {:.0} operations/s",
        operations as f64 / seconds
    );
}
