use super::*;

fn filled(content: &Content<'_>, gpa: u64) -> [u8; 8] {
    let mut memory = [0; 8];
    content.fill(gpa, &mut memory);
    memory
}

#[test]
fn a_window_sees_the_part_of_a_piece_that_lies_in_it() {
    let mut content = Content::default();
    content.add(0x1004, b"abcdefghijkl");
    assert_eq!(&filled(&content, 0x1000), b"\0\0\0\0abcd");
    assert_eq!(&filled(&content, 0x1008), b"efghijkl");
    assert_eq!(&filled(&content, 0x100c), b"ijkl\0\0\0\0");
    assert_eq!(filled(&content, 0x1010), [0; 8]);
    assert_eq!(filled(&content, 0xff0), [0; 8]);
}

#[test]
fn pieces_add_up_and_the_ends_of_the_space_are_harmless() {
    let mut content = Content::default();
    content.add(0, b"ab");
    content.add(4, b"cd");
    content.add(u64::MAX, b"z");
    assert_eq!(&filled(&content, 0), b"ab\0\0cd\0\0");
    assert_eq!(filled(&content, u64::MAX)[0], b'z');
}
