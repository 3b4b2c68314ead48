//! Carries out each operation: says beforehand what may be seen, calls slat, judges its answer, and does the same to the
//! specification.

pub(crate) mod access;
mod fault;

use crate::audited::LINEAR;
use crate::checks::{Check, Violation, ensure};
use crate::driver::{Driver, leaf_at};
use crate::host::contents;
use crate::mistakes::Mistake;
use crate::operation::{Operation, Step};
use crate::platform::Platform;
use crate::shape::Span;
use crate::specification::{Backing, Origin, Page};
use crate::watch::{Expected, Target};
use slat::{
    AllocOptions, CollapseError, HostPhysAddr, MapError, MappingFlags, MigrateError, PAGE_SIZE, PopulateError,
};

const GIB1: u64 = 1 << 30;

pub(crate) fn wrong<T>(what: &str, answer: impl std::fmt::Debug) -> Result<T, Violation> {
    Err(Violation::new(Check::Verdict, format!("{what} says {answer:x?}")))
}

impl<P: Platform> Driver<'_, P> {
    pub(crate) fn execute(
        &mut self,
        index: usize,
        cpu: usize,
        operation: &Operation,
    ) -> Result<(), Violation> {
        match operation {
            Operation::MapLinear { span, flags, shift } => self.map_linear(index, *span, *flags, *shift),
            Operation::MapAlloc { span, flags, populate, largest, around } => {
                let options =
                    AllocOptions { populate: *populate, largest_leaf: *largest, fault_around: *around };
                self.map_alloc(index, *span, *flags, options)
            }
            Operation::Unmap(span) => self.batch(index, &[Step::Unmap(*span)], None),
            Operation::Protect(span, flags) => self.batch(index, &[Step::Protect(*span, *flags)], None),
            Operation::Batch(steps, end) => self.batch(index, steps, Some(*end)),
            Operation::Fault { page, access, .. } => {
                let page = self.shape.page(*page);
                self.fault(index, page, *access, true).map(drop)
            }
            Operation::Access { page, access, .. } => {
                let page = self.shape.page(*page);
                self.access(index, cpu, page, *access)
            }
            Operation::Migrate(span) => self.migrate(index, *span),
            Operation::Collapse(span) => self.collapse(index, *span),
            Operation::Populate(span) => self.populate(index, *span),
            Operation::TopUp(faults) => {
                let result = self.subjects[index].space().top_up(usize::from(*faults % 4));
                if result.is_err() && self.host.refused() == 0 { wrong("top_up", result) } else { Ok(()) }
            }
            Operation::Clear => self.clear(index),
            Operation::Drop => self.replace(index),
            Operation::Refused(which) => self.refused(index, *which),
            Operation::MapTrap(span, device) => self.map_trap(index, *span, *device),
            Operation::MapCustom { span, flags, source } => self.map_custom(index, *span, *flags, *source),
            Operation::MapShared { span, flags, memory, page } => {
                self.map_memory(index, *span, *flags, (*memory, *page), false)
            }
            Operation::MapPrivate { span, flags, memory, page } => {
                self.map_memory(index, *span, *flags, (*memory, *page), true)
            }
            Operation::Pin(span) => self.pin(index, *span),
            Operation::Unpin(span) => self.unpin(index, *span),
            Operation::Discard(span) => self.discard(index, *span),
            Operation::MapPaged { span, flags } => self.map_paged(index, *span, *flags),
            Operation::PageOut(span, refused) => self.page_out(index, *span, *refused),
            Operation::Evict { most, looks, refused } => self.evict(index, *most, *looks, *refused),
            Operation::Host(access) => self.host_access(index, *access),
            Operation::StartLog(span, unit) => self.start_log(index, *span, *unit),
            Operation::CollectLog(span, how) => self.collect_log(index, *span, *how),
            Operation::StopLog(span) => self.stop_log(index, *span),
            Operation::Scan(span, least) => self.scan(index, *span, *least),
            Operation::Fork { into } => self.fork(index, *into),
            Operation::Snapshot => self.snapshot(index),
            Operation::Reset => self.reset(index),
            Operation::Consolidate => self.consolidate(index),
            Operation::SetInChildren(span, inherit) => self.set_in_children(index, *span, *inherit),
        }
    }

    /// Whether a mapping can have these flags. Without any permission there is nothing to express.
    pub(crate) fn takes(&self, index: usize, flags: MappingFlags) -> bool {
        if flags.is_accessible() {
            self.host.rules().expressible(flags)
        } else {
            self.subjects[index].space().format().check_flags(flags).is_ok()
        }
    }

    pub(crate) fn allow(&self, page: usize, flags: MappingFlags, target: Target) {
        self.host.watch.borrow_mut().allow(page, Expected { flags, target });
    }

    /// Allows what the specification has of a page.
    pub(crate) fn allow_spec(&self, page: usize, spec: Option<&Page>) {
        if let Some((spec, hpa)) = spec.and_then(|spec| Some((spec, spec.target()?))) {
            self.allow(page, spec.grants(), Target::Exact(hpa));
        }
    }

    pub(crate) fn judge_map(
        &self,
        index: usize,
        (start, size): (u64, u64),
        flags: MappingFlags,
        result: &Result<(), MapError>,
    ) -> Result<(), Violation> {
        let free = self.subjects[index].specification.is_free(&self.shape, start, size);
        let takes = self.takes(index, flags);
        let right = match result {
            Ok(()) => free && takes,
            Err(MapError::UnsupportedFlags(_)) => !takes,
            Err(MapError::AlreadyMapped { .. }) => !free,
            Err(MapError::OutOfMemory) => free && takes && self.host.refused() > 0,
            Err(_) => false,
        };
        if right { Ok(()) } else { wrong("map", (free, takes, flags, result)) }
    }

    fn map_linear(
        &mut self,
        index: usize,
        span: Span,
        flags: MappingFlags,
        shift: u8,
    ) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        let hpa = LINEAR + start - (self.shape.start() & !(GIB1 - 1)) + u64::from(shift) * PAGE_SIZE;
        let (hpa, flags) = self.distort_linear(index, size, hpa, flags);
        if self.subjects[index].specification.is_free(&self.shape, start, size) && self.takes(index, flags) {
            for page in self.shape.pages_in(start, size) {
                let target = hpa + (self.shape.pages[page] - start);
                self.allow(page, flags, Target::Exact(target));
            }
        }
        let before = self.fingerprint(index);
        let result = self.subjects[index].space_mut().map_linear(gpa, HostPhysAddr::new(hpa), size, flags);
        self.judge_map(index, (start, size), flags, &result)?;
        if result.is_ok() {
            self.subjects[index].specification.map_linear(&self.shape, start, size, hpa, flags);
            return Ok(());
        }
        self.untouched(before)
    }

    fn map_alloc(
        &mut self,
        index: usize,
        span: Span,
        flags: MappingFlags,
        options: AllocOptions,
    ) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        let possible =
            self.subjects[index].specification.is_free(&self.shape, start, size) && self.takes(index, flags);
        if possible && options.populate {
            for page in self.shape.pages_in(start, size) {
                self.planned[page] = Some(Target::Fresh(0));
                self.allow(page, flags, Target::Fresh(0));
            }
        }
        // A gigabyte of small pages is more than the host has: that only costs time.
        let options = AllocOptions { populate: options.populate && size < GIB1, ..options };
        let mut given = options;
        given.populate |= self.host.mistake() == Some(Mistake::PopulatedTooEarly);
        let before = self.fingerprint(index);
        let result = self.subjects[index].space_mut().map_alloc_with(gpa, size, flags, given);
        self.judge_map(index, (start, size), flags, &result)?;
        if result.is_err() {
            if self.host.mistake() == Some(Mistake::FailureLeavesHalf) {
                _ = self.subjects[index].space_mut().map_alloc(gpa, PAGE_SIZE, flags, true);
            }
            return self.untouched(before);
        }
        let (largest, around) = (options.largest_leaf, options.fault_around);
        let subject = &mut self.subjects[index];
        subject.specification.map_alloc(&self.shape, (start, size), flags, largest, around);
        if options.populate {
            self.populated(index, (start, size), "map_alloc")?;
        }
        Ok(())
    }

    /// Every page of a range that can have a frame has one.
    pub(crate) fn populated(
        &self,
        index: usize,
        (start, size): (u64, u64),
        what: &str,
    ) -> Result<(), Violation> {
        for page in self.shape.pages_in(start, size) {
            let gpa = self.shape.pages[page];
            let there = leaf_at(self.subjects[index].space(), gpa).is_some();
            ensure(there, Check::Verdict, || format!("{what} did not populate {gpa:#x}"))?;
        }
        Ok(())
    }

    /// Says what may be seen where `page` is populated, with `word` in front if the frame is the space's own.
    fn plan_page(&mut self, index: usize, page: usize, word: u64) {
        let Some(spec) = self.subjects[index].specification.page(page).copied() else { return };
        let target = match spec.backing {
            Backing::Shared { memory, page: number, .. } => {
                return self.plan_shared(page, spec.flags, memory, number);
            }
            Backing::Private { memory, page: number, .. } if spec.grants().is_accessible() => {
                return self.plan_shared(page, spec.grants(), memory, number);
            }
            Backing::Private { .. } => return self.plan_private_copy(index, page),
            Backing::Alloc { origin: Origin::Custom(source, offset), .. } => {
                Target::Fresh(contents(source, offset))
            }
            Backing::Alloc { origin: Origin::Pager(..), .. } => Target::Moved(self.paged_word(&spec)),
            _ => Target::Fresh(word),
        };
        self.planned[page] = Some(target);
        self.allow(page, spec.flags, target);
    }

    /// As [`plan_page`](Self::plan_page) for a range that is populated ahead; returns the pages that are missing.
    pub(crate) fn plan_populate(
        &mut self,
        index: usize,
        start: u64,
        size: u64,
        hole: Option<u64>,
    ) -> Vec<usize> {
        let pages: Vec<usize> = self.shape.pages_in(start, size).filter(|_| hole.is_none()).collect();
        let mut missing = vec![];
        for page in pages {
            let window = self.window(index, page);
            if !window.is_empty() {
                missing.push(page);
            }
            for other in window {
                self.plan_page(index, other, 0);
            }
        }
        missing
    }

    /// The pages that a fault on `page` may populate, the page itself among them.
    fn window(&self, index: usize, page: usize) -> Vec<usize> {
        let Some(spec) = self.subjects[index].specification.page(page).copied() else { return vec![] };
        let flags = spec.flags;
        let (largest, around) = match spec.backing {
            Backing::Alloc { largest, around, frame: None, .. } => (largest, around),
            Backing::Shared { hpa: None, .. } | Backing::Private { seen: None, copy: None, .. }
                if flags.is_accessible() =>
            {
                return vec![page];
            }
            _ => return vec![],
        };
        if !flags.is_accessible() {
            return vec![];
        }
        let bytes = largest.min(self.host.rules().largest).max(around).bytes();
        let start = self.shape.pages[page] & !(bytes - 1);
        let lazy = |other: &usize| {
            let other = self.subjects[index].specification.page(*other);
            other.is_some_and(|other| {
                let kind =
                    other.is_owned() == spec.is_owned() && other.paged().is_some() == spec.paged().is_some();
                kind && other.flags == flags && matches!(other.backing, Backing::Alloc { frame: None, .. })
            })
        };
        self.shape.pages_in(start, bytes).filter(lazy).collect()
    }

    fn migrate(&mut self, index: usize, span: Span) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        let specification = &self.subjects[index].specification;
        let hole = specification.first_hole(&self.shape, start, size);
        let pages = self.shape.pages_in(start, size);
        let linear =
            specification.any(&self.shape, start, size, |page| !page.is_owned() || page.is_private());
        let pinned = self.pinned(index, start, size);
        let mut count = 0;
        for page in pages.filter(|_| hole.is_none() && !linear && !pinned) {
            let Some(spec) = self.subjects[index].specification.page(page).copied() else { continue };
            if let Some(frame) = spec.owned() {
                count += 1;
                self.planned[page] = Some(Target::Moved(frame.word));
                self.allow(page, spec.flags, Target::Moved(frame.word));
            }
        }
        let before = self.fingerprint(index);
        let lossy = self.host.mistake() == Some(Mistake::MoveLosesContents);
        let result = self.subjects[index].space_mut().migrate(gpa, size);
        if lossy && result.is_ok() {
            let first = self.subjects[index].space().translate(gpa);
            let ours = first.filter(|hpa| self.host.born(hpa.as_u64()).is_some());
            ours.map(|hpa| self.host.ram().write(hpa.as_u64(), 0x00bad));
        }
        let right = match &result {
            Ok(moved) => hole.is_none() && !linear && !pinned && (!self.shape.complete || *moved == count),
            Err(MigrateError::NotMapped(at)) => Some(at.as_u64()) == hole,
            Err(MigrateError::NotOwned(_)) => hole.is_none() && linear,
            Err(MigrateError::Pinned(_)) => hole.is_none() && !linear && pinned,
            Err(MigrateError::OutOfMemory) => hole.is_none() && !linear && !pinned && self.host.refused() > 0,
            Err(MigrateError::BadRange(_)) => false,
        };
        if !right {
            return wrong("migrate", (hole, linear, count, result));
        }
        if result.is_ok() {
            let moved = |page: usize| match self.planned[page] {
                Some(Target::Moved(_)) => {
                    let leaf = leaf_at(self.subjects[index].space(), self.shape.pages[page]);
                    leaf.is_some_and(|leaf| self.host.born(leaf.hpa.as_u64()) == Some(self.host.operation()))
                }
                _ => true,
            };
            let all = self.shape.pages_in(start, size).all(moved);
            return ensure(all, Check::Verdict, || "migrate left a page where it was".into());
        }
        self.untouched(before)
    }

    fn collapse(&mut self, index: usize, span: Span) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let hole = self.subjects[index].specification.first_hole(&self.shape, gpa.as_u64(), size);
        let result = self.subjects[index].space_mut().collapse(gpa, size);
        match &result {
            Ok(joined) if hole.is_none() && (!self.shape.complete || *joined == 0) => Ok(()),
            Err(CollapseError::NotMapped(at)) if Some(at.as_u64()) == hole => Ok(()),
            _ => wrong("collapse", (hole, result)),
        }
    }

    fn populate(&mut self, index: usize, span: Span) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        let hole = self.subjects[index].specification.first_hole(&self.shape, start, size);
        let wanted = self.plan_populate(index, start, size, hole);
        let missing = wanted.len() as u64;
        if size >= GIB1 {
            // More than the host has, page by page: that only costs time.
            return Ok(());
        }
        let result = self.subjects[index].space_mut().populate(gpa, size);
        let right = match &result {
            Ok(added) => hole.is_none() && (!self.shape.complete || *added == missing),
            Err(PopulateError::NotMapped(at)) => Some(at.as_u64()) == hole,
            Err(PopulateError::OutOfMemory(_)) => hole.is_none() && self.host.refused() > 0,
            Err(PopulateError::BadRange(_) | PopulateError::Refused(_)) => false,
        };
        if !right {
            return wrong("populate", (hole, missing, result));
        }
        for page in wanted.iter().filter(|_| result.is_ok()) {
            self.populated(index, (self.shape.pages[*page], PAGE_SIZE), "populate")?;
        }
        Ok(())
    }

    /// Drops a space and makes a new one under the same tag.
    fn replace(&mut self, index: usize) -> Result<(), Violation> {
        let root =
            self.host.platform().root(self.subjects[index].space().root_register(), self.subjects[index].tag);
        for cpu in 0..self.settings.cpus {
            let mut machine = self.host.machine.borrow_mut();
            if machine.root(cpu) == Some(root) {
                machine.unload_root(cpu);
            }
        }
        self.host.watch.borrow_mut().begin(&self.shape, vec![]);
        self.host.fail_after(None);
        let subject = &mut self.subjects[index];
        subject.space = None;
        subject.specification.pages.clear();
        subject.owed = None;
        (subject.forgot, subject.shares) = (false, false);
        self.make_space(index)?;
        for cpu in 0..self.settings.cpus {
            if self.host.machine.borrow().root(cpu).is_none() {
                self.run_on(cpu, index)?;
            }
        }
        Ok(())
    }
}
