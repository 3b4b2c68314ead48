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
pub(crate) struct MissingThings(Vec<Missing>);

impl MissingThings {
    /// An error unless `things` is empty.
    pub(crate) fn check(things: Vec<Missing>) -> anyhow::Result<()> {
        if things.is_empty() { Ok(()) } else { Err(Self(things).into()) }
    }

    pub(crate) fn things(&self) -> &[Missing] {
        &self.0
    }
}

impl fmt::Display for MissingThings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "one thing is missing on this machine; nothing was started"),
            count => write!(f, "{count} things are missing on this machine; nothing was started"),
        }
    }
}

impl std::error::Error for MissingThings {}
