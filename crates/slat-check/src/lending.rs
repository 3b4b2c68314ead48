//! Operations on memory that is not simply the space's: devices, custom backends, shared memory; pins, and what is given up.

use crate::checks::{Check, Violation, ensure};
use crate::driver::Driver;
use crate::execute::wrong;
use crate::host::Host;
use crate::mistakes::Mistake;
use crate::platform::Platform;
use crate::shape::Span;
use crate::specification::{Backing, Frame, Origin, Page};
use crate::watch::{Target, Watch};
use slat::device::DeviceId;
use slat::{
    DiscardError, LeafSize, MapError, MappingFlags, PAGE_SIZE, PinError, PopulateError, SharedMemory,
    UnpinError,
};
use std::collections::BTreeMap;

/// Pages of a shared memory: few enough that all of those that are mapped are in play.
const SHARED_PAGES: u64 = 16;
/// Most pages of a custom region, and of what is pinned at once.
pub(crate) const MOST_PAGES: u64 = 16;

/// A shared memory, and what is known of its pages: those that some space has mapped.
pub(crate) struct SharedState<'h, P: Platform> {
    pub(crate) memory: SharedMemory<&'h Host<P>>,
    pub(crate) frames: BTreeMap<u64, Frame>,
}

impl<P: Platform> SharedState<'_, P> {
    /// Takes over where slat has put page `number` of the memory, which a space has as its page `page`.
    pub(crate) fn adopt(
        &mut self,
        host: &Host<P>,
        watch: &Watch,
        (page, planned): (usize, Option<Target>),
        number: u64,
        (hpa, found): (&mut Option<u64>, Option<u64>),
    ) -> Result<(), Violation> {
        let (gpa, known) = (watch.gpa(page), self.frames.get(&number).map(|frame| frame.hpa));
        if found != *hpa {
            let right = match (found, planned, known) {
                (Some(found), Some(_), Some(known)) => found == known,
                (Some(found), Some(target), None) => watch.frame_fits(host, page, target, found).is_ok(),
                _ => false,
            };
            ensure(right, Check::Query, || {
                format!(
                    "page {gpa:#x} has {found:x?} of shared memory; it was {hpa:x?}, page {number} is {known:x?}"
                )
            })?;
            *hpa = found;
        }
        let Some(hpa) = found else { return Ok(()) };
        let word = host.ram().read(hpa).unwrap_or_default();
        let frame = self.frames.entry(number).or_insert(Frame { hpa, word, written: false });
        if watch.word(page).is_some() {
            (frame.word, frame.written) = (word, true);
        }
        Ok(())
    }

    /// The guest has written to a page that the space may have no more.
    pub(crate) fn wrote(&mut self, host: &Host<P>, number: u64) {
        if let Some(frame) = self.frames.get_mut(&number) {
            (frame.word, frame.written) = (host.ram().read(frame.hpa).unwrap_or_default(), true);
        }
    }

    /// A page holds what the guests have written.
    pub(crate) fn check(&self, host: &Host<P>, number: u64) -> Result<(), Violation> {
        let Some(frame) = self.frames.get(&number) else { return Ok(()) };
        let word = host.ram().read(frame.hpa);
        ensure(word == Some(frame.word), Check::Contents, || {
            format!("page {number} of shared memory holds {word:x?} instead of {:#x}", frame.word)
        })
    }
}

