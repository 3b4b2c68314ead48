//! AArch64 at EL2, on QEMU's `virt` machine.
//!
//! All but `bare` is plain logic that builds and is tested on every host; `bare` is the CPU's part.

pub mod device_tree;
pub mod exception;
pub mod exit;
pub mod extensions;
pub mod image;
pub mod maintenance;
pub mod mmu;
pub mod platform;
pub mod psci;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod bare;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use bare::fail;
