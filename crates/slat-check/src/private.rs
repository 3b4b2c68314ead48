//! Copies of shared memory that come about page by page: a page of a private mapping is the memory's until the guest writes.

use crate::checks::{Check, Violation, ensure};
use crate::driver::{Driver, leaf_at};
use crate::host::Host;
use crate::lending::{SHARED_PAGES, SharedState};
use crate::mistakes::Mistake;
use crate::platform::Platform;
use crate::shape::Span;
use crate::specification::Backing;
use crate::watch::{Target, Watch};
use slat::{MapError, MappingFlags, PAGE_SIZE};

impl<P: Platform> SharedState<'_, P> {
    /// Takes over where slat has put page `number` of the memory, which a private mapping has as its page `page`: planned may be
    /// a copy of it, where an operation ends before it comes to that.
    pub(crate) fn adopt_seen(
        &mut self,
        host: &Host<P>,
        watch: &Watch,
        (page, planned): (usize, Option<Target>),
        number: u64,
        (seen, found): (&mut Option<u64>, Option<u64>),
    ) -> Result<(), Violation> {
        let planned = match planned {
            Some(Target::Copied(_)) => Some(Target::Kept),
            other => other,
        };
        self.adopt(host, watch, (page, planned), number, (seen, found))
    }
}

impl<P: Platform> Driver<'_, P> {
    pub(crate) fn map_private(
        &mut self,
        index: usize,
        span: Span,
        flags: MappingFlags,
        memory: u8,
        first: u8,
    ) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        let which = usize::from(memory) % 2;
        if size > SHARED_PAGES * PAGE_SIZE || !self.has_shared(which)? {
            return Ok(());
        }
        let first = u64::from(first % 20);
        let fits = first + size / PAGE_SIZE <= SHARED_PAGES;
        let free = self.subjects[index].specification.is_free(&self.shape, start, size);
        let before = self.fingerprint(index);
        let Some(state) = &self.shared[which] else { return Ok(()) };
        let space = self.subjects[index].space.as_mut().expect("there");
        let result = if self.host.mistake() == Some(Mistake::PrivateNotPrivate) {
            space.map_shared(gpa, &state.memory, first * PAGE_SIZE, size, flags, false)
        } else {
            space.map_private(gpa, &state.memory, first * PAGE_SIZE, size, flags)
        };
        if let Err(MapError::BeyondBackend { .. }) = result {
            return ensure(!fits && free && self.takes(index, flags), Check::Verdict, || {
                format!("{result:?}")
            });
        }
        ensure(fits || result.is_err(), Check::Verdict, || format!("{first} and {size:#x}: {result:?}"))?;
        self.judge_map(index, (start, size), flags, &result)?;
        if result.is_err() {
            return self.untouched(before);
        }
        for page in self.shape.pages_in(start, size) {
            let number = first + (self.shape.pages[page] - start) / PAGE_SIZE;
            let backing = Backing::Private { memory: which, page: number, seen: None, copy: None };
            self.subjects[index].specification.insert(page, flags, backing);
        }
        Ok(())
    }

    /// Says what may be seen of a private page that is about to be written to for the first time.
    pub(crate) fn plan_private_copy(&mut self, index: usize, page: usize) {
        let Some(spec) = self.subjects[index].specification.page(page) else { return };
        let (flags, Some((memory, number))) = (spec.flags, spec.to_copy()) else { return };
        let known = self.shared[memory].as_ref().and_then(|state| state.frames.get(&number));
        let target = Target::Copied(known.map_or(0, |frame| frame.word));
        self.planned[page] = Some(target);
        self.allow(page, flags, target);
    }

    /// No page of a range is a memory's: a device that writes must not write to that.
    pub(crate) fn are_copies(&self, index: usize, (start, size): (u64, u64)) -> Result<(), Violation> {
        for (page, spec) in self.subjects[index].specification.pages.range(self.shape.pages_in(start, size)) {
            let Some((memory, number)) = spec.to_copy() else { continue };
            let gpa = self.shape.pages[*page];
            let known = self.shared[memory].as_ref().and_then(|state| state.frames.get(&number));
            let found = leaf_at(self.subjects[index].space(), gpa);
            let found = found.map(|leaf| leaf.hpa.as_u64() + (gpa - leaf.gpa.as_u64()));
            ensure(found != known.map(|frame| frame.hpa), Check::Isolation, || {
                format!("{gpa:#x} is pinned, and page {number} of a shared memory")
            })?;
        }
        Ok(())
    }

    /// Empties the copy that the answer to a fault has made, if that mistake is to be made.
    pub(crate) fn lose_private_copy(&self, index: usize, page: usize) {
        let spec = self.subjects[index].specification.page(page);
        let (Some(Mistake::PrivateCopyEmpty), Some(_)) =
            (self.host.mistake(), spec.and_then(|spec| spec.to_copy()))
        else {
            return;
        };
        let leaf = leaf_at(self.subjects[index].space(), self.shape.pages[page]).filter(|leaf| leaf.owned);
        leaf.map(|leaf| self.host.ram().write(leaf.hpa.as_u64(), 0x00bad));
    }
}
