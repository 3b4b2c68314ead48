//! Negative controls: a command of which nobody knows whether it works is told, and so is one that is in no document any more.

use super::{COMMANDS, Shown, commands_of, judge, words};
use std::collections::BTreeSet;

fn shown(commands: &[&str]) -> Vec<(String, String)> {
    commands.iter().map(|command| ((*command).to_owned(), "x.md".to_owned())).collect()
}

fn names() -> BTreeSet<String> {
    ["example lazy", "package"].map(str::to_owned).into()
}

#[test]
fn commands_are_the_lines_of_blocks_of_sh() {
    let text = "```sh\ncargo a   # what it does\n\n# a comment\ncargo b --c && cargo d\n```\n```text\n$ cargo e\n```\n";
    assert_eq!(commands_of(text), ["cargo a", "cargo b --c && cargo d"]);
    assert!(commands_of("`cargo f`").is_empty());
}

#[test]
fn what_nobody_executes_is_told() {
    let list = [("cargo a", Shown::Here), ("cargo b", Shown::By("package"))];
    assert!(judge(&list, &shown(&["cargo a", "cargo b"]), &names()).is_empty());
    let complaints = judge(&list, &shown(&["cargo a", "cargo b", "cargo c"]), &names());
    assert!(complaints.len() == 1 && complaints[0].starts_with("x.md: `cargo c` is executed by no step"));
    assert_eq!(judge(&list, &shown(&["cargo a"]), &names()), ["`cargo b` is in no document any more"]);
    let list = [("cargo b", Shown::By("pack"))];
    assert_eq!(judge(&list, &shown(&["cargo b"]), &names()), ["`cargo b`: there is no step `pack`"]);
}

#[test]
fn examples_are_steps_of_their_own() {
    let example = |name: &str| shown(&[&format!("cargo run --example {name}")]);
    assert!(judge(&[], &example("lazy"), &names()).is_empty());
    assert_eq!(judge(&[], &example("busy"), &names()).len(), 1);
}

#[test]
fn options_that_a_task_does_not_take_are_told() {
    let complaints = |command, how| judge(&[(command, how)], &shown(&[command]), &names());
    assert!(complaints("cargo xtask run --arch riscv64 --guests 3", Shown::Emulated).is_empty());
    assert_eq!(complaints("cargo xtask run --guest-count 3", Shown::Emulated).len(), 1);
    assert_eq!(complaints("cargo xtask run && cargo xtask reply x.slat", Shown::Emulated).len(), 1);
    assert!(complaints("cargo xtask test --filter \"pack\"", Shown::Itself).is_empty());
    assert_eq!(complaints("cargo xtask test --filter pick", Shown::Itself).len(), 1);
}

#[test]
fn what_only_a_shell_can_do_is_refused() {
    assert_eq!(words("a --b \"c d\" e").expect("words"), ["a", "--b", "c d", "e"]);
    for command in ["a | b", "a > b", "a; b", "a 'b c'", "a \"b", "a $B"] {
        assert!(words(command).is_err(), "{command}");
    }
}

#[test]
fn no_command_stands_in_the_list_twice() {
    let commands: BTreeSet<_> = COMMANDS.iter().map(|(command, _)| command).collect();
    assert_eq!(commands.len(), COMMANDS.len());
}
