//! The checks by name, and what they report.

use std::fmt;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// After a store: what a CPU could see is the old mapping, the new one or a fault.
    Store,
    /// No CPU can reach a frame or a table that goes back to the allocator.
    Freed,
    /// Frames go back once, and only frames that were taken are touched.
    Allocator,
    /// A CPU whose fault was answered makes progress.
    Progress,
    /// What slat says of a page is what the specification says.
    Query,
    /// What a walk of the hardware finds is what the specification says.
    Walk,
    /// After an operation no CPU can see anything else than that.
    Stale,
    /// The contents of a page are those that the guest wrote.
    Contents,
    /// What one space can write to, no other one sees, but for memory that they share on purpose.
    Isolation,
    /// A guest never sees what a previous owner left in a frame.
    Zeroed,
    /// Frames taken are frames of guest memory, of tables and of regions.
    Balance,
    /// slat's audit of all spaces finds what is there to be found, and nothing else.
    Audit,
    /// The statistics and the counters are true.
    Statistics,
    /// An operation that fails changes nothing.
    Untouched,
    /// An operation succeeds when it must and fails when it must, with the right reason.
    Verdict,
    /// What the hardware marked as dirty is known as dirty.
    Marks,
    /// The model reports that a rule of the architecture was broken.
    Architecture,
    /// The CPU takes the root register.
    Root,
    /// slat panics.
    Panic,
}

/// A check that failed.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub check: Check,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    /// The violation of `check` with these details.
    #[must_use]
    pub fn new(check: Check, detail: impl Into<String>) -> Self {
        Self { check, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.check, self.detail)
    }
}

impl std::error::Error for Violation {}

/// Fails with a violation unless `holds`.
///
/// # Errors
/// The violation.
pub fn ensure(holds: bool, check: Check, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::new(check, detail())) }
}
