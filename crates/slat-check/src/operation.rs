//! The language of operations, as values and as bytes.
//!
//! Every sequence of bytes decodes to some sequence of operations, so that a fuzzer can drive the check; numbers are
//! taken modulo what the shape and the machine have.

mod choice;

pub use choice::random;
pub(crate) use choice::{random_logging, random_paging};

use crate::shape::Span;
use slat::{LeafSize, LogUnit, MappingFlags};

/// How a batch of deferred operations ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchEnd {
    /// The debt is discharged.
    Discharge,
    /// The debt is forgotten, so that a later operation discharges it.
    Forget,
}

/// One step of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Unmaps a range.
    Unmap(Span),
    /// Gives a range other flags.
    Protect(Span, MappingFlags),
}

/// One operation on a space, or one access of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Maps host memory; `shift` pages of difference spoil the alignment for large leaves.
    MapLinear {
        /// Where.
        span: Span,
        /// With which flags.
        flags: MappingFlags,
        /// Pages by which the host address differs from one that is congruent.
        shift: u8,
    },
    /// Maps frames of the host's.
    MapAlloc {
        /// Where.
        span: Span,
        /// With which flags.
        flags: MappingFlags,
        /// At once.
        populate: bool,
        /// The largest leaf to use.
        largest: LeafSize,
        /// How much a fault populates.
        around: LeafSize,
    },
    /// Unmaps a range.
    Unmap(Span),
    /// Gives a range other flags.
    Protect(Span, MappingFlags),
    /// Answers a fault that did not happen, on a CPU.
    Fault {
        /// The CPU.
        cpu: u8,
        /// The page in play.
        page: u8,
        /// `READ`, `WRITE` or `EXECUTE`, with or without `USER`.
        access: MappingFlags,
    },
    /// The guest uses a page; its fault, if there is one, is answered and the access repeated.
    Access {
        /// The CPU.
        cpu: u8,
        /// The page in play.
        page: u8,
        /// `READ`, `WRITE` or `EXECUTE`, with or without `USER`.
        access: MappingFlags,
    },
    /// Moves a range to other frames.
    Migrate(Span),
    /// Joins leaves in a range.
    Collapse(Span),
    /// Populates a range ahead of faults.
    Populate(Span),
    /// Keeps frames ready for faults.
    TopUp(u8),
    /// Several changes with one invalidation.
    Batch(Vec<Step>, BatchEnd),
    /// Unmaps everything.
    Clear,
    /// Drops the space and makes a new one in its place.
    Drop,
    /// Operations that must be refused for their arguments; the number selects which.
    Refused(u8),
    /// Makes a range a device.
    MapTrap(Span, u8),
    /// Maps pages of the custom backend.
    MapCustom {
        /// Where.
        span: Span,
        /// With which flags.
        flags: MappingFlags,
        /// The number of what is mapped.
        source: u8,
    },
    /// Maps a shared memory.
    MapShared {
        /// Where.
        span: Span,
        /// With which flags.
        flags: MappingFlags,
        /// The memory, and at once if the highest bit is set.
        memory: u8,
        /// The first page of it.
        page: u8,
    },
    /// Maps a copy of a shared memory that comes about page by page.
    MapPrivate {
        /// Where.
        span: Span,
        /// With which flags.
        flags: MappingFlags,
        /// The memory.
        memory: u8,
        /// The first page of it.
        page: u8,
    },
    /// Pins a range.
    Pin(Span),
    /// Takes a pin off a range.
    Unpin(Span),
    /// Gives up the frames of a range.
    Discard(Span),
    /// The host accesses memory of the guest.
    Host(HostAccess),
    /// Another space makes way for a fork of this one; if it is the same, for a fork that outlives it.
    Fork {
        /// The space that is dropped, modulo as many as there are.
        into: u8,
    },
    /// Takes a snapshot; the one before is dropped.
    Snapshot,
    /// Goes back to the snapshot; without one, takes one.
    Reset,
    /// Gives back what only this space still keeps for forks that are gone.
    Consolidate,
    /// Says whether forks have a range.
    SetInChildren(Span, bool),
    /// Begins to log writes to a range.
    StartLog(Span, LogUnit),
    /// Collects what was written to in a range: in a list, a bitmap, or for pages that somebody noted.
    CollectLog(Span, u8),
    /// Ends the log of a range.
    StopLog(Span),
    /// Asks which pages of a range were not used for this many scans.
    Scan(Span, u8),
    /// Maps pages whose contents come from a pager.
    MapPaged {
        /// Where.
        span: Span,
        /// With which flags.
        flags: MappingFlags,
    },
    /// Pages a range out; the number selects what the pager refuses.
    PageOut(Span, u8),
    /// Pages out what is not used.
    Evict {
        /// Most pages that go.
        most: u8,
        /// Most pages that are looked at; 255 stands for all.
        looks: u8,
        /// Selects what the pager refuses.
        refused: u8,
    },
}

