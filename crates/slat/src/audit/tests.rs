//! Each violation alone, the edges of each range, and spaces against a naive audit page by page.

use super::*;
use crate::addr::PAGE_SIZE;
use crate::format::Format;
use crate::format::stage2::Stage2;
use crate::space::tests::{
    GIB1, KIB4, MIB2, RW, RWX, ept_formats, formats, gpa, gstage_formats, hpa, npt_formats,
};
use crate::space::{AddrSpace, AllocOptions, SharedId, SharedMemory};
use crate::test_util::HeapHal;
use std::string::ToString;
use std::vec::Vec;

type Space<'h, F = Stage2> = AddrSpace<&'h HeapHal, F>;

fn space(hal: &HeapHal) -> Space<'_> {
    AddrSpace::with_format(hal, Stage2::default(), gpa(0), 8 * GIB1, 5).expect("a root")
}

fn host_range(start: u64, size: u64) -> HostPhysRange {
    HostPhysRange::new(hpa(start), size).expect("valid")
}

fn guest_range(start: u64, size: u64) -> GuestPhysRange {
    GuestPhysRange::new(gpa(start), size).expect("valid")
}

fn site(space: usize, guest: u64, host: u64, size: u64) -> AuditSite {
    AuditSite { space, gpa: guest_range(guest, size), hpa: host_range(host, size) }
}

fn audited(space: &dyn Audited) -> AuditedSpace<'_> {
    AuditedSpace { space, write_xor_execute: false }
}

