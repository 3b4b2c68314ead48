//! The tree against a map from page to what is there, with small nodes (so that it is high) and with those of a frame.

use super::*;
use crate::addr::HostPhysAddr;
use crate::addr::PAGE_SIZE;
use crate::flags::LeafSize;
use crate::test_util::{HeapHal, cases};
use std::collections::BTreeMap;
use std::vec::Vec;

/// A small generator: xorshift64*, any seed but zero.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index as u64 + 1) as usize);
        }
    }
}

const ALLOC: Backend = Backend::Alloc { largest_leaf: LeafSize::Size2M, fault_around: LeafSize::Size4K };

/// One page of a region.
fn page_of(region: &Region, page: u64) -> Region {
    let range = pages(page, 1);
    let offset = range.start().checked_offset_from(region.range.start()).expect("in it");
    Region { range, backend: region.backend.advanced(offset), ..*region }
}

fn pages(start: u64, pages: u64) -> GuestPhysRange {
    GuestPhysRange::new(GuestPhysAddr::new(start * PAGE_SIZE), pages * PAGE_SIZE).expect("valid")
}

fn region(start: u64, size: u64, flags: MappingFlags, backend: Backend) -> Region {
    Region::new(pages(start, size), flags, backend)
}

/// A page of its own: it is not one with its neighbours.
fn lone(page: u64) -> Region {
    region(page, 1, MappingFlags::READ, Backend::Linear { hpa: HostPhysAddr::new(page * 8 * PAGE_SIZE) })
}

fn put<const L: usize, const I: usize>(tree: &mut Tree<L, I>, hal: &HeapHal, region: Region) {
    tree.reserve(hal, 1).expect("memory");
    tree.insert(hal, region);
}

fn change<const L: usize, const I: usize>(
    tree: &mut Tree<L, I>,
    hal: &HeapHal,
    range: GuestPhysRange,
    change: impl FnMut(Region) -> Option<Region>,
) {
    tree.reserve(hal, 2).expect("memory");
    let cover = cover(tree, range);
    tree.update(hal, range, cover, change);
}

/// What covers a range, which may have holes here.
fn cover<const L: usize, const I: usize>(tree: &Tree<L, I>, range: GuestPhysRange) -> Cover {
    tree.cover(range).unwrap_or(Cover::NONE)
}

/// What is at each page, as a region of that page.
type Model = BTreeMap<u64, Region>;

/// The regions that a space of these pages should have.
fn joined(model: &Model) -> Vec<Region> {
    let mut all: Vec<Region> = Vec::new();
    for page in model.values() {
        match all.last_mut().and_then(|last| Some((last.joined(page)?, last))) {
            Some((joined, last)) => *last = joined,
            None => all.push(*page),
        }
    }
    all
}

fn check<const L: usize, const I: usize>(tree: &Tree<L, I>, hal: &HeapHal) {
    tree.check();
    assert_eq!(tree.frames(), hal.in_use());
}

/// Lets each allocation of a reservation fail once; each time nothing changes.
fn reserve_despite_failures<const L: usize, const I: usize>(
    tree: &mut Tree<L, I>,
    hal: &HeapHal,
    extra: usize,
) -> usize {
    let before = (hal.in_use(), tree.frames());
    for failures in 0.. {
        hal.fail_after(Some(failures));
        let result = tree.reserve(hal, extra);
        if result.is_ok() {
            // What follows must do without the host.
            hal.fail_after(Some(0));
            return failures;
        }
        assert_eq!((hal.in_use(), tree.frames()), before, "allocation {failures} failed");
    }
    unreachable!("a reservation ends")
}

const FLAGS: [MappingFlags; 3] =
    [MappingFlags::READ, MappingFlags::WRITE, MappingFlags::READ.union(MappingFlags::WRITE)];