/// An access of the host to memory of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAccess {
    /// What it does.
    pub kind: HostAccessKind,
    /// The page in play in which it begins.
    pub page: u8,
    /// Selects where in the page.
    pub offset: u8,
    /// Selects how many bytes.
    pub length: u8,
    /// Selects what is written, or where a copy comes from.
    pub other: u8,
}

/// What an access of the host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAccessKind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Fills with one byte.
    Fill,
    /// Copies from elsewhere, also from another space.
    Copy,
    /// An atomic compare-exchange.
    Exchange,
    /// Reads or writes piece by piece.
    Pieces,
}

impl HostAccessKind {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::Fill, Self::Copy, Self::Exchange, Self::Pieces];
}

/// The code of the first access of the host.
const HOST: u8 = 14;
/// Codes in all; those that stand for nothing yet are refused operations.
const CODES: u8 = 48;

/// An operation and the space that it falls on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The space, modulo as many as there are.
    pub space: u8,
    /// What to do.
    pub operation: Operation,
}

/// The accesses that a guest makes.
const ACCESSES: [MappingFlags; 4] = [
    MappingFlags::READ,
    MappingFlags::WRITE,
    MappingFlags::EXECUTE,
    MappingFlags::EXECUTE.union(MappingFlags::USER),
];

/// Bytes that are read one after the other; zero behind the end.
struct Bytes<'a>(std::slice::Iter<'a, u8>);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn span(&mut self) -> Span {
        Span { first: self.next(), length: self.next() }
    }

    fn leaf(&mut self) -> LeafSize {
        LeafSize::ALL[usize::from(self.next() % 3)]
    }

    fn flags(&mut self) -> MappingFlags {
        MappingFlags::from_bits_truncate(self.next())
    }

    fn access(&mut self) -> MappingFlags {
        ACCESSES[usize::from(self.next() % 4)]
    }
}

/// Decodes any bytes; every operation takes at least one of them, so this ends.
#[must_use]
pub fn decode(bytes: &[u8]) -> Vec<Command> {
    let mut bytes = Bytes(bytes.iter());
    let mut commands = vec![];
    while let Some(first) = bytes.0.next() {
        let operation = decode_one(first >> 2, &mut bytes);
        commands.push(Command { space: first & 3, operation });
    }
    commands
}

fn decode_one(code: u8, bytes: &mut Bytes<'_>) -> Operation {
    match code % CODES {
        0 => Operation::MapLinear { span: bytes.span(), flags: bytes.flags(), shift: bytes.next() % 4 },
        1 => Operation::MapAlloc {
            span: bytes.span(),
            flags: bytes.flags(),
            populate: bytes.next() & 1 == 1,
            largest: bytes.leaf(),
            around: bytes.leaf(),
        },
        2 => Operation::Unmap(bytes.span()),
        3 => Operation::Protect(bytes.span(), bytes.flags()),
        4 => Operation::Fault { cpu: bytes.next(), page: bytes.next(), access: bytes.access() },
        5 => Operation::Access { cpu: bytes.next(), page: bytes.next(), access: bytes.access() },
        6 => Operation::Migrate(bytes.span()),
        7 => Operation::Collapse(bytes.span()),
        8 => Operation::Populate(bytes.span()),
        9 => Operation::TopUp(bytes.next()),
        10 => {
            let head = bytes.next();
            let end = if head & 0x80 == 0 { BatchEnd::Discharge } else { BatchEnd::Forget };
            let step = |_| match bytes.next() & 1 {
                0 => Step::Unmap(bytes.span()),
                _ => Step::Protect(bytes.span(), bytes.flags()),
            };
            Operation::Batch((0..=head % 4).map(step).collect(), end)
        }
        11 => Operation::Clear,
        12 => Operation::Drop,
        20 => Operation::MapTrap(bytes.span(), bytes.next()),
        21 => Operation::MapCustom { span: bytes.span(), flags: bytes.flags(), source: bytes.next() },
        22 => Operation::MapShared {
            span: bytes.span(),
            flags: bytes.flags(),
            memory: bytes.next(),
            page: bytes.next(),
        },
        30 => Operation::MapPrivate {
            span: bytes.span(),
            flags: bytes.flags(),
            memory: bytes.next(),
            page: bytes.next(),
        },
        23 => Operation::Pin(bytes.span()),
        24 => Operation::Unpin(bytes.span()),
        25 => Operation::Discard(bytes.span()),
        26 => Operation::Fork { into: bytes.next() },
        27 => [Operation::Snapshot, Operation::Reset][usize::from(bytes.next() & 1)].clone(),
        28 => Operation::Consolidate,
        29 => Operation::SetInChildren(bytes.span(), bytes.next() & 1 == 1),
        32 => Operation::MapPaged { span: bytes.span(), flags: bytes.flags() },
        33 => Operation::PageOut(bytes.span(), bytes.next()),
        36 => {
            let span = bytes.span();
            Operation::StartLog(span, if bytes.next() & 1 == 0 { LogUnit::Page } else { LogUnit::Leaf })
        }
        37 => Operation::CollectLog(bytes.span(), bytes.next()),
        38 => Operation::StopLog(bytes.span()),
        39 => Operation::Scan(bytes.span(), bytes.next()),
        34 => Operation::Evict { most: bytes.next(), looks: bytes.next(), refused: bytes.next() },
        code @ HOST..20 => Operation::Host(HostAccess {
            kind: HostAccessKind::ALL[usize::from(code - HOST)],
            page: bytes.next(),
            offset: bytes.next(),
            length: bytes.next(),
            other: bytes.next(),
        }),
        _ => Operation::Refused(bytes.next()),
    }
}

