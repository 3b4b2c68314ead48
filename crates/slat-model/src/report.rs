//! Violations that the machine has seen, and what could still reach memory.

use crate::access::{Access, Fault, Translation};
use crate::instruction::Instruction;

/// A violation of the architecture's rules by the software under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Report {
    /// Arm: an entry was made while a CPU could still hold another one from the same place, and the two differ in what
    /// needs break-before-make (Arm ARM D8, "Using break-before-make when updating translation table entries").
    BreakBeforeMake {
        /// The CPU.
        cpu: usize,
        /// The host physical address of the entry.
        entry: u64,
        /// What the CPU could hold.
        old: u64,
        /// What was stored.
        new: u64,
    },
    /// A walk met an entry that the manual calls reserved or misconfigured.
    Reserved {
        /// The CPU.
        cpu: usize,
        /// The host physical address of the entry.
        entry: u64,
        /// Its value.
        value: u64,
        /// The guest physical address.
        gpa: u64,
    },
    /// A walk left the RAM.
    TableOutsideRam {
        /// The CPU.
        cpu: usize,
        /// The host physical address.
        hpa: u64,
        /// The guest physical address.
        gpa: u64,
    },
    /// Arm without FWB: a leaf was made whose memory has lines that the host wrote and did not clean, so that a guest
    /// that bypasses the caches reads what was there before.
    NotCleaned {
        /// The host physical address of the leaf entry.
        entry: u64,
        /// The host physical address of the first such line.
        line: u64,
    },
    /// An instruction with an operand that is reserved, or a type that does not exist: it would fault, do nothing, or do
    /// what nobody can know.
    ReservedOperand {
        /// The CPU.
        cpu: usize,
        /// The instruction.
        instruction: Instruction,
    },
}

/// A translation that a CPU may still use although the tables say something else by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stale {
    /// The CPU.
    pub cpu: usize,
    /// The guest physical address.
    pub gpa: u64,
    /// An access for which it would be used.
    pub access: Access,
    /// What the access would get.
    pub cached: Translation,
    /// What a walk of the tables gives.
    pub walked: Result<Translation, Fault>,
}

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, gpa, access, cached, walked } = self;
        write!(f, "CPU {cpu} may still use GPA {gpa:#x} ({:?}) as HPA {:#x}, ", access.kind, cached.hpa)?;
        match walked {
            Ok(walked) => write!(f, "which the tables map to HPA {:#x}", walked.hpa),
            Err(fault) => write!(f, "for which the tables give a fault: {fault}"),
        }
    }
}

/// How a CPU could still reach memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// The root table of its root register is there.
    Root,
    /// Its root register leads to a table or a page there, by the tables as they are now.
    Walk {
        /// The guest physical address.
        gpa: u64,
        /// The host physical address of the entry that points there.
        entry: u64,
    },
    /// Its TLB holds a pointer to a table there.
    CachedTable {
        /// The first guest physical address that the table translates.
        gpa: u64,
        /// The host physical address of the entry that it was read from.
        entry: u64,
    },
    /// Its TLB holds a leaf that maps it.
    CachedLeaf {
        /// The first guest physical address of the leaf.
        gpa: u64,
        /// The host physical address of the entry that it was read from.
        entry: u64,
    },
    /// Its TLB holds a combination of both stages that maps it.
    Combined {
        /// The first guest virtual address.
        gva: u64,
        /// The host physical address of the second-level leaf that it was made of.
        entry: u64,
    },
    /// A walk that begins at a cached pointer leads there.
    CachedWalk {
        /// The guest physical address.
        gpa: u64,
        /// The host physical address of the entry that points there.
        entry: u64,
    },
}
