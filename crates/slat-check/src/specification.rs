//! What a space should be: a map from page to what is there. One can see that it is right.

use crate::shape::Shape;
use slat::{LeafSize, MappingFlags};
use std::collections::BTreeMap;

/// What the machine's format can express, derived from its manual and not from slat.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Which architecture.
    pub architecture: Architecture,
    /// User-mode execution has a permission of its own (FEAT_XNX, mode-based execute control).
    pub user_execute: bool,
    /// Pages can be executable without being readable.
    pub execute_only: bool,
    /// A leaf can choose any memory type.
    pub memory_types: bool,
    /// The hardware marks leaves as accessed and dirty.
    pub marks: bool,
    /// RISC-V without Svadu: marks are set in the answers to the faults for them.
    pub marks_by_fault: bool,
    /// RISC-V, if it is wanted: the CPU that faulted forgets at once what it remembers of an entry that was invalid.
    pub fences_new_entries: bool,
    /// Arm: the second level forces write-back (HCR_EL2.FWB).
    pub force_write_back: bool,
    /// The largest leaf.
    pub largest: LeafSize,
}

/// The architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Arm stage 2.
    Stage2,
    /// Intel EPT.
    Ept,
    /// AMD nested paging.
    Npt,
    /// RISC-V G-stage.
    Gstage,
}

impl Rules {
    /// Whether a mapping can have these flags.
    #[must_use]
    pub fn expressible(&self, flags: MappingFlags) -> bool {
        let [read, write, execute, user] =
            [MappingFlags::READ, MappingFlags::WRITE, MappingFlags::EXECUTE, MappingFlags::USER]
                .map(|flag| flags.contains(flag));
        let type_fits = self.memory_types || !flags.contains(MappingFlags::UNCACHED);
        let only_user = user && !(read || write || execute);
        match self.architecture {
            Architecture::Stage2 => {
                // A fetch wants the read permission, and none from device memory is defined.
                let fetch = execute || user && self.user_execute;
                let device = flags.contains(MappingFlags::DEVICE);
                !(fetch && (device || !read)) && (self.user_execute || !only_user)
            }
            Architecture::Ept => {
                let fetch = execute || user && self.user_execute;
                (!write || read) && (read || self.execute_only || !fetch) && (self.user_execute || !only_user)
            }
            Architecture::Npt => !flags.is_accessible() || read,
            Architecture::Gstage => (!write || read) && !only_user && type_fits,
        }
    }

    /// What remains of flags that are expressible: user-mode execution only where it is separate.
    #[must_use]
    pub fn seen(&self, flags: MappingFlags) -> MappingFlags {
        if self.user_execute { flags } else { flags - MappingFlags::USER }
    }

    /// Whether flags let an access pass.
    #[must_use]
    pub fn allows(&self, flags: MappingFlags, access: MappingFlags) -> bool {
        if access.contains(MappingFlags::EXECUTE) {
            let user = access.contains(MappingFlags::USER) && self.user_execute;
            flags.contains(if user { MappingFlags::USER } else { MappingFlags::EXECUTE })
        } else {
            flags.contains(access & (MappingFlags::READ | MappingFlags::WRITE))
        }
    }
}

/// A frame that a page of the space owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it is.
    pub hpa: u64,
    /// Its first word.
    pub word: u64,
    /// Whether the guest has written to it since the page was populated.
    pub written: bool,
}

/// Where a frame that is taken for a page comes from, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The host, zeroed.
    Host,
    /// A custom backend: number and offset.
    Custom(u16, u64),
    /// The host, with contents from a pager: number and offset.
    Pager(u16, u64),
}

/// Where the frame of a page comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Host memory at this address.
    Linear(u64),
    /// A frame of the space's own.
    Alloc {
        /// The largest leaf to use.
        largest: LeafSize,
        /// How much a fault populates.
        around: LeafSize,
        /// The frame, once there is one.
        frame: Option<Frame>,
        /// Where it comes from.
        origin: Origin,
    },
    /// A page of a shared memory.
    Shared {
        /// Which memory.
        memory: usize,
        /// Its page.
        page: u64,
        /// Where it is, once the space maps it.
        hpa: Option<u64>,
    },
    /// A page of a shared memory, until the space has a copy of its own.
    Private {
        /// Which memory.
        memory: usize,
        /// Its page.
        page: u64,
        /// Where that is, once the space maps it.
        seen: Option<u64>,
        /// The copy, once there is one.
        copy: Option<Frame>,
    },
    /// A device: its number, and the offset of the page.
    Trap(u16, u64),
}

