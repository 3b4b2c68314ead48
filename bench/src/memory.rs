//! What a contender takes of the host to know what it knows: frames for tables, and memory for its regions.
//!
//! Frames are those that the arena has given; bytes of the heap are counted as they were asked for.

use crate::contender::Contender;
use crate::contenders::Entry;
use crate::frames::{self, FRAME};
use crate::heap;
use crate::measure::{GIB, GPA, HPA_4K, random};
use crate::report;
use crate::work::Sizes;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// The tables of 1 GiB in 4 KiB leaves.
    Tables,
    /// The tables of 1 GiB that is declared only, beyond those of an empty space.
    Lazy,
    /// One of so many regions, inserted in order or not.
    Region { count: u64, shuffled: bool },
}

/// A line of the table: its name in the results, what it says, and what is asked.
type Line = (&'static str, &'static str, Question);

const LINES: [Line; 7] = [
    ("tables-1g", "tables of 1 GiB in 4 KiB leaves, frames", Question::Tables),
    ("lazy-1g", "tables of 1 GiB declared only, frames", Question::Lazy),
    ("region-of-1", "the only region, bytes", Question::Region { count: 1, shuffled: false }),
    ("region-of-1k", "one of 1,000, in order, bytes", Question::Region { count: 1_000, shuffled: false }),
    (
        "region-of-1k-shuffled",
        "one of 1,000, shuffled, bytes",
        Question::Region { count: 1_000, shuffled: true },
    ),
    (
        "region-of-100k",
        "one of 100,000, in order, bytes",
        Question::Region { count: 100_000, shuffled: false },
    ),
    (
        "region-of-100k-shuffled",
        "one of 100,000, shuffled, bytes",
        Question::Region { count: 100_000, shuffled: true },
    ),
];

/// An answer, in bytes; of regions, bytes of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    name: &'static str,
    contender: &'static str,
    bytes: Option<f64>,
}

/// Asks every contender everything.
pub(crate) fn measure(contenders: &[Entry]) -> Vec<Answer> {
    frames::init(Sizes::QUICK.frames());
    let each = |&(name, _, question): &Line| {
        contenders.iter().map(move |entry| Answer {
            name,
            contender: entry.name,
            bytes: (entry.bytes)(question),
        })
    };
    LINES.iter().flat_map(each).collect()
}

/// Bytes that a fresh `C` takes; `None` if the question makes no sense for it.
pub(crate) fn bytes<C: Contender>(question: Question) -> Option<f64> {
    if !C::HAS_REGIONS && question != Question::Tables {
        return None;
    }
    frames::take_share(0, 1);
    let mut space = C::new();
    let tables = table_bytes(&space);
    Some(match question {
        Question::Tables => {
            space.map(GPA, HPA_4K, GIB);
            table_bytes(&space) as f64
        }
        Question::Lazy => {
            space.declare(GPA, GIB);
            (table_bytes(&space) - tables) as f64
        }
        Question::Region { count, shuffled } => {
            let order = order(count, shuffled);
            let on_heap = heap::growth(|| {
                for &index in &order {
                    space.map_region(GPA + 2 * index * FRAME, HPA_4K + 2 * index * FRAME, FRAME);
                }
            });
            (on_heap + space.region_frames() * FRAME) as f64 / count as f64
        }
    })
}

fn table_bytes<C: Contender>(space: &C) -> u64 {
    (frames::in_use() - space.region_frames()) * FRAME
}

/// The numbers below `count`, in order or shuffled (Fisher-Yates).
fn order(count: u64, shuffled: bool) -> Vec<u64> {
    let mut order: Vec<u64> = (0..count).collect();
    if shuffled {
        let mut state = 1;
        for last in (1..order.len()).rev() {
            state = random(state);
            order.swap(last, (state >> 33) as usize % (last + 1));
        }
    }
    order
}

/// The answers as a table.
pub(crate) fn text(answers: &[Answer], contenders: &[Entry]) -> String {
    let mut rows = vec![vec![String::from("memory")]];
    rows[0].extend(contenders.iter().map(|entry| entry.short.to_owned()));
    for (name, title, question) in LINES {
        let unit = if matches!(question, Question::Region { .. }) { 1 } else { FRAME };
        let cell = |entry: &Entry| {
            let answer = answers.iter().find(|answer| answer.name == name && answer.contender == entry.name);
            let bytes = answer.and_then(|answer| answer.bytes);
            bytes.map_or_else(|| String::from("-"), |bytes| decimals(bytes / unit as f64))
        };
        let mut row = vec![title.to_owned()];
        row.extend(contenders.iter().map(cell));
        rows.push(row);
    }
    format!("{}\n{REMARK}\n", report::aligned(&rows))
}

const REMARK: &str = "*  slat keeps regions in frames of 4 KiB, the others on the heap; what is mapped in them is not \
                      counted. The floor's are in the standard library's tree. A `-`: it has no regions.";

fn decimals(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// A list of objects, one per answer.
pub(crate) fn json(answers: &[Answer]) -> String {
    let objects: Vec<String> = answers
        .iter()
        .filter_map(|Answer { name, contender, bytes }| {
            let bytes = (*bytes)?;
            Some(format!("  {{\"work\": \"{name}\", \"contender\": \"{contender}\", \"bytes\": {bytes:.2}}}"))
        })
        .collect();
    format!("[\n{}\n]\n", objects.join(",\n"))
}
