//! Who is told, and who has to make up for it. The orders of two harts are loom's: `loom_tests.rs`.

use super::*;
use std::vec::Vec;

fn members<const WORDS: usize>(set: &HartSet<WORDS>) -> Vec<(usize, u64)> {
    set.harts().collect()
}

#[test]
fn a_hart_is_told_from_its_first_entry_on() {
    let set = HartSet::<1>::default();
    assert_eq!(members(&set), []);
    assert_eq!(set.enter(5), Ok(true), "it was told of nothing until now");
    assert_eq!(set.enter(5), Ok(false), "it was told of everything since");
    assert_eq!(set.enter(0), Ok(true));
    assert_eq!(set.enter(63), Ok(true));
    assert_eq!(members(&set), [(0, 1 << 63 | 1 << 5 | 1)]);
    assert_eq!(set.enter(0), Ok(false));
}

#[test]
fn a_hart_that_was_removed_makes_up_for_it() {
    let set = HartSet::<1>::new();
    assert_eq!((set.enter(3), set.enter(4)), (Ok(true), Ok(true)));
    assert_eq!(set.remove(3), Ok(()));
    assert_eq!(members(&set), [(0, 1 << 4)], "the other one stays");
    assert_eq!(set.remove(3), Ok(()), "as often as one likes");
    assert_eq!((set.enter(4), set.enter(3)), (Ok(false), Ok(true)));
    assert_eq!(members(&set), [(0, 1 << 3 | 1 << 4)]);
}

#[test]
fn words_without_a_hart_are_passed_over() {
    let set = HartSet::<3>::new();
    for hart in [64, 65, 191] {
        assert_eq!(set.enter(hart), Ok(true));
    }
    assert_eq!(members(&set), [(64, 3), (128, 1 << 63)]);
    set.remove(191).expect("it is one of the set");
    assert_eq!(members(&set), [(64, 3)]);
}

#[test]
fn a_hart_beyond_the_set_is_refused() {
    let set = HartSet::<2>::new();
    let refused = Err(NoSuchHart { hart: 128, harts: 128 });
    assert_eq!(set.enter(128), refused.map(|(): ()| true));
    assert_eq!(set.remove(128), refused);
    assert_eq!(set.enter(usize::MAX), Err(NoSuchHart { hart: usize::MAX, harts: 128 }));
    assert_eq!(members(&set), []);
}
