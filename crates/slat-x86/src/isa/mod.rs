//! The instructions of VMX and SVM, and what else has no other name: the only place of this crate with assembly and
//! `cfg(target_arch)`.
//!
//! On bare-metal x86-64 the functions execute what their names say. On a development host there is no virtualization to
//! be had: registers read as 0, writes to them are lost, instructions of VMX and SVM fail as they do where the extension
//! is off; so nothing can be turned on there, and tests of vCPUs bring an instruction set of their own.

#[cfg(all(target_arch = "x86_64", target_os = "none"))]
pub mod common;
#[cfg(not(all(target_arch = "x86_64", target_os = "none")))]
#[path = "hosted.rs"]
pub mod common;
pub mod svm;

#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod vmx;
#[cfg(not(all(target_arch = "x86_64", target_os = "none")))]
#[path = "vmx_hosted.rs"]
mod vmx;
