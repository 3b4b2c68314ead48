use super::{How, differences};
use crate::{LeafFlags, MemoryType, Permissions, X86MemoryType};
use crate::{Mark, Run};

const HOW: How = How { marks: false, frames: true };

fn run(address: u64, last: u64, output: u64, permissions: Permissions) -> Run {
    Run {
        address,
        last,
        output,
        leaf_size: 4096,
        permissions,
        memory: MemoryType::Ept { kind: X86MemoryType::WriteBack, ignore_pat: false },
        flags: LeafFlags::empty(),
        accessed: Mark::Some,
        dirty: Mark::None,
    }
}

/// Each difference as the addresses on both sides.
fn found(a: &[Run], b: &[Run], how: How) -> Vec<[Option<(u64, u64)>; 2]> {
    let ends = |run: Option<Run>| run.map(|run| (run.address, run.last));
    differences(a, b, how).into_iter().map(|(a, b)| [ends(a), ends(b)]).collect()
}

#[test]
fn the_same_cut_otherwise_is_the_same() {
    let rw = Permissions::READ | Permissions::WRITE;
    let whole = [run(0x1000, 0x4fff, 0x10_1000, rw)];
    let parts = [run(0x1000, 0x1fff, 0x10_1000, rw), run(0x2000, 0x4fff, 0x10_2000, rw)];
    assert!(found(&whole, &parts, HOW).is_empty());
    assert!(found(&parts, &whole, HOW).is_empty());
    assert!(found(&[], &[], HOW).is_empty());
}

#[test]
fn what_is_gone_new_or_another_is_found() {
    let (r, rw) = (Permissions::READ, Permissions::READ | Permissions::WRITE);
    let a = [run(0x1000, 0x4fff, 0x10_1000, rw), run(0x8000, 0x8fff, 0x20_0000, rw)];
    let b = [
        run(0x2000, 0x2fff, 0x10_2000, rw),
        run(0x3000, 0x4fff, 0x10_3000, r),
        run(0x5000, 0x5fff, 0x10_5000, r),
        run(0x8000, 0x8fff, 0x30_0000, rw),
    ];
    let expected = [
        [Some((0x1000, 0x1fff)), None],
        [Some((0x3000, 0x4fff)), Some((0x3000, 0x4fff))],
        [None, Some((0x5000, 0x5fff))],
        [Some((0x8000, 0x8fff)), Some((0x8000, 0x8fff))],
    ];
    assert_eq!(found(&a, &b, HOW), expected);
    let moved = How { frames: false, ..HOW };
    assert_eq!(found(&a, &b, moved), expected[..3]);
}

#[test]
fn neighbours_that_differ_alike_are_one_difference() {
    let rw = Permissions::READ | Permissions::WRITE;
    let a = [run(0x1000, 0x4fff, 0x10_1000, rw)];
    let b = [run(0x1000, 0x1fff, 0x90_1000, rw), run(0x2000, 0x4fff, 0x90_2000, rw)];
    assert_eq!(found(&a, &b, HOW), [[Some((0x1000, 0x4fff)), Some((0x1000, 0x4fff))]]);
    let marked = [Run { dirty: Mark::All, ..a[0] }];
    assert_eq!(found(&a, &marked, HOW).len(), 0);
    assert_eq!(found(&a, &marked, How { marks: true, ..HOW }).len(), 1);
}

#[test]
fn the_last_address_of_all_is_no_trouble() {
    let top = [run(u64::MAX - 0xfff, u64::MAX, 0x1000, Permissions::READ)];
    assert_eq!(found(&top, &[], HOW), [[Some((u64::MAX - 0xfff, u64::MAX)), None]]);
    assert_eq!(found(&[], &top, HOW), [[None, Some((u64::MAX - 0xfff, u64::MAX))]]);
}
