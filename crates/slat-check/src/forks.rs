//! Forks, snapshots, going back to them; and that spaces which have memory in common are apart all the same.

use crate::checks::{Check, Violation, ensure};
use crate::driver::{Driver, Space, leaf_at};
use crate::execute::wrong;
use crate::host::{Host, Moment};
use crate::mistakes::Mistake;
use crate::platform::Platform;
use crate::shape::Span;
use crate::specification::{Backing, Frame, Origin, Page, Specification};
use crate::watch::Target;
use slat::{
    ForkError, GuestPhysAddr, Hal, HostPhysAddr, InheritError, MappingFlags, PAGE_SIZE, ResetError, Snapshot,
};
use slat_model::Access;
use std::collections::BTreeMap;

/// A snapshot under test.
pub(crate) type Kept<'h, P> = (Snapshot<&'h Host<P>, P, &'h Host<P>>, Specification);

impl<P: Platform> Driver<'_, P> {
    pub(crate) fn fork(&mut self, index: usize, into: u8) -> Result<(), Violation> {
        let into = (index + usize::from(into)) % self.subjects.len();
        if self.has_paged(index) {
            return Ok(());
        }
        let tag = self.subjects[into].tag;
        if self.host.mistake() == Some(Mistake::ChildrenGetAll) {
            for gpa in self.shape.pages.clone() {
                _ = self.subjects[index].space_mut().set_in_children(
                    GuestPhysAddr::new(gpa),
                    PAGE_SIZE,
                    true,
                );
            }
        }
        let before = self.fingerprint_exactly(index);
        self.host.watch.borrow_mut().share();
        self.host.moment.set(Moment::Fork);
        let result = self.subjects[index].space_mut().fork(tag);
        self.host.moment.set(Moment::Other);
        let child = match result {
            Ok(child) => child,
            Err(ForkError::OutOfMemory) if self.host.refused() > 0 => return self.untouched(before),
            Err(error) => return wrong("fork", error),
        };
        self.host.fail_after(None);
        self.subjects[index].shares = true;
        let specification = self.inherit(index, &child)?;
        // The space that makes way, with all that CPUs know of it.
        self.note_words_of_shared_memory();
        self.adopt_words(into);
        let root = self.host.platform().root(self.subjects[into].space().root_register(), tag);
        for cpu in 0..self.settings.cpus {
            let mut machine = self.host.machine.borrow_mut();
            if machine.root(cpu) == Some(root) {
                machine.unload_root(cpu);
            }
        }
        self.host.bystanders.borrow_mut().retain(|(other, _)| *other != into);
        if into == index {
            self.host.watch.borrow_mut().begin(&self.shape, vec![]);
        }
        let subject = &mut self.subjects[into];
        subject.space = None;
        self.free_shared_frame(into, &specification);
        self.host.watch_tree(child.root().as_u64());
        let subject = &mut self.subjects[into];
        subject.space = Some(child);
        subject.specification = specification;
        (subject.shares, subject.owed, subject.forgot) = (true, None, false);
        for cpu in 0..self.settings.cpus {
            if self.host.machine.borrow().root(cpu).is_none() {
                self.run_on(cpu, into)?;
            }
        }
        Ok(())
    }

    /// Who drops a space gives a frame back that a fork of it has, if that mistake is to be made.
    #[expect(unsafe_code, reason = "makes a mistake on purpose")]
    fn free_shared_frame(&self, dropped: usize, child: &Specification) {
        if self.host.mistake() != Some(Mistake::SharedFrameFreed) {
            return;
        }
        let had = self.subjects[dropped].specification.pages.values().filter_map(Page::owned);
        let has =
            |frame: &Frame| child.pages.values().filter_map(Page::owned).any(|other| other.hpa == frame.hpa);
        if let Some(frame) = had.into_iter().find(has) {
            // SAFETY: this breaks the promise on purpose; the frame is one of the model's, and no real CPU is led astray.
            unsafe { self.host.dealloc_frames(HostPhysAddr::new(frame.hpa), 1) };
        }
    }

    /// What a fork of a space begins with, after checking that it does.
    fn inherit(&self, index: usize, child: &Space<'_, P>) -> Result<Specification, Violation> {
        let watch = self.host.watch.borrow();
        let parent = &self.subjects[index].specification;
        let pinned = parent.pages.values().any(|page| page.pins > 0);
        let mut specification = parent.clone();
        specification.pages.retain(|_, page| page.in_children);
        for (page, spec) in &mut specification.pages {
            let gpa = self.shape.pages[*page];
            let fixed = if self.shape.complete { spec.pins > 0 } else { pinned };
            spec.pins = 0;
            spec.marks = spec.marks.inherited();
            let frame = match &mut spec.backing {
                Backing::Alloc { frame, origin, .. } => {
                    if matches!(origin, Origin::Custom(..)) {
                        *frame = None;
                    }
                    frame
                }
                Backing::Private { copy, .. } => copy,
                _ => continue,
            };
            let Some(frame) = frame else { continue };
            let found = leaf_at(child, gpa)
                .map(|leaf| leaf.hpa.as_u64().wrapping_add(gpa.wrapping_sub(leaf.gpa.as_u64())));
            let word = found.and_then(|found| self.host.ram().read(found));
            let (Some(found), Some(word)) = (found, word) else {
                return Err(Violation::new(Check::Query, format!("a fork lacks the page {gpa:#x}")));
            };
            // What is pinned is copied: before or after what the guest writes meanwhile.
            let copied = found != frame.hpa;
            let right = if copied {
                let ours = self.host.born(found) == Some(self.host.operation()) && !self.host.is_table(found);
                fixed && ours && (word == frame.word || watch.has_written(*page, word))
            } else {
                !(fixed && self.shape.complete)
            };
            let check = if copied && fixed { Check::Contents } else { Check::Query };
            ensure(right, check, || {
                format!("{gpa:#x} of a fork is {found:#x} with {word:#x}, of {frame:x?}")
            })?;
            *frame = Frame { hpa: found, word, written: frame.written };
        }
        Ok(specification)
    }

    /// Whether a space has paged regions. The pager here keeps one state of each page, so that it could not answer a parent
    /// and its fork: what becomes of those is for the library's own tests.
    fn has_paged(&self, index: usize) -> bool {
        self.subjects[index].specification.pages.values().any(|page| page.paged().is_some())
    }

    pub(crate) fn snapshot(&mut self, index: usize) -> Result<(), Violation> {
        if self.has_paged(index) {
            return Ok(());
        }
        let before = self.fingerprint_exactly(index);
        self.host.watch.borrow_mut().share();
        self.host.moment.set(Moment::Fork);
        let result = self.subjects[index].space_mut().snapshot();
        self.host.moment.set(Moment::Other);
        match result {
            Ok(snapshot) => {
                self.subjects[index].shares = true;
                let specification = self.inherit(index, snapshot.space())?;
                self.subjects[index].snapshot = Some((snapshot, specification));
                Ok(())
            }
            Err(ForkError::OutOfMemory) if self.host.refused() > 0 => self.untouched(before),
            Err(error) => wrong("snapshot", error),
        }
    }

    pub(crate) fn reset(&mut self, index: usize) -> Result<(), Violation> {
        let Some((snapshot, kept)) = self.subjects[index].snapshot.take() else {
            return self.snapshot(index);
        };
        let before = self.fingerprint_exactly(index);
        let pinned = self.subjects[index].specification.pages.values().any(|page| page.pins > 0);
        if !pinned {
            self.host.watch.borrow_mut().share();
            for (page, spec) in &kept.pages {
                self.allow_spec(*page, Some(spec));
            }
        }
        let result = self.subjects[index].space_mut().reset(&snapshot);
        let right = match &result {
            Ok(()) => !pinned,
            Err(ResetError::Pinned(_)) => pinned,
            Err(ResetError::OutOfMemory) => !pinned && self.host.refused() > 0,
            Err(_) => false,
        };
        if result.is_ok() && right {
            // What the guest wrote went to pages that it has no more.
            self.note_words_of_shared_memory();
            self.host.watch.borrow_mut().forget_words();
            if self.host.mistake() == Some(Mistake::ResetKeepsWrites) {
                self.keep_writes(index, &kept);
            }
            let subject = &mut self.subjects[index];
            subject.specification = kept.clone();
            subject.shares = true;
        }
        self.subjects[index].snapshot = Some((snapshot, kept));
        if !right {
            return wrong("reset", (pinned, result));
        }
        if result.is_ok() { Ok(()) } else { self.untouched(before) }
    }

    /// Leaves what was written since in the pages to which a space went back.
    fn keep_writes(&self, index: usize, kept: &Specification) {
        for (page, spec) in &kept.pages {
            let now = self.subjects[index].specification.page(*page).and_then(Page::owned);
            if let (Some(then), Some(now)) = (spec.owned(), now) {
                if then.word != now.word {
                    self.host.ram().write(then.hpa, now.word);
                }
            }
        }
    }

    pub(crate) fn consolidate(&mut self, index: usize) -> Result<(), Violation> {
        self.subjects[index].space_mut().consolidate();
        let others = self.subjects.iter().enumerate();
        let alone = others
            .clone()
            .all(|(other, subject)| (other == index || !subject.shares) && subject.snapshot.is_none());
        let versions = self.subjects[index].space().stats().versions;
        ensure(!alone || versions == 0, Check::Statistics, || {
            format!("{versions} versions are left of which nobody else has anything")
        })
    }

    pub(crate) fn set_in_children(
        &mut self,
        index: usize,
        span: Span,
        inherit: bool,
    ) -> Result<(), Violation> {
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        let hole = self.subjects[index].specification.first_hole(&self.shape, start, size);
        let before = self.fingerprint(index);
        let result = self.subjects[index].space_mut().set_in_children(gpa, size, inherit);
        let right = match &result {
            Ok(()) => hole.is_none(),
            Err(InheritError::NotMapped(at)) => Some(at.as_u64()) == hole,
            Err(InheritError::OutOfMemory) => hole.is_none() && self.host.refused() > 0,
            Err(InheritError::BadRange(_)) => false,
        };
        if !right {
            return wrong("set_in_children", (hole, result));
        }
        if result.is_err() {
            return self.untouched(before);
        }
        let pages = self.shape.pages_in(start, size);
        for (_, page) in self.subjects[index].specification.pages.range_mut(pages) {
            page.in_children = inherit;
        }
        Ok(())
    }

    /// Says what may be seen of a page that is about to be written to, whose frame a fork may have as well.
    pub(crate) fn plan_copy(&mut self, index: usize, page: usize) {
        self.plan_private_copy(index, page);
        let subject = &self.subjects[index];
        let Some(spec) = subject.specification.page(page).copied().filter(|_| subject.shares) else { return };
        let (true, Some(frame)) = (spec.is_owned(), spec.owned()) else { return };
        self.planned[page] = Some(Target::Moved(frame.word));
        self.allow(page, spec.flags, Target::Moved(frame.word));
    }

    /// Writes to a frame that another space has as well, if that mistake is to be made.
    pub(crate) fn write_past_slat(&self, index: usize, page: usize, access: MappingFlags) -> bool {
        let wanted = access.contains(MappingFlags::WRITE) && self.subjects[index].shares;
        if !wanted || self.host.mistake() != Some(Mistake::WriteReachesSibling) {
            return false;
        }
        let subject = &self.subjects[index];
        let frame = subject.specification.page(page).filter(|page| page.is_owned()).and_then(Page::owned);
        let leaf = subject.space().query(GuestPhysAddr::new(self.shape.pages[page])).ok();
        let Some((frame, _)) = frame.zip(leaf.filter(|leaf| !leaf.owned)) else { return false };
        self.host.ram().write(frame.hpa, !frame.word);
        self.host.watch.borrow_mut().wrote(page, !frame.word);
        true
    }

    /// What one space can write to no other one has, and what snapshots keep stays as it was.
    pub(crate) fn check_isolation(&self) -> Result<(), Violation> {
        if !self.subjects.iter().any(|subject| subject.shares) {
            return Ok(());
        }
        // Frames of the spaces' own, by address: who has them, and who can write to them.
        let mut frames: BTreeMap<u64, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        let spaces = self.subjects.len();
        for (index, subject) in self.subjects.iter().enumerate() {
            let cpus = self.cpus_running(index);
            for (page, spec) in &subject.specification.pages {
                let gpa = self.shape.pages[*page];
                if let Some(frame) = spec.owned() {
                    frames.entry(frame.hpa).or_default().0.push(index);
                }
                let told = subject.space().query(GuestPhysAddr::new(gpa)).ok();
                let told = told.filter(|leaf| leaf.flags.contains(MappingFlags::WRITE));
                let told = told.map(|leaf| leaf.hpa.as_u64() + (gpa - leaf.gpa.as_u64()));
                let seen = cpus.iter().flat_map(|cpu| self.host.possible(*cpu, gpa, Access::WRITE));
                let seen = seen.filter_map(|outcome| Some(outcome.result.ok()?.hpa & !(PAGE_SIZE - 1)));
                for hpa in told.into_iter().chain(seen) {
                    frames.entry(hpa).or_default().1.push(index);
                }
            }
            let Some((snapshot, kept)) = &subject.snapshot else { continue };
            for (page, spec) in &kept.pages {
                let gpa = self.shape.pages[*page];
                let Some(frame) = spec.owned() else { continue };
                frames.entry(frame.hpa).or_default().0.push(spaces + index);
                let leaf = leaf_at(snapshot.space(), gpa);
                let there =
                    leaf.map(|leaf| leaf.hpa.as_u64().wrapping_add(gpa.wrapping_sub(leaf.gpa.as_u64())));
                let word = self.host.ram().read(frame.hpa);
                ensure(there == Some(frame.hpa) && word == Some(frame.word), Check::Contents, || {
                    format!(
                        "{gpa:#x} of the snapshot of {index} is {there:x?} with {word:x?}, not {frame:x?}"
                    )
                })?;
            }
        }
        for (hpa, (have, write)) in frames {
            let other = write.iter().find_map(|one| Some((*one, *have.iter().find(|other| *other != one)?)));
            ensure(other.is_none(), Check::Isolation, || {
                let (one, other) = other.unwrap_or_default();
                format!("space {one} can write to {hpa:#x}, which space {other} has")
            })?;
        }
        Ok(())
    }
}
