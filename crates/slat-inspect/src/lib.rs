#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "cli"), no_std)]
#![forbid(unsafe_code)]

#[cfg(all(test, not(feature = "cli")))]
extern crate std;

mod access;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod decode;
mod entry;
mod fault;
mod fields;
mod format;
mod lint;
mod memory;
mod problem;
mod ranges;
mod root;
mod text;
mod visit;
mod walk;

pub use access::{Access, AccessKind, Denial};
pub use decode::Decoder;
pub use entry::{
    Cache, Cacheability, Entry, Leaf, LeafFlags, MemoryType, Pbmt, Permissions, Shareability, Stage2Type,
    Table, X86MemoryType,
};
pub use fault::FaultRegisters;
pub use fields::{Field, Fields, Meaning};
pub use format::{Cpu, Format, UnknownFormat};
pub use lint::{Finding, FindingKind, Lint, LintOptions, Severity};
pub use memory::{PhysicalMemory, Words};
pub use problem::{Bits, Effect, Problem, ProblemKind};
pub use ranges::{Mark, Run, Runs};
pub use root::{Register, Root, RootError};
pub use text::{Bytes, Letters, RunLine, TypeOnly};
pub use visit::{Descend, End, EntryAt, Mapping, Pointer, Summary, Trouble, TroubleKind, Visitor};
pub use walk::{Step, Tables, Walk, WalkEnd};

#[cfg(test)]
mod tests;
