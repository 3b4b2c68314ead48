//! What is read, as text: the command and a hypervisor's monitor print the same.

use crate::access::{Access, AccessKind, Denial};
use crate::entry::{Cache, Entry, LeafFlags, MemoryType, Pbmt, Permissions, Shareability, Stage2Type, Table};
use crate::format::Format;
use crate::lint::{Finding, FindingKind, Severity};
use crate::ranges::Run;
use crate::visit::{EntryAt, Trouble, TroubleKind};
use crate::walk::{Walk, WalkEnd};
use core::fmt;

/// A number of bytes as `4 KiB`, `2 MiB`, `1 GiB`: in the largest unit of which it is a multiple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 == 0 {
            return f.write_str("0 B");
        }
        let unit = (self.0.trailing_zeros() / 10).min(6);
        write!(f, "{} {}", self.0 >> (10 * unit), UNITS[unit as usize])
    }
}

/// Permissions in letters, in the way of a format: `rwx`, and a letter for what user mode has of its own.
///
/// EPT and Arm: `rwxu`, where `x` and `u` are fetches by the supervisor (EL1) and by user mode (EL0). All others: `rwxu`, where `u`
/// says that the page is one of user mode. What is missing is a `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letters(pub Format, pub Permissions);

impl fmt::Display for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = match self.0 {
            Format::Ept | Format::Stage2 => Permissions::EXECUTE_USER,
            _ => Permissions::USER,
        };
        let letters =
            [(Permissions::READ, 'r'), (Permissions::WRITE, 'w'), (Permissions::EXECUTE, 'x'), (user, 'u')];
        for (permission, letter) in letters {
            write!(f, "{}", if self.1.contains(permission) { letter } else { '-' })?;
        }
        Ok(())
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ept { kind, ignore_pat: false } => write!(f, "{kind}"),
            Self::Ept { kind, ignore_pat: true } => write!(f, "{kind} IPAT"),
            Self::Pat { index, kind } => write!(f, "{kind} (PAT {index})"),
            Self::Stage2 { kind, shareability } => write!(f, "{kind} {shareability}"),
            Self::Pbmt(pbmt) => write!(f, "{pbmt}"),
        }
    }
}

impl fmt::Display for Stage2Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DevicenGnRnE => "Device-nGnRnE",
            Self::DevicenGnRE => "Device-nGnRE",
            Self::DevicenGRE => "Device-nGRE",
            Self::DeviceGRE => "Device-GRE",
            Self::NormalNonCacheable => "NC",
            Self::ForcedWriteBack => "forced WB",
            Self::AsStage1 => "as stage 1",
            Self::Normal { outer, inner } if outer == inner => return write!(f, "{outer}"),
            Self::Normal { outer, inner } => return write!(f, "outer {outer} inner {inner}"),
        })
    }
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NonCacheable => "NC",
            Self::WriteThrough => "WT",
            Self::WriteBack => "WB",
        })
    }
}

impl fmt::Display for Shareability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NonShareable => "NSH",
            Self::Outer => "OSH",
            Self::Inner => "ISH",
        })
    }
}

impl fmt::Display for Pbmt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pma => "PMA",
            Self::NonCacheable => "NC",
            Self::Io => "IO",
        })
    }
}

impl LeafFlags {
    /// The flags that are set, in words.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let words = [
            (Self::ACCESSED, "accessed"),
            (Self::DIRTY, "dirty"),
            (Self::GLOBAL, "global"),
            (Self::NAPOT, "napot"),
            (Self::CONTIGUOUS, "contiguous"),
            (Self::DIRTY_BIT_MODIFIER, "dbm"),
        ];
        words.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, word)| word)
    }
}

/// Flags of a leaf in words: ` accessed dirty`, each with a space before it.
struct Words(LeafFlags);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.words().try_for_each(|word| write!(f, " {word}"))
    }
}

/// A memory type, without the index into the PAT that x86 leaves have.
#[derive(Clone, Copy, Debug)]
pub struct TypeOnly(pub MemoryType);

impl fmt::Display for TypeOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            MemoryType::Pat { kind, .. } => kind.fmt(f),
            memory => memory.fmt(f),
        }
    }
}

/// Something in a column of so many letters, at its left edge or at its right one.
struct Column<T>(T, usize, Edge);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    Left,
    Right,
}

impl<T: fmt::Display> fmt::Display for Column<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Letters(usize);
        impl fmt::Write for Letters {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 += text.len();
                Ok(())
            }
        }
        let Self(what, width, edge) = self;
        let mut letters = Letters(0);
        fmt::write(&mut letters, format_args!("{what}"))?;
        let space = width.saturating_sub(letters.0);
        let (before, behind) = if *edge == Edge::Left { (0, space) } else { (space, 0) };
        write!(f, "{:before$}{what}{:behind$}", "", "")
    }
}

/// A run as one line: addresses, size, output, permissions, memory type, leaf size, marks (a capital letter if all leaves have it, a
/// small one if some have), flags.
///
/// ```text
/// 0x0000000000200000-0x00000000003fffff       2 MiB -> 0x000040000000 rwxu WB       2 MiB Ad global
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RunLine<'a>(pub Format, pub &'a Run);

