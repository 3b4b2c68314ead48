use super::*;
use std::string::ToString;

fn line(port: &mut DebugPort, line: &str) -> Option<DebugCommand> {
    let (last, rest) = line.as_bytes().split_last()?;
    assert!(rest.iter().all(|byte| port.write(*byte).is_none()));
    port.write(*last)
}

#[test]
fn lines_are_commands() {
    let query = |gpa| Some(DebugCommand::Query(GuestPhysAddr::new(gpa)));
    let mut port = DebugPort::default();
    assert_eq!(line(&mut port, "dump\n"), Some(DebugCommand::Dump));
    assert_eq!(line(&mut port, " stats\r\n"), Some(DebugCommand::Statistics));
    assert_eq!(line(&mut port, "query 0xb8000\n"), query(0xb8000));
    assert_eq!(line(&mut port, "query 4096\n"), query(4096));
    assert_eq!(line(&mut port, "query 0xffffffffffffffff\n"), query(u64::MAX));
    for other in
        ["\n", "dump it\n", "query\n", "query x\n", "query 0x\n", "query 0x+1\n", "query -1\n", "\u{fffd}\n"]
    {
        assert_eq!(line(&mut port, other), Some(DebugCommand::Unknown), "{other:?}");
    }
    assert_eq!(line(&mut port, "query 0x10000000000000000\n"), Some(DebugCommand::Unknown));
}

#[test]
fn the_answer_is_read_once_and_ends() {
    let mut port = DebugPort::default();
    assert_eq!(port.read(), 0);
    port.answer("ab".to_string());
    assert_eq!([port.read(), port.read(), port.read(), port.read()], *b"ab\0\0");
    port.answer("cd".to_string());
    assert_eq!(port.read(), b'c');
    assert_eq!(line(&mut port, "stats\n"), Some(DebugCommand::Statistics));
    assert_eq!(port.read(), 0, "the old answer is forgotten");
}

#[test]
fn a_line_without_end_takes_no_memory() {
    let mut port = DebugPort::default();
    for _ in 0..100_000 {
        assert_eq!(port.write(b'x'), None);
    }
    assert!(port.line.capacity() <= 2 * LINE_MAX);
    assert_eq!(port.write(b'\n'), Some(DebugCommand::Unknown));
    assert_eq!(line(&mut port, "dump\n"), Some(DebugCommand::Dump));
}
