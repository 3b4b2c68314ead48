//! Operations on memory whose contents come from a pager and go back to it.

use crate::checks::{Check, Violation, ensure};
use crate::driver::{Driver, leaf_at};
use crate::execute::access::{first_word, frame_bytes};
use crate::execute::wrong;
use crate::host::{Host, Pages, initial};
use crate::lending::MOST_PAGES;
use crate::mistakes::Mistake;
use crate::platform::Platform;
use crate::shape::Span;
use crate::specification::{Backing, Origin, Page};
use slat::{LeafSize, MappingFlags, PAGE_SIZE, PageOutError, PagedOut};

/// What the pager must have of the pages that were paged out, as the guest last saw them.
#[derive(Debug, Default)]
pub(crate) struct Paged {
    pages: Pages,
    /// The number of the region that is mapped next: no two share their pages.
    source: u16,
}

impl Paged {
    fn bytes(&self, source: u16, offset: u64) -> Vec<u8> {
        self.pages.get(&(source, offset)).cloned().unwrap_or_else(|| initial(source, offset))
    }

    /// A page that came in has the contents with which it went out.
    pub(crate) fn check_page_in<P: Platform>(
        &self,
        host: &Host<P>,
        page: Option<(u16, u64)>,
        frame: u64,
    ) -> Result<(), Violation> {
        let Some((source, offset)) = page else { return Ok(()) };
        let right = frame_bytes(host, frame) == self.bytes(source, offset);
        ensure(right, Check::Contents, || format!("page {offset:#x} of {source} did not come back as it was"))
    }

    /// The pager has all that was paged out.
    pub(crate) fn check<P: Platform>(&self, host: &Host<P>) -> Result<(), Violation> {
        for ((source, offset), bytes) in &self.pages {
            let right = host.pager.get(*source, *offset) == *bytes;
            ensure(right, Check::Contents, || {
                format!("the pager has something else of page {offset:#x} of {source}")
            })?;
        }
        Ok(())
    }
}