fn step<const L: usize, const I: usize>(
    tree: &mut Tree<L, I>,
    model: &mut Model,
    hal: &HeapHal,
    random: &mut Random,
    window: u64,
) {
    // Mostly little ones, sometimes most of the window.
    let bound = match random.below(64) {
        0 => window / 2,
        1..10 => 20,
        _ => 3,
    };
    let size = 1 + random.below(bound);
    let start = random.below(window - size + 1);
    let (range, covered) = (pages(start, size), start..start + size);
    let flags = FLAGS[random.below(3) as usize];
    let seed = random.below(u64::MAX);
    let some = |start: u64| (start ^ seed) % 5 < 3;
    match random.below(10) {
        0..6 if model.range(covered.clone()).next().is_none() => {
            let backend = match random.below(3) {
                0 => Backend::Linear { hpa: HostPhysAddr::new((start + (1 << 20)) * PAGE_SIZE) },
                1 => Backend::Linear { hpa: HostPhysAddr::new(random.below(1 << 30) * PAGE_SIZE) },
                _ => ALLOC,
            };
            let new = region(start, size, flags, backend);
            reserve_despite_failures(tree, hal, 1);
            tree.insert(hal, new);
            model.extend(covered.map(|page| (page, page_of(&new, page))));
        }
        0..4 => {
            reserve_despite_failures(tree, hal, 2);
            let cover = cover(tree, range);
            tree.update(hal, range, cover, |region| Some(Region { flags, ..region }));
            model.range_mut(covered).for_each(|(_, page)| page.flags = flags);
        }
        // One region, as a whole.
        4..7 => {
            let Some(region) = tree.find(range.start()) else { return };
            reserve_despite_failures(tree, hal, 2);
            let cover = cover(tree, region.range);
            tree.remove(hal, region.range, cover);
            model.retain(|_, page| !region.range.contains_range(page.range));
        }
        7 => {
            reserve_despite_failures(tree, hal, 2);
            let cover = cover(tree, range);
            tree.remove(hal, range, cover);
            model.retain(|page, _| !covered.contains(page));
        }
        // Some regions go, the others change.
        _ => {
            let mut parts = Vec::new();
            reserve_despite_failures(tree, hal, 2);
            let cover = cover(tree, range);
            tree.update(hal, range, cover, |region| {
                parts.push(region.range);
                some(region.range.start().as_u64() / PAGE_SIZE).then_some(Region { flags, ..region })
            });
            for part in parts {
                let first = part.start().as_u64() / PAGE_SIZE;
                for page in first..first + part.size() / PAGE_SIZE {
                    if some(first) {
                        model.get_mut(&page).expect("mapped").flags = flags;
                    } else {
                        model.remove(&page);
                    }
                }
            }
        }
    }
    hal.fail_after(None);
}

/// Questions about random addresses and ranges.
fn ask<const L: usize, const I: usize>(
    tree: &Tree<L, I>,
    model: &Model,
    all: &[Region],
    random: &mut Random,
    window: u64,
) {
    let at = GuestPhysAddr::new(random.below(window * PAGE_SIZE));
    assert_eq!(tree.find(at), all.iter().find(|region| region.range.contains(at)).copied());
    let start = random.below(window);
    let size = 1 + random.below(window - start);
    let range = pages(start, size);
    let overlaps = |region: &&Region| region.range.intersection(range).is_some();
    assert!(tree.overlapping(range).eq(all.iter().filter(overlaps).copied()), "{range}");
    let hole = (start..start + size).find(|page| !model.contains_key(page));
    assert_eq!(tree.first_hole(range), hole.map(|page| GuestPhysAddr::new(page * PAGE_SIZE)));
}

fn random_changes<const L: usize, const I: usize>(window: u64, steps: usize) {
    for seed in 1..=4 {
        let hal = HeapHal::new();
        let mut random = Random(seed * 0x9e37_79b9);
        let (mut tree, mut model) = (Tree::<L, I>::new(), Model::new());
        let mut most = 0;
        for page in (0..window).filter(|page| page % 7 < 4) {
            model.insert(page, lone(page));
            put(&mut tree, &hal, lone(page));
        }
        for _ in 0..cases(steps) {
            step(&mut tree, &mut model, &hal, &mut random, window);
            check(&tree, &hal);
            let all = joined(&model);
            assert!(tree.iter().eq(all.iter().copied()), "{all:#?}");
            assert_eq!(tree.len(), all.len());
            ask(&tree, &model, &all, &mut random, window);
            most = most.max(tree.frames());
        }
        assert!(most > 5, "only {most} frames: the tree was never high");
        change(&mut tree, &hal, pages(0, window), |_| None);
        check(&tree, &hal);
        assert!(tree.len() == 0 && tree.frames() <= 1, "{} frames for nothing", tree.frames());
        tree.clear(&hal);
        assert_eq!((tree.frames(), hal.in_use()), (0, 0));
    }
}

