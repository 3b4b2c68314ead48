//! Events, as values and as words.

use super::refusal::Refusal;
use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::error::FaultError;
use crate::fault::FaultOutcome;
use crate::flags::{LeafSize, MappingFlags};
use crate::operation::Operation;
use crate::tlb::{Reach, Scope};
use core::fmt;

/// Words of an event in a ring.
pub(super) const WORDS: usize = 7;

/// Something that happened to a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// [`Hal::trace_time`](crate::Hal::trace_time) when it began.
    pub begin: u64,
    /// The same when it was over.
    pub end: u64,
    /// The CPU on which it ended, as [`Hal::tracer`](crate::Hal::tracer) named it.
    pub cpu: u16,
    /// The tag (VMID) of the space; 0 in an event of the host's.
    pub tag: u16,
    /// The root table of the space, which tells spaces apart while they live; 0 in an event of the host's.
    pub root: HostPhysAddr,
    /// What it was.
    pub what: What,
}

/// What an [`Event`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// A fault of the guest, answered by [`handle_page_fault`](crate::AddrSpace::handle_page_fault) or its like.
    Fault {
        /// The address, as it was given.
        gpa: GuestPhysAddr,
        /// What the guest tried, as it was given.
        access: MappingFlags,
        /// How it ended.
        answer: FaultAnswer,
        /// The leaf that was mapped, where one was.
        leaf: Option<LeafSize>,
    },
    /// A structural operation; its invalidation, if it has one, is an event of its own, and ends before.
    Operation {
        /// Which.
        operation: Operation,
        /// The first address, as it was given; that of the space where all of it is concerned.
        start: GuestPhysAddr,
        /// Bytes, as they were given.
        size: u64,
        /// What it returned: the number of pages or leaves that it counts, 0 where it counts none; or why it changed
        /// nothing.
        result: Result<u64, Refusal>,
    },
    /// An invalidation that the host was asked for, and its answer.
    Invalidation {
        /// What was to be forgotten.
        scope: InvalidationScope,
        /// By whom.
        reach: Reach,
        /// The first address of the first range; 0 unless the scope is of ranges.
        start: GuestPhysAddr,
        /// Bytes from there to the end of the last range; 0 unless the scope is of ranges.
        size: u64,
    },
    /// An event that the host put between them ([`Ring::record`](super::Ring::record)), in words of its own.
    Host {
        /// Which of the host's events.
        code: u8,
        /// What the host says of it.
        values: [u64; 3],
    },
}

