//! slat-hv, the reference hypervisor of slat: boots guests behind second-level translation and reports. On Arm and x86 it is one, which
//! has the machine; on RISC-V they may be several, which share it.
//!
//! Everything a guest touches in its RAM is mapped on demand, its kernel too. A guest drives its few devices by
//! itself, but for one serial port that is emulated; on RISC-V it has none, only firmware. What `cargo xtask` passes in and gets out is defined in `slat-hv-protocol`.
//!
//! **Invariants.** Assembly and `cfg(target_arch)` stand in [`arch`] only. Nothing a guest does panics, hangs or
//! ends the hypervisor without a report: numbers from a guest are checked, and every exit has an answer.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arch;
pub mod churn;
pub mod console;
pub mod console_text;
pub mod cpus;
pub mod debug_port;
pub mod guest;
pub mod guests;
pub mod monitor;
pub mod params;
pub mod pl011;
pub mod pool;
pub mod requests;
pub mod run;
pub mod schedule;
pub mod store;
pub mod transcript;
pub mod uart16550;
pub mod vcpu;
