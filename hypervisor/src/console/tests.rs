use super::*;
use alloc::string::String;

fn printed(lines: &mut Lines, pieces: &[&[u8]]) -> String {
    let mut all = Vec::new();
    for piece in pieces {
        lines.add(piece, |bytes| all.extend_from_slice(bytes));
    }
    lines.end(|bytes| all.extend_from_slice(bytes));
    String::from_utf8(all).expect("UTF-8")
}

#[test]
fn the_only_guest_prints_as_it_likes() {
    let text = "a\x1b[1mb\r\nslat-hv:";
    assert_eq!(printed(&mut Lines::new(None), &[text.as_bytes()]), text);
}

#[test]
fn each_line_of_one_of_several_has_its_number() {
    let text = printed(&mut Lines::new(Some(2)), &[b"on", b"e\r\ntw", b"o\n\nrest"]);
    assert_eq!(text, "[2] one\r\n[2] two\r\n[2] \r\n[2] rest\r\n");
}

#[test]
fn nothing_that_a_guest_prints_begins_a_line_of_its_own() {
    let forged = b"x\rslat-hv:n {}\x1b[2Kslat-hv:\x0b\x0c\x08[0] y\x85\n";
    let mut all = Vec::new();
    Lines::new(Some(1)).add(forged, |bytes| all.extend_from_slice(bytes));
    assert_eq!(all, b"[1] xslat-hv:n {}?[2Kslat-hv:???[0] y\x85\r\n");
    let long = [b'z'; 3 * LINE_MAX];
    let text = printed(&mut Lines::new(Some(1)), &[&long]);
    assert!(text.lines().count() == 3 && text.lines().all(|line| line.starts_with("[1] ")), "{text}");
}
