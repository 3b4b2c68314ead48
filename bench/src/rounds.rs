//! Interleaved rounds: in each, every work runs once on every contender, beginning with another contender each time.

use crate::contenders::Entry;
use crate::frames;
use crate::work::{Sizes, Work};
use indicatif::{ProgressBar, ProgressStyle};

/// What all rounds of one work on one contender gave, in nanoseconds per unit.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) work: Work,
    pub(crate) contender: &'static str,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Instructions per unit, if they were counted.
    pub(crate) instructions: Option<f64>,
}

/// A bar on stderr, where that is a terminal.
pub(crate) fn progress(length: u64) -> ProgressBar {
    let template = "{bar:32} {percent:>3} %  {elapsed} of {duration}  {wide_msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

/// Runs `rounds` rounds and one before them that does not count.
pub(crate) fn measure(works: &[Work], contenders: &[Entry], sizes: &Sizes, rounds: usize) -> Vec<Outcome> {
    frames::init(sizes.frames());
    let (columns, cells) = (contenders.len(), works.len() * contenders.len());
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); cells];
    let bar = progress((cells * (rounds + 1)) as u64);
    for round in 0..=rounds {
        for (row, &work) in works.iter().enumerate() {
            for turn in 0..columns {
                let column = (turn + round) % columns;
                let contender = contenders[column];
                bar.set_message(format!("round {round}: {} on {}", work.name(), contender.name));
                let sample = (contender.run)(work, sizes);
                if round > 0 {
                    samples[row * columns + column].extend(sample.map(|sample| sample.per_unit()));
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    let names = works.iter().flat_map(|&work| contenders.iter().map(move |entry| (work, entry.name)));
    names
        .zip(samples)
        .filter_map(|((work, contender), mut samples)| {
            samples.sort_by(f64::total_cmp);
            let (&min, &max) = (samples.first()?, samples.last()?);
            let (low, high) = (samples[(samples.len() - 1) / 2], samples[samples.len() / 2]);
            Some(Outcome { work, contender, median: (low + high) / 2.0, min, max, instructions: None })
        })
        .collect()
}
