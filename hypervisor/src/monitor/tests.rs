use super::*;

#[test]
fn each_word_is_its_command_and_nothing_else_is() {
    for (word, command, _) in WORDS {
        assert_eq!(Command::parse(word.as_bytes()), command);
    }
    let query = |gpa| Command::Query(GuestPhysAddr::new(gpa));
    assert_eq!(Command::parse(b"query 0xb8000"), query(0xb8000));
    assert_eq!(Command::parse(b"\tquery  4096 \r"), query(4096));
    assert_eq!(Command::parse(b"query 0xffffffffffffffff"), query(u64::MAX));
    let others: [&[u8]; 13] = [
        b"",
        b"dump it",
        b"Dump",
        b"query",
        b"query x",
        b"query 0x",
        b"query 0x+1",
        b"query +1",
        b"query -1",
        b"query 0x10000000000000000",
        b"query 1 2",
        b"query\0 1",
        b"\xff\xfe",
    ];
    for other in others {
        assert_eq!(Command::parse(other), Command::Unknown, "{other:?}");
    }
}

#[test]
fn the_lists_name_every_command() {
    let help = Answer::of(|out| write_help(out));
    let names = Answer::of(|out| write_names(out));
    for (word, command, what) in WORDS {
        assert!(help.contains(word) && help.contains(what), "{help}");
        assert_eq!(names.contains(word), !command.is_of_console(), "{names}");
    }
    assert!(help.contains("query GPA") && names.contains("query GPA"));
}

#[test]
fn an_answer_ends_where_there_is_no_room() {
    let text = Answer::of(|out| (0..ANSWER_MAX).try_for_each(|index| writeln!(out, "{index}")));
    assert!(text.len() <= ANSWER_MAX + 4 && text.ends_with("\n...\n"), "{} bytes", text.len());
    assert_eq!(Answer::of(|out| write!(out, "{}", 7)), "7");
}

#[test]
fn registers_stand_four_in_a_line() {
    let text = Answer::of(|out| write_table(out, (0..6).map(|value| ("r", value))));
    let lines: std::vec::Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].ends_with("r            0x0000000000000003") && text.ends_with('\n'), "{text}");
}