/// Encodes commands so that [`decode`] gives them back (spaces modulo 4).
#[must_use]
pub fn encode(commands: &[Command]) -> Vec<u8> {
    let mut bytes = vec![];
    for command in commands {
        encode_one(command, &mut bytes);
    }
    bytes
}

fn encode_one(command: &Command, bytes: &mut Vec<u8>) {
    let mut put = |code: u8, rest: &[u8]| {
        bytes.push(code << 2 | command.space & 3);
        bytes.extend(rest);
    };
    let access_index =
        |access: &MappingFlags| ACCESSES.iter().position(|known| known == access).unwrap_or_default() as u8;
    match &command.operation {
        Operation::MapLinear { span, flags, shift } => {
            put(0, &[span.first, span.length, flags.bits(), *shift])
        }
        Operation::MapAlloc { span, flags, populate, largest, around } => {
            let options = [u8::from(*populate), *largest as u8, *around as u8];
            put(1, &[&[span.first, span.length, flags.bits()], &options[..]].concat());
        }
        Operation::Unmap(span) => put(2, &[span.first, span.length]),
        Operation::Protect(span, flags) => put(3, &[span.first, span.length, flags.bits()]),
        Operation::Fault { cpu, page, access } => put(4, &[*cpu, *page, access_index(access)]),
        Operation::Access { cpu, page, access } => put(5, &[*cpu, *page, access_index(access)]),
        Operation::Migrate(span) => put(6, &[span.first, span.length]),
        Operation::Collapse(span) => put(7, &[span.first, span.length]),
        Operation::Populate(span) => put(8, &[span.first, span.length]),
        Operation::TopUp(faults) => put(9, &[*faults]),
        Operation::Batch(steps, end) => {
            let forget = if *end == BatchEnd::Forget { 0x80 } else { 0 };
            let mut rest = vec![forget | steps.len().saturating_sub(1) as u8 & 3];
            for step in steps.iter().take(4) {
                match step {
                    Step::Unmap(span) => rest.extend([0, span.first, span.length]),
                    Step::Protect(span, flags) => rest.extend([1, span.first, span.length, flags.bits()]),
                }
            }
            put(10, &rest);
        }
        Operation::Clear => put(11, &[]),
        Operation::Drop => put(12, &[]),
        Operation::Refused(which) => put(13, &[*which]),
        Operation::MapTrap(span, device) => put(20, &[span.first, span.length, *device]),
        Operation::MapCustom { span, flags, source } => {
            put(21, &[span.first, span.length, flags.bits(), *source]);
        }
        Operation::MapShared { span, flags, memory, page } => {
            put(22, &[span.first, span.length, flags.bits(), *memory, *page]);
        }
        Operation::MapPrivate { span, flags, memory, page } => {
            put(30, &[span.first, span.length, flags.bits(), *memory, *page]);
        }
        Operation::Pin(span) => put(23, &[span.first, span.length]),
        Operation::Unpin(span) => put(24, &[span.first, span.length]),
        Operation::Discard(span) => put(25, &[span.first, span.length]),
        Operation::Fork { into } => put(26, &[*into]),
        Operation::Snapshot => put(27, &[0]),
        Operation::Reset => put(27, &[1]),
        Operation::Consolidate => put(28, &[]),
        Operation::SetInChildren(span, inherit) => put(29, &[span.first, span.length, u8::from(*inherit)]),
        Operation::MapPaged { span, flags } => put(32, &[span.first, span.length, flags.bits()]),
        Operation::StartLog(span, unit) => put(36, &[span.first, span.length, *unit as u8]),
        Operation::CollectLog(span, how) => put(37, &[span.first, span.length, *how]),
        Operation::StopLog(span) => put(38, &[span.first, span.length]),
        Operation::Scan(span, least) => put(39, &[span.first, span.length, *least]),
        Operation::PageOut(span, refused) => put(33, &[span.first, span.length, *refused]),
        Operation::Evict { most, looks, refused } => put(34, &[*most, *looks, *refused]),
        Operation::Host(HostAccess { kind, page, offset, length, other }) => {
            put(HOST + *kind as u8, &[*page, *offset, *length, *other]);
        }
    }
}

#[cfg(test)]
mod tests;