impl<'h, P: Platform> Driver<'h, P> {
    pub(crate) fn map_trap(&mut self, index: usize, span: Span, device: u8) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let (start, device) = (gpa.as_u64(), u16::from(device) << 8 | 0x5a);
        let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE;
        let other = if self.host.mistake() == Some(Mistake::DeviceMixedUp) { 1 } else { 0 };
        let before = self.fingerprint(index);
        let result = self.subjects[index].space_mut().map_trap(gpa, size, DeviceId(device + other));
        self.judge_map(index, (start, size), flags, &result)?;
        if result.is_err() {
            return self.untouched(before);
        }
        for page in self.shape.pages_in(start, size) {
            let offset = self.shape.pages[page] - start;
            self.subjects[index].specification.insert(page, flags, Backing::Trap(device, offset));
        }
        Ok(())
    }

    pub(crate) fn map_custom(
        &mut self,
        index: usize,
        span: Span,
        flags: MappingFlags,
        source: u8,
    ) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        if size > MOST_PAGES * PAGE_SIZE {
            // Each of its frames would come and go by itself: that only costs time.
            return Ok(());
        }
        let (start, source, first) = (gpa.as_u64(), u16::from(source), u64::from(source) * 7 * PAGE_SIZE);
        let before = self.fingerprint(index);
        let result = self.subjects[index].space_mut().map_custom(gpa, source, first, size, flags);
        self.judge_map(index, (start, size), flags, &result)?;
        if result.is_err() {
            return self.untouched(before);
        }
        let (largest, around) = (LeafSize::Size4K, LeafSize::Size4K);
        for page in self.shape.pages_in(start, size) {
            let origin = Origin::Custom(source, first + (self.shape.pages[page] - start));
            let backing = Backing::Alloc { largest, around, frame: None, origin };
            self.subjects[index].specification.insert(page, flags, backing);
        }
        Ok(())
    }

    /// Maps a shared memory, or a copy of it that comes about page by page.
    pub(crate) fn map_memory(
        &mut self,
        index: usize,
        span: Span,
        flags: MappingFlags,
        (memory, first): (u8, u8),
        private: bool,
    ) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        if size > SHARED_PAGES * PAGE_SIZE {
            return Ok(());
        }
        let (which, populate) = (usize::from(memory) % 2, memory & 0x80 != 0 && !private);
        if !self.has_shared(which)? {
            return Ok(());
        }
        let first = u64::from(first % 20);
        let fits = first + size / PAGE_SIZE <= SHARED_PAGES;
        let free = self.subjects[index].specification.is_free(&self.shape, start, size);
        let possible = fits && free && self.takes(index, flags);
        let pages: Vec<usize> = self.shape.pages_in(start, size).collect();
        for page in pages.iter().filter(|_| possible && populate) {
            self.plan_shared(*page, flags, which, first + (self.shape.pages[*page] - start) / PAGE_SIZE);
        }
        let before = self.fingerprint(index);
        let Some(state) = &self.shared[which] else { return Ok(()) };
        let space = self.subjects[index].space.as_mut().expect("there");
        let mistake = self.host.mistake();
        let result = if mistake == Some(Mistake::SharedNotShared) && !private && fits {
            space.map_alloc(gpa, size, flags, populate)
        } else if private && mistake != Some(Mistake::PrivateNotPrivate) {
            space.map_private(gpa, &state.memory, first * PAGE_SIZE, size, flags)
        } else {
            space.map_shared(gpa, &state.memory, first * PAGE_SIZE, size, flags, populate)
        };
        if let Err(MapError::BeyondBackend { .. }) = result {
            return ensure(!fits && free && self.takes(index, flags), Check::Verdict, || {
                format!("{result:?}")
            });
        }
        ensure(fits || result.is_err(), Check::Verdict, || format!("{first} and {size:#x}: {result:?}"))?;
        self.judge_map(index, (start, size), flags, &result)?;
        if result.is_err() {
            // Frames that the memory has taken stay in it.
            return if populate { Ok(()) } else { self.untouched(before) };
        }
        for page in &pages {
            let number = first + (self.shape.pages[*page] - start) / PAGE_SIZE;
            let backing = if private {
                Backing::Private { memory: which, page: number, seen: None, copy: None }
            } else {
                Backing::Shared { memory: which, page: number, hpa: None }
            };
            self.subjects[index].specification.insert(*page, flags, backing);
        }
        if populate { self.populated(index, (start, size), "map_shared") } else { Ok(()) }
    }

    /// Makes the shared memory `which` if there is none yet; whether there is one.
    fn has_shared(&mut self, which: usize) -> Result<bool, Violation> {
        if self.shared[which].is_none() {
            let Ok(memory) = SharedMemory::new(self.host, SHARED_PAGES * PAGE_SIZE) else {
                ensure(self.host.refused() > 0, Check::Verdict, || "no shared memory".into())?;
                return Ok(false);
            };
            self.shared[which] = Some(SharedState { memory, frames: BTreeMap::new() });
        }
        Ok(true)
    }

    /// Says what may be seen of a page once a page of shared memory is mapped there.
    pub(crate) fn plan_shared(&mut self, page: usize, flags: MappingFlags, memory: usize, number: u64) {
        let known = self.shared[memory].as_ref().and_then(|state| state.frames.get(&number));
        let target = known.map_or(Target::Kept, |frame| Target::Exact(frame.hpa));
        self.planned[page] = Some(target);
        self.allow(page, flags, target);
    }

    pub(crate) fn pin(&mut self, index: usize, span: Span) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        if size > MOST_PAGES * PAGE_SIZE {
            // What is pinned stays, and makes everything else slower.
            return Ok(());
        }
        let hole = self.subjects[index].specification.first_hole(&self.shape, start, size);
        self.plan_populate(index, start, size, hole);
        // What is shared is copied first.
        self.shape.pages_in(start, size).for_each(|page| self.plan_copy(index, page));
        let specification = &self.subjects[index].specification;
        let device =
            specification.any(&self.shape, start, size, |page| matches!(page.backing, Backing::Trap(..)));
        let shut = |page: &Page| !page.flags.is_accessible();
        let shut = specification.any(&self.shape, start, size, shut);
        let result = self.subjects[index].space_mut().pin(gpa, size);
        let refused = self.host.refused() > 0;
        let right = match &result {
            Ok(()) => hole.is_none() && !device,
            Err(PinError::Populate(PopulateError::NotMapped(at))) => Some(at.as_u64()) == hole,
            Err(PinError::Populate(PopulateError::OutOfMemory(_)) | PinError::OutOfMemory) => {
                hole.is_none() && refused
            }
            Err(PinError::NoMemory(_)) => hole.is_none() && device,
            Err(PinError::NoAccess(_)) => hole.is_none() && !device && shut,
            Err(PinError::Populate(_) | PinError::TooMany(_)) => false,
        };
        if !right {
            return wrong("pin", (hole, device, shut, result));
        }
        if result.is_ok() {
            self.populated(index, (start, size), "pin")?;
            self.are_copies(index, (start, size))?;
            for (_, page) in
                self.subjects[index].specification.pages.range_mut(self.shape.pages_in(start, size))
            {
                page.pins += 1;
            }
        }
        Ok(())
    }

    pub(crate) fn unpin(&mut self, index: usize, span: Span) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        let pages = self.shape.pages_in(start, size);
        let specification = &self.subjects[index].specification;
        let loose = |page: &usize| specification.page(*page).is_none_or(|page| page.pins == 0);
        let loose = pages.clone().find(loose).map(|page| self.shape.pages[page]);
        let result = self.subjects[index].space_mut().unpin(gpa, size);
        let right = match &result {
            Ok(()) => loose.is_none(),
            Err(UnpinError::NotPinned(at)) => Some(at.as_u64()) == loose,
            Err(UnpinError::OutOfMemory) => loose.is_none() && self.host.refused() > 0,
            Err(UnpinError::BadRange(_)) => false,
        };
        if !right {
            return wrong("unpin", (loose, result));
        }
        if result.is_ok() {
            for (_, page) in self.subjects[index].specification.pages.range_mut(pages) {
                page.pins -= 1;
            }
        }
        Ok(())
    }

    pub(crate) fn discard(&mut self, index: usize, span: Span) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        let specification = &self.subjects[index].specification;
        let hole = specification.first_hole(&self.shape, start, size);
        let kept = |page: &Page| !matches!(page.backing, Backing::Alloc { .. } | Backing::Private { .. });
        let kept = specification.any(&self.shape, start, size, kept);
        let pinned = self.pinned(index, start, size);
        let frames = specification.pages.range(self.shape.pages_in(start, size));
        let frames = frames.filter(|(_, page)| page.has_leaf()).count() as u64;
        let before = self.fingerprint(index);
        let space = self.subjects[index].space_mut();
        let result = match self.host.mistake() {
            Some(Mistake::DiscardKeeps) if hole.is_none() && !kept && !pinned => Ok(frames),
            Some(Mistake::PinIgnored) => {
                _ = space.unpin(gpa, size);
                space.discard(gpa, size)
            }
            _ => space.discard(gpa, size),
        };
        let right = match &result {
            Ok(pages) => hole.is_none() && !kept && !pinned && (!self.shape.complete || *pages == frames),
            Err(DiscardError::NotMapped(at)) => Some(at.as_u64()) == hole,
            Err(DiscardError::NotOwned(_)) => hole.is_none() && kept,
            Err(DiscardError::Pinned(_)) => hole.is_none() && !kept && pinned,
            Err(DiscardError::OutOfMemory) => hole.is_none() && !kept && !pinned && self.host.refused() > 0,
            Err(DiscardError::BadRange(_)) => false,
        };
        if !right {
            return wrong("discard", (hole, kept, pinned, frames, result));
        }
        if result.is_err() {
            return self.untouched(before);
        }
        for (_, page) in self.subjects[index].specification.pages.range_mut(self.shape.pages_in(start, size))
        {
            match &mut page.backing {
                Backing::Alloc { frame, .. } => *frame = None,
                Backing::Private { seen, copy, .. } => (*seen, *copy) = (None, None),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether any page of a range is pinned.
    pub(crate) fn pinned(&self, index: usize, start: u64, size: u64) -> bool {
        self.subjects[index].specification.any(&self.shape, start, size, |page| page.pins > 0)
    }
}
