use super::ConsoleText;
use alloc::string::ToString;

/// After which byte of `printed` the text is found.
fn found(text: &str, printed: &str) -> Option<usize> {
    let mut watch = ConsoleText::new(text.to_string()).expect("a text");
    printed.bytes().position(|byte| watch.push(byte))
}

#[test]
fn a_text_is_found_at_its_last_byte() {
    assert_eq!(found("\n=> ", "U-Boot\r\n=> "), Some(10));
    assert_eq!(found("a", "a"), Some(0));
}

#[test]
fn a_beginning_that_repeats_itself_does_not_hide_it() {
    assert_eq!(found("aab", "aaab"), Some(3));
    assert_eq!(found("abac", "ababac"), Some(5));
}

#[test]
fn parts_and_other_texts_are_not_it() {
    assert_eq!(found("\n=> ", "\n=\n> =>\n=>"), None);
    assert!(ConsoleText::new("".to_string()).is_none());
}