/// What the specification knows of a page in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The flags of its region.
    pub flags: MappingFlags,
    /// Its backing.
    pub backing: Backing,
    /// How often it is pinned.
    pub pins: u16,
    /// Whether forks have it.
    pub in_children: bool,
    /// What is known of its use.
    pub marks: Marks,
}

/// What a log of writes and a scan for idle pages must say of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Writes are logged.
    pub logged: bool,
    /// The next collection has to tell it.
    pub dirty: bool,
    /// The next collection may tell it.
    pub told: bool,
    /// A log has cleared what the hardware knew of writes.
    pub cleared: bool,
    /// A log may hold back the permission to write, as long as nothing was written.
    pub held: bool,
    /// A log has held it back: a CPU may remember that nothing can be written, and faults once more.
    pub weaker: bool,
    /// It was used since the last scan.
    pub used: bool,
    /// Any access may fault, because a scan waits for the next one.
    pub idle: bool,
    /// Scans since it was used, as the last one said.
    pub age: u8,
}

impl Marks {
    /// What remains for a fork, and for a space that goes back to a snapshot: nothing is logged there.
    pub(crate) fn inherited(self) -> Self {
        Self { logged: false, dirty: false, told: false, age: 0, ..self }
    }

    /// Takes over how a guest used the page in an operation.
    pub(crate) fn note_use(&mut self, used: bool, written: bool) {
        self.used |= used;
        // Whoever gets through has put it back.
        self.idle &= !used;
        if written && self.logged {
            (self.dirty, self.told) = (true, true);
        }
    }

    /// Takes over that the page has a leaf now, and whether it had one before.
    pub(crate) fn note_leaf(&mut self, before: bool, now: bool) {
        if !now {
            (self.dirty, self.told, self.used, self.idle) = (false, false, false, false);
        } else if !before && self.logged {
            (self.dirty, self.told) = (true, true);
        }
    }
}

/// Whether a page with these flags cannot do without the permission to write, so that it is dirty for ever.
pub(crate) fn only_written(flags: MappingFlags) -> bool {
    !(flags - MappingFlags::WRITE - MappingFlags::USER).is_accessible()
}

impl Page {
    /// The frame that a CPU should find there, if it should find one.
    #[must_use]
    pub fn target(&self) -> Option<u64> {
        if !self.grants().is_accessible() {
            return None;
        }
        match self.backing {
            Backing::Linear(hpa) => Some(hpa),
            Backing::Alloc { frame, .. } => frame.map(|frame| frame.hpa),
            Backing::Shared { hpa, .. } => hpa,
            Backing::Private { seen, copy, .. } => copy.map(|frame| frame.hpa).or(seen),
            Backing::Trap(..) => None,
        }
    }

    /// What a CPU may do with the frame that is there: nobody writes to a memory through a private mapping.
    #[must_use]
    pub fn grants(&self) -> MappingFlags {
        if self.to_copy().is_some() { self.flags - MappingFlags::WRITE } else { self.flags }
    }

    /// The memory, and the page of it, that the next write is to copy.
    #[must_use]
    pub fn to_copy(&self) -> Option<(usize, u64)> {
        match self.backing {
            Backing::Private { memory, page, copy: None, .. } => Some((memory, page)),
            _ => None,
        }
    }

    /// Whether the page is one of a private mapping, copied or not.
    #[must_use]
    pub fn is_private(&self) -> bool {
        matches!(self.backing, Backing::Private { .. })
    }

