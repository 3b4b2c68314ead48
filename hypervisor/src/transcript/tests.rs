use super::{KEPT_MAX, Transcript};

#[test]
fn the_beginning_is_kept_and_all_of_it_is_counted() {
    let mut transcript = Transcript::default();
    transcript.add(b"one\r\n");
    transcript.add(b"two\x1b[2J \xff\0");
    assert_eq!(transcript.bytes(), 15);
    assert_eq!(transcript.text(), "one\ntwo\u{fffd}[2J \u{fffd}\u{fffd}");
    transcript.add(&[b'x'; 3 * KEPT_MAX]);
    transcript.add(b"y");
    assert_eq!(transcript.bytes(), 16 + 3 * KEPT_MAX as u64);
    assert_eq!(transcript.kept.len(), KEPT_MAX);
    assert!(transcript.text().ends_with('x'));
}
