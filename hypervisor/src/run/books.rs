//! What is counted during a run, for each CPU by itself; a CPU that never comes back has nothing left to tell.

use super::paging;
use crate::pool::{Host, Maintenance, Pool};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use slat::Census;
use slat_hv_protocol::{BufferCalls, ChurnReport, EmulatedUart, End, Faults, Leaves, PagingReport, Report};
use spin::Mutex;

/// What came of a run, apart from what the host's pool counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Faults by outcome.
    pub faults: Faults,
    /// Leaves at the end.
    pub leaves: Leaves,
    /// Frames that held tables at the end.
    pub table_pages: u64,
    /// Frames of its memory at the end that were its alone.
    pub owned_frames: u64,
    /// What churn did.
    pub churn: Option<ChurnReport>,
    /// Calls to the firmware.
    pub firmware_calls: u64,
    /// External aborts given to the guest.
    pub injected_aborts: u64,
    /// Exits of every kind.
    pub exits: u64,
    /// The same for each CPU.
    pub exits_by_cpu: Vec<u64>,
    /// What the guest did with the emulated UART.
    pub uart: EmulatedUart,
    /// What it had done with pieces of its memory.
    pub buffer_calls: BufferCalls,
    /// What its text screen showed at the end, if it has one.
    pub screen: Option<String>,
    /// Pages of 4 KiB of its RAM in leaves with a dirty mark, where the hardware sets those.
    pub pages_written: Option<u64>,
    /// What was paged out and in, if its RAM was paged.
    pub paging: Option<PagingReport>,
}

impl Default for Outcome {
    fn default() -> Self {
        Books::new(0).close(End::PowerOff, Census::default(), None)
    }
}

impl Outcome {
    /// This guest's outcome and that of one that ended after it, together: see the sum of outcomes.
    pub(crate) fn and(mut self, other: Self) -> Self {
        // Who has moved has not ended.
        if matches!(self.end, End::PowerOff | End::Moved) {
            self.end = other.end;
        }
        let (mine, its) = (&mut self.faults, other.faults);
        mine.total += its.total;
        mine.populated += its.populated;
        mine.spurious += its.spurious;
        mine.copied += its.copied;
        mine.upgraded += its.upgraded;
        mine.restored += its.restored;
        mine.unanswered += its.unanswered;
        mine.retried += its.retried;
        self.leaves.size_4k += other.leaves.size_4k;
        self.leaves.size_2m += other.leaves.size_2m;
        self.leaves.size_1g += other.leaves.size_1g;
        self.table_pages += other.table_pages;
        self.owned_frames += other.owned_frames;
        self.churn = match (self.churn, other.churn) {
            (Some(mine), Some(its)) => Some(ChurnReport {
                unmapped: mine.unmapped + its.unmapped,
                moved: mine.moved + its.moved,
                write_protected: mine.write_protected + its.write_protected,
            }),
            (mine, its) => mine.or(its),
        };
        self.firmware_calls += other.firmware_calls;
        self.injected_aborts += other.injected_aborts;
        self.exits += other.exits;
        let longest = self.exits_by_cpu.len().max(other.exits_by_cpu.len());
        self.exits_by_cpu.resize(longest, 0);
        self.exits_by_cpu.iter_mut().zip(other.exits_by_cpu).for_each(|(mine, its)| *mine += its);
        self.uart.accesses += other.uart.accesses;
        self.uart.refused += other.uart.refused;
        self.uart.bytes += other.uart.bytes;
        self.buffer_calls.done += other.buffer_calls.done;
        self.buffer_calls.refused += other.buffer_calls.refused;
        self.buffer_calls.bytes += other.buffer_calls.bytes;
        self.uart.text.clear();
        self.buffer_calls.text.clear();
        self.screen = None;
        self.paging =
            self.paging.map(|mine| paging::and(mine, other.paging.unwrap_or_default())).or(other.paging);
        self.pages_written = self.pages_written.zip(other.pages_written).map(|(mine, its)| mine + its);
        self
    }

