//! What a machine lacks, and the command that would get it. All of it is collected before any of it is printed,
//! so that nobody has to run the task five times to learn of five missing packages.

use std::fmt;

/// One missing thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// What it is.
    pub(crate) what: String,
    /// The command that would get it.
    pub(crate) how: String,
}

impl Missing {
    pub(crate) fn new(what: impl Into<String>, how: impl Into<String>) -> Self {
        Self { what: what.into(), how: how.into() }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "missing: {}: {}", self.what, self.how)
    }
}

/// All the things that are missing; an error that `main` prints line by line.
#[derive(Debug)]
pub(crate) struct MissingThings {
    things: Vec<Missing>,
    /// What can be done without them.
    hint: Option<&'static str>,
}

impl MissingThings {
    /// An error unless `things` is empty.
    pub(crate) fn check(things: Vec<Missing>) -> anyhow::Result<()> {
        if things.is_empty() { Ok(()) } else { Err(Self { things, hint: None }.into()) }
    }

    pub(crate) fn things(&self) -> &[Missing] {
        &self.things
    }

    /// Adds to an error, if it is this one, what can be done without the things.
    pub(crate) fn hint(mut error: anyhow::Error, hint: &'static str) -> anyhow::Error {
        if let Some(missing) = error.downcast_mut::<Self>() {
            missing.hint = Some(hint);
        }
        error
    }

    /// What can be done without them.
    pub(crate) fn hint_line(&self) -> Option<String> {
        self.hint.map(|hint| format!("hint: {hint}"))
    }
}

impl fmt::Display for MissingThings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.things.len() {
            1 => write!(f, "one thing is missing on this machine; nothing was started"),
            count => write!(f, "{count} things are missing on this machine; nothing was started"),
        }
    }
}

impl std::error::Error for MissingThings {}