    /// Whether the frames are the space's own.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        matches!(
            self.backing,
            Backing::Alloc { origin: Origin::Host | Origin::Pager(..), .. }
                | Backing::Private { copy: Some(_), .. }
        )
    }

    /// Whether there is a leaf, be it without access.
    #[must_use]
    pub fn has_leaf(&self) -> bool {
        match self.backing {
            Backing::Linear(_) => true,
            Backing::Alloc { frame, .. } => frame.is_some(),
            Backing::Shared { hpa, .. } => hpa.is_some(),
            Backing::Private { seen, copy, .. } => seen.is_some() || copy.is_some(),
            Backing::Trap(..) => false,
        }
    }

    /// The frame that the space owns there, or that a custom backend lent.
    #[must_use]
    pub fn owned(&self) -> Option<Frame> {
        match self.backing {
            Backing::Alloc { frame, .. } | Backing::Private { copy: frame, .. } => frame,
            _ => None,
        }
    }

    /// Number and offset in the pager that its contents come from.
    #[must_use]
    pub fn paged(&self) -> Option<(u16, u64)> {
        if let Backing::Alloc { origin: Origin::Pager(source, offset), .. } = self.backing {
            Some((source, offset))
        } else {
            None
        }
    }

    /// The frame that the space owns there, to be changed.
    pub fn owned_mut(&mut self) -> Option<&mut Frame> {
        match &mut self.backing {
            Backing::Alloc { frame, .. } | Backing::Private { copy: frame, .. } => frame.as_mut(),
            _ => None,
        }
    }
}

/// The pages in play of one space, by their index in the shape.
#[derive(Clone, Debug, Default)]
pub struct Specification {
    /// What is there; a page that is in no region is missing.
    pub pages: BTreeMap<usize, Page>,
}

impl Specification {
    /// The page with this index.
    #[must_use]
    pub fn page(&self, index: usize) -> Option<&Page> {
        self.pages.get(&index)
    }

    /// The first address of a range that no region covers.
    #[must_use]
    pub fn first_hole(&self, shape: &Shape, start: u64, size: u64) -> Option<u64> {
        shape
            .pages_in(start, size)
            .find(|index| !self.pages.contains_key(index))
            .map(|index| shape.pages[index])
    }

    /// Whether no region overlaps a range.
    #[must_use]
    pub fn is_free(&self, shape: &Shape, start: u64, size: u64) -> bool {
        self.pages.range(shape.pages_in(start, size)).next().is_none()
    }

    /// Puts a page that is not pinned into a region.
    pub fn insert(&mut self, index: usize, flags: MappingFlags, backing: Backing) {
        self.pages
            .insert(index, Page { flags, backing, pins: 0, in_children: true, marks: Marks::default() });
    }

    /// Whether any page of a range is what `what` says.
    #[must_use]
    pub fn any(&self, shape: &Shape, start: u64, size: u64, what: impl Fn(&Page) -> bool) -> bool {
        self.pages.range(shape.pages_in(start, size)).any(|(_, page)| what(page))
    }

    /// Maps host memory.
    pub fn map_linear(&mut self, shape: &Shape, start: u64, size: u64, hpa: u64, flags: MappingFlags) {
        for index in shape.pages_in(start, size) {
            let backing = Backing::Linear(hpa + (shape.pages[index] - start));
            self.insert(index, flags, backing);
        }
    }

    /// Maps frames of the space's own, none of which is there yet.
    pub fn map_alloc(
        &mut self,
        shape: &Shape,
        (start, size): (u64, u64),
        flags: MappingFlags,
        largest: LeafSize,
        around: LeafSize,
    ) {
        for index in shape.pages_in(start, size) {
            self.insert(index, flags, Backing::Alloc { largest, around, frame: None, origin: Origin::Host });
        }
    }

    /// Unmaps a range.
    pub fn unmap(&mut self, shape: &Shape, start: u64, size: u64) {
        for index in shape.pages_in(start, size) {
            self.pages.remove(&index);
        }
    }

    /// Gives a range other flags.
    pub fn protect(&mut self, shape: &Shape, start: u64, size: u64, flags: MappingFlags) {
        for (_, page) in self.pages.range_mut(shape.pages_in(start, size)) {
            page.flags = flags;
            page.marks.told |= only_written(flags);
        }
    }
}

#[cfg(test)]
mod tests;
