//! x86-64, in Bochs (Intel VMX) and on QEMU (AMD SVM).
//!
//! All but `bare` is plain logic that builds and is tested on every host; `bare` is the CPU's part.

pub mod acpi;
pub mod apic;
pub mod descriptors;
pub mod instruction;
pub mod linux;
pub mod mmu;
pub mod platform;
pub mod ports;
pub mod vcpu;

#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod bare;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
pub use bare::fail;
#[cfg(all(feature = "unit-guests", target_arch = "x86_64", target_os = "none"))]
mod unit;
