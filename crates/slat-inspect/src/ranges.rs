//! Neighbours that continue each other, as one range: what a list of a whole address space is made of.

use crate::entry::{LeafFlags, MemoryType, Permissions};
use crate::visit::Mapping;

/// Marks of the hardware.
const MARKS: LeafFlags = LeafFlags::ACCESSED.union(LeafFlags::DIRTY);

/// How many of the leaves of a run have a mark of the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// None of them.
    None,
    /// Some, and some not.
    Some,
    /// All of them.
    All,
}

impl Mark {
    const fn of(is_set: bool) -> Self {
        if is_set { Self::All } else { Self::None }
    }

    fn with(self, other: Self) -> Self {
        if self == other { self } else { Self::Some }
    }

    /// The letter `letter` for all, its small one for some, `-` for none.
    #[must_use]
    pub const fn letter(self, letter: char) -> char {
        match self {
            Self::None => '-',
            Self::Some => letter.to_ascii_lowercase(),
            Self::All => letter,
        }
    }
}

/// Leaves in a row that are alike, and whose outputs are in a row as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The first address.
    pub address: u64,
    /// The last one.
    pub last: u64,
    /// The physical address that the first one is translated to.
    pub output: u64,
    /// The size of each leaf in bytes.
    pub leaf_size: u64,
    /// What all levels allow together.
    pub permissions: Permissions,
    /// The memory type.
    pub memory: MemoryType,
    /// The flags that all have, but for the marks of the hardware.
    pub flags: LeafFlags,
    /// Accessed.
    pub accessed: Mark,
    /// Dirty.
    pub dirty: Mark,
}

impl Run {
    fn of(mapping: &Mapping) -> Self {
        Self {
            address: mapping.address,
            last: mapping.address.wrapping_add(mapping.length - 1),
            output: mapping.output,
            leaf_size: mapping.leaf.size,
            permissions: mapping.permissions,
            memory: mapping.leaf.memory,
            flags: mapping.flags.difference(MARKS),
            accessed: Mark::of(mapping.flags.contains(LeafFlags::ACCESSED)),
            dirty: Mark::of(mapping.flags.contains(LeafFlags::DIRTY)),
        }
    }

    /// In bytes; less than 2^64, because no format translates 64 bits.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.last.wrapping_sub(self.address).wrapping_add(1)
    }

    /// Whether everything but the place and the marks is the same.
    #[must_use]
    pub fn is_alike(&self, other: &Self) -> bool {
        (self.leaf_size, self.permissions, self.memory, self.flags)
            == (other.leaf_size, other.permissions, other.memory, other.flags)
    }

    /// Takes in what marks another one has.
    pub fn join_marks(&mut self, other: &Self) {
        self.accessed = self.accessed.with(other.accessed);
        self.dirty = self.dirty.with(other.dirty);
    }

    fn continues(&self, next: &Self, by_marks: bool) -> bool {
        self.last.wrapping_add(1) == next.address
            && self.output.wrapping_add(self.size()) == next.output
            && self.is_alike(next)
            && (!by_marks || (self.accessed, self.dirty) == (next.accessed, next.dirty))
    }
}

/// Makes runs of leaves that come in the order of their addresses. What stands between two leaves is for the caller to see:
/// [`finish`](Self::finish) ends a run there.
///
/// ```
/// use core::ops::ControlFlow;
/// use slat_inspect::{Cpu, Format, Mapping, Root, Run, Runs, Tables, Visitor, Words};
///
/// struct List(Runs, Vec<Run>);
/// impl Visitor for List {
///     fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
///         self.1.extend(self.0.push(mapping));
///         ControlFlow::Continue(())
///     }
/// }
///
/// let mut words = vec![0; 4 * 512];
/// (words[0], words[512], words[1024]) = (0x2007, 0x3007, 0x4007);
/// for page in 0..8 {
///     words[1536 + page] = 0x8_0000 + 0x1000 * page as u64 | 0x37;
/// }
/// let tables = Tables::new(Root::new(Format::Ept, 0x1000)?, Cpu::permissive(Format::Ept));
/// let mut list = List(Runs::new(true), Vec::new());
/// tables.visit(&Words { base: 0x1000, words: &words }, 0..=u64::MAX, 1 << 20, &mut list);
/// let List(mut runs, mut seen) = list;
/// seen.extend(runs.finish());
/// assert_eq!((seen.len(), seen[0].address, seen[0].output, seen[0].size()), (1, 0, 0x8_0000, 0x8000));
/// # Ok::<(), slat_inspect::RootError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Runs {
    by_marks: bool,
    current: Option<Run>,
}

impl Runs {
    /// Runs whose leaves may differ in the marks of the hardware, unless it is `by_marks`.
    #[must_use]
    pub const fn new(by_marks: bool) -> Self {
        Self { by_marks, current: None }
    }

    /// Adds a leaf; the run that it does not continue, if there is one, is complete.
    #[inline]
    pub fn push(&mut self, mapping: &Mapping) -> Option<Run> {
        let next = Run::of(mapping);
        match &mut self.current {
            Some(run) if run.continues(&next, self.by_marks) => {
                run.last = next.last;
                run.join_marks(&next);
                None
            }
            run => run.replace(next),
        }
    }

    /// The last run, if there is one: it is complete.
    pub const fn finish(&mut self) -> Option<Run> {
        self.current.take()
    }
}
