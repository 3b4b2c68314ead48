//! What is suspicious in tables that the hardware accepts, and all that it does not accept.

use crate::access::{Access, AccessKind};
use crate::decode::shift;
use crate::entry::{Cacheability, LeafFlags, MemoryType, Permissions};
use crate::format::Format;
use crate::visit::{EntryAt, Mapping, Trouble, TroubleKind, Visitor};
use crate::walk::Tables;
use core::ops::{ControlFlow, RangeInclusive};

/// Something to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Finding {
    /// The first address concerned.
    pub address: u64,
    /// How many bytes are concerned: neighbours that have the same are one finding.
    pub length: u64,
    /// The (first) entry, if it is about one.
    pub at: Option<EntryAt>,
    /// What it is.
    pub kind: FindingKind,
    /// How bad it is.
    pub severity: Severity,
}

/// What is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// The tables themselves are broken.
    Trouble(TroubleKind),
    /// Present, but no access whatever passes.
    Unusable,
    /// Writable, but not readable (Arm, where that is legal).
    WriteOnly,
    /// Writable and executable at once.
    WritableAndExecutable,
    /// Cached, although it maps memory that the caller said is a device's.
    CacheableDevice(MemoryType),
    /// It maps tables of these tables.
    MapsTables {
        /// The physical address of the first of them.
        first: u64,
        /// How many.
        count: usize,
        /// Who may write may change what is mapped.
        writable: bool,
    },
    /// A whole table of leaves that one leaf of this size in bytes could map.
    SmallLeaves(u64),
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Usual, but worth to know.
    Note,
    /// Often a mistake.
    Warning,
    /// The hardware faults, or isolation is broken.
    Error,
}

/// What the caller knows beside the tables.
#[derive(Clone, Debug, Default)]
pub struct LintOptions<'a> {
    /// Physical addresses of devices.
    pub devices: &'a [RangeInclusive<u64>],
    /// The physical addresses of the tables, sorted: what an earlier visit was told of. Of none, leaves that map tables are not found.
    pub tables: &'a [u64],
}

/// A visitor that gives findings to a function. [`finish`](Self::finish) gives those that could have gone on.
///
/// ```
/// use core::ops::ControlFlow;
/// use slat_inspect::{Cpu, FindingKind, Format, Lint, LintOptions, Root, Tables, Words};
///
/// let mut words = vec![0; 4 * 512];
/// (words[0], words[512], words[1024]) = (0x2007, 0x3007, 0x4007);
/// for page in 0..512 {
///     words[1536 + page] = 0x20_0000 + 0x1000 * page as u64 | 0x33;
/// }
/// let tables = Tables::new(Root::new(Format::Ept, 0x1000)?, Cpu::permissive(Format::Ept));
/// let mut found = Vec::new();
/// let mut lint = Lint::new(&tables, LintOptions::default(), |finding| {
///     found.push(finding.kind);
///     ControlFlow::Continue(())
/// });
/// tables.visit(&Words { base: 0x1000, words: &words }, 0..=u64::MAX, 1 << 20, &mut lint);
/// let _ = lint.finish();
/// assert_eq!(found, [FindingKind::SmallLeaves(2 << 20)]);
/// # Ok::<(), slat_inspect::RootError>(())
/// ```
#[derive(Debug)]
pub struct Lint<'a, F> {
    tables: &'a Tables,
    options: LintOptions<'a>,
    /// Leaves in a row from the first entry of a table on.
    row: Option<Row>,
    /// What the next leaf may continue, by kind.
    open: [Option<Finding>; OPEN],
    give: F,
}

const OPEN: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Row {
    first: Mapping,
    /// How many leaves it has.
    count: u64,
}

impl Row {
    /// Whether a leaf could stand in one large leaf together with those that are there.
    fn takes(&self, next: &Mapping) -> bool {
        let marks = LeafFlags::ACCESSED | LeafFlags::DIRTY;
        next.at.table == self.first.at.table
            && next.at.level == self.first.at.level
            && u64::from(next.at.index) == u64::from(self.first.at.index) + self.count
            && next.output == self.first.output.wrapping_add(self.count << shift(self.first.at.level))
            && next.permissions == self.first.permissions
            && next.leaf.permissions == self.first.leaf.permissions
            && next.leaf.memory == self.first.leaf.memory
            && next.flags - marks == self.first.flags - marks
    }
}

impl<'a, F: FnMut(&Finding) -> ControlFlow<()>> Lint<'a, F> {
    /// A visitor for these tables.
    pub const fn new(tables: &'a Tables, options: LintOptions<'a>, give: F) -> Self {
        Self { tables, options, row: None, open: [None; OPEN], give }
    }

