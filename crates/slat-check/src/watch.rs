//! What may be seen of each page while an operation is going on: the old mapping, the new one, or a fault.

use crate::checks::{Check, Violation};
use crate::host::Host;
use crate::platform::{Platform, memory, permissions};
use crate::shape::Shape;
use slat::{MappingFlags, PAGE_SIZE};
use slat_model::Translation;

/// A frame that may be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This one.
    Exact(u64),
    /// One that was taken in this operation, with this first word and zeroes otherwise.
    Fresh(u64),
    /// One that was taken in this operation, with the contents of the old one, whose first word is this.
    Moved(u64),
    /// One of a shared memory that no space has mapped before: zeroes, but for the first word.
    Kept,
    /// One that was taken in this operation, with what a shared memory holds, whose first word was this: guests of other spaces
    /// may write to it meanwhile.
    Copied(u64),
}

/// A mapping that may be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The flags.
    pub flags: MappingFlags,
    /// The frame.
    pub target: Target,
}

/// The mappings that may be seen of the pages of one space.
#[derive(Debug, Default)]
pub struct Watch {
    addresses: Vec<u64>,
    allowed: Vec<Vec<Expected>>,
    /// First words that the guest wrote in this operation.
    words: Vec<Option<u64>>,
    /// All of them, with their pages, in order.
    written: Vec<(usize, u64)>,
    /// Whether the guest got through to each page in this operation, and whether by a write.
    uses: Vec<(bool, bool)>,
    /// Pages that may lack the permission to write because a log holds it back.
    held: Vec<bool>,
    cpus: Vec<usize>,
    /// The space has memory in common with a fork, so that what may be written to may lack that permission.
    shares: bool,
}

impl Watch {
    /// Begins to watch the pages of `shape`: nothing may be seen yet.
    pub fn begin(&mut self, shape: &Shape, cpus: Vec<usize>) {
        self.shares = false;
        self.written.clear();
        if self.addresses != shape.pages {
            self.addresses.clone_from(&shape.pages);
            self.allowed = vec![vec![]; shape.pages.len()];
        }
        self.allowed.iter_mut().for_each(Vec::clear);
        self.uses.clear();
        self.uses.resize(shape.pages.len(), (false, false));
        self.held.clear();
        self.held.resize(shape.pages.len(), false);
        self.words.clear();
        self.words.resize(shape.pages.len(), None);
        self.cpus = cpus;
    }

    /// The CPUs that run the space.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// The space has memory in common with a fork, or is about to: whatever may be seen may be seen without the permission to
    /// write as well.
    pub fn share(&mut self) {
        self.shares = true;
        for page in 0..self.allowed.len() {
            for expected in self.allowed[page].clone() {
                self.allow(page, expected);
            }
        }
    }

    /// A log may hold back the permission to write to a page.
    pub fn hold(&mut self, page: usize) {
        self.held[page] = true;
        for expected in self.allowed[page].clone() {
            self.allow(page, expected);
        }
    }

    /// The guest got through to a page.
    pub fn note_use(&mut self, page: usize, written: bool) {
        let (used, before) = self.uses[page];
        self.uses[page] = (true, before && used || written);
    }

    /// Whether the guest got through to a page in this operation, and whether it, or the host, wrote to it.
    #[must_use]
    pub fn uses(&self, page: usize) -> (bool, bool) {
        let (used, written) = self.uses[page];
        (used, written || self.words[page].is_some())
    }

