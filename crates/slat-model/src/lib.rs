#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod access;
mod instruction;
mod machine;
mod mmu;
mod ram;
mod report;
mod stage1;
mod tlb;
mod walk;

pub use access::{
    Access, AccessKind, Fault, FaultKind, Memory, Outcome, Permissions, Source, Syndrome, Translation,
};
pub use instruction::{BarrierAccess, Dc, Domain, Instruction, Tlbi};
pub use machine::{Machine, Policy};
pub use mmu::{Ept, Gstage, InvalidRoot, Mmu, Npt, Root, Stage2};
pub use ram::Ram;
pub use report::{Reach, Report, Stale};
pub use stage1::{ArmFeatures, GuestSyndrome, Stage1, VirtualFault, X86Features};