    /// Gives what was not given yet.
    pub fn finish(&mut self) -> ControlFlow<()> {
        self.row = None;
        for slot in 0..OPEN {
            if let Some(finding) = self.open[slot].take() {
                (self.give)(&finding)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn is_second_stage(&self) -> bool {
        self.tables.root().format().is_second_stage()
    }

    /// A finding about a leaf, which may continue the last one of its kind.
    fn about(
        &mut self,
        slot: usize,
        mapping: &Mapping,
        found: Option<(FindingKind, Severity)>,
    ) -> ControlFlow<()> {
        let Some((kind, severity)) = found else { return ControlFlow::Continue(()) };
        let Mapping { address, length, at, .. } = *mapping;
        if let Some(open) = &mut self.open[slot] {
            if open.kind == kind && open.address.wrapping_add(open.length) == address {
                open.length = open.length.wrapping_add(length);
                return ControlFlow::Continue(());
            }
        }
        let finding = Finding { address, length, at: Some(at), kind, severity };
        match self.open[slot].replace(finding) {
            Some(finding) => (self.give)(&finding),
            None => ControlFlow::Continue(()),
        }
    }

    fn is_unusable(&self, mapping: &Mapping) -> bool {
        let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Execute];
        let mut accesses = kinds.iter().flat_map(|&kind| [false, true].map(|user| Access { kind, user }));
        // Marks that are missing come with the first access.
        let flags = mapping.flags | LeafFlags::ACCESSED | LeafFlags::DIRTY;
        !accesses.any(|access| self.tables.decoder().check(mapping.permissions, flags, access).is_ok())
    }

    fn maps_tables(&self, mapping: &Mapping) -> Option<(FindingKind, Severity)> {
        let tables = self.options.tables;
        let from = tables.partition_point(|&table| table < mapping.output);
        let last = mapping.output.saturating_add(mapping.length - 1);
        let count = tables[from..].partition_point(|&table| table <= last);
        let &first = tables[from..from + count].first()?;
        let writable = mapping.permissions.contains(Permissions::WRITE);
        let user = mapping.permissions.contains(Permissions::USER);
        let severity = if self.is_second_stage() || user {
            if writable { Severity::Error } else { Severity::Warning }
        } else {
            Severity::Note
        };
        Some((FindingKind::MapsTables { first, count, writable }, severity))
    }

    fn small_leaves(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        let level = mapping.at.level;
        match &mut self.row {
            Some(row) if row.takes(mapping) => row.count += 1,
            row => {
                let size = 1u64 << shift(level + 1);
                let begins = self.tables.may_have_leaves(level + 1)
                    && mapping.address & (size - 1) == 0
                    && mapping.output & (size - 1) == 0;
                *row = begins.then_some(Row { first: *mapping, count: 1 });
            }
        }
        let Some(Row { first, count: 512 }) = self.row else { return ControlFlow::Continue(()) };
        self.row = None;
        let size = 1 << shift(level + 1);
        (self.give)(&Finding {
            address: first.address,
            length: size,
            at: Some(first.at),
            kind: FindingKind::SmallLeaves(size),
            severity: Severity::Note,
        })
    }
}

impl Tables {
    /// Whether leaves of this level exist here.
    fn may_have_leaves(&self, level: u8) -> bool {
        let cpu = self.decoder().cpu();
        level <= self.root().level()
            && match (self.root().format(), level) {
                (Format::Ept | Format::Npt | Format::X86_64, 1) => cpu.page_2m,
                (Format::Ept | Format::Npt | Format::X86_64, 2) => cpu.page_1g,
                (Format::Stage2, _) => level <= 2,
                (format, _) => format.is_riscv(),
            }
    }
}

impl<F: FnMut(&Finding) -> ControlFlow<()>> Visitor for Lint<'_, F> {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        let permissions = mapping.permissions;
        let executable = permissions.intersects(Permissions::EXECUTE | Permissions::EXECUTE_USER);
        let writable = permissions.contains(Permissions::WRITE);
        let unusable = self.is_unusable(mapping);
        let rights = if unusable {
            Some((FindingKind::Unusable, Severity::Warning))
        } else if writable && !permissions.contains(Permissions::READ) {
            Some((FindingKind::WriteOnly, Severity::Warning))
        } else {
            None
        };
        self.about(0, mapping, rights)?;
        let severity = if self.is_second_stage() { Severity::Note } else { Severity::Warning };
        let both = writable && executable && !unusable;
        self.about(1, mapping, both.then_some((FindingKind::WritableAndExecutable, severity)))?;
        if !self.options.devices.is_empty() && mapping.leaf.memory.cacheability() == Cacheability::Cacheable {
            let last = mapping.output.saturating_add(mapping.length - 1);
            let is_device =
                |device: &RangeInclusive<u64>| *device.start() <= last && mapping.output <= *device.end();
            let kind = FindingKind::CacheableDevice(mapping.leaf.memory);
            let found = self.options.devices.iter().any(is_device).then_some((kind, Severity::Error));
            self.about(2, mapping, found)?;
        }
        let found = self.maps_tables(mapping);
        self.about(3, mapping, found)?;
        self.small_leaves(mapping)
    }

    fn trouble(&mut self, trouble: &Trouble) -> ControlFlow<()> {
        let Trouble { address, length, at, kind } = *trouble;
        let severity = match kind {
            // Some operating systems map their own tables so.
            TroubleKind::Cycle { .. } if !self.is_second_stage() => Severity::Warning,
            _ => Severity::Error,
        };
        (self.give)(&Finding { address, length, at, kind: FindingKind::Trouble(kind), severity })
    }
}