impl fmt::Display for RunLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(format, run) = *self;
        write!(
            f,
            "{:#018x}-{:#018x} {} -> {:#014x} {} {} {} {}{}{}",
            run.address,
            run.last,
            Column(Bytes(run.size()), 11, Edge::Right),
            run.output,
            Letters(format, run.permissions),
            Column(TypeOnly(run.memory), 6, Edge::Left),
            Column(Bytes(run.leaf_size), 7, Edge::Right),
            run.accessed.letter('A'),
            run.dirty.letter('D'),
            Words(run.flags)
        )
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("not present"),
            Self::Table(Table { address, flags, .. }) => write!(f, "table at {address:#x}{}", Words(*flags)),
            Self::Leaf(leaf) => write!(
                f,
                "{} page at {:#x}, {}{}",
                Bytes(leaf.size),
                leaf.address,
                leaf.memory,
                Words(leaf.flags)
            ),
            Self::Malformed(problem) => write!(f, "malformed: {problem}"),
        }
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.steps() {
            let name = self.format.entry_name(step.at.level);
            write!(f, "{name} {} at {:#x} = {:#x}: ", step.at.index, step.at.address(), step.at.raw)?;
            match &step.entry {
                Entry::Table(table) => write!(f, "{} ", Letters(self.format, table.permissions))?,
                Entry::Leaf(leaf) => write!(f, "{} ", Letters(self.format, leaf.permissions))?,
                _ => {}
            }
            writeln!(f, "{}", step.entry)?;
        }
        write!(f, "{} {:#x}: ", self.format.address_name(), self.address())?;
        match (self.end(), self.output()) {
            (WalkEnd::Mapped(mapping), Some(output)) => {
                let letters = Letters(self.format, mapping.permissions);
                write!(f, "-> {output:#x} {letters} {}{}", mapping.leaf.memory, Words(mapping.flags))
            }
            (end, _) => fmt_end(f, self.format, end),
        }
    }
}

fn fmt_end(f: &mut fmt::Formatter<'_>, format: Format, end: &WalkEnd) -> fmt::Result {
    match *end {
        WalkEnd::Mapped(_) => f.write_str("mapped"),
        WalkEnd::Absent { level } => {
            let fault = match format {
                Format::Ept => "EPT violation",
                Format::Npt => "nested page fault",
                Format::X86_64 => "page fault",
                Format::Stage2 => "translation fault",
                format if format.is_second_stage() => "guest-page fault",
                _ => "page fault",
            };
            write!(f, "the {} is not present: {fault}", format.entry_name(level))
        }
        WalkEnd::Malformed { level, problem } => {
            write!(f, "the {} is malformed: {problem}", format.entry_name(level))
        }
        WalkEnd::OutOfRange if format.is_sign_extended() => f.write_str(
            "not canonical: the bits above those that are translated have to be equal to the highest one",
        ),
        WalkEnd::OutOfRange => f.write_str("wider than the root table translates"),
        WalkEnd::Unreadable { level, address } => {
            write!(f, "the {} at {address:#x} is not in the memory", format.entry_name(level))
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_place(f, self.address, self.length, self.at)?;
        self.kind.fmt(f)
    }
}

/// `first-last: entry 5 of level 0 at 0x1028 = 0x7: `.
fn fmt_place(f: &mut fmt::Formatter<'_>, address: u64, length: u64, at: Option<EntryAt>) -> fmt::Result {
    let last = address.wrapping_add(length.wrapping_sub(1));
    write!(f, "{address:#018x}-{last:#018x}: ")?;
    match at {
        Some(at) => {
            write!(f, "entry {} of level {} at {:#x} = {:#x}: ", at.index, at.level, at.address(), at.raw)
        }
        None => Ok(()),
    }
}

impl fmt::Display for TroubleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(problem) => write!(f, "{problem}"),
            Self::Unreadable { missing } => {
                write!(f, "the table is not all in the memory: nothing at {missing:#x}")
            }
            Self::Cycle { ancestor } => {
                write!(f, "the table is the one of level {ancestor} that led here; not entered")
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.severity)?;
        fmt_place(f, self.address, self.length, self.at)?;
        self.kind.fmt(f)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trouble(kind) => kind.fmt(f),
            Self::Unusable => f.write_str("present, but no access passes"),
            Self::WriteOnly => f.write_str("writable, but not readable"),
            Self::WritableAndExecutable => f.write_str("writable and executable"),
            Self::CacheableDevice(memory) => write!(f, "a device is mapped as {memory}"),
            Self::MapsTables { first, count, writable } => {
                let how = if *writable { "writable" } else { "not writable" };
                write!(f, "maps {count} of these tables ({how}), the first at {first:#x}")
            }
            Self::SmallLeaves(size) => write!(f, "512 leaves that one of {} could replace", Bytes(*size)),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReadable => "not readable",
            Self::NotWritable => "not writable",
            Self::NotExecutable => "not executable",
            Self::NotUser => "not a user page, at some level",
            Self::UserPage => "a user page, from which the supervisor does not fetch",
            Self::NotAccessed => "the accessed flag is clear, and the hardware does not set it",
            Self::NotDirty => "the dirty flag is clear, and the hardware does not set it",
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            AccessKind::Read => "read",
            AccessKind::Write => "write",
            AccessKind::Execute => "instruction fetch",
        };
        write!(f, "{kind} by {}", if self.user { "user mode" } else { "the supervisor" })
    }
}
