use super::*;
use slat::GuestPhysAddr;

fn typed(bytes: &[u8]) -> Vec<Vec<Command>> {
    let mut line = Line::default();
    bytes.iter().filter_map(|byte| line.push(*byte)).collect()
}

#[test]
fn a_line_has_commands_with_semicolons_between() {
    let query = Command::Query(GuestPhysAddr::new(0x1000));
    assert_eq!(typed(b"query 0x1000; stats ;;continue\n"), [[query, Command::Statistics, Command::Continue]]);
    assert_eq!(typed(b"\r\n \n"), [[], [], []]);
    assert_eq!(typed(b"nonsense\n"), [[Command::Unknown]]);
}

#[test]
fn a_line_can_be_corrected_and_left() {
    assert_eq!(typed(b"\x7f\x08mas\x08p\n"), [[Command::Map]]);
    assert_eq!(typed(b"stats\x04"), [[Command::Continue]]);
    assert_eq!(
        typed(&[ESCAPE, b'm', 0, b'a', 0x80, b'p', b'\n']),
        [[Command::Map]],
        "others are no part of it"
    );
}

#[test]
fn a_line_without_end_takes_no_memory() {
    let mut line = Line::default();
    assert!((0..100_000).all(|_| line.push(b'x').is_none()));
    assert!(line.0.capacity() <= 2 * LINE_MAX);
    assert_eq!(line.push(b'\n'), Some(Vec::from([Command::Unknown])));
}

/// Whatever is typed, a line is at most as many commands as it has bytes, and a longer text of the same is no other.
#[test]
fn random_bytes_are_lines() {
    let mut state = 1_u64;
    let mut line = Line::default();
    let (mut lines, mut known) = (0, 0);
    for _ in 0..300_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (state >> 33) as usize;
        let words: [&[u8]; 8] = [b"map", b"query ", b"0x80000000", b";", b"\n", b" ", b"stats", b"+"];
        let bytes = if random % 3 == 0 { &[(random >> 8) as u8][..] } else { words[random / 3 % 8] };
        for byte in bytes {
            let Some(commands) = line.push(*byte) else { continue };
            assert!(commands.len() <= LINE_MAX);
            lines += 1;
            known += commands.iter().filter(|command| **command != Command::Unknown).count();
        }
    }
    assert!(lines > 1000 && known > 1000, "{lines} lines, {known} commands");
}
