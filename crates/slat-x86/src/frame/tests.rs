//! Frames come back, and nothing is written behind them.

use super::*;
use slat::test_util::HeapHal;

#[test]
fn frames_are_zeroed_written_and_given_back() {
    let hal = HeapHal::default();
    let mut frames = Frames::zeroed(&hal, 2).expect("the heap has some");
    assert_eq!(frames.bytes(), 8192);
    assert!((0..8192).step_by(8).all(|offset| frames.word(offset) == 0));
    frames.write(8188, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(frames.word(8184), 0x0403_0201_0000_0000);
    frames.set_word(16, 7);
    assert_eq!((frames.word(16), frames.word(8)), (7, 0));
    // Not there, or no word.
    frames.set_word(8192, 1);
    frames.set_word(17, 1);
    frames.write(9000, &[1]);
    assert_eq!((frames.word(8192), frames.word(17)), (0, 0));
    drop(frames);
    assert_eq!(hal.in_use(), 0);
}
