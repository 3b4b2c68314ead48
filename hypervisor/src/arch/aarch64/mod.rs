//! AArch64 at EL2, on QEMU's `virt` machine.
//!
//! The modules above the line are plain logic and build on every host; those below are the CPU's.

pub mod device_tree;
pub mod exception;
pub mod exit;
pub mod image;
pub mod maintenance;
pub mod mmu;
pub mod platform;
pub mod psci;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod bare;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use bare::fail;
