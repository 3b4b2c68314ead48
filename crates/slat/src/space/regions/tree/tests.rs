//! What the tree asks its host for, and the first region, which has no neighbour before it.

use super::*;
use crate::addr::GuestPhysAddr;
use crate::flags::MappingFlags;
use crate::space::Backend;
use crate::test_util::HeapHal;

type Small = Tree<8, 8>;

fn page(page: u64) -> GuestPhysRange {
    GuestPhysRange::new(GuestPhysAddr::new(page * 4096), 4096).expect("valid")
}

/// Pages that are not one with their neighbours.
fn filled(hal: &HeapHal, pages: core::ops::Range<u64>) -> Small {
    let mut tree = Small::new();
    for number in pages {
        let backend = Backend::Linear { hpa: crate::HostPhysAddr::new(number * 8 * 4096) };
        tree.reserve(hal, 1).expect("memory");
        tree.insert(hal, Region::new(page(number), MappingFlags::READ, backend));
    }
    tree.check();
    tree
}

#[test]
fn a_reservation_is_a_node_for_each_level_that_may_be_split() {
    let hal = HeapHal::new();
    for (regions, height) in [(0, 0), (3, 1), (6, 1), (9, 2), (60, 2), (100, 3), (1000, 4)] {
        let mut tree = filled(&hal, 0..regions);
        assert_eq!(tree.height, height, "{regions} regions");
        for extra in 1..=2 {
            tree.give_back(&hal, 0);
            let before = hal.in_use();
            tree.reserve(&hal, extra).expect("memory");
            let wanted = match height {
                0 => 1,
                1 => 0,
                _ => extra * (height - 1) + 2,
            };
            assert_eq!(hal.in_use() - before, wanted, "{extra} more than {regions} regions");
        }
        tree.clear(&hal);
    }
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn a_full_leaf_of_its_own_needs_a_neighbour_and_a_root() {
    let hal = HeapHal::new();
    let mut tree = filled(&hal, 0..8);
    assert_eq!((tree.height, tree.needed(1), tree.needed(2)), (1, 2, 2));
    tree.clear(&hal);
}

#[test]
fn without_its_first_region_a_tree_begins_with_the_second() {
    let hal = HeapHal::new();
    for regions in [2, 9, 30, 100] {
        let mut tree = filled(&hal, 5..5 + regions);
        for first in 5..5 + regions {
            tree.rewrite(page(first), |_| None);
            tree.trim(&hal);
            tree.check();
            assert_eq!(
                tree.iter().next().map(|region| region.range),
                (first + 1 < 5 + regions).then(|| page(first + 1))
            );
        }
        tree.clear(&hal);
    }
}

#[test]
fn keys_that_ascend_leave_full_leaves_behind() {
    let hal = HeapHal::new();
    let mut tree = filled(&hal, 0..1000);
    tree.give_back(&hal, 0);
    // Leaves of 8; inner nodes of 7 and 8, for a cut at the edge leaves two children to the new one.
    let leaves = 1000_usize.div_ceil(8);
    assert!(tree.frames() < leaves + leaves / 7 + leaves / 49 + 4, "{} frames", tree.frames());
    tree.clear(&hal);
}

#[test]
fn one_region_that_is_left_over_is_a_leaf_of_its_own() {
    let hal = HeapHal::new();
    for regions in [9, 30, 100, 600] {
        for left in [0, regions / 2, regions - 1] {
            let mut tree = filled(&hal, 0..regions);
            let all = GuestPhysRange::new(GuestPhysAddr::new(0), regions * 4096).expect("valid");
            tree.rewrite(all, |region| (region.range == page(left)).then_some(region));
            tree.trim(&hal);
            tree.check();
            assert_eq!((tree.height, tree.len), (1, 1));
            assert_eq!(tree.iter().next().map(|region| region.range), Some(page(left)));
            tree.clear(&hal);
        }
    }
}

#[test]
fn every_frame_of_a_tree_is_visited_once() {
    let hal = HeapHal::new();
    for (regions, height) in [(0, 0), (3, 1), (60, 2), (100, 3)] {
        let mut tree = filled(&hal, 0..regions);
        assert_eq!(tree.height, height);
        for extra in [0, 2] {
            if extra > 0 {
                tree.reserve(&hal, extra).expect("memory");
            }
            let mut frames = std::vec::Vec::new();
            tree.visit_frames(&mut |frame| frames.push(frame));
            frames.sort_unstable();
            frames.dedup();
            assert_eq!((frames.len(), frames.len()), (tree.frames(), hal.in_use()), "{regions} regions");
            // The host panics where a frame is not taken.
            frames.iter().for_each(|frame| assert_eq!(hal.read(*frame, 1).len(), 1));
        }
        tree.clear(&hal);
    }
}
