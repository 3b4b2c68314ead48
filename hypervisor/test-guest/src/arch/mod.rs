//! The guests, one for each architecture, and the only `cfg(target_arch)`.

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod aarch64;
#[cfg(all(target_os = "none", target_arch = "riscv64"))]
mod riscv64;
