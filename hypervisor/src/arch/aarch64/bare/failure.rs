//! When the hypervisor itself fails: one line, without the heap and without waiting for anybody, and the end.
//!
//! The other CPUs may still be in the guest meanwhile. That is harmless: nothing is given back any more. If the guest
//! writes to the serial port at this very time the line comes out garbled, which `cargo xtask` takes for a failure too.

use super::console::Console;
use super::{NONCE, firmware};
use aarch64_cpu::registers::{ELR_EL2, ESR_EL2, FAR_EL2, MPIDR_EL1, Readable};
use core::fmt::{self, Write as _};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};
use slat_hv_protocol::write_failure;

const NOBODY: u64 = u64::MAX;

/// Ends the machine because the hypervisor itself failed.
pub fn fail(reason: fmt::Arguments<'_>) -> ! {
    /// MPIDR_EL1 of the CPU that failed first.
    static FAILED: AtomicU64 = AtomicU64::new(NOBODY);
    let this = MPIDR_EL1.get();
    match FAILED.compare_exchange(NOBODY, this, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {
            let mut console = Console::claim();
            // The console cannot fail.
            let _ = console.write_str("\r\n");
            let _ = write_failure(&mut console, NONCE.get().map_or("", |nonce| nonce), reason);
            let _ = console.write_str("\r\n");
        }
        Err(first) if first == this => {
            let _ = write!(Console::claim(), "\r\nslat-hv: failed while failing: {reason}\r\n");
        }
        // The first one is writing, and ends the machine.
        Err(_) => firmware::stop(),
    }
    firmware::system_off()
}

/// An exception of the hypervisor itself: `vector` is 0 to 7.
pub(super) extern "C" fn host_exception(vector: u64) -> ! {
    let (esr, far, elr) = (ESR_EL2.get(), FAR_EL2.get(), ELR_EL2.get());
    fail(format_args!(
        "exception at EL2, vector {vector}: ESR_EL2 {esr:#x}, FAR_EL2 {far:#x}, ELR_EL2 {elr:#x}"
    ))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}
