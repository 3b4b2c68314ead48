//! The instructions: invalidation, barriers, cache maintenance, zeroing, copying of what others write to.
//!
//! The only place of this crate with assembly and `cfg(target_arch)`. On bare metal the functions execute what the
//! machine has. On a development host there is no second-level TLB to maintain, so they do nothing (but zero and copy), and
//! tests watch the host's hooks instead.

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub mod aarch64;
#[cfg(all(target_arch = "riscv64", target_os = "none"))]
pub mod riscv64;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(not(target_os = "none"))]
mod hosted;
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_os = "none"))))]
mod portable;
pub(crate) mod racing;
#[cfg(feature = "tracing")]
mod time;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use aarch64::zero;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub(crate) use aarch64::{invalidate, maintain_cache, publish};
#[cfg(not(target_os = "none"))]
pub(crate) use hosted::{invalidate, maintain_cache, publish};
#[cfg(all(target_arch = "riscv64", target_os = "none"))]
pub(crate) use riscv64::{invalidate, maintain_cache, publish};
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
pub(crate) use x86_64::{invalidate, maintain_cache, publish};

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_os = "none"))))]
pub use portable::zero;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::order_zeroing;
#[cfg(target_arch = "x86_64")]
pub use x86_64::zero;

#[cfg(feature = "tracing")]
pub use time::timestamp;

#[cfg(any(not(target_arch = "x86_64"), miri))]
pub(crate) use racing::{copy, fill, read, write};
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) use x86_64::{copy, fill, read, write};

/// Orders zeroing before every store with release ordering that follows: nothing to do where it is ordinary stores.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn order_zeroing() {}

/// The format of the machine that this is built for: EPT on x86-64, the G-stage on RISC-V, Arm stage 2 elsewhere.
#[cfg(target_arch = "x86_64")]
pub type Native = crate::format::ept::Ept;
/// The format of the machine that this is built for: EPT on x86-64, the G-stage on RISC-V, Arm stage 2 elsewhere.
#[cfg(target_arch = "riscv64")]
pub type Native = crate::format::gstage::Gstage;
/// The format of the machine that this is built for: EPT on x86-64, the G-stage on RISC-V, Arm stage 2 elsewhere.
#[cfg(not(any(target_arch = "x86_64", target_arch = "riscv64")))]
pub type Native = crate::format::stage2::Stage2;
