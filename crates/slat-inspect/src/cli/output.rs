//! What is printed: text, with colours on a terminal, or one JSON object.

use crate::Field;
use serde::Serialize;
use serde::ser::Serializer;
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

/// Standard output.
pub(crate) struct Output<'a> {
    writer: BufWriter<&'a mut dyn Write>,
    /// Whether the answer is JSON.
    pub(crate) json: bool,
    colours: bool,
}

/// How words are emphasised on a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Emphasis {
    /// A heading.
    Heading,
    /// Something that deserves attention.
    Alarm,
    /// Something less important than the rest.
    Dim,
}

impl<'a> Output<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, json: bool, is_terminal: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { writer: BufWriter::with_capacity(1 << 16, out), json, colours: is_terminal && wanted && able }
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> io::Result<()> {
        writeln!(self.writer, "{line}")
    }

    /// Prints `value` as JSON, in one line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.writer, value)?;
        writeln!(self.writer)?;
        Ok(())
    }

    /// Begins a JSON object with these fields and then the list `name`, whose items follow.
    pub(crate) fn begin_list(&mut self, head: &impl Serialize, name: &str) -> anyhow::Result<()> {
        let head = serde_json::to_string(head)?;
        let fields = head.strip_suffix('}').unwrap_or(&head);
        let comma = if fields.len() > 1 { "," } else { "" };
        write!(self.writer, "{fields}{comma}{name:?}:[")?;
        Ok(())
    }

    /// One item of the list.
    pub(crate) fn item(&mut self, value: &impl Serialize, is_first: bool) -> anyhow::Result<()> {
        if !is_first {
            self.writer.write_all(b",")?;
        }
        self.writer.write_all(b"\n")?;
        Ok(serde_json::to_writer(&mut self.writer, value)?)
    }

    /// Ends the list and the object, with more fields.
    pub(crate) fn end_list(&mut self, tail: &impl Serialize) -> anyhow::Result<()> {
        let tail = serde_json::to_string(tail)?;
        let fields = tail.strip_prefix('{').unwrap_or(&tail);
        let comma = if fields.len() > 1 { "," } else { "" };
        writeln!(self.writer, "\n]{comma}{fields}")?;
        Ok(())
    }

    /// `text`, emphasised where that is shown.
    pub(crate) fn emphasised(&self, emphasis: Emphasis, text: impl fmt::Display) -> String {
        let code = match emphasis {
            _ if !self.colours => return text.to_string(),
            Emphasis::Heading => "1",
            Emphasis::Alarm => "31",
            Emphasis::Dim => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A number that is an address or a raw value: in JSON a string, because readers that keep numbers as floating point lose digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hex(pub(crate) u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Adapts anything that can be displayed to a string in JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<T>(pub(crate) T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A field of an entry or a register, in JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FieldRow {
    name: &'static str,
    high: u32,
    low: u32,
    value: Hex,
    /// All of it, in words.
    pub(crate) text: String,
}

impl FieldRow {
    pub(crate) fn of(field: &Field) -> Self {
        let Field { name, high, low, value, .. } = *field;
        Self { name, high, low, value: Hex(value), text: field.to_string() }
    }
}

/// Goes on with a visit, or breaks it off for an error that its caller then finds in `failed`.
pub(crate) fn go_on<E>(result: Result<(), E>, failed: &mut Option<E>) -> ControlFlow<()> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            *failed = Some(error);
            ControlFlow::Break(())
        }
    }
}
