//! Random operations: mostly what finds something to do, now and then something that must be refused.

use super::{ACCESSES, BatchEnd, Command, HostAccess, HostAccessKind, Operation, Step};
use crate::random::Random;
use crate::shape::Span;
use slat::{LeafSize, LogUnit, MappingFlags};

const ALL: MappingFlags = MappingFlags::PERMISSIONS;
const READ_WRITE: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

/// Flags that a random operation asks for; those of ordinary guest memory stand there more than once.
const FLAGS: [MappingFlags; 16] = [
    ALL,
    ALL,
    ALL,
    READ_WRITE,
    READ_WRITE,
    MappingFlags::READ,
    MappingFlags::READ,
    MappingFlags::READ.union(MappingFlags::EXECUTE),
    MappingFlags::empty(),
    READ_WRITE.union(MappingFlags::UNCACHED),
    READ_WRITE.union(MappingFlags::DEVICE),
    READ_WRITE.union(MappingFlags::DEVICE).union(MappingFlags::UNCACHED),
    MappingFlags::EXECUTE,
    MappingFlags::WRITE,
    MappingFlags::READ.union(MappingFlags::USER),
    MappingFlags::USER,
];

/// A random command: mostly what finds something to do, now and then something that must be refused.
pub fn random(random: &mut Random) -> Command {
    let space = random.choose(&[0, 0, 0, 0, 0, 0, 1, 2]);
    Command { space, operation: random_operation(random) }
}

fn random_span(random: &mut Random) -> Span {
    // Half of them three intervals beside each other, so that what is mapped is often what is unmapped.
    if random.one_in(2) {
        return Span { first: 3 * random.below(80) as u8, length: 2 };
    }
    // The others mostly short, sometimes all the way to the end.
    let length = random.choose(&[0, 0, 0, 1, 1, 2, 3, 4, 6, 8, 11]);
    Span { first: random.below(240) as u8, length }
}

fn random_flags(random: &mut Random) -> MappingFlags {
    if random.one_in(40) {
        MappingFlags::from_bits_truncate(random.number() as u8)
    } else {
        random.choose(&FLAGS)
    }
}

fn random_leaf(random: &mut Random) -> LeafSize {
    random.choose(&[LeafSize::Size4K, LeafSize::Size2M, LeafSize::Size2M, LeafSize::Size1G])
}

fn random_host_access(random: &mut Random, page: u8) -> Operation {
    Operation::Host(HostAccess {
        kind: random.choose(&HostAccessKind::ALL),
        page,
        offset: random.below(240) as u8,
        length: random.below(240) as u8,
        other: random.below(256) as u8,
    })
}

fn random_operation(random: &mut Random) -> Operation {
    let (cpu, page) = (random.below(4) as u8, random.below(240) as u8);
    if random.one_in(8) {
        return random_lending(random);
    }
    if random.one_in(30) {
        return random_paging(random, Span { first: 0, length: 11 });
    }
    if random.one_in(12) {
        return random_fork(random);
    }
    if random.one_in(20) {
        return random_logging(random, Span { first: 0, length: 11 });
    }
    match random.below(100) {
        0..8 => Operation::MapLinear {
            span: random_span(random),
            flags: random_flags(random),
            shift: random.choose(&[0, 0, 1, 2]),
        },
        8..12 => Operation::MapPaged { span: random_span(random), flags: random_flags(random) },
        12..24 => Operation::MapAlloc {
            span: random_span(random),
            flags: random_flags(random),
            populate: random.one_in(2),
            largest: random_leaf(random),
            around: random.choose(&[LeafSize::Size4K, LeafSize::Size4K, LeafSize::Size2M]),
        },
        24..34 => Operation::Unmap(random_span(random)),
        34..46 => Operation::Protect(random_span(random), random_flags(random)),
        46..50 => Operation::Fault { cpu, page, access: random.choose(&ACCESSES) },
        50..70 => Operation::Access { cpu, page, access: random.choose(&ACCESSES) },
        70..78 => random_host_access(random, page),
        78..82 => Operation::Migrate(random_span(random)),
        82..85 => Operation::Collapse(Span { first: random.below(240) as u8, length: 11 }),
        85..88 => Operation::Populate(random_span(random)),
        88..89 => Operation::TopUp(random.below(3) as u8),
        89..97 => {
            let steps = (0..=random.below(3)).map(|_| {
                if random.one_in(2) {
                    Step::Unmap(random_span(random))
                } else {
                    Step::Protect(random_span(random), random_flags(random))
                }
            });
            let steps = steps.collect();
            let end = if random.one_in(4) { BatchEnd::Forget } else { BatchEnd::Discharge };
            Operation::Batch(steps, end)
        }
        97 => Operation::Clear,
        98 => Operation::Drop,
        _ => Operation::Refused(random.below(256) as u8),
    }
}

