//! Forks, first writes after them, going back to a snapshot, and the dirty log: what they take, beside what they are to take
//! at the most.
//!
//! A table of its own, because here slat is held to limits and not compared with peers, which have nothing of it. The
//! works are in `works.rs` and `log.rs`, the raw loops in `floor.rs`; rounds are interleaved as in the other table, and minima count.

mod floor;
mod host;
mod limits;
mod log;
mod report;
mod works;

pub(crate) use report::{json, text};

use crate::frames;
use crate::measure::{GIB, Sample};
use crate::rounds::progress;
use crate::work::{Sizes, Work};
use slat::format::Format;
use slat::format::ept::{self, Ept};
use slat::format::gstage::{self, Gstage, Mode};
use slat::format::npt::{self, Npt};
use slat::format::stage2::{Features, Stage2};
use works::{Made, Written};

/// Frames of the arena: 1 GiB of 4 KiB leaves, what is copied of it, and a thousand roots.
const FRAMES: usize = 400_000;
const CHILDREN: u64 = 1000;
/// Leaf tables whose pages are written to.
const TABLES: u64 = 32;
/// Forks that write to one page each.
const COLD: u64 = 64;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    ForkSmall,
    Fork1g,
    Fork64g,
    Fork64gSparse,
    Fork1t,
    Children,
    ChildrenAfterWrites,
    WritePrivate,
    WriteBackToBack,
    WriteMean,
    WriteCold,
    Reset1g,
    Reset64g,
    Reset1t,
    LogSmall,
    Log64g,
    Log1t,
    Collect256m,
    Collect1g,
}

impl Row {
    const ALL: [Self; 19] = [
        Self::ForkSmall,
        Self::Fork1g,
        Self::Fork64g,
        Self::Fork64gSparse,
        Self::Fork1t,
        Self::Children,
        Self::ChildrenAfterWrites,
        Self::WritePrivate,
        Self::WriteBackToBack,
        Self::WriteMean,
        Self::WriteCold,
        Self::Reset1g,
        Self::Reset64g,
        Self::Reset1t,
        Self::LogSmall,
        Self::Log64g,
        Self::Log1t,
        Self::Collect256m,
        Self::Collect1g,
    ];

    /// The name in the results, and what it says.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::ForkSmall => ("fork-1g-4k", "fork of 1 GiB in 4 KiB leaves"),
            Self::Fork1g => ("fork-1g", "fork of 1 GiB in 2 MiB leaves"),
            Self::Fork64g => ("fork-64g", "fork of 64 GiB in 2 MiB leaves"),
            Self::Fork64gSparse => ("fork-64g-sparse", "fork of 64 GiB, one page in each"),
            Self::Fork1t => ("fork-1t", "fork of 1 TiB in 2 MiB leaves"),
            Self::Children => ("children", "1,000 forks of 1 GiB, all of them"),
            Self::ChildrenAfterWrites => ("children-after-writes", "the same, a write before each"),
            Self::WritePrivate => ("write-private", "first write, leaf table private"),
            Self::WriteBackToBack => ("write-back-to-back", "the same, faults back to back"),
            Self::WriteMean => ("write-mean", "first write, mean of 512 pages"),
            Self::WriteCold => ("write-cold", "first write, all tables shared"),
            Self::Reset1g => ("reset-1g", "reset of 1 GiB, 1,000 pages written"),
            Self::Reset64g => ("reset-64g", "reset of 64 GiB, the same pages"),
            Self::Reset1t => ("reset-1t", "reset of 1 TiB, the same pages"),
            Self::LogSmall => ("log-start-4k", "log of 1 GiB started, a 4 KiB leaf"),
            Self::Log64g => ("log-start-64g", "log of 64 GiB in 2 MiB leaves, a table"),
            Self::Log1t => ("log-start-1t", "log of 1 TiB in 2 MiB leaves, a table"),
            Self::Collect256m => ("collect-256m", "collection of 256 MiB, 1 % dirty, a clean leaf"),
            Self::Collect1g => ("collect-1g", "collection of 1 GiB, 1 % dirty, a clean leaf"),
        }
    }

    /// Runs it once on slat; how often within, `many` says.
    fn run<F: Format>(self, format: F, many: u64) -> Sample {
        match self {
            Self::ForkSmall => works::fork(format, GIB, Made::Small, many),
            Self::Fork1g => works::fork(format, GIB, Made::Large, many),
            Self::Fork64g => works::fork(format, 64 * GIB, Made::Large, many),
            Self::Fork64gSparse => works::fork(format, 64 * GIB, Made::Sparse, many),
            Self::Fork1t => works::fork(format, 1024 * GIB, Made::Large, many),
            Self::Children => works::children(format, CHILDREN, false),
            Self::ChildrenAfterWrites => works::children(format, CHILDREN, true),
            Self::WritePrivate => works::writes(format, GIB, Written::Private(TABLES)),
            Self::WriteBackToBack => works::writes(format, GIB, Written::BackToBack(TABLES)),
            Self::WriteMean => works::writes(format, GIB, Written::Whole(TABLES)),
            Self::WriteCold => works::writes(format, GIB, Written::Cold(COLD)),
            Self::Reset1g => works::reset(format, GIB, many.div_ceil(8)),
            Self::Reset64g => works::reset(format, 64 * GIB, many.div_ceil(8)),
            Self::Reset1t => works::reset(format, 1024 * GIB, many.div_ceil(8)),
            Self::LogSmall => log::start_small(format, GIB),
            Self::Log64g => log::start_large(format, 64 * GIB),
            Self::Log1t => log::start_large(format, 1024 * GIB),
            Self::Collect256m => log::collect_dirty(format, GIB / 4, false),
            Self::Collect1g => log::collect_dirty(format, GIB, false),
        }
    }

    /// Runs it once as a raw loop, for a format whose tables below the root have so many levels, if that says anything.
    fn floor(self, levels: u8, many: u64) -> Option<Sample> {
        match self {
            Self::ForkSmall | Self::Fork1g => Some(floor::fork(many)),
            Self::Children => Some(floor::children(CHILDREN)),
            Self::WritePrivate | Self::WriteMean => Some(floor::writes(TABLES, false)),
            Self::WriteBackToBack => Some(floor::writes(TABLES, true)),
            Self::WriteCold => Some(floor::cold(COLD, levels)),
            Self::LogSmall => Some(floor::log()),
            Self::Collect256m => Some(floor::collect(GIB / 4)),
            Self::Collect1g => Some(floor::collect(GIB)),
            _ => None,
        }
    }
}