#[test]
fn random_changes_match_a_map() {
    random_changes::<8, 8>(700, 3000);
    // Leaves and inner nodes that need very different numbers of entries at the least.
    random_changes::<9, 40>(2000, 700);
    random_changes::<40, 8>(2000, 700);
    random_changes::<LEAF, INNER>(4000, 1500);
}

fn orders(count: u64) -> [Vec<u64>; 3] {
    let mut shuffled: Vec<u64> = (0..count).collect();
    Random(5).shuffle(&mut shuffled);
    [(0..count).collect(), (0..count).rev().collect(), shuffled]
}

fn fill_and_empty<const L: usize, const I: usize>(count: u64) {
    for order in orders(count) {
        let hal = HeapHal::new();
        let mut tree = Tree::<L, I>::new();
        for (done, page) in order.iter().enumerate() {
            put(&mut tree, &hal, lone(*page));
            if done % 997 == 0 {
                check(&tree, &hal);
            }
        }
        check(&tree, &hal);
        assert!(tree.iter().eq((0..count).map(lone)));
        for (done, page) in orders(count)[2].iter().enumerate() {
            assert_eq!(tree.find(GuestPhysAddr::new(page * PAGE_SIZE)), Some(lone(*page)));
            change(&mut tree, &hal, pages(*page, 1), |_| None);
            assert_eq!(tree.find(GuestPhysAddr::new(page * PAGE_SIZE)), None);
            if done % 997 == 0 {
                check(&tree, &hal);
            }
        }
        check(&tree, &hal);
        assert!(tree.len() == 0 && tree.frames() <= 1, "{} frames for nothing", tree.frames());
        tree.clear(&hal);
        assert_eq!(hal.in_use(), 0);
    }
}

#[test]
fn twenty_thousand_regions_come_and_go_in_any_order() {
    fill_and_empty::<LEAF, INNER>(cases(20_000) as u64);
    fill_and_empty::<8, 8>(cases(20_000) as u64);
}

#[test]
fn a_region_takes_few_bytes() {
    let bytes = [25, 40, 48];
    for (order, most) in orders(100_000).into_iter().zip(bytes) {
        let hal = HeapHal::new();
        let mut tree = Regions::new();
        order.iter().for_each(|page| put(&mut tree, &hal, lone(*page)));
        check(&tree, &hal);
        let each = hal.in_use() * PAGE_SIZE as usize / tree.len();
        assert!(each <= most, "{each} bytes");
        tree.clear(&hal);
    }
}

#[test]
fn a_handful_of_regions_is_one_node() {
    let hal = HeapHal::new();
    let mut tree = Regions::new();
    for page in 0..LEAF as u64 {
        put(&mut tree, &hal, lone(page));
        assert_eq!(hal.in_use(), 1);
    }
    put(&mut tree, &hal, lone(LEAF as u64));
    assert!(hal.in_use() > 2, "two leaves, and what is above them");
    change(&mut tree, &hal, pages(0, 160), |_| None);
    check(&tree, &hal);
    assert_eq!((tree.len(), hal.in_use()), (11, 1), "what is not needed went back");
    tree.clear(&hal);
}

