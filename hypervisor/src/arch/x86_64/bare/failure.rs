//! When the hypervisor itself fails: one line, without the heap and without waiting for anybody, and the end.
//!
//! The other CPUs may still be in the guest meanwhile. That is harmless: nothing is given back any more. If the guest
//! writes to the serial port at this very time the line comes out garbled, which `cargo xtask` takes for a failure too.

use super::console::Console;
use super::{NONCE, cpu, machine};
use core::fmt::{self, Write as _};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};
use slat_hv_protocol::write_failure;

const NOBODY: usize = usize::MAX;

/// Ends the machine because the hypervisor itself failed.
pub fn fail(reason: fmt::Arguments<'_>) -> ! {
    /// The CPU that failed first.
    static FAILED: AtomicUsize = AtomicUsize::new(NOBODY);
    let this = cpu::this_cpu();
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
        Err(_) => machine::stop(),
    }
    machine::end()
}

/// An exception of the hypervisor itself.
pub(super) extern "C" fn host_exception(vector: u64, error: u64, rip: u64, cr2: u64, rsp: u64) -> ! {
    fail(format_args!(
        "exception {vector} in the hypervisor: error code {error:#x}, RIP {rip:#x}, CR2 {cr2:#x}, RSP {rsp:#x}"
    ))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}