    /// The report of the run, with what `pool` has counted and the instructions of `invalidations`. What only some machines
    /// tell is left open.
    pub fn report<M: Maintenance>(self, pool: &Pool<M>, invalidations: BTreeMap<String, u64>) -> Report {
        Report {
            end: self.end,
            faults: self.faults,
            leaves: self.leaves,
            table_pages: self.table_pages,
            frames: pool.counts(),
            invalidations,
            cache_maintenance_frames: pool.cache_frames(),
            churn: self.churn,
            firmware_calls: self.firmware_calls,
            injected_aborts: self.injected_aborts,
            exits: self.exits,
            exits_by_cpu: self.exits_by_cpu,
            uart: self.uart,
            buffer_calls: self.buffer_calls,
            exits_by_kind: BTreeMap::new(),
            pages_written: None,
            fault_cost: None,
            paging: self.paging.map(|paging| PagingReport { pool: Host::frames(&pool), ..paging }),
            screen: self.screen,
            guests: Vec::new(),
        }
    }
}

/// The counts of one CPU.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) faults: Faults,
    pub(super) firmware_calls: u64,
    pub(super) injected_aborts: u64,
    pub(super) exits: u64,
    /// Faults in a row for which nothing was to be done.
    pub(super) idle_faults: u32,
}

/// The counts of all CPUs. Each lock is taken by its own CPU, until the run is over.
pub(super) struct Books(Vec<Mutex<Counts>>);

impl Books {
    /// Nothing counted yet, for so many CPUs.
    pub(super) fn new(cpus: usize) -> Self {
        Self((0..cpus).map(|_| Mutex::default()).collect())
    }

    /// Lets `work` write into the book of `cpu`.
    pub(super) fn of<R: Default>(&self, cpu: usize, work: impl FnOnce(&mut Counts) -> R) -> R {
        self.0.get(cpu).map(|counts| work(&mut counts.lock())).unwrap_or_default()
    }

    /// The sums until now, a line for each.
    pub(super) fn text(&self) -> String {
        let each: Vec<Counts> = self.0.iter().map(|counts| *counts.lock()).collect();
        let line = |name, of: fn(&Counts) -> u64| {
            let sum: u64 = each.iter().map(of).sum();
            format!("{name:<20}{sum}\n")
        };
        [
            line("exits", |counts| counts.exits),
            line("faults", |counts| counts.faults.total),
            line("faults populated", |counts| counts.faults.populated),
            line("firmware calls", |counts| counts.firmware_calls),
            line("injected aborts", |counts| counts.injected_aborts),
        ]
        .concat()
    }

    /// All of it together.
    pub(super) fn close(&self, end: End, table: Census, churn: Option<ChurnReport>) -> Outcome {
        let each: Vec<Counts> = self.0.iter().map(|counts| *counts.lock()).collect();
        let sum = |of: fn(&Counts) -> u64| each.iter().map(of).sum();
        Outcome {
            end,
            faults: Faults {
                total: sum(|counts| counts.faults.total),
                populated: sum(|counts| counts.faults.populated),
                spurious: sum(|counts| counts.faults.spurious),
                copied: sum(|counts| counts.faults.copied),
                upgraded: sum(|counts| counts.faults.upgraded),
                restored: sum(|counts| counts.faults.restored),
                unanswered: sum(|counts| counts.faults.unanswered),
                retried: sum(|counts| counts.faults.retried),
            },
            leaves: Leaves { size_4k: table.leaves_4k, size_2m: table.leaves_2m, size_1g: table.leaves_1g },
            table_pages: table.table_frames,
            owned_frames: table.owned_frames,
            churn,
            firmware_calls: sum(|counts| counts.firmware_calls),
            injected_aborts: sum(|counts| counts.injected_aborts),
            exits: sum(|counts| counts.exits),
            exits_by_cpu: each.iter().map(|counts| counts.exits).collect(),
            uart: EmulatedUart::default(),
            buffer_calls: BufferCalls::default(),
            screen: None,
            pages_written: None,
            paging: None,
        }
    }
}
