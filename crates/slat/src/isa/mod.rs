//! The instructions: invalidation, barriers, cache maintenance, zeroing.
//!
//! The only place of this crate with assembly and `cfg(target_arch)`. On bare metal the functions execute what the
//! machine has; on a development host there is no second-level TLB to maintain, so they do nothing, and tests watch
//! the host's hooks instead.

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod aarch64;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
use aarch64 as native;
#[cfg(not(all(target_arch = "aarch64", target_os = "none")))]
mod hosted;
#[cfg(not(all(target_arch = "aarch64", target_os = "none")))]
use hosted as native;

pub(crate) use native::{invalidate, maintain_cache, publish, zero};
