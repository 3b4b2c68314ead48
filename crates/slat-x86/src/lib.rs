//! x86 virtual CPUs on Intel VMX and AMD SVM, as far as a guest's memory is concerned.
//!
//! Protocol: look at what the CPU offers ([`vmx::Capabilities`], [`svm::Capabilities`]); make a table of the CPUs
//! ([`HostCpus`]); turn the extension on for each CPU; make a vCPU, give it a root and a state ([`CpuState`]), bind it to the
//! CPU and run it. Each [`Exit`] is decoded once, in the same words for both vendors. [`answer`](answer::answer) answers those that every hypervisor answers alike, nested page
//! faults go to slat, the rest is the caller's. [`SpaceCpus`] says which CPUs a change of a table has to reach.
//!
//! What holds throughout:
//! - What the hardware lacks is an error before anything was changed, or a fallback that the documentation names; never an
//!   entry that fails.
//! - Nothing that a guest does panics: an instruction that it cannot have, a register that does not exist, a value that is
//!   reserved, all of them are exceptions for the guest.
//! - An event whose delivery was interrupted by an exit is delivered at the next entry.
//! - Decoding and planning are plain integers, built and tested on every machine. Only [`isa`] has instructions.
#![cfg_attr(not(test), no_std)]

pub mod answer;
pub mod cpuid;
mod event;
mod exit;
mod frame;
mod host_cpus;
pub mod isa;
#[cfg(all(test, loom))]
mod loom_tests;
pub mod msr;
mod pending;
pub mod port;
mod resident;
mod seat;
mod shootdown;
mod state;
pub mod svm;
mod sync;
mod vcpu;
pub mod vmx;
pub mod xcr;

pub use event::BadEvent;
pub use event::Event;
pub use exit::{ControlAccess, ControlRegister, Exit, NestedPageFault, PortAccess, PortDirection};
pub use host_cpus::{HostCpus, NoTable};
pub use shootdown::{Entry, NoSuchCpu, SpaceCpus};
pub use state::{CpuState, General, GeneralRegisters, Segment, SegmentName, TableRegister};
pub use vcpu::{BindError, Control, RunError, Vcpu};
