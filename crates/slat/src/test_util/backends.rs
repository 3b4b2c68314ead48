//! What every custom backend must get right, as a suite that users run on theirs.

#![expect(unsafe_code, reason = "implements a backend, and watches one")]

use super::HeapHal;
use crate::format::Format;
use crate::format::ept::Ept;
use crate::format::gstage::Gstage;
use crate::format::npt::Npt;
use crate::format::stage2::Stage2;
use crate::{
    AddrSpace, BackendError, BackendPage, CustomBackend, FaultError, FaultOutcome, GuestPhysAddr, Hal,
    HostPhysAddr, LeafSize, MappingFlags, PAGE_SIZE, PopulateError,
};
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::sync::{Barrier, Mutex, PoisonError};
use std::vec::Vec;

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
/// Where the pages of the backend are mapped.
const BASE: u64 = 0x4000_0000;

/// The simplest backend: each page is a fresh frame of the host, with its source and offset in the first words.
#[derive(Debug)]
pub struct FrameBackend<'h> {
    hal: &'h HeapHal,
    pages: u64,
}

impl<'h> FrameBackend<'h> {
    /// A backend with `pages` pages of each source.
    #[must_use]
    pub fn new(hal: &'h HeapHal, pages: u64) -> Self {
        Self { hal, pages }
    }
}

// SAFETY: frames come from the host that the spaces are made on, each to one page until it comes back.
unsafe impl CustomBackend for FrameBackend<'_> {
    fn take(&self, page: &BackendPage) -> Result<HostPhysAddr, BackendError> {
        if page.offset / PAGE_SIZE >= self.pages {
            return Err(BackendError::NoSuchPage);
        }
        let frame = self.hal.alloc_frames(1, 1).ok_or(BackendError::OutOfMemory)?;
        self.hal.write(frame, &[0; PAGE_SIZE as usize]);
        self.hal.write(frame, &u64::from(page.source).to_le_bytes());
        self.hal.write(frame.checked_add(8).unwrap_or(frame), &page.offset.to_le_bytes());
        Ok(frame)
    }

    unsafe fn give_back(&self, _page: &BackendPage, frame: HostPhysAddr, _written: bool) {
        // SAFETY: `take` took the frame, and by the contract it comes back once.
        unsafe { self.hal.dealloc_frames(frame, 1) };
    }
}

/// What the backend under test gave and got.
struct Watched<B> {
    backend: B,
    /// Frames that are out, by the page for which they were given.
    out: Mutex<BTreeMap<(u16, u64), Vec<u64>>>,
    /// What was wrong.
    wrong: Mutex<Vec<String>>,
}

impl<B> Watched<B> {
    fn out(&self) -> usize {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.values().map(Vec::len).sum()
    }

    fn complain(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

// SAFETY: every promise is the one of the backend behind it.
unsafe impl<B: CustomBackend> CustomBackend for Watched<B> {
    fn take(&self, page: &BackendPage) -> Result<HostPhysAddr, BackendError> {
        let frame = self.backend.take(page)?;
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.entry((page.source, page.offset)).or_default().push(frame.as_u64());
        Ok(frame)
    }

    unsafe fn give_back(&self, page: &BackendPage, frame: HostPhysAddr, written: bool) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let frames = out.entry((page.source, page.offset)).or_default();
        match frames.iter().position(|other| *other == frame.as_u64()) {
            Some(index) => drop(frames.swap_remove(index)),
            None => self.complain(format!("{frame:#x} came back for {page:x?}, for which it was not given")),
        }
        drop(out);
        // SAFETY: the same contract.
        unsafe { self.backend.give_back(page, frame, written) };
    }
}

/// Checks that a backend keeps its contract, on all four formats: it gives a frame for each page and gets back exactly what
/// it gave, any allocation may fail, two CPUs that fault on one page end up with one frame, and a page that is asked for
/// twice has the same contents both times. `backend` takes its frames from `host`, with at least `pages` (two or more)
/// pages of `source`; in the end it is dropped, and must have given back to the host what it took since this was called.
///
/// ```
/// use slat::test_util::{FrameBackend, HeapHal, check_backend};
///
/// let host = HeapHal::new();
/// check_backend(&host, FrameBackend::new(&host, 16), 7, 16)?;
/// # Ok::<(), String>(())
/// ```
///
/// # Errors
/// What is wrong, in a sentence.
pub fn check_backend<B: CustomBackend + Sync>(
    host: &HeapHal,
    backend: B,
    source: u16,
    pages: u64,
) -> Result<(), String> {
    let before = host.in_use();
    let watched = Watched { backend, out: Mutex::default(), wrong: Mutex::default() };
    let suite = Suite { host, watched: &watched, source, pages };
    suite.on::<Ept>("EPT")?;
    suite.on::<Npt>("NPT")?;
    suite.on::<Stage2>("stage 2")?;
    suite.on::<Gstage>("G-stage")?;
    drop(watched);
    let left = host.in_use().saturating_sub(before);
    if left == 0 { Ok(()) } else { Err(format!("the backend is gone and kept {left} frames")) }
}

struct Suite<'s, 'h, B> {
    host: &'h HeapHal,
    watched: &'s Watched<B>,
    source: u16,
    pages: u64,
}

type Space<'s, 'h, F, B> = AddrSpace<&'h HeapHal, F, &'s Watched<B>>;

fn page(number: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(BASE + number * PAGE_SIZE)
}

impl<'s, 'h, B: CustomBackend + Sync> Suite<'s, 'h, B> {
    fn on<F: Format + Default>(&self, name: &str) -> Result<(), String> {
        self.steps::<F>().map_err(|what| format!("{name}: {what}"))
    }