/// What has to do with frames that are not simply the space's, or that must stay.
fn random_lending(random: &mut Random) -> Operation {
    let (span, flags) = (random_span(random), random_flags(random));
    match random.below(10) {
        0 => Operation::MapTrap(span, random.number() as u8),
        1..4 => Operation::MapCustom { span, flags, source: random.below(3) as u8 },
        4..7 => {
            let (populate, memory, page) = (random.one_in(2), random.below(2) as u8, random.below(20) as u8);
            if !populate && page % 3 > 0 {
                return Operation::MapPrivate { span, flags, memory, page };
            }
            Operation::MapShared { span, flags, memory: u8::from(populate) << 7 | memory, page }
        }
        7 => Operation::Pin(span),
        8 => Operation::Unpin(span),
        _ => Operation::Discard(span),
    }
}

/// An operation on a space most of which is paged: `whole` if there is nothing else.
pub(crate) fn random_paging(random: &mut Random, whole: Span) -> Operation {
    let (cpu, page) = (random.below(4) as u8, random.below(240) as u8);
    // Most of the time the pager takes everything.
    let refused = random.choose(&[255, 255, 255, 0, 1, 2]);
    match random.below(16) {
        0..7 => Operation::Access { cpu, page, access: random.choose(&ACCESSES[..2]) },
        7 => random_host_access(random, page),
        8 => Operation::Populate(random_span(random)),
        9..12 => Operation::PageOut(if random.one_in(3) { whole } else { random_span(random) }, refused),
        12..15 => Operation::Evict {
            most: random.choose(&[1, 2, 5, 200]),
            looks: random.choose(&[255, 255, 1, 3]),
            refused,
        },
        _ => Operation::MapPaged {
            span: if random.one_in(2) { whole } else { random_span(random) },
            flags: ALL,
        },
    }
}

/// An operation on a space most of which is logged: `whole` if there is nothing else.
pub(crate) fn random_logging(random: &mut Random, whole: Span) -> Operation {
    let (cpu, page) = (random.below(4) as u8, random.below(240) as u8);
    let span = if random.one_in(2) { whole } else { random_span(random) };
    match random.below(16) {
        0..5 => Operation::Access { cpu, page, access: random.choose(&ACCESSES[..2]) },
        5..7 => Operation::StartLog(span, random.choose(&[LogUnit::Page, LogUnit::Leaf])),
        7..11 => Operation::CollectLog(span, random.below(256) as u8),
        11 if random.one_in(3) => Operation::StopLog(span),
        11..14 => Operation::Scan(span, random.below(4) as u8),
        14 => Operation::Protect(random_span(random), random_flags(random)),
        _ => Operation::Populate(span),
    }
}

/// What has to do with forks and snapshots.
fn random_fork(random: &mut Random) -> Operation {
    match random.below(12) {
        0..5 => Operation::Fork { into: random.below(6) as u8 },
        5..7 => Operation::Snapshot,
        7..10 => Operation::Reset,
        10 => Operation::Consolidate,
        _ => Operation::SetInChildren(random_span(random), random.one_in(3)),
    }
}