/// Every allocation of a reservation fails once, at every size of the tree; what was reserved is enough.
#[test]
fn a_reservation_fails_whole_and_is_enough() {
    let hal = HeapHal::new();
    let mut tree = Tree::<8, 8>::new();
    let mut failures = 0;
    for page in 0..cases(2000) as u64 {
        // Three pages each, of which the middle one goes: two cuts.
        failures += reserve_despite_failures(&mut tree, &hal, 1);
        let hpa = HostPhysAddr::new(page * 64 * PAGE_SIZE);
        tree.insert(&hal, region(page * 4, 3, MappingFlags::READ, Backend::Linear { hpa }));
        failures += reserve_despite_failures(&mut tree, &hal, 2);
        let middle = pages(page * 2 / 4 * 4 + 1, 1);
        let cover = cover(&tree, middle);
        tree.remove(&hal, middle, cover);
        check(&tree, &hal);
    }
    assert!(failures > cases(500), "{failures} allocations failed");
    hal.fail_after(None);
    tree.clear(&hal);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn a_change_of_all_regions_joins_them() {
    let hal = HeapHal::new();
    let mut tree = Tree::<8, 8>::new();
    for page in 0..5000 {
        put(&mut tree, &hal, region(page, 1, FLAGS[(page % 2) as usize], ALLOC));
    }
    assert_eq!(tree.len(), 5000);
    // All but one page at each end, across all leaves.
    let mut calls = 0;
    change(&mut tree, &hal, pages(1, 4998), |region| {
        calls += 1;
        Some(Region { flags: MappingFlags::empty(), ..region })
    });
    check(&tree, &hal);
    assert_eq!((calls, tree.len(), tree.frames()), (4998, 3, 1));
    assert_eq!(tree.overlapping(pages(7, 1)).next().map(|region| region.range), Some(pages(1, 4998)));
    change(&mut tree, &hal, pages(0, 5000), |region| Some(Region { flags: MappingFlags::READ, ..region }));
    assert_eq!(tree.iter().map(|region| region.range).collect::<Vec<_>>(), [pages(0, 5000)]);
    tree.clear(&hal);
}

#[test]
fn every_region_survives_packing() {
    let hal = HeapHal::new();
    for bits in 0..=MappingFlags::all().bits() {
        let flags = MappingFlags::from_bits_retain(bits);
        let leaves = LeafSize::ALL.map(|largest_leaf| {
            LeafSize::ALL.map(|fault_around| Backend::Alloc { largest_leaf, fault_around })
        });
        let linear =
            [0, 0x1000, 0xf_ffff_ffff_f000].map(|hpa| Backend::Linear { hpa: HostPhysAddr::new(hpa) });
        for backend in leaves.into_iter().flatten().chain(linear) {
            for (start, size) in [(0, 1), (0, (1 << 52) - 1), ((1 << 52) - 2, 1), (1 << 40, 1 << 50)] {
                let region = region(start, size, flags, backend);
                let mut tree = Regions::new();
                put(&mut tree, &hal, region);
                assert_eq!(tree.iter().next(), Some(region));
                tree.clear(&hal);
            }
        }
    }
}

#[test]
fn only_a_fault_that_takes_one_page_has_the_short_way() {
    let hal = HeapHal::new();
    let mut tree = Regions::new();
    let alloc = |largest_leaf, fault_around| Backend::Alloc { largest_leaf, fault_around };
    let (small, large) = (LeafSize::Size4K, LeafSize::Size2M);
    let linear = Backend::Linear { hpa: HostPhysAddr::new(0) };
    let backends = [alloc(small, small), alloc(large, small), alloc(small, large), linear];
    for (page, backend) in (0..).zip(backends) {
        put(&mut tree, &hal, region(10 * page, 5, MappingFlags::WRITE, backend));
    }
    let flags =
        [0, 1, 2, 3].map(|page| tree.single_page_flags(GuestPhysAddr::new((10 * page + 4) * PAGE_SIZE)));
    // Where only a page is missing there is a table, and no room for a larger leaf.
    assert_eq!(flags, [Some(MappingFlags::WRITE), Some(MappingFlags::WRITE), None, None]);
    assert_eq!(tree.single_page_flags(GuestPhysAddr::new(5 * PAGE_SIZE)), None, "no region");
    tree.clear(&hal);
}

#[test]
fn a_range_that_is_one_region_is_found_with_its_place() {
    let hal = HeapHal::new();
    let mut tree = Tree::<8, 8>::new();
    put(&mut tree, &hal, lone(1));
    put(&mut tree, &hal, lone(3));
    put(&mut tree, &hal, region(10, 4, MappingFlags::READ, ALLOC));
    let ask = |first, size| {
        let Cover { owned, alike, exact, .. } = tree.cover(pages(first, size)).expect("covered");
        (owned, alike, exact.map(|(_, index)| index))
    };
    assert_eq!(ask(1, 1), (false, true, None), "the first one of a leaf has its key above");
    assert_eq!(ask(3, 1), (false, true, Some(1)));
    assert_eq!(ask(10, 4), (true, false, Some(2)), "not all of it need be populated");
    assert_eq!(ask(10, 3), (true, false, None));
    tree.clear(&hal);
}
