//! Accesses, and why a leaf refuses one.

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// An access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// By user mode (x86 CPL 3, Arm EL0, RISC-V U or VU).
    pub user: bool,
}

/// Why an address that is mapped refuses an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// Not readable.
    NotReadable,
    /// Not writable.
    NotWritable,
    /// Not executable for whom it is.
    NotExecutable,
    /// The page is the supervisor's: its U bit (x86: that of any level) is clear.
    NotUser,
    /// The page is user mode's, from which this one may not fetch.
    UserPage,
    /// The accessed flag is clear, and the hardware does not set it.
    NotAccessed,
    /// The dirty flag is clear, and the hardware does not set it.
    NotDirty,
}
