//! Checked arithmetic at the edges of 64 bits.

use super::*;

const TOP: GuestPhysAddr = GuestPhysAddr::new(u64::MAX);

#[test]
fn arithmetic_never_wraps() {
    assert_eq!(TOP.checked_add(1), None);
    assert_eq!(TOP.checked_add(0), Some(TOP));
    assert_eq!(TOP.align_up(PAGE_SIZE), None);
    assert_eq!(TOP.align_down(PAGE_SIZE), GuestPhysAddr::new(!0xfff));
    assert_eq!(GuestPhysAddr::new(1).align_up(PAGE_SIZE), Some(GuestPhysAddr::new(0x1000)));
    assert_eq!(GuestPhysAddr::new(0).checked_offset_from(GuestPhysAddr::new(1)), None);
    assert_eq!(GuestPhysAddr::new(0x1fff).page_offset(), 0xfff);
}

#[test]
fn a_range_is_never_empty_and_never_wraps() {
    assert_eq!(GuestPhysRange::new(TOP, 0), Err(RangeError::Empty));
    assert_eq!(GuestPhysRange::new(TOP, 1), Err(RangeError::Wraps));
    assert_eq!(GuestPhysRange::new(GuestPhysAddr::new(u64::MAX - 1), 1).map(GuestPhysRange::end), Ok(TOP));
    assert_eq!(GuestPhysRange::between(TOP, TOP), None);
    assert_eq!(GuestPhysRange::between(TOP, GuestPhysAddr::new(0)), None);
}

#[test]
fn containment_and_intersection_agree() {
    let range = |start, size| GuestPhysRange::new(GuestPhysAddr::new(start), size).expect("valid");
    let (a, b, c) = (range(0x1000, 0x2000), range(0x2000, 0x2000), range(0x3000, 0x1000));
    assert_eq!(a.intersection(b), Some(range(0x2000, 0x1000)));
    assert_eq!(a.intersection(c), None);
    assert!(a.contains(GuestPhysAddr::new(0x2fff)) && !a.contains(a.end()));
    assert!(b.contains_range(c) && !a.contains_range(c));
    assert_eq!(a.hull(c), range(0x1000, 0x3000));
    assert!(a.is_aligned(0x1000) && !a.is_aligned(0x2000));
    assert!(!c.is_aligned(0x2000), "neither the start nor the size is");
    assert_eq!(std::format!("{a} {:?}", a.start()), "0x1000..0x3000 GuestPhysAddr(0x1000)");
}

#[test]
fn a_range_shows_where_it_begins_and_ends() {
    let range = GuestPhysRange::new(GuestPhysAddr::new(0x1000), 0x2000).expect("valid");
    assert_eq!(std::format!("{range} {range:?}"), "0x1000..0x3000 GuestPhysRange(0x1000..0x3000)");
}
