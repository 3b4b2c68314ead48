use super::*;
use slat::GuestPhysAddr;
use std::string::ToString;

fn line(port: &mut DebugPort, line: &str) -> Option<Command> {
    let (last, rest) = line.as_bytes().split_last()?;
    assert!(rest.iter().all(|byte| port.write(*byte).is_none()));
    port.write(*last)
}

#[test]
fn lines_are_commands() {
    let mut port = DebugPort::default();
    assert_eq!(line(&mut port, "dump\n"), Some(Command::Dump));
    assert_eq!(line(&mut port, " stats\r\n"), Some(Command::Statistics));
    assert_eq!(line(&mut port, "query 0xb8000\n"), Some(Command::Query(GuestPhysAddr::new(0xb8000))));
    assert_eq!(line(&mut port, "\n"), Some(Command::Unknown));
}

#[test]
fn the_answer_is_read_once_and_ends() {
    let mut port = DebugPort::default();
    assert_eq!(port.read(), 0);
    port.answer("ab".to_string());
    assert_eq!([port.read(), port.read(), port.read(), port.read()], *b"ab\0\0");
    port.answer("cd".to_string());
    assert_eq!(port.read(), b'c');
    assert_eq!(line(&mut port, "stats\n"), Some(Command::Statistics));
    assert_eq!(port.read(), 0, "the old answer is forgotten");
}

#[test]
fn a_line_without_end_takes_no_memory() {
    let mut port = DebugPort::default();
    for _ in 0..100_000 {
        assert_eq!(port.write(b'x'), None);
    }
    assert!(port.line.capacity() <= 2 * LINE_MAX);
    assert_eq!(port.write(b'\n'), Some(Command::Unknown));
    assert_eq!(line(&mut port, "dump\n"), Some(Command::Dump));
}