    /// The number of pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.addresses.len()
    }

    /// The first address of a page.
    #[must_use]
    pub fn gpa(&self, page: usize) -> u64 {
        self.addresses[page]
    }

    /// The pages that lie in a range.
    #[must_use]
    pub fn pages_in(&self, start: u64, size: u64) -> std::ops::Range<usize> {
        let first = self.addresses.partition_point(|page| *page < start);
        let end = self.addresses.partition_point(|page| *page < start.saturating_add(size));
        first..end
    }

    /// What may be seen of a page.
    #[must_use]
    pub fn allowed(&self, page: usize) -> &[Expected] {
        &self.allowed[page]
    }

    /// Allows a mapping, if it can be seen at all.
    pub fn allow(&mut self, page: usize, expected: Expected) {
        let read_only = Expected { flags: expected.flags - MappingFlags::WRITE, ..expected };
        for expected in
            [expected, read_only].into_iter().take(1 + usize::from(self.shares || self.held[page]))
        {
            if expected.flags.is_accessible() && !self.allowed[page].contains(&expected) {
                self.allowed[page].push(expected);
            }
        }
    }

    /// The guest wrote to a page.
    pub fn wrote(&mut self, page: usize, word: u64) {
        self.words[page] = Some(word);
        self.written.push((page, word));
    }

    /// Whether the guest wrote this word to a page in this operation, be it that it wrote others later.
    #[must_use]
    pub fn has_written(&self, page: usize, word: u64) -> bool {
        self.written.contains(&(page, word))
    }

    /// What the guest wrote went to pages that are no more.
    pub fn forget_words(&mut self) {
        self.words.fill(None);
        self.uses.fill((false, false));
    }

    /// The word that the guest wrote to a page in this operation.
    #[must_use]
    pub fn word(&self, page: usize) -> Option<u64> {
        self.words[page]
    }

    /// Whether a translation that a CPU could use is one of those allowed.
    ///
    /// # Errors
    /// The violation.
    pub fn judge<P: Platform>(
        &self,
        host: &Host<P>,
        page: usize,
        translation: &Translation,
    ) -> Result<(), Violation> {
        let mut closest = Check::Store;
        for expected in &self.allowed[page] {
            let same = translation.permissions == permissions(host.rules(), expected.flags)
                && translation.memory == memory(host.rules(), expected.flags);
            if !same {
                continue;
            }
            match self.frame_fits(host, page, expected.target, translation.hpa & !(PAGE_SIZE - 1)) {
                Ok(()) => return Ok(()),
                // A frame that is not empty says more than one of the others.
                Err(check) if closest != Check::Zeroed => closest = check,
                Err(_) => {}
            }
        }
        let allowed = &self.allowed[page];
        let detail = format!("page {:#x}: {translation:x?} is none of {allowed:x?}", self.addresses[page]);
        Err(Violation::new(closest, detail))
    }

    /// Whether a frame is the one that is expected; otherwise the check that fails.
    ///
    /// # Errors
    /// The check.
    pub fn frame_fits<P: Platform>(
        &self,
        host: &Host<P>,
        page: usize,
        target: Target,
        frame: u64,
    ) -> Result<(), Check> {
        let fresh = || host.born(frame) == Some(host.operation()) && !host.is_table(frame);
        let first = host.ram().read(frame);
        match target {
            Target::Exact(hpa) if hpa == frame => Ok(()),
            Target::Exact(_) => Err(Check::Store),
            Target::Fresh(_) | Target::Moved(_) | Target::Copied(_) if !fresh() => Err(Check::Store),
            Target::Kept => {
                let rest = (8..PAGE_SIZE).step_by(8).all(|offset| host.ram().read(frame + offset) == Some(0));
                let taken = host.born(frame).is_some() && !host.is_table(frame);
                if taken && rest { Ok(()) } else { Err(Check::Zeroed) }
            }
            Target::Copied(word) => {
                let own = self.words[page];
                let source = first == Some(word) || first.is_some_and(|first| host.has_written(first));
                let right = own.map_or(source, |own| first == Some(own));
                if right || host.is_read_only() { Ok(()) } else { Err(Check::Contents) }
            }
            Target::Moved(word) => {
                let word = self.words[page].unwrap_or(word);
                // While the host writes, some of the word may be there; all of it is looked at in the end.
                if first == Some(word) || host.is_read_only() { Ok(()) } else { Err(Check::Contents) }
            }
            Target::Fresh(word) => {
                let word = self.words[page].unwrap_or(word);
                let rest = (8..PAGE_SIZE).step_by(8).all(|offset| host.ram().read(frame + offset) == Some(0));
                if first == Some(word) && rest { Ok(()) } else { Err(Check::Zeroed) }
            }
        }
    }
}
