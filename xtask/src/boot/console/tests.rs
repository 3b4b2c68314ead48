use super::{Console, Piece};
use slat_hv_protocol::{Message, encode_message};

const NONCE: &str = "0123456789abcdef";

fn failed(reason: &str) -> Message {
    Message::Failed { reason: reason.to_owned() }
}

/// Feeds `stream` in reads of `size` bytes: all console bytes, all lines, all messages, and the garbled lines.
fn feed(stream: &[u8], size: usize) -> (Vec<u8>, Vec<String>, Vec<Message>, usize) {
    let mut console = Console::new(NONCE);
    let mut pieces: Vec<_> = stream.chunks(size).flat_map(|chunk| console.push(chunk)).collect();
    pieces.extend(console.finish());
    let (mut bytes, mut lines, mut messages, mut garbled) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for piece in pieces {
        match piece {
            Piece::Console(shown) => bytes.extend(shown),
            Piece::Line(line) => lines.push(line),
            Piece::Message(message) => messages.push(*message),
            Piece::Garbled(_) => garbled += 1,
        }
    }
    (bytes, lines, messages, garbled)
}

#[test]
fn messages_are_taken_out_wherever_the_reads_cut() {
    let message = encode_message(NONCE, &failed("why"));
    let stream = format!("one\r\n{message}\r\ntwo {message}\nthree");
    for size in 1..=stream.len() {
        let (bytes, lines, messages, garbled) = feed(stream.as_bytes(), size);
        assert_eq!(String::from_utf8(bytes).unwrap(), "one\r\ntwo three", "reads of {size}");
        assert_eq!(lines, ["one", "two three"]);
        assert_eq!(messages, [failed("why"), failed("why")]);
        assert_eq!(garbled, 0);
    }
}

#[test]
fn the_guest_cannot_forge_a_message() {
    let forged = encode_message("another-nonce", &failed("forged"));
    let stream = format!("{forged}\nslat-hv:\nslat-hv:0123 {{}}\nslslat-hv:0123456789abcdeX \n");
    for size in [1, 7, 1000] {
        let (bytes, lines, messages, garbled) = feed(stream.as_bytes(), size);
        assert_eq!(bytes, stream.as_bytes(), "nothing of the guest's is swallowed");
        assert_eq!((lines.len(), messages.len(), garbled), (4, 0, 0));
    }
}

#[test]
fn a_repeated_prefix_is_still_found() {
    let message = encode_message(NONCE, &failed("x"));
    let (bytes, _, messages, _) = feed(format!("slat-hv:slat-hv:01{message}\n").as_bytes(), 3);
    assert_eq!(bytes, b"slat-hv:slat-hv:01");
    assert_eq!(messages.len(), 1);
}

#[test]
fn partial_lines_are_shown_at_once() {
    let mut console = Console::new(NONCE);
    assert_eq!(console.push(b"login: "), [Piece::Console(b"login: ".to_vec())]);
    assert_eq!(console.push(b"slat"), []);
    assert_eq!(console.push(b"e"), [Piece::Console(b"slate".to_vec())]);
}

#[test]
fn cut_and_garbled_messages_are_reported() {
    let (bytes, _, messages, garbled) =
        feed(format!("slat-hv:{NONCE} {{nonsense}}\nslat-hv:{NONCE} {{").as_bytes(), 5);
    assert_eq!((bytes.len(), messages.len(), garbled), (0, 0, 2));
}
