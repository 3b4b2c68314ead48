//! slat-hv's run loop on the model of the hardware: what `cargo xtask run --machine model` runs.
//!
//! The loop is the one of the emulator, [`slat_hv::run::Machine`], and so is the pool of frames. Below it are the CPUs and
//! TLBs of [`slat_model`], which keep everything that the architecture allows; above it is a [guest] that behaves like a
//! kernel that boots. Everything that the guest sees is compared with what it wrote, and every frame that comes back is
//! looked for in every TLB: [`Checks`] has the results.
//!
//! **Protocol.** Each CPU of the guest has a thread, and one of them has the *turn*: it alone runs, whether in the
//! hypervisor or in the guest. In the guest a seeded draw decides whose access comes next; the turn passes when a CPU
//! leaves the guest, waits or goes off. While the hypervisor changes a table the other CPUs go on too, between any two of its
//! stores. So a run is a function of its [`Settings`], and two CPUs are never in the hypervisor at the same time.
//!
//! Several guests ([`Settings::guests`]) run in the loop of [`slat_hv::guests`]: slices of time, more vCPUs than CPUs, and more
//! spaces than tags, so that what a CPU remembers of one guest must not be found by another one.

mod checks;
pub mod cpu;
pub mod guest;
mod guests;
mod host;
mod mnemonic;
mod run;
mod turn;
mod vcpu;
mod world;

pub use checks::Checks;
pub use cpu::Cpu;
pub use run::{Observed, Settings, run, run_on};
