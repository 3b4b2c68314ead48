//! RISC-V in HS-mode, on QEMU's `virt` machine with OpenSBI below.
//!
//! All but `bare` is plain logic that builds and is tested on every host; `bare` is the hart's part.

pub mod device_tree;
pub mod exception;
pub mod exit;
pub mod flat_tree;
pub mod host;
pub mod image;
pub mod maintenance;
pub mod platform;
pub mod registers;
pub mod sbi;

#[cfg(all(target_arch = "riscv64", target_os = "none"))]
mod bare;
#[cfg(all(target_arch = "riscv64", target_os = "none"))]
pub use bare::fail;