impl<P: Platform> Driver<'_, P> {
    /// The first word that a page will hold when it is paged in.
    pub(crate) fn paged_word(&self, page: &Page) -> u64 {
        page.paged().map_or(0, |(source, offset)| first_word(&self.paged.bytes(source, offset)))
    }

    /// What a page will hold when it is paged in.
    pub(crate) fn paged_bytes(&self, source: u16, offset: u64) -> Vec<u8> {
        self.paged.bytes(source, offset)
    }

    pub(crate) fn map_paged(
        &mut self,
        index: usize,
        span: Span,
        flags: MappingFlags,
    ) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        if size > MOST_PAGES * PAGE_SIZE {
            // Each of its frames would come and go by itself: that only costs time.
            return Ok(());
        }
        let (start, source) = (gpa.as_u64(), self.paged.source);
        let first = u64::from(source % 5) * 3 * PAGE_SIZE;
        let before = self.fingerprint(index);
        let result = self.subjects[index].space_mut().map_paged(gpa, source, first, size, flags);
        self.judge_map(index, (start, size), flags, &result)?;
        if result.is_err() {
            return self.untouched(before);
        }
        self.paged.source = source.wrapping_add(1);
        let (largest, around) = (LeafSize::Size4K, LeafSize::Size4K);
        for page in self.shape.pages_in(start, size) {
            let origin = Origin::Pager(source, first + (self.shape.pages[page] - start));
            let backing = Backing::Alloc { largest, around, frame: None, origin };
            self.subjects[index].specification.insert(page, flags, backing);
        }
        Ok(())
    }

    pub(crate) fn page_out(&mut self, index: usize, span: Span, refused: u8) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        let specification = &self.subjects[index].specification;
        let hole = specification.first_hole(&self.shape, start, size);
        let other = specification.any(&self.shape, start, size, |page| page.paged().is_none());
        let pinned = self.pinned(index, start, size);
        let before = self.fingerprint(index);
        let candidates = self.candidates(index, self.shape.pages_in(start, size));
        self.begin_paging(&candidates, refused);
        let result = self.subjects[index].space_mut().page_out(gpa, size);
        self.host.pager.at_work.set(false);
        let right = match &result {
            Ok(_) => hole.is_none() && !other && !pinned,
            Err(PageOutError::NotMapped(at)) => Some(at.as_u64()) == hole,
            Err(PageOutError::NotPaged(_)) => hole.is_none() && other,
            Err(PageOutError::Pinned(_)) => hole.is_none() && !other && pinned,
            Err(PageOutError::BadRange(_)) => false,
        };
        if !right {
            return wrong("page_out", (hole, other, pinned, result));
        }
        let Ok(out) = result else { return self.untouched(before) };
        let gone = self.gone(index, &candidates, &out)?;
        // What the pager did not refuse has gone.
        let stays = candidates.len() as u64 - gone;
        ensure(stays == out.refused || !self.shape.complete, Check::Verdict, || {
            format!("{stays} of {candidates:x?} stay after {out:?}")
        })
    }

    pub(crate) fn evict(&mut self, index: usize, most: u8, looks: u8, refused: u8) -> Result<(), Violation> {
        let (most, looks) = (u64::from(most), if looks == 255 { u64::MAX } else { u64::from(looks) });
        let candidates = self.candidates(index, 0..self.shape.pages.len());
        self.begin_paging(&candidates, refused);
        let out = self.subjects[index].space_mut().evict(most, looks);
        self.host.pager.at_work.set(false);
        self.gone(index, &candidates, &out)?;
        let chosen = out.pages + out.refused;
        let there = candidates.len() as u64;
        // Where the hardware marks what was used, that may stay, and the guest goes on using it meanwhile.
        let right = chosen <= most.min(looks)
            && (!self.shape.complete || self.host.rules().marks || chosen == most.min(looks).min(there));
        ensure(right, Check::Verdict, || format!("evict({most}, {looks}) of {there} pages: {out:?}"))
    }

    /// The pages of paged regions among `pages` that are there and not pinned: page, number, offset, contents.
    fn candidates(&self, index: usize, pages: std::ops::Range<usize>) -> Vec<(usize, (u16, u64), Vec<u8>)> {
        let specification = &self.subjects[index].specification;
        let candidate = |page: usize| {
            let spec = specification.page(page).filter(|spec| spec.pins == 0)?;
            let (key, frame) = (spec.paged()?, spec.owned()?);
            Some((page, key, frame_bytes(self.host, frame.hpa)))
        };
        pages.filter_map(candidate).collect()
    }

    fn begin_paging(&self, candidates: &[(usize, (u16, u64), Vec<u8>)], refused: u8) {
        let pager = &self.host.pager;
        pager.refuses.set(refused);
        pager.refused.set(0);
        pager.at_work.set(true);
        let mut early = pager.early.borrow_mut();
        early.clear();
        if self.host.mistake() == Some(Mistake::SavedTooEarly) {
            early.extend(candidates.iter().map(|(_, key, bytes)| (*key, bytes.clone())));
        }
    }

    /// Takes over which of `candidates` have gone, with the contents that they had in the end; returns how many.
    fn gone(
        &mut self,
        index: usize,
        candidates: &[(usize, (u16, u64), Vec<u8>)],
        out: &PagedOut,
    ) -> Result<u64, Violation> {
        let mut gone = 0;
        for (page, key, bytes) in candidates {
            let subject = &mut self.subjects[index];
            if leaf_at(subject.space(), self.shape.pages[*page]).is_some() {
                continue;
            }
            gone += 1;
            let mut bytes = bytes.clone();
            if let Some(word) = self.host.watch.borrow().word(*page) {
                bytes[..8].copy_from_slice(&word.to_le_bytes());
            }
            self.paged.pages.insert(*key, bytes);
            let spec = subject.specification.pages.get_mut(page).map(|page| &mut page.backing);
            if let Some(Backing::Alloc { frame, .. }) = spec {
                *frame = None;
            }
        }
        let asked = self.host.pager.refused.get();
        let right = out.refused == asked
            && out.first_refused.is_some() == (asked > 0)
            && out.written <= out.pages
            && (out.pages == gone || !self.shape.complete);
        ensure(right, Check::Verdict, || format!("{gone} pages are gone, {asked} were refused: {out:?}"))?;
        Ok(gone)
    }
}
