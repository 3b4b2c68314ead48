//! What a fork or a snapshot leaves out never comes back with it.

use super::*;
use crate::test_util::FrameBackend;

type Cut<'h, F> = AddrSpace<&'h HeapHal, F, &'h FrameBackend<'h>>;

/// A space whose first page is its own; `page` is one that a fork does not have, populated.
fn with_cut<'h, F: Format>(
    hal: &'h HeapHal,
    backend: &'h FrameBackend<'h>,
    format: F,
    page: u64,
    custom: bool,
) -> Cut<'h, F> {
    let mut space = AddrSpace::with_backend(hal, format, gpa(0), 4 * GIB1, 1, backend).expect("a root");
    space.map_alloc(gpa(0), KIB4, RW, true).expect("memory");
    space.write_obj(gpa(0), 1_u64).expect("memory");
    if custom {
        space.map_custom(gpa(page), 0, 0, KIB4, RW).expect("free");
    } else {
        space.map_alloc(gpa(page), KIB4, RW, true).expect("memory");
        space.set_in_children(gpa(page), KIB4, false).expect("mapped");
    }
    space.write_obj(gpa(page), 2_u64).expect("memory");
    space
}

fn stays_away<F: Format>(format: F) {
    // In the table of the space's first page, and in one of its own.
    for (page, custom) in [(KIB4, true), (GIB1, true), (KIB4, false), (GIB1, false)] {
        let hal = HeapHal::new();
        let backend = FrameBackend::new(&hal, 4);
        {
            let mut space = with_cut(&hal, &backend, format, page, custom);
            let snapshot = space.snapshot().expect("memory");
            space.write_obj(gpa(0), 5_u64).expect("memory");
            for _ in 0..2 {
                space.reset(&snapshot).expect("memory");
                assert_eq!(space.translate(gpa(page)), None, "{custom} {page:#x}");
                assert_eq!(space.region(gpa(page)).is_some(), custom);
                assert_eq!(space.read_obj::<u64>(gpa(0)), Ok(1));
                space.write_obj(gpa(0), 7_u64).expect("memory");
                if custom {
                    space.write_obj(gpa(page), 3_u64).expect("memory");
                } else {
                    space.map_alloc(gpa(page), KIB4, RW, false).expect("free");
                    assert_eq!(space.read_obj::<u64>(gpa(page)), Ok(0));
                }
            }
            drop(space);
            assert_eq!(snapshot.space().translate(gpa(page)), None);
        }
        assert_eq!(hal.in_use(), 0);
    }
}

#[test]
fn what_a_snapshot_leaves_out_does_not_come_back() {
    on_all_formats!(stays_away);
}

/// A page of stage 2 that can be written to and not read has no permission at all while it is shared.
#[test]
fn a_page_that_can_only_be_written_to_is_copied() {
    for protect in [false, true] {
        for alone in [false, true] {
            let hal = HeapHal::new();
            let mut parent = filled(&hal, formats()[1], 2 * KIB4, SMALL);
            if !protect {
                parent.protect(gpa(0), KIB4, WRITE).expect("mapped");
            }
            let mut child = parent.fork(2).expect("memory");
            if alone {
                drop(parent);
            }
            if protect {
                child.protect(gpa(0), KIB4, WRITE).expect("mapped");
            }
            assert_eq!(
                (child.translate(gpa(0)), child.query(gpa(0)).is_ok()),
                (None, false),
                "no access as it is"
            );
            let answer = child.handle_page_fault(gpa(0), WRITE);
            let wanted =
                if alone { FaultOutcome::MadeWritable } else { FaultOutcome::Copied(LeafSize::Size4K) };
            assert_eq!(answer, Ok(wanted));
            assert_eq!(child.query(gpa(0)).expect("there").flags, WRITE);
        }
    }
}
