//! Neighbours that continue each other, as one range: what a list of a whole address space is made of.

use crate::entry::{LeafFlags, MemoryType, Permissions};
use crate::visit::{Mapping, Visitor};
use core::ops::ControlFlow;

/// Leaves in a row that are alike, and whose outputs are in a row as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The first address.
    pub address: u64,
    /// The physical address that it is translated to.
    pub output: u64,
    /// In bytes. 0 stands for 2^64.
    pub length: u64,
    /// The size of each leaf in bytes.
    pub leaf_size: u64,
    /// What all levels allow together.
    pub permissions: Permissions,
    /// The memory type.
    pub memory: MemoryType,
    /// The flags that all have, without those that the caller asked not to tell apart.
    pub flags: LeafFlags,
}

impl Run {
    fn of(mapping: &Mapping, ignored: LeafFlags) -> Self {
        Self {
            address: mapping.address,
            output: mapping.output,
            length: mapping.length,
            leaf_size: mapping.leaf.size,
            permissions: mapping.permissions,
            memory: mapping.leaf.memory,
            flags: mapping.flags - ignored,
        }
    }

    /// The last address.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.address.wrapping_add(self.length.wrapping_sub(1))
    }

    /// Adds what follows, if it continues this one.
    fn extend(&mut self, next: &Self) -> bool {
        let continues = next.address == self.address.wrapping_add(self.length)
            && next.output == self.output.wrapping_add(self.length)
            && next.leaf_size == self.leaf_size
            && next.permissions == self.permissions
            && next.memory == self.memory
            && next.flags == self.flags;
        if continues {
            self.length = self.length.wrapping_add(next.length);
        }
        continues
    }
}

/// A visitor that makes runs of leaves and gives each to a function. What is left when the visit ends is given by
/// [`finish`](Self::finish).
///
/// ```
/// use core::ops::ControlFlow;
/// use slat_inspect::{Cpu, Format, LeafFlags, Root, Runs, Tables, Words};
///
/// let mut words = vec![0; 4 * 512];
/// (words[0], words[512], words[1024]) = (0x2007, 0x3007, 0x4007);
/// for page in 0..8 {
///     words[1536 + page] = 0x8_0000 + 0x1000 * page as u64 | 0x37;
/// }
/// let tables = Tables::new(Root::new(Format::Ept, 0x1000)?, Cpu::permissive(Format::Ept));
/// let mut seen = Vec::new();
/// let mut runs = Runs::new(LeafFlags::empty(), |run| {
///     seen.push((run.address, run.output, run.length));
///     ControlFlow::Continue(())
/// });
/// tables.visit(&Words { base: 0x1000, words: &words }, 0..=u64::MAX, 1 << 20, &mut runs);
/// let _ = runs.finish();
/// assert_eq!(seen, [(0, 0x8_0000, 0x8000)]);
/// # Ok::<(), slat_inspect::RootError>(())
/// ```
#[derive(Debug)]
pub struct Runs<F> {
    ignored: LeafFlags,
    current: Option<Run>,
    give: F,
}

impl<F: FnMut(&Run) -> ControlFlow<()>> Runs<F> {
    /// Runs whose leaves may differ in the flags `ignored` (accessed and dirty, for a short list).
    pub const fn new(ignored: LeafFlags, give: F) -> Self {
        Self { ignored, current: None, give }
    }

    /// Gives the last run, if there is one. What stands between two visits is also separated by this.
    pub fn finish(&mut self) -> ControlFlow<()> {
        match self.current.take() {
            Some(run) => (self.give)(&run),
            None => ControlFlow::Continue(()),
        }
    }
}

impl<F: FnMut(&Run) -> ControlFlow<()>> Visitor for Runs<F> {
    #[inline]
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        let next = Run::of(mapping, self.ignored);
        if let Some(current) = &mut self.current {
            if current.extend(&next) {
                return ControlFlow::Continue(());
            }
        }
        match self.current.replace(next) {
            Some(run) => (self.give)(&run),
            None => ControlFlow::Continue(()),
        }
    }
}
