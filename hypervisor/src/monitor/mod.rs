//! The monitor: questions about a guest that has stopped, and their answers.
//!
//! Two ways lead to it: a key on the console, which stops the guest ([`terminal`]), and on x86 the debug port, by which the guest asks
//! itself ([`crate::debug_port`]). Both parse a line by [`Command::parse`] and have it answered by [`crate::run`], so what one knows
//! the other knows. **A guest writes the lines and decides how much there is to tell:** no line panics, an answer has
//! [`ANSWER_MAX`] bytes at most, and what the tables are is read by `slat-inspect`, which no table leads astray.

pub mod faults;
pub mod tables;
pub mod terminal;

use alloc::string::String;
use core::fmt;
use slat::GuestPhysAddr;

/// Most bytes of an answer, but for the line that says that there would be more.
pub const ANSWER_MAX: usize = 32 << 10;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The vCPU's registers, as the exit left them.
    Registers,
    /// The regions of the space, and the runs of leaves in each.
    Map,
    /// Each level of the walk for this address, and why it ends.
    Query(GuestPhysAddr),
    /// The tables, as they are in memory.
    Dump,
    /// Counts of the run, and of the table.
    Statistics,
    /// The last faults.
    Faults,
    /// What the guest can reach that it must not.
    Audit,
    /// Invalidations by kind.
    Flushes,
    /// The list of commands.
    Help,
    /// The guest goes on; on the console alone.
    Continue,
    /// The run ends; on the console alone.
    Quit,
    /// None of these.
    Unknown,
}

/// The commands that are one word, with what they tell.
const WORDS: [(&str, Command, &str); 10] = [
    ("regs", Command::Registers, "registers of the vCPU, as the exit left them"),
    ("map", Command::Map, "regions, and the runs of leaves in each"),
    ("dump", Command::Dump, "the tables, as they are in memory"),
    ("stats", Command::Statistics, "counts of the run and of the tables"),
    ("faults", Command::Faults, "the last faults, and what became of them"),
    ("audit", Command::Audit, "what the guest can reach that it must not"),
    ("flushes", Command::Flushes, "invalidations by kind"),
    ("help", Command::Help, "this list"),
    ("continue", Command::Continue, "the guest goes on"),
    ("quit", Command::Quit, "the run ends"),
];

/// The one that takes an address.
const QUERY: &str = "query";

impl Command {
    /// The command in `line`, which may hold anything. Addresses are hexadecimal with `0x`, or decimal.
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        let words = core::str::from_utf8(line).unwrap_or_default();
        let mut words = words.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(word), None, None) => WORDS
                .iter()
                .find(|(name, ..)| *name == word)
                .map_or(Self::Unknown, |(_, command, _)| *command),
            (Some(QUERY), Some(address), None) => {
                number(address).map_or(Self::Unknown, |gpa| Self::Query(GuestPhysAddr::new(gpa)))
            }
            _ => Self::Unknown,
        }
    }

    /// Whether it is about the monitor itself, which the debug port does not open.
    #[must_use]
    pub const fn is_of_console(self) -> bool {
        matches!(self, Self::Continue | Self::Quit)
    }
}

/// The list of commands, one line each.
///
/// # Errors
/// Those of `out`.
pub fn write_help(out: &mut dyn fmt::Write) -> fmt::Result {
    writeln!(out, "{:<10}each level of the walk for an address, and why it ends", "query GPA")?;
    WORDS.iter().try_for_each(|(name, _, what)| writeln!(out, "{name:<10}{what}"))
}

/// The names of the commands that the debug port has, on one line.
///
/// # Errors
/// Those of `out`.
pub fn write_names(out: &mut dyn fmt::Write) -> fmt::Result {
    write!(out, "query GPA")?;
    let names = WORDS.iter().filter(|(_, command, _)| !command.is_of_console());
    names.into_iter().try_for_each(|(name, ..)| write!(out, ", {name}"))?;
    writeln!(out)
}

/// Writes registers by name, four in a line.
///
/// # Errors
/// Those of `out`.
pub fn write_table(
    out: &mut dyn fmt::Write,
    registers: impl IntoIterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut column = 0;
    for (name, value) in registers {
        column += 1;
        write!(out, "{name:<13}{value:#018x}{}", if column % 4 == 0 { "\n" } else { "  " })?;
    }
    if column % 4 == 0 { Ok(()) } else { writeln!(out) }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        // `from_str_radix` would take a sign.
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None if text.starts_with('+') => None,
        None => text.parse().ok(),
    }
}

/// A text that takes no more than [`ANSWER_MAX`] bytes.
#[derive(Debug, Default)]
pub struct Answer(String);

impl Answer {
    /// What `write` writes, as far as there is room.
    pub fn of(write: impl FnOnce(&mut dyn fmt::Write) -> fmt::Result) -> String {
        let mut answer = Self::default();
        if write(&mut answer).is_err() {
            let whole_lines = answer.0.rfind('\n').map_or(0, |end| end + 1);
            answer.0.truncate(whole_lines);
            answer.0.push_str("...\n");
        }
        answer.0
    }
}

impl fmt::Write for Answer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > ANSWER_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
