use super::super::{BINS, Bins};
use super::fill;
use crate::trace::tests::{RAM, trace};
use slat::HostPhysAddr;

#[test]
fn memory_fills_up_and_is_taken_away() {
    let trace = trace();
    let root = Some(HostPhysAddr::new(0x1000));
    let memory = fill(&trace, (RAM, 128 << 20), root, &Bins { length: trace.length() });
    assert_eq!((memory.row, memory.rows.len()), (2 << 20, 64));
    assert_eq!((memory.cell, memory.cells.len()), (64 << 10, 2048));
    let at = |microseconds: f64| (microseconds / 1000.0 * BINS as f64) as usize;
    let mapped = |microseconds| memory.mapped[at(microseconds)];
    // A page and the window around it; a large leaf; half of the window is unmapped.
    assert_eq!((mapped(50.0), mapped(140.0), mapped(200.0)), (0, 0x1000, 4 << 20));
    assert_eq!((mapped(600.0), *memory.mapped.last().unwrap()), (3 << 20, 3 << 20));
    let row = |number: usize, microseconds| memory.rows[number][at(microseconds)];
    assert_eq!((row(0, 300.0), row(0, 900.0), row(1, 900.0), row(32, 900.0)), (255, 128, 0, 255));
    // The first page came with a fetch, before the window; the large leaf with a write.
    assert_eq!(memory.cells[0], Some((90.0, 0, 2)));
    assert_eq!(memory.cells[31], Some((150.0, 0, 2)));
    assert_eq!((memory.cells[32], memory.cells[1024]), (None, Some((150.0, 1, 1))));
}

#[test]
fn other_spaces_and_other_addresses_are_not_in_it() {
    let trace = trace();
    let bins = Bins { length: trace.length() };
    let empty = |ram, root: u64| {
        let memory = fill(&trace, ram, Some(HostPhysAddr::new(root)), &bins);
        memory.cells.iter().all(Option::is_none) && memory.mapped.iter().all(|mapped| *mapped == 0)
    };
    assert!(empty((RAM, 128 << 20), 0x2000));
    assert!(empty((RAM + (1 << 30), 128 << 20), 0x1000));
    assert!(!empty((RAM, 4096), 0x1000));
    assert!(empty((0, 0), 0x1000));
}