/// All violations; the counts agree, and one record less is too few.
fn violations(
    spaces: &[AuditedSpace<'_>],
    reserved: &[HostPhysRange],
    shared: &[HostPhysRange],
) -> Vec<AuditViolation> {
    let audit = Audit { spaces, reserved, shared };
    let needed = audit.records();
    let mut found = Vec::new();
    let mut scratch = std::vec![AuditRecord::default(); needed];
    let count = audit.run(&mut scratch, |violation| found.push(violation)).expect("room enough");
    assert_eq!(count, found.len());
    if needed > 0 {
        let few = audit.run(&mut scratch[1..], |violation| panic!("{violation}"));
        assert_eq!(few, Err(AuditError::TooFewRecords { given: needed - 1, needed }));
    }
    // What the scratch holds beforehand, and how much there is of it, changes nothing.
    let mut more = std::vec![AuditRecord { start: 0, end: u64::MAX, ..scratch.first().copied().unwrap_or_default() }; needed + 3];
    let mut again = Vec::new();
    assert_eq!(audit.run(&mut more, |violation| again.push(violation)), Ok(count));
    assert_eq!(again, found);
    found
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(violations(&[], &[], &[]), []);
    let hal = HeapHal::new();
    let (mut one, mut other) = (space(&hal), space(&hal));
    for space in [&mut one, &mut other] {
        space.map_alloc(gpa(0), 0x8000, RWX, true).expect("free");
        space.map_alloc(gpa(GIB1), MIB2, RWX, true).expect("free");
    }
    one.map_linear(gpa(0x10_0000), hpa(0x10_0000), 0x2000, RW).expect("free");
    other.map_linear(gpa(0x10_0000), hpa(0x10_2000), 0x2000, RW).expect("free");
    let reserved = [host_range(0x10_4000, 0x1000), host_range(0xf_f000, 0x1000)];
    assert_eq!(violations(&[audited(&one), audited(&other)], &reserved, &[]), []);
}

#[test]
fn shared_memory_has_two_writers_and_frames_of_its_own() {
    let hal = HeapHal::new();
    let memory = SharedMemory::new(&hal, 4 * KIB4).expect("memory");
    let (mut one, mut other) = (space(&hal), space(&hal));
    one.map_shared(gpa(0), &memory, 0, 4 * KIB4, RW, true).expect("free");
    other.map_shared(gpa(GIB1), &memory, KIB4, 2 * KIB4, RW, true).expect("free");
    assert_eq!(violations(&[audited(&one), audited(&other)], &[], &[]), []);
    // Everything that the host handed out and no guest has is told as the spaces' own.
    let (mut own, mut guests) = (0, 0);
    one.holdings(&mut |holding| match holding {
        Holding::OwnFrames(range) => own += range.size() / PAGE_SIZE,
        Holding::Leaf(leaf) => guests += leaf.hpa.size() / PAGE_SIZE,
    });
    let stats = one.stats();
    let kept = stats.table.table_frames + stats.region_frames as u64 + stats.shared_frames as u64;
    assert_eq!((own, guests), (kept + memory.frames() - 4, 4));
    // What keeps the memory, mapped by mistake.
    let mut frames = Vec::new();
    one.holdings(&mut |holding| {
        if let Holding::OwnFrames(range) = holding {
            frames.push(range.start());
        }
    });
    for frame in frames {
        other.map_linear(gpa(0), frame, KIB4, MappingFlags::READ).expect("free");
        let found = violations(&[audited(&one), audited(&other)], &[], &[]);
        assert!(matches!(found[..], [AuditViolation::TableReachable { .. }, ..]), "{frame:?}: {found:?}");
        other.unmap(gpa(0), KIB4).expect("mapped");
    }
}

#[test]
fn reserved_memory_is_found_to_the_byte() {
    let hal = HeapHal::new();
    let mut guest = space(&hal);
    guest.map_linear(gpa(0x8000), hpa(0x10_0000), 0x4000, MappingFlags::READ).expect("free");
    let found = |start, size| violations(&[audited(&guest)], &[host_range(start, size)], &[]);
    assert_eq!(found(0xf_f000, 0x1000), []);
    assert_eq!(found(0x10_4000, 0x1000), []);
    let reserved = |guest, host, size| [AuditViolation::Reserved(site(0, guest, host, size))];
    assert_eq!(found(0xf_f000, 0x1001), reserved(0x8000, 0x10_0000, 1));
    assert_eq!(found(0x10_3fff, 0x1000), reserved(0xbfff, 0x10_3fff, 1));
    assert_eq!(found(0x10_1000, 0x1000), reserved(0x9000, 0x10_1000, 0x1000));
    assert_eq!(found(0, GIB1), reserved(0x8000, 0x10_0000, 0x4000));
    assert_eq!(found(0x10_0000, 0x4000), reserved(0x8000, 0x10_0000, 0x4000));
    let two = [host_range(0x10_3000, 0x1000), host_range(0x10_0000, 0x1000)];
    let wanted = [site(0, 0x8000, 0x10_0000, 0x1000), site(0, 0xb000, 0x10_3000, 0x1000)];
    assert_eq!(violations(&[audited(&guest)], &two, &[]), wanted.map(AuditViolation::Reserved));
    assert_eq!(violations(&[], &two, &two), [], "ranges are nothing to each other");
}

#[test]
fn two_writers_are_found_and_readers_are_not() {
    let hal = HeapHal::new();
    let [mut one, mut other, mut reader] = [(); 3].map(|()| space(&hal));
    one.map_linear(gpa(0x1000), hpa(0x10_0000), 0x4000, RW).expect("free");
    other.map_linear(gpa(0x8000), hpa(0x10_2000), 0x4000, RW).expect("free");
    reader.map_linear(gpa(0), hpa(0x10_0000), 0x6000, MappingFlags::READ).expect("free");
    let two = |first, second| [AuditViolation::TwoWriters { first, second }];
    let wanted = two(site(1, 0x3000, 0x10_2000, 0x2000), site(2, 0x8000, 0x10_2000, 0x2000));
    assert_eq!(violations(&[audited(&reader), audited(&one), audited(&other)], &[], &[]), wanted);
    let third = violations(&[audited(&one), audited(&other), audited(&other)], &[], &[]);
    assert_eq!(third.len(), 3, "each pair: {third:?}");
    other.protect(gpa(0x8000), 0x1000, MappingFlags::READ).expect("mapped");
    let wanted = two(site(0, 0x4000, 0x10_3000, 0x1000), site(1, 0x9000, 0x10_3000, 0x1000));
    assert_eq!(violations(&[audited(&one), audited(&other)], &[], &[]), wanted);
    other.protect(gpa(0x8000), 0x4000, MappingFlags::empty()).expect("mapped");
    assert_eq!(violations(&[audited(&one), audited(&other)], &[], &[]), [], "nobody reaches it");
}

#[test]
fn what_is_declared_may_have_two_writers_and_what_lies_beside_it_may_not() {
    let hal = HeapHal::new();
    let (mut one, mut other) = (space(&hal), space(&hal));
    one.map_linear(gpa(0), hpa(0x10_0000), 0x8000, RW).expect("free");
    other.map_linear(gpa(0x2_0000), hpa(0x10_0000), 0x8000, RW).expect("free");
    let found = |shared: &[(u64, u64)]| {
        let shared: Vec<_> = shared.iter().map(|(start, size)| host_range(*start, *size)).collect();
        let found = violations(&[audited(&one), audited(&other)], &[], &shared);
        let piece = |violation: &AuditViolation| match violation {
            AuditViolation::TwoWriters { first, second } => {
                assert_eq!(first.hpa, second.hpa);
                let (start, size) = (first.hpa.start().as_u64(), first.hpa.size());
                assert_eq!(*first, site(0, start - 0x10_0000, start, size));
                assert_eq!(*second, site(1, start - 0x10_0000 + 0x2_0000, start, size));
                (start, size)
            }
            other => panic!("{other}"),
        };
        found.iter().map(piece).collect::<Vec<_>>()
    };
    assert_eq!(found(&[(0x10_0000, 0x8000)]), []);
    assert_eq!(found(&[(0, GIB1)]), []);
    assert_eq!(found(&[]), [(0x10_0000, 0x8000)]);
    assert_eq!(found(&[(0xf_0000, 0x1_0000), (0x10_8000, 0x1000)]), [(0x10_0000, 0x8000)]);
    assert_eq!(found(&[(0x10_0000, 0x7000)]), [(0x10_7000, 0x1000)]);
    assert_eq!(found(&[(0x10_1000, 0x7000)]), [(0x10_0000, 0x1000)]);
    // Out of order, overlapping, touching, one in another.
    let middle = [(0x10_3000, 0x1000), (0x10_2000, 0x1000), (0x10_2000, 0x800), (0x10_3800, 0x1800)];
    assert_eq!(found(&middle), [(0x10_0000, 0x2000), (0x10_5000, 0x3000)]);
    let nested = [(0x10_1000, 0x4000), (0x10_2000, 0x1000), (0x10_6000, 0x1000)];
    assert_eq!(found(&nested), [(0x10_0000, 0x1000), (0x10_5000, 0x1000), (0x10_7000, 0x1000)]);
    let all = [(0x10_0000, 0x4000), (0x10_4000, 0x4000)];
    assert_eq!(found(&all), [], "two that touch are one");
    // Declaring makes nothing reachable that is not.
    let shared = [host_range(0x10_0000, 0x8000)];
    let reserved = violations(&[audited(&one)], &shared, &shared);
    assert_eq!(reserved, [AuditViolation::Reserved(site(0, 0, 0x10_0000, 0x8000))]);
}

#[test]
fn every_frame_that_a_space_keeps_is_out_of_reach() {
    let hal = HeapHal::new();
    let mut victim = space(&hal);
    victim.map_alloc(gpa(0), 0x8000, RW, true).expect("free");
    victim.map_alloc(gpa(GIB1), 0x4000, RW, true).expect("free");
    victim.top_up(2).expect("memory");
    let mut frames = Vec::new();
    victim.holdings(&mut |holding| {
        if let Holding::OwnFrames(range) = holding {
            let pages = range.size() / PAGE_SIZE;
            frames.extend((0..pages).map(|page| range.start().as_u64() + page * PAGE_SIZE));
        }
    });
    let stats = victim.stats();
    assert!(stats.spare_frames > 0 && stats.region_frames > 0 && stats.table.table_frames > 2);
    let kept = stats.table.table_frames as usize + stats.region_frames + stats.spare_frames;
    assert_eq!(frames.len(), kept);
    assert_eq!(frames.len() + stats.table.owned_frames as usize, hal.in_use(), "and nothing else");
    let other_hal = HeapHal::new();
    // Frames of another host have the same numbers here: this one must have none that it could reach.
    let mut attacker: Space<'_> =
        AddrSpace::with_format(&other_hal, Stage2::default(), gpa(0), GIB1, 0).expect("a root");
    for frame in &frames {
        attacker.map_linear(gpa(0x1000), hpa(*frame), KIB4, MappingFlags::READ).expect("free");
        let found = violations(&[audited(&victim), audited(&attacker)], &[], &[]);
        let owner = 0;
        let wanted = AuditViolation::TableReachable { site: site(1, 0x1000, *frame, KIB4), owner };
        assert!(found.contains(&wanted), "{frame:#x}: {found:?}");
        let of_victim = |violation: &&AuditViolation| {
            matches!(violation, AuditViolation::TableReachable { owner: 0, .. })
        };
        assert_eq!(found.iter().filter(of_victim).count(), 1, "{found:?}");
        attacker.unmap(gpa(0x1000), KIB4).expect("mapped");
    }
    // Its own table, too.
    let root = victim.root();
    victim.map_linear(gpa(2 * GIB1), root, 2 * KIB4, RW).expect("free");
    let found = violations(&[audited(&victim)], &[], &[]);
    let wanted = site(0, 2 * GIB1, root.as_u64(), 2 * KIB4);
    assert_eq!(found, [AuditViolation::TableReachable { site: wanted, owner: 0 }], "both frames of the root");
}

#[test]
fn a_frame_that_was_handed_out_twice_is_found() {
    let hal = HeapHal::new();
    let mut guest = space(&hal);
    guest.map_alloc(gpa(0), 0x3000, RW, true).expect("free");
    let frame = guest.translate(gpa(0x1000)).expect("populated");
    guest.map_linear(gpa(0x8000), frame, KIB4, RW).expect("free");
    let (first, second) = (site(0, 0x1000, frame.as_u64(), KIB4), site(0, 0x8000, frame.as_u64(), KIB4));
    assert_eq!(violations(&[audited(&guest)], &[], &[]), [AuditViolation::Aliased { first, second }]);
    guest.protect(gpa(0x8000), KIB4, MappingFlags::READ).expect("mapped");
    assert_eq!(violations(&[audited(&guest)], &[], &[]), [], "only one of them can write");
    // The caller's own memory may be mapped twice.
    guest.map_linear(gpa(0x1_0000), hpa(0x1000), KIB4, RW).expect("free");
    guest.map_linear(gpa(0x2_0000), hpa(0x1000), KIB4, RW).expect("free");
    assert_eq!(violations(&[audited(&guest)], &[], &[]), []);
}

#[test]
fn write_and_execute_are_found_where_asked() {
    fn check<F: Format>(format: F) {
        let hal = HeapHal::new();
        let mut guest = Space::with_format(&hal, format, gpa(0), GIB1, 0).expect("a root");
        let fetches = [MappingFlags::EXECUTE, MappingFlags::USER, MappingFlags::EXECUTE | MappingFlags::USER];
        let kinds = [RW, MappingFlags::READ];
        let mut wanted = Vec::new();
        let mut at = 0;
        for fetch in fetches {
            for kind in kinds {
                let host = 0x1000_0000 + at;
                if guest.map_linear(gpa(at), hpa(host), KIB4, kind | fetch).is_ok() {
                    let executes = fetch.contains(MappingFlags::EXECUTE) || format.separates_user_execute();
                    if executes && kind == RW {
                        wanted.push(AuditViolation::WriteAndExecute(site(0, at, host, KIB4)));
                    }
                }
                at += 2 * KIB4;
            }
        }
        let asked = AuditedSpace { space: &guest, write_xor_execute: true };
        assert!(!wanted.is_empty());
        assert_eq!(violations(&[asked], &[], &[]), wanted, "{format:?}");
        let other = Space::with_format(&hal, format, gpa(0), GIB1, 0).expect("a root");
        let other = AuditedSpace { space: &other, write_xor_execute: true };
        assert_eq!(violations(&[audited(&guest), other], &[], &[]), [], "not asked of this one");
    }
    formats().into_iter().for_each(check);
    let xnx = crate::format::stage2::Features { xnx: true, ..crate::format::stage2::Features::BASELINE };
    check(Stage2::new(xnx, Some(39)).expect("in range"));
    ept_formats().into_iter().for_each(check);
    npt_formats().into_iter().for_each(check);
    gstage_formats().into_iter().for_each(check);
}

#[test]
fn a_forgotten_debt_is_told_until_it_is_discharged() {
    let hal = HeapHal::new();
    let mut guest = space(&hal);
    guest.map_alloc(gpa(0), 2 * MIB2, RW, true).expect("free");
    guest.map_alloc(gpa(GIB1), MIB2 + 0x4000, RW, true).expect("free");
    // A table that is unmapped whole: its leaves stay as they are.
    let small = AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
    guest.map_alloc_with(gpa(3 * GIB1), MIB2, RW, small).expect("free");
    let tables = guest.stats().table.table_frames;
    let mut debt = guest.defer();
    debt.unmap(gpa(GIB1), MIB2 + 0x4000).expect("mapped");
    debt.unmap(gpa(3 * GIB1), MIB2).expect("mapped");
    debt.protect(gpa(0x3000), KIB4, MappingFlags::READ).expect("mapped");
    std::mem::forget(debt);
    let found = violations(&[audited(&space(&hal)), audited(&guest)], &[], &[]);
    assert!(!found.is_empty());
    for violation in &found {
        let AuditViolation::Unsettled { space: 1, gpa } = violation else { panic!("{violation}") };
        assert!(guest.owed().contains(gpa));
    }
    assert_eq!(found.len(), guest.owed().len());
    // Retired tables, and the one that waits for its place, are still the space's, their leaves only where a walk gets.
    let (mut frames, mut pages) = (0, 0);
    guest.holdings(&mut |holding| match holding {
        Holding::OwnFrames(range) => frames += range.size() / PAGE_SIZE,
        Holding::Leaf(leaf) => {
            assert!(leaf.gpa.end() <= gpa(2 * MIB2), "{leaf:?} was unmapped");
            pages += leaf.gpa.size() / PAGE_SIZE;
        }
    });
    assert_eq!(pages, 1024);
    assert_eq!(frames, guest.stats().table.table_frames + guest.stats().region_frames as u64);
    assert_eq!(guest.stats().table.table_frames, tables + 1);
    guest.protect(gpa(0x3000), KIB4, RW).expect("mapped");
    assert_eq!(violations(&[audited(&guest)], &[], &[]), []);
    assert_eq!(guest.owed(), []);
}

#[test]
fn holdings_are_the_leaves_with_their_regions() {
    fn check<F: Format>(format: F) {
        let hal = HeapHal::new();
        let mut guest = Space::with_format(&hal, format, gpa(0), 8 * GIB1, 0).expect("a root");
        guest.map_linear(gpa(MIB2 - KIB4), hpa(3 * MIB2 - KIB4), MIB2 + 2 * KIB4, RW).expect("free");
        guest.map_alloc(gpa(4 * GIB1), 3 * KIB4, MappingFlags::READ, true).expect("free");
        guest.map_linear(gpa(4 * GIB1 + 3 * KIB4), hpa(0x5000), KIB4, RW).expect("free");
        guest.map_linear(gpa(5 * GIB1), hpa(GIB1), GIB1, RW).expect("free");
        guest.map_linear(gpa(7 * GIB1), hpa(0x9000), KIB4, MappingFlags::empty()).expect("free");
        let mut leaves = Vec::new();
        guest.holdings(&mut |holding| {
            if let Holding::Leaf(leaf) = holding {
                leaves.push(leaf);
            }
        });
        let mappings: Vec<_> =
            guest.mappings(guest.range()).filter(|mapping| mapping.flags.is_accessible()).collect();
        assert_eq!(leaves.len(), mappings.len());
        for (leaf, mapping) in leaves.iter().zip(mappings) {
            let hpa = host_range(mapping.hpa.as_u64(), mapping.size.bytes());
            let region = guest.region(mapping.gpa).expect("a region");
            let wanted = ReachableLeaf {
                gpa: mapping.range(),
                hpa,
                size: mapping.size,
                flags: mapping.flags,
                executable: false,
                owned: mapping.owned,
                backend: Some(region.backend),
            };
            assert_eq!(*leaf, wanted);
        }
    }
    formats().into_iter().for_each(check);
    ept_formats().into_iter().for_each(check);
    npt_formats().into_iter().for_each(check);
    gstage_formats().into_iter().for_each(check);
}

#[test]
fn runs_take_few_records() {
    let hal = HeapHal::new();
    let mut guest = space(&hal);
    let records =
        |space: &Space<'_>| Audit { spaces: &[audited(space)], reserved: &[], shared: &[] }.records();
    let empty = records(&guest);
    guest.map_linear(gpa(0x1000), hpa(0x10_1000), 0x3000, RW).expect("free");
    // Two tables, which this host never hands out side by side, and a node of regions.
    assert_eq!(records(&guest), empty + 2 + 1 + 1);
    guest.map_linear(gpa(0x4000), hpa(0x10_4000), 0x3000, RW).expect("free");
    assert_eq!(records(&guest), empty + 4, "another region that goes on");
    guest.map_linear(gpa(0x8000), hpa(0x10_7000), 0x1000, RW).expect("free");
    assert_eq!(records(&guest), empty + 5, "not for the guest");
    guest.map_linear(gpa(0x9000), hpa(0x10_9000), 0x1000, RW).expect("free");
    assert_eq!(records(&guest), empty + 6, "not for the host");
    guest.map_linear(gpa(0xa000), hpa(0x10_a000), 0x1000, MappingFlags::READ).expect("free");
    assert_eq!(records(&guest), empty + 7, "not with the same permissions");
    let ranges = [host_range(0, 1), host_range(0, 1)];
    assert_eq!(Audit { spaces: &[], reserved: &ranges, shared: &ranges[..1] }.records(), 3);
}

/// A leaf of shared memory, which is known as such by its region.
fn shared_leaf(space: u32, guest: u64, backend: Option<Backend>) -> AuditRecord {
    let leaf = ReachableLeaf {
        gpa: guest_range(guest, KIB4),
        hpa: host_range(0x9000, KIB4),
        size: LeafSize::Size4K,
        flags: RW,
        executable: false,
        owned: true,
        backend,
    };
    AuditRecord::of_leaf(space, &leaf)
}

#[test]
fn shared_memory_is_declared_by_itself_among_its_kind() {
    let shared = Some(Backend::Shared { memory: SharedId(0), offset: 0 });
    let found = |one: AuditRecord, other: AuditRecord| {
        let mut found = Vec::new();
        record::judge_pair(&one, &other, &[], &mut |violation| found.push(violation));
        found
    };
    assert_eq!(found(shared_leaf(0, 0, shared), shared_leaf(1, 0x1000, shared)), []);
    assert_eq!(
        found(shared_leaf(0, 0, shared), shared_leaf(0, 0x1000, shared)),
        [],
        "nor twice in one space"
    );
    let (first, second) = (site(0, 0, 0x9000, KIB4), site(1, 0x1000, 0x9000, KIB4));
    let linear = Some(Backend::Linear { hpa: hpa(0x9000) });
    let two = [AuditViolation::TwoWriters { first, second }];
    assert_eq!(found(shared_leaf(0, 0, shared), shared_leaf(1, 0x1000, linear)), two);
    assert_eq!(found(shared_leaf(0, 0, None), shared_leaf(1, 0x1000, shared)), two);
    let second = AuditSite { space: 0, ..second };
    let aliased = [AuditViolation::Aliased { first, second }];
    assert_eq!(found(shared_leaf(0, 0, shared), shared_leaf(0, 0x1000, None)), aliased);
}

#[test]
fn records_are_in_the_order_of_their_addresses_behind_what_is_declared() {
    let leaf = shared_leaf(1, 0x1000, None);
    let declared = AuditRecord::of_range(host_range(0xf000, 1), Traits::DECLARED);
    assert!(declared < leaf);
    assert!(leaf < AuditRecord { start: 0x9001, ..leaf });
    assert!(leaf < AuditRecord { space: 2, gpa: 0, ..leaf });
    assert!(leaf < AuditRecord { gpa: 0x2000, ..leaf });
    assert_eq!(leaf.partial_cmp(&leaf), Some(core::cmp::Ordering::Equal));
    assert_eq!(declared.range(), host_range(0xf000, 1));
}

#[test]
fn violations_as_text_say_where() {
    let (first, second) = (site(0, 0x1000, 0x9000, KIB4), site(1, 0x2000, 0x9000, KIB4));
    let (one, other) =
        ("space 0 at 0x1000..0x2000 -> 0x9000..0xa000", "space 1 at 0x2000..0x3000 -> 0x9000..0xa000");
    let texts = [
        (AuditViolation::Reserved(first), std::format!("{one} reaches memory that is reserved for the host")),
        (
            AuditViolation::TwoWriters { first, second },
            std::format!("{one} and {other} are both writable, and not declared as shared"),
        ),
        (
            AuditViolation::Aliased { first, second },
            std::format!("{one} and {other} are two ways to write to an owned frame"),
        ),
        (
            AuditViolation::TableReachable { site: first, owner: 7 },
            std::format!("{one} reaches frames that space 7 keeps for itself"),
        ),
        (AuditViolation::WriteAndExecute(first), std::format!("{one} is both writable and executable")),
        (
            AuditViolation::Unsettled { space: 3, gpa: first.gpa },
            "space 3 at 0x1000..0x2000 waits for an invalidation".into(),
        ),
    ];
    for (violation, text) in texts {
        assert_eq!(violation.to_string(), text);
    }
    let error = AuditError::TooFewRecords { given: 3, needed: 5 };
    assert_eq!(error.to_string(), "3 records were lent, 5 are needed");
}

#[test]
fn spaces_of_all_formats_are_audited_together() {
    let hal = HeapHal::new();
    let options = AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
    let mut arm: Space<'_> = space(&hal);
    let mut intel = Space::with_format(&hal, ept_formats()[0], gpa(0), GIB1, 0).expect("a root");
    let mut amd = Space::with_format(&hal, npt_formats()[0], gpa(0), GIB1, 1).expect("a root");
    let mut riscv = Space::with_format(&hal, gstage_formats()[0], gpa(0), GIB1, 0).expect("a root");
    arm.map_alloc_with(gpa(0), 0x4000, RW, options).expect("free");
    intel.map_alloc_with(gpa(0), 0x4000, RW, options).expect("free");
    let stolen = arm.translate(gpa(0x2000)).expect("populated");
    amd.map_linear(gpa(0x7000), stolen, KIB4, RW).expect("free");
    riscv.map_linear(gpa(0x5000), intel.root(), KIB4, RW).expect("free");
    let spaces: [&dyn Audited; 4] = [&arm, &intel, &amd, &riscv];
    let found = violations(&spaces.map(audited), &[], &[]);
    let wanted = [
        AuditViolation::TwoWriters {
            first: site(0, 0x2000, stolen.as_u64(), KIB4),
            second: site(2, 0x7000, stolen.as_u64(), KIB4),
        },
        AuditViolation::TableReachable { site: site(3, 0x5000, intel.root().as_u64(), KIB4), owner: 1 },
    ];
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(wanted.iter().all(|violation| found.contains(violation)), "{found:?}");
}