    fn steps<F: Format + Default>(&self) -> Result<(), String> {
        self.gives_and_gets_back::<F>()?;
        self.every_allocation_may_fail::<F>()?;
        self.faults_race::<F>()?;
        self.same_contents()
    }

    /// A space in which the pages are mapped.
    fn space<F: Format + Default>(&self) -> Result<Space<'s, 'h, F, B>, String> {
        let base = GuestPhysAddr::new(0);
        let space = AddrSpace::with_backend(self.host, F::default(), base, 4 << 30, 0, self.watched);
        let mut space = space.map_err(|error| format!("no space: {error}"))?;
        let mapped = space.map_custom(page(0), self.source, 0, self.pages * PAGE_SIZE, RW);
        mapped.map_err(|error| format!("no region: {error}"))?;
        Ok(space)
    }

    /// As many frames are out as there should be, and nothing else was wrong.
    fn expect_out(&self, expected: u64, when: &str) -> Result<(), String> {
        let mut wrong = self.watched.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wrong) = wrong.pop() {
            return Err(format!("{when}: {wrong}"));
        }
        let out = self.watched.out();
        if out as u64 == expected {
            Ok(())
        } else {
            Err(format!("{when}: {out} frames are out, not {expected}"))
        }
    }

    fn gives_and_gets_back<F: Format + Default>(&self) -> Result<(), String> {
        let mut space = self.space::<F>()?;
        let populated = space.populate(page(0), self.pages * PAGE_SIZE);
        if populated != Ok(self.pages) {
            return Err(format!("of {} pages were populated: {populated:?}", self.pages));
        }
        self.expect_out(self.pages, "all populated")?;
        let mut frames: Vec<_> = (0..self.pages).map(|number| space.translate(page(number))).collect();
        frames.sort_unstable();
        if frames.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two pages that can be written have one frame".into());
        }
        let discarded = space.discard(page(0), PAGE_SIZE);
        self.expect_out(self.pages - 1, &format!("one page discarded ({discarded:?})"))?;
        let again = space.handle_page_fault(page(0), MappingFlags::WRITE);
        self.expect_out(self.pages, &format!("the page came again ({again:?})"))?;
        let unmapped = space.unmap(page(1), PAGE_SIZE);
        self.expect_out(self.pages - 1, &format!("one page unmapped ({unmapped:?})"))?;
        drop(space);
        self.expect_out(0, "the space is gone")
    }

    fn every_allocation_may_fail<F: Format + Default>(&self) -> Result<(), String> {
        for successes in 0.. {
            let mut space = self.space::<F>()?;
            self.host.fail_after(Some(successes));
            let populated = space.populate(page(0), self.pages * PAGE_SIZE);
            let faulted = space.handle_page_fault(page(self.pages - 1), MappingFlags::READ);
            self.host.fail_after(None);
            let there = (0..self.pages).filter(|number| space.translate(page(*number)).is_some()).count();
            let when = format!("allocation {successes} failed ({populated:?}, {faulted:?})");
            self.expect_out(there as u64, &when)?;
            match populated {
                Ok(_) | Err(PopulateError::OutOfMemory(_) | PopulateError::Refused(_)) => {}
                Err(error) => return Err(format!("{when}: {error}")),
            }
            if let Err(FaultError::BadFrame { hpa, .. }) = faulted {
                return Err(format!("{when}: {hpa:#x} is no frame"));
            }
            let unmapped = space.unmap(page(0), self.pages * PAGE_SIZE);
            self.expect_out(0, &format!("{when}, then all was unmapped ({unmapped:?})"))?;
            if populated.is_ok() && faulted.is_ok() {
                break;
            }
        }
        Ok(())
    }

    fn faults_race<F: Format + Default>(&self) -> Result<(), String> {
        let space = self.space::<F>()?;
        let barrier = Barrier::new(2);
        let faults = || {
            let mut populated = 0;
            for number in 0..self.pages {
                barrier.wait();
                let outcome = space.handle_page_fault(page(number), MappingFlags::WRITE);
                populated += u64::from(outcome == Ok(FaultOutcome::Populated(LeafSize::Size4K)));
            }
            populated
        };
        let populated = std::thread::scope(|scope| {
            let other = scope.spawn(faults);
            faults() + other.join().unwrap_or_default()
        });
        if populated != self.pages {
            return Err(format!("two CPUs populated {} pages {populated} times", self.pages));
        }
        self.expect_out(self.pages, "two CPUs faulted on each page")?;
        drop(space);
        self.expect_out(0, "the space that two CPUs used is gone")
    }

    /// A page that two CPUs ask for at once is answered twice, and either frame may be the one that the guest gets.
    fn same_contents(&self) -> Result<(), String> {
        for number in 0..self.pages {
            let page =
                BackendPage { source: self.source, offset: number * PAGE_SIZE, gpa: page(number), flags: RW };
            let frames = [self.watched.take(&page), self.watched.take(&page)];
            let contents = frames.map(|frame| frame.map(|frame| self.host.read(frame, PAGE_SIZE as usize)));
            for frame in frames.into_iter().flatten() {
                // SAFETY: the frame was given for this page above, and no table names it.
                unsafe { self.watched.give_back(&page, frame, false) };
            }
            if contents[0] != contents[1] {
                return Err(format!("page {number} has other contents when it is asked for again"));
            }
        }
        self.expect_out(0, "each page was asked for twice")
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
