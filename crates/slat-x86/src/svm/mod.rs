//! AMD SVM with nested paging (AMD64 APM vol. 2, "Secure Virtual Machine").
//!
//! Protocol: [`Capabilities::read`]; on each CPU [`SvmCpu::turn_on`]; one [`TagPool`](slat::TagPool) with
//! [`Npt::tag_bits`](slat::format::Format::tag_bits) for the ASIDs; vCPUs with [`SvmVcpu::new`].
//!
//! What the CPU may lack has a fallback, and the guest sees no difference:
//! - NRIP: the length of an instruction is found in its bytes ([`needs_instruction`](crate::Vcpu::needs_instruction));
//! - FlushByAsid: a guest whose translations have to go gets a fresh ASID, and when there is none left all CPUs drop
//!   everything once;
//! - decode assists: no bytes of the instruction at a nested page fault;
//! - clean bits: the CPU reads the whole VMCB at every entry.
//!
//! **Invariant:** the global interrupt flag is set whenever code of the host outside of [`isa::svm`](crate::isa::svm) runs.
//!
//! ASIDs belong to vCPUs, not to spaces. Where one CPU runs several vCPUs of a space by turns, a flush at the entry of one of
//! them does nothing about the others: there [`SpaceCpus`](crate::SpaceCpus) has to count vCPUs instead of CPUs.

mod capabilities;
mod control;
mod cpu;
mod event;
mod exit;
mod flush;
mod instruction;
mod intercepts;
mod pending;
mod permissions;
mod run;
mod vcpu;
mod vmcb;

pub use capabilities::{Capabilities, Facts, Unsupported};
pub use cpu::{SvmCpu, TurnOnError};
pub use flush::TlbControl;
pub use intercepts::Intercepts;
pub use vcpu::{Configuration, LastEntry, OutOfMemory, SvmVcpu};
