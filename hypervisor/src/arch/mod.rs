//! Everything that belongs to one ISA: the only place with assembly or `cfg(target_arch)`.
//!
//! What can be decided without the CPU (decoding, device trees, register values) builds and is tested everywhere.

pub mod aarch64;
pub mod riscv64;
pub mod x86_64;