macro_rules! names {
    ($(#[$meta:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $type {
            $($(#[$doc])* $variant,)*
        }

        impl $type {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// In words.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(super) use names;

names! {
    /// How a fault ended: [`FaultOutcome`] and [`FaultError`] without what they carry.
    FaultAnswer {
        /// [`FaultOutcome::Populated`].
        Populated "populated",
        /// [`FaultOutcome::Spurious`].
        Spurious "spurious",
        /// [`FaultOutcome::Marked`].
        Marked "marked",
        /// [`FaultOutcome::Copied`].
        Copied "copied",
        /// [`FaultOutcome::MadeWritable`].
        MadeWritable "made writable",
        /// [`FaultOutcome::Unshared`].
        Unshared "unshared",
        /// [`FaultOutcome::Retry`].
        Retry "to be repeated",
        /// [`FaultOutcome::Wait`].
        Wait "to be waited for",
        /// [`FaultOutcome::Trap`].
        Trap "for a device",
        /// [`FaultError::OutsideSpace`].
        OutsideSpace "outside of the space",
        /// [`FaultError::NoRegion`].
        NoRegion "no region",
        /// [`FaultError::Permission`].
        Permission "no permission",
        /// [`FaultError::NoSuchPage`].
        NoSuchPage "no such page",
        /// [`FaultError::BadFrame`].
        BadFrame "bad frame",
        /// [`FaultError::OutOfMemory`].
        OutOfMemory "out of memory",
    }
}

impl FaultAnswer {
    /// The answer, and the leaf that it tells of.
    pub(crate) fn of(answer: &Result<FaultOutcome, FaultError>) -> (Self, Option<LeafSize>) {
        match answer {
            Ok(FaultOutcome::Populated(leaf)) => (Self::Populated, Some(*leaf)),
            Ok(FaultOutcome::Spurious) => (Self::Spurious, None),
            Ok(FaultOutcome::Marked) => (Self::Marked, None),
            Ok(FaultOutcome::Copied(leaf)) => (Self::Copied, Some(*leaf)),
            Ok(FaultOutcome::MadeWritable) => (Self::MadeWritable, None),
            Ok(FaultOutcome::Unshared) => (Self::Unshared, None),
            Ok(FaultOutcome::Retry) => (Self::Retry, None),
            Ok(FaultOutcome::Wait) => (Self::Wait, None),
            Ok(FaultOutcome::Trap(_)) => (Self::Trap, None),
            Err(FaultError::OutsideSpace { .. }) => (Self::OutsideSpace, None),
            Err(FaultError::NoRegion(_)) => (Self::NoRegion, None),
            Err(FaultError::Permission { .. }) => (Self::Permission, None),
            Err(FaultError::NoSuchPage(_)) => (Self::NoSuchPage, None),
            Err(FaultError::BadFrame { .. }) => (Self::BadFrame, None),
            Err(FaultError::OutOfMemory(_)) => (Self::OutOfMemory, None),
        }
    }

    /// Whether the guest's access could not be answered: a [`FaultError`].
    #[must_use]
    pub const fn is_refused(self) -> bool {
        matches!(
            self,
            Self::OutsideSpace
                | Self::NoRegion
                | Self::Permission
                | Self::NoSuchPage
                | Self::BadFrame
                | Self::OutOfMemory
        )
    }
}

names! {
    /// What an invalidation drops: [`Scope`](crate::Scope) without the ranges.
    InvalidationScope {
        /// Some ranges.
        Ranges "ranges",
        /// All of the space.
        Space "the space",
        /// All spaces.
        AllSpaces "all spaces",
    }
}

impl What {
    /// An invalidation of this scope.
    pub(crate) fn invalidation(scope: Scope<'_>, reach: Reach) -> Self {
        let (scope, ranges) = match scope {
            Scope::Ranges { ranges, .. } => (InvalidationScope::Ranges, ranges),
            Scope::Space => (InvalidationScope::Space, &[][..]),
            Scope::AllSpaces => (InvalidationScope::AllSpaces, &[][..]),
        };
        let hull = ranges.iter().copied().reduce(|all, range| all.hull(range));
        let (start, size) = hull.map_or((GuestPhysAddr::new(0), 0), |hull| (hull.start(), hull.size()));
        Self::Invalidation { scope, reach, start, size }
    }
}

/// Leaf sizes as numbers: 0 is none.
const fn leaf_code(leaf: Option<LeafSize>) -> u8 {
    match leaf {
        None => 0,
        Some(size) => 1 + size.level(),
    }
}

impl Event {
    /// The words of the event. The third has, from bit 0 on, the kind, a code, two details of eight bits each, the CPU and the
    /// tag of sixteen.
    pub(super) fn encode(&self) -> [u64; WORDS] {
        let (kind, code, details, [a, b, c]) = match self.what {
            What::Fault { gpa, access, answer, leaf } => {
                (1, answer as u8, [access.bits(), leaf_code(leaf)], [gpa.as_u64(), 0, 0])
            }
            What::Operation { operation, start, size, result } => {
                let (refusal, amount) = match result {
                    Ok(amount) => (0, amount),
                    Err(refusal) => (1 + refusal as u8, 0),
                };
                (2, operation as u8, [refusal, 0], [start.as_u64(), size, amount])
            }
            What::Invalidation { scope, reach, start, size } => {
                let this_cpu = u8::from(reach == Reach::ThisCpu);
                (3, scope as u8, [this_cpu, 0], [start.as_u64(), size, 0])
            }
            What::Host { code, values } => (4, code, [0, 0], values),
        };
        let [first, second] = details.map(u64::from);
        let (cpu, tag) = (u64::from(self.cpu), u64::from(self.tag));
        let head = kind | u64::from(code) << 8 | first << 16 | second << 24 | cpu << 32 | tag << 48;
        [self.begin, self.end, head, a, b, c, self.root.as_u64()]
    }

    /// The event that these words are, if `encode` makes them of any.
    pub(super) fn decode(words: [u64; WORDS]) -> Option<Self> {
        let [begin, end, head, a, b, c, root] = words;
        let byte = |shift: u32| (head >> shift & 0xff) as u8;
        let (code, first) = (usize::from(byte(8)), usize::from(byte(16)));
        let start = GuestPhysAddr::new(a);
        let what = match byte(0) {
            1 => What::Fault {
                gpa: start,
                access: MappingFlags::from_bits(byte(16))?,
                answer: *FaultAnswer::ALL.get(code)?,
                leaf: byte(24).checked_sub(1).and_then(LeafSize::from_level),
            },
            2 => What::Operation {
                operation: *Operation::ALL.get(code)?,
                start,
                size: b,
                result: match first.checked_sub(1) {
                    None => Ok(c),
                    Some(refusal) => Err(*Refusal::ALL.get(refusal)?),
                },
            },
            3 => What::Invalidation {
                scope: *InvalidationScope::ALL.get(code)?,
                reach: if first == 0 { Reach::AllCpus } else { Reach::ThisCpu },
                start,
                size: b,
            },
            4 => What::Host { code: byte(8), values: [a, b, c] },
            _ => return None,
        };
        let (cpu, tag) = ((head >> 32) as u16, (head >> 48) as u16);
        let event = Self { begin, end, cpu, tag, root: HostPhysAddr::new(root), what };
        (event.encode() == words).then_some(event)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault { gpa, access, answer, leaf } => {
                write!(f, "fault `{access}` at {gpa:#x}: {answer}")?;
                leaf.map_or(Ok(()), |leaf| write!(f, ", {leaf}"))
            }
            Self::Operation { operation, start, size, result: Ok(amount) } => {
                write!(f, "{operation} {start:#x} + {size:#x}: done, {amount}")
            }
            Self::Operation { operation, start, size, result: Err(refusal) } => {
                write!(f, "{operation} {start:#x} + {size:#x}: {refusal}")
            }
            Self::Invalidation { scope, reach, start, size } => {
                let reach = match reach {
                    Reach::AllCpus => "on all CPUs",
                    Reach::ThisCpu => "on this CPU",
                };
                write!(f, "invalidation of {scope} {reach}")?;
                if *size == 0 { Ok(()) } else { write!(f, ": {start:#x} + {size:#x}") }
            }
            Self::Host { code, values } => write!(f, "host {code}: {values:x?}"),
        }
    }
}

impl fmt::Display for Event {
    /// One line: when it began, how long it took, where, and what it was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begin, end, cpu, tag, what, .. } = self;
        write!(f, "{begin} (+{}) CPU {cpu}, tag {tag}: {what}", end.wrapping_sub(*begin))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
