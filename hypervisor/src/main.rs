//! The hypervisor's program. On bare metal the entry point is in the library's `arch`; elsewhere there is none.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

// Links the library, whose boot code is the entry point.
#[cfg(target_os = "none")]
use slat_hv as _;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("slat-hv runs on bare metal: use `cargo xtask run`");
    std::process::ExitCode::from(2)
}
