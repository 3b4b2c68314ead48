//! Which leaves are one line.

use super::Run;
use crate::space::tests::{KIB4, MIB2, RW, formats, gpa, hpa};
use crate::test_util::HeapHal;
use crate::{AddrSpace, LeafSize, Mapping, MappingFlags};
use std::string::{String, ToString};
use std::vec::Vec;

/// The lines of the runs of a space that `fill` has filled.
fn runs(fill: impl FnOnce(&mut AddrSpace<&HeapHal, crate::format::stage2::Stage2>)) -> Vec<String> {
    let hal = HeapHal::new();
    let mut space = AddrSpace::with_format(&hal, formats()[1], gpa(0), 1 << 30, 0).expect("a root");
    fill(&mut space);
    let text = space.dump().to_string();
    text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

#[test]
fn leaves_that_continue_each_other_are_one_line() {
    let lines = runs(|space| space.map_linear(gpa(0x1000), hpa(0x9000), 5 * KIB4, RW).expect("free"));
    assert_eq!(lines, ["0x1000..0x6000 -> 0x9000 rw-- 5 x 4K"]);
}

#[test]
fn other_flags_and_other_sizes_begin_a_line() {
    let lines = runs(|space| {
        space.map_linear(gpa(MIB2 - KIB4), hpa(2 * MIB2 - KIB4), MIB2 + 4 * KIB4, RW).expect("free");
        space.protect(gpa(2 * MIB2 + KIB4), KIB4, MappingFlags::READ).expect("mapped");
    });
    let wanted = [
        "0x1ff000..0x200000 -> 0x3ff000 rw-- 1 x 4K",
        "0x200000..0x400000 -> 0x400000 rw-- 1 x 2M",
        "0x400000..0x401000 -> 0x600000 rw-- 1 x 4K",
        "0x401000..0x402000 -> 0x601000 r--- 1 x 4K",
        "0x402000..0x403000 -> 0x602000 rw-- 1 x 4K",
    ];
    assert_eq!(lines, wanted);
}

#[test]
fn frames_that_do_not_follow_each_other_and_holes_begin_a_line() {
    let lines = runs(|space| {
        space.map_alloc(gpa(0), 6 * KIB4, RW, false).expect("free");
        // The frames of this host are never neighbours.
        for page in [0, 1, 4] {
            space.handle_page_fault(gpa(page * KIB4), MappingFlags::READ).expect("mapped");
        }
    });
    let ranges: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(ranges, ["0x0..0x1000", "0x1000..0x2000", "0x4000..0x5000"]);
    assert!(lines.iter().all(|line| line.ends_with("rw-- 1 x 4K owned")), "{lines:?}");
}

#[test]
fn a_run_goes_on_only_with_the_next_page_in_the_next_frame_of_the_same_kind() {
    let page = |at, frame| Mapping {
        gpa: gpa(at),
        hpa: hpa(frame),
        flags: RW,
        size: LeafSize::Size4K,
        owned: true,
        accessed: true,
        dirty: true,
    };
    let goes_on = |next: Mapping| Run::new(page(0x1000, 0x9000)).extend(&next);
    assert!(goes_on(page(0x2000, 0xa000)));
    assert!(!goes_on(page(0x3000, 0xa000)), "another page");
    assert!(!goes_on(page(0x2000, 0xb000)), "another frame");
    assert!(!goes_on(Mapping { flags: MappingFlags::READ, ..page(0x2000, 0xa000) }));
    assert!(!goes_on(Mapping { size: LeafSize::Size2M, ..page(0x2000, 0xa000) }));
    assert!(!goes_on(Mapping { owned: false, ..page(0x2000, 0xa000) }));
    assert!(goes_on(Mapping { dirty: false, ..page(0x2000, 0xa000) }), "marks are not shown");
}