/// A format, ready to use, in the widths that its hypervisors use.
trait Ready: Format {
    fn ready() -> Self;
}

impl Ready for Ept {
    fn ready() -> Self {
        // Four levels, write-back tables, leaves of 2 MiB and 1 GiB, accessed and dirty flags.
        let ept_vpid_cap = 1 << 6 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 21;
        let marks = ept::Capabilities {
            ept_vpid_cap,
            physical_bits: 52,
            accessed_dirty: true,
            ..ept::Capabilities::BASELINE
        };
        Self::new(marks, 4).expect("the capabilities cover four levels")
    }
}

impl Ready for Npt {
    fn ready() -> Self {
        let marks = npt::Capabilities {
            physical_bits: 52,
            leaf_1g: true,
            no_execute: true,
            asids: 64,
            accessed_dirty: true,
        };
        Self::new(marks, 4).expect("there are four levels")
    }
}

impl Ready for Stage2 {
    fn ready() -> Self {
        let features = Features { pa_bits: 48, fwb: true, idc: true, dic: true, ..Features::BASELINE };
        Self::new(features, Some(40)).expect("40 bits are within the width of the CPU")
    }
}

impl Ready for Gstage {
    fn ready() -> Self {
        let capabilities = gstage::Capabilities { vmid_bits: 14, ..gstage::Capabilities::BASELINE };
        Self::new(Mode::Sv39x4, capabilities).expect("every hart has Sv39x4")
    }
}

/// A column of the table.
#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    /// The number of levels below the root.
    levels: u8,
    /// Bytes below an entry of the root.
    per_root_entry: u64,
    run: fn(Row, u64) -> Sample,
}

const COLUMNS: [Column; 4] = [
    Column { name: "ept", levels: 3, per_root_entry: 512 * GIB, run: run::<Ept> },
    Column { name: "npt", levels: 3, per_root_entry: 512 * GIB, run: run::<Npt> },
    Column { name: "stage2", levels: 2, per_root_entry: GIB, run: run::<Stage2> },
    Column { name: "gstage", levels: 2, per_root_entry: GIB, run: run::<Gstage> },
];

fn run<F: Ready>(row: Row, many: u64) -> Sample {
    row.run(F::ready(), many)
}

/// Nanoseconds per unit of one row: of slat in one column, or of the raw loop beside that column.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outcome {
    row: Row,
    column: usize,
    floor: bool,
    min: f64,
    median: f64,
}

/// All that was measured.
#[derive(Clone, Debug)]
pub(crate) struct Outcomes(Vec<Outcome>);

impl Outcomes {
    fn find(&self, row: Row, column: usize, floor: bool) -> Option<&Outcome> {
        self.0.iter().find(|outcome| (outcome.row, outcome.column, outcome.floor) == (row, column, floor))
    }
}

/// Runs `rounds` rounds and one before them that does not count; all is forked and reset `many` times in each.
pub(crate) fn measure(rounds: usize, many: u64) -> Outcomes {
    frames::init(FRAMES);
    let sides = 2 * COLUMNS.len();
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); Row::ALL.len() * sides];
    let bar = progress((samples.len() * (rounds + 1)) as u64);
    for round in 0..=rounds {
        for (number, row) in Row::ALL.into_iter().enumerate() {
            bar.set_message(format!("round {round}: {}", row.names().0));
            for turn in 0..sides {
                let side = (turn + round) % sides;
                let column = COLUMNS[side / 2];
                let sample = match side % 2 {
                    0 => Some((column.run)(row, many)),
                    _ => row.floor(column.levels, many),
                };
                if round > 0 {
                    samples[number * sides + side].extend(sample.map(Sample::per_unit));
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    let places = Row::ALL.into_iter().flat_map(|row| (0..sides).map(move |side| (row, side)));
    let outcomes = places.zip(samples).filter_map(|((row, side), mut samples)| {
        samples.sort_by(f64::total_cmp);
        let (&min, &median) = (samples.first()?, samples.get(samples.len() / 2)?);
        Some(Outcome { row, column: side / 2, floor: side % 2 == 1, min, median })
    });
    Outcomes(outcomes.collect())
}

/// Runs one of the works that are counted, once; the sizes are those of the other works.
pub(crate) fn counted<F: Format>(work: Work, format: F, sizes: &Sizes) -> Option<Sample> {
    match work {
        Work::Fork => Some(works::fork(format, sizes.small, Made::Small, 4)),
        Work::WriteAfterFork => Some(works::writes(format, sizes.small, Written::Private(4))),
        Work::WriteAfterForkCold => Some(works::writes(format, sizes.small, Written::Cold(4))),
        Work::CollectClean => Some(log::collect_dirty(format, sizes.small, true)),
        _ => None,
    }
}
