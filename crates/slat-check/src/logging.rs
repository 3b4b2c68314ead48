//! The log of writes, and scans for idle pages.

use crate::checks::{Check, Violation, ensure};
use crate::driver::Driver;
use crate::execute::wrong;
use crate::host::Moment;
use crate::mistakes::Mistake;
use crate::platform::Platform;
use crate::shape::Span;
use crate::specification::{Backing, only_written};
use slat::{
    CollectLogError, GuestPhysAddr, GuestPhysRange, LogUnit, PAGE_SIZE, ScanError, StartLogError,
    StopLogError,
};
use std::collections::BTreeSet;

impl<P: Platform> Driver<'_, P> {
    /// The pages in play of a range, and the first address that no region covers; `None` if the range has paged regions, of
    /// which only pages that are clean go out.
    fn to_log(&self, index: usize, span: Span) -> Option<(std::ops::Range<usize>, Option<u64>)> {
        let (gpa, size) = self.shape.range(span);
        let (start, specification) = (gpa.as_u64(), &self.subjects[index].specification);
        let paged = specification.any(&self.shape, start, size, |page| page.paged().is_some());
        let hole = specification.first_hole(&self.shape, start, size);
        (!paged).then(|| (self.shape.pages_in(start, size), hole))
    }

    /// Whether any page of a range that has memory is logged, or not.
    fn any_logged(&self, index: usize, span: Span, logged: bool) -> bool {
        let (gpa, size) = self.shape.range(span);
        self.subjects[index].specification.any(&self.shape, gpa.as_u64(), size, |page| {
            !matches!(page.backing, Backing::Trap(..)) && page.marks.logged == logged
        })
    }

    pub(crate) fn start_log(&mut self, index: usize, span: Span, unit: LogUnit) -> Result<(), Violation> {
        let Some((pages, hole)) = self.to_log(index, span) else { return Ok(()) };
        let (gpa, size) = self.shape.range(span);
        let logged = self.any_logged(index, span, true);
        if hole.is_none() && !logged {
            pages.clone().for_each(|page| self.host.watch.borrow_mut().hold(page));
        }
        let before = self.fingerprint(index);
        self.host.moment.set(Moment::Log);
        let result = self.subjects[index].space_mut().start_dirty_log(gpa, size, unit);
        self.host.moment.set(Moment::Other);
        let right = match &result {
            Ok(()) => hole.is_none() && !logged,
            Err(StartLogError::NotMapped(at)) => Some(at.as_u64()) == hole,
            Err(StartLogError::AlreadyLogged(_)) => hole.is_none() && logged,
            Err(StartLogError::OutOfMemory) => hole.is_none() && !logged && self.host.refused() > 0,
            Err(StartLogError::BadRange(_)) => false,
        };
        if !right {
            return wrong("start_dirty_log", (hole, logged, result));
        }
        if result.is_err() {
            return self.untouched(before);
        }
        let watch = self.host.watch.borrow();
        for (page, spec) in self.subjects[index].specification.pages.range_mut(pages.clone()) {
            if matches!(spec.backing, Backing::Trap(..)) {
                continue;
            }
            // What the guest writes meanwhile may be told.
            let (used, written) = watch.uses(*page);
            spec.marks.note_use(used, false);
            spec.marks.dirty = false;
            spec.marks.told = written || only_written(spec.flags);
            (spec.marks.logged, spec.marks.cleared) = (true, true);
            (spec.marks.held, spec.marks.weaker) = (true, true);
        }
        self.noted = pages;
        Ok(())
    }

    pub(crate) fn collect_log(&mut self, index: usize, span: Span, how: u8) -> Result<(), Violation> {
        let Some((pages, hole)) = self.to_log(index, span) else { return Ok(()) };
        let (gpa, size) = self.shape.range(span);
        if how % 4 == 3 {
            return self.collect_noted(index, how);
        }
        let unlogged = self.any_logged(index, span, false);
        let before = self.fingerprint(index);
        let mut runs: Vec<GuestPhysRange> = vec![];
        self.host.moment.set(Moment::Log);
        let space = self.subjects[index].space_mut();
        let result = if how % 4 == 0 {
            let mut bitmap = vec![0_u64; (size / PAGE_SIZE).div_ceil(64) as usize];
            let result = space.collect_dirty_bitmap(gpa, size, &mut bitmap);
            let set = |page: &u64| bitmap[(page / 64) as usize] >> (page % 64) & 1 == 1;
            let run = |page: u64| {
                let at = GuestPhysAddr::new(gpa.as_u64() + page * PAGE_SIZE);
                GuestPhysRange::new(at, PAGE_SIZE).expect("inside of the range")
            };
            runs.extend((0..size / PAGE_SIZE).filter(set).map(run));
            result
        } else {
            space.collect_dirty(gpa, size, |run| runs.push(run))
        };
        self.host.moment.set(Moment::Other);
        let right = match &result {
            Ok(count) => {
                let told: u64 = runs.iter().map(|run| run.size() / PAGE_SIZE).sum();
                hole.is_none() && !unlogged && *count == told
            }
            Err(CollectLogError::NotMapped(at)) => Some(at.as_u64()) == hole,
            Err(CollectLogError::NotLogged(_)) => hole.is_none() && unlogged,
            Err(CollectLogError::OutOfMemory) => hole.is_none() && !unlogged && self.host.refused() > 0,
            Err(_) => false,
        };
        if !right || result.is_err() && !runs.is_empty() {
            return wrong("collect_dirty", (hole, unlogged, result, runs));
        }
        if result.is_err() {
            return self.untouched(before);
        }
        let inside = |run: &GuestPhysRange| {
            run.start() >= gpa && run.end().as_u64() <= gpa.as_u64() + size && run.is_aligned(PAGE_SIZE)
        };
        let ascending = runs.windows(2).all(|pair| pair[0].end() <= pair[1].start());
        ensure(ascending && runs.iter().all(inside), Check::Log, || format!("{runs:x?}"))?;
        let told = runs.iter().flat_map(|run| self.shape.pages_in(run.start().as_u64(), run.size()));
        let told: BTreeSet<usize> = told.collect();
        self.collected(index, pages.clone(), &told)?;
        self.noted = pages;
        Ok(())
    }

    /// As a CPU that keeps a list of what it marked, and a list of what faults populated.
    fn collect_noted(&mut self, index: usize, how: u8) -> Result<(), Violation> {
        let mut noted = vec![GuestPhysAddr::new(u64::from(how) << 56 | 0xfff)];
        let first = usize::from(how) % self.shape.pages.len();
        let pages = first..(first + 2).min(self.shape.pages.len());
        if self.subjects[index]
            .specification
            .pages
            .range(pages.clone())
            .any(|(_, page)| page.paged().is_some())
        {
            return Ok(());
        }
        noted.extend(pages.clone().map(|page| GuestPhysAddr::new(self.shape.pages[page] + 8)));
        let mut runs: Vec<GuestPhysRange> = vec![];
        self.host.moment.set(Moment::Log);
        self.subjects[index].space_mut().collect_logged(noted, |run| runs.push(run));
        self.host.moment.set(Moment::Other);
        let told = runs.iter().flat_map(|run| self.shape.pages_in(run.start().as_u64(), run.size()));
        let told: BTreeSet<usize> = told.collect();
        // A large leaf goes beyond what was noted.
        let all = told.iter().next().map_or(pages.start, |first| (*first).min(pages.start))
            ..told.iter().next_back().map_or(pages.end, |last| (last + 1).max(pages.end));
        if self.host.refused() > 0 {
            // What could not be copied was told and stays dirty.
            return Ok(());
        }
        let lost = |page: &usize| {
            let spec = self.subjects[index].specification.page(*page);
            spec.is_some_and(|spec| spec.marks.dirty) && !told.contains(page)
        };
        let lost = pages.clone().find(lost);
        ensure(lost.is_none(), Check::Log, || format!("page {lost:?} was written to, noted and not told"))?;
        for page in all.clone() {
            let spec = self.subjects[index].specification.pages.get_mut(&page);
            if told.contains(&page) && spec.as_ref().is_some_and(|spec| spec.marks.logged) {
                self.collected(index, page..page + 1, &told)?;
            } else if let Some(spec) = spec {
                let (used, written) = self.host.watch.borrow().uses(page);
                spec.marks.note_use(used, written);
            }
        }
        self.noted = all;
        Ok(())
    }

    /// Compares what was told of `pages` with what had to be, and takes note.
    fn collected(
        &mut self,
        index: usize,
        pages: std::ops::Range<usize>,
        told: &BTreeSet<usize>,
    ) -> Result<(), Violation> {
        let watch = self.host.watch.borrow();
        let exactly = self.shape.complete && !self.subjects[index].shares;
        for (page, spec) in self.subjects[index].specification.pages.range_mut(pages) {
            if !spec.marks.logged {
                continue;
            }
            let (used, written) = watch.uses(*page);
            let gpa = self.shape.pages[*page];
            if told.contains(page) {
                let known = spec.marks.told || written || !exactly;
                ensure(known, Check::Log, || format!("{gpa:#x} was not written to and is told: {spec:x?}"))?;
                (spec.marks.dirty, spec.marks.told) = (false, written || only_written(spec.flags));
            } else {
                ensure(!spec.marks.dirty, Check::Log, || {
                    format!("{gpa:#x} was written to and is not told: {spec:x?}")
                })?;
                // Whatever was written was written after it was looked at.
                spec.marks.note_use(used, written);
            }
        }
        Ok(())
    }

    pub(crate) fn stop_log(&mut self, index: usize, span: Span) -> Result<(), Violation> {
        let Some((pages, hole)) = self.to_log(index, span) else { return Ok(()) };
        let (gpa, size) = self.shape.range(span);
        let unlogged = self.any_logged(index, span, false);
        let before = self.fingerprint(index);
        let result = self.subjects[index].space_mut().stop_dirty_log(gpa, size);
        let right = match &result {
            Ok(()) => hole.is_none() && !unlogged,
            Err(StopLogError::NotMapped(at)) => Some(at.as_u64()) == hole,
            Err(StopLogError::NotLogged(_)) => hole.is_none() && unlogged,
            Err(StopLogError::OutOfMemory) => hole.is_none() && !unlogged && self.host.refused() > 0,
            Err(StopLogError::BadRange(_)) => false,
        };
        if !right {
            return wrong("stop_dirty_log", (hole, unlogged, result));
        }
        if result.is_err() {
            return self.untouched(before);
        }
        for (_, spec) in self.subjects[index].specification.pages.range_mut(pages) {
            (spec.marks.logged, spec.marks.held, spec.marks.dirty) = (false, false, false);
        }
        Ok(())
    }

    pub(crate) fn scan(&mut self, index: usize, span: Span, least: u8) -> Result<(), Violation> {
        let Some((pages, _)) = self.to_log(index, span) else { return Ok(()) };
        let (gpa, size) = self.shape.range(span);
        let at = |page: usize| ((self.shape.pages[page] - gpa.as_u64()) / PAGE_SIZE) as usize;
        let mut ages = vec![0_u8; (size / PAGE_SIZE) as usize];
        for (page, spec) in self.subjects[index].specification.pages.range(pages.clone()) {
            ages[at(*page)] = spec.marks.age;
        }
        let before = self.fingerprint(index);
        let mut idle = vec![];
        self.host.moment.set(Moment::Scan);
        let space = self.subjects[index].space_mut();
        let result = space.scan_idle(gpa, size, &mut ages, least, |leaf, age| idle.push((leaf, age)));
        self.host.moment.set(Moment::Other);
        match &result {
            Ok(count) => {
                let told: u64 = idle.iter().map(|(leaf, _)| leaf.size() / PAGE_SIZE).sum();
                ensure(*count == told, Check::Verdict, || format!("{count} pages instead of {told}"))?;
            }
            Err(ScanError::OutOfMemory) if self.host.refused() > 0 && idle.is_empty() => {
                return self.untouched(before);
            }
            Err(_) => return wrong("scan_idle", result),
        }
        for (leaf, age) in &idle {
            let first = ((leaf.start().as_u64() - gpa.as_u64()) / PAGE_SIZE) as usize;
            ensure(ages[first] == *age && *age >= least, Check::Age, || format!("{leaf} has age {age}"))?;
        }
        let watch = self.host.watch.borrow();
        let waits = !self.host.rules().marks && !self.host.rules().marks_by_fault;
        // A CPU that still walks a table of a version leaves the accessed mark there, and not in the copy. (Never the dirty one:
        // it cannot write through it.)
        let lost = self.subjects[index].shares && self.host.rules().marks;
        for (page, spec) in self.subjects[index].specification.pages.range_mut(pages.clone()) {
            let (gpa, age) = (self.shape.pages[*page], ages[at(*page)]);
            ensure(age == 0 || !spec.marks.used || lost, Check::Age, || {
                format!("{gpa:#x} was used and has age {age}: {spec:x?}")
            })?;
            ensure(age <= spec.marks.age.saturating_add(1), Check::Age, || {
                format!("{gpa:#x} has age {age}: {spec:x?}")
            })?;
            // What the guest does meanwhile may count or not, but it is no less dirty for that.
            let (_, written) = watch.uses(*page);
            spec.marks.note_use(false, written);
            (spec.marks.used, spec.marks.age) = (false, age);
            spec.marks.idle |= waits && spec.has_leaf() && spec.pins == 0;
        }
        self.noted = pages;
        Ok(())
    }

    /// Makes what is logged around an address clean, if this is the mistake to be made.
    pub(crate) fn lose_marks(&mut self, mistake: Mistake, index: usize, gpa: u64) {
        if self.host.mistake() == Some(mistake) {
            let space = self.subjects[index].space_mut();
            if let Some(region) = space.region(GuestPhysAddr::new(gpa)) {
                _ = space.collect_dirty(region.range.start(), region.range.size(), |_| {});
            }
        }
    }
}
