//! Guests whose RAM is paged: more memory than the pool has, with the guests going on.
//!
//! **Idle pages go first.** While less than half of the pool is free the pages of the guest are looked at again and again; those that
//! were idle for as many looks as wanted go out while less than a quarter is free. **Nobody ends while a page can go.** Whoever finds no frame, in a fault or in a hypercall about a buffer, evicts
//! some of the guest's own pages and asks again; only when there is none left is it [starved](Machine::starved).

use super::{Machine, Stop};
use crate::pool::Host;
use crate::store::Store;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use slat::format::Format;
use slat::{
    FaultError, FaultOutcome, GuestPhysAddr, GuestPhysRange, MapError, NestedPageFaultInfo, PAGE_SIZE,
};
use slat_hv_protocol::PagingReport;

/// Pages that are evicted at a time.
const EVICTED: u64 = 64;

/// The most runs of idle pages that go out after one scan: each is an invalidation.
const RUNS_MAX: usize = 64;

/// Ends of slices of each CPU between scans: half a second where slices are a hundredth.
const SLICES: u32 = 50;

/// Exits between scans where the guest has its CPUs for itself.
const EXITS: u64 = 4096;

/// How the RAM of a guest is paged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// The guest's number in the store.
    pub guest: u16,
    /// For so many scans a page has to have been idle to go out before there is need.
    pub idle_scans: u8,
}

/// How old the pages of a guest are, and what was done about it.
pub(super) struct Ageing {
    /// A byte for each page of its RAM.
    ages: Vec<u8>,
    /// Slices that have ended since the last scan.
    slices: u32,
    /// So many have to, of all CPUs.
    slices_wanted: u32,
    report: PagingReport,
}

impl Ageing {
    /// For a guest with so much memory and so many CPUs.
    pub(super) fn new(memory: u64, cpus: usize) -> Result<Self, MapError> {
        let pages = usize::try_from(memory / PAGE_SIZE).map_err(|_| MapError::OutOfMemory)?;
        let mut ages = Vec::new();
        ages.try_reserve_exact(pages).map_err(|_| MapError::OutOfMemory)?;
        ages.resize(pages, 0);
        let slices_wanted = SLICES.saturating_mul(cpus as u32);
        Ok(Self { ages, slices: 0, slices_wanted, report: PagingReport::default() })
    }

    /// Whether it is time for a scan, after `exits` exits of a CPU, the last of which ended its slice or not.
    fn is_due(&mut self, exits: u64, slice_ended: bool) -> bool {
        self.slices += u32::from(slice_ended);
        let due = self.slices >= self.slices_wanted || exits % EXITS == 0;
        if due {
            self.slices = 0;
        }
        due
    }
}

/// What was paged of two guests that share a store.
pub(super) fn and(mine: PagingReport, its: PagingReport) -> PagingReport {
    PagingReport {
        pool: mine.pool.max(its.pool),
        scans: mine.scans + its.scans,
        idle: mine.idle + its.idle,
        evictions: mine.evictions + its.evictions,
        evicted: mine.evicted + its.evicted,
        stored: mine.stored + its.stored,
        same: mine.same + its.same,
        paged_in: mine.paged_in + its.paged_in,
        refused: mine.refused + its.refused,
        store: mine.store.max(its.store),
        store_peak: mine.store_peak.max(its.store_peak),
    }
}

impl<H: Host, F: Format> Machine<'_, H, F> {
    /// After `exits` exits of a CPU: looks which pages are idle, if it is time for that, and pages those out that have been so for
    /// long if the pool is getting low.
    pub(super) fn age(&self, exits: u64, slice_ended: bool) -> Result<(), Stop> {
        let (Some(ageing), Some(paging)) = (&self.paging, self.job.paging) else { return Ok(()) };
        let mut ageing = ageing.lock();
        if !ageing.is_due(exits, slice_ended) {
            return Ok(());
        }
        let Ageing { ages, report, .. } = &mut *ageing;
        let (ram, memory) = (GuestPhysAddr::new(self.job.ram), self.job.memory);
        self.change(|space| {
            let (frames, left) = (space.hal().frames(), space.hal().frames_left());
            if left >= frames / 2 {
                return;
            }
            let wanted = (frames / 4).saturating_sub(left);
            let mut idle = Idle::default();
            let scanned = space.scan_idle(ram, memory, ages, paging.idle_scans, |pages, _| {
                idle.add(pages, wanted);
            });
            // It takes no memory, as nothing is shared with a fork.
            report.scans += u64::from(scanned.is_ok());
            for run in idle.runs {
                let Ok(out) = space.page_out(run.start(), run.size()) else { continue };
                report.idle += out.pages;
                report.refused += out.refused;
            }
        })
    }

    /// Lets the library answer a fault, and evicts pages as long as it finds no frame for that.
    pub(super) fn handle_making_room(
        &self,
        info: &NestedPageFaultInfo,
    ) -> Result<Result<FaultOutcome, FaultError>, Stop> {
        loop {
            match self.handle(info)? {
                Err(FaultError::OutOfMemory(_)) if self.make_room()? => {}
                outcome => return Ok(outcome),
            }
        }
    }

    /// No frame was left: evicts pages of this guest. `false` if none went.
    pub(super) fn make_room(&self) -> Result<bool, Stop> {
        let Some(ageing) = &self.paging else { return Ok(false) };
        let mut ageing = ageing.lock();
        let out = self.change(|space| space.evict(EVICTED, u64::MAX))?;
        let report = &mut ageing.report;
        report.evictions += 1;
        report.evicted += out.pages;
        report.refused += out.refused;
        Ok(out.pages > 0)
    }

    /// What was paged, until now.
    pub(super) fn paging_report(&self, store: &Store) -> Option<PagingReport> {
        let report = self.paging.as_ref()?.lock().report;
        let counts = store.counts(self.job.paging?.guest);
        let (slots, peak) = store.slots();
        Some(PagingReport {
            stored: counts.given,
            same: counts.same,
            paged_in: counts.read,
            store: slots,
            store_peak: peak,
            ..report
        })
    }

    /// What is wrong with the store, for a message.
    pub(super) fn of_the_store(&self) -> String {
        let space = self.space.read();
        let store = space.as_ref().and_then(|space| space.backend().0.store());
        let counts = store.zip(self.job.paging).map(|(store, paging)| store.counts(paging.guest));
        match counts.map_or(0, |counts| counts.damaged) {
            0 => String::new(),
            damaged => format!("; {damaged} pages in the store are not what was paged out"),
        }
    }
}

/// Idle pages, as few runs as they make.
#[derive(Default)]
struct Idle {
    runs: Vec<GuestPhysRange>,
    pages: u64,
}

impl Idle {
    /// Adds `pages`, which come in ascending order, unless there are `wanted` pages already.
    fn add(&mut self, pages: GuestPhysRange, wanted: u64) {
        if self.pages >= wanted {
            return;
        }
        let has_room = self.runs.len() < RUNS_MAX;
        let run = self.runs.last_mut().filter(|run| run.end() == pages.start());
        let longer = run.as_ref().map(|run| GuestPhysRange::new(run.start(), run.size() + pages.size()));
        match (run, longer) {
            (Some(run), Some(Ok(longer))) => *run = longer,
            _ if has_room => self.runs.push(pages),
            _ => return,
        }
        self.pages += pages.size() / PAGE_SIZE;
    }
}

#[cfg(test)]
mod tests;
