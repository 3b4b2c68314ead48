//! When the hypervisor itself fails: one line, without the heap and without waiting for anybody, and the end.
//!
//! The other harts may still be in guests meanwhile. That is harmless: nothing is given back any more.

use super::console::Console;
use super::registers::read_register;
use super::{NONCE, firmware, this_hart};
use core::fmt::{self, Write as _};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};
use slat_hv_protocol::write_failure;

const NOBODY: usize = usize::MAX;

/// Ends the machine because the hypervisor itself failed.
pub fn fail(reason: fmt::Arguments<'_>) -> ! {
    /// The hart that failed first.
    static FAILED: AtomicUsize = AtomicUsize::new(NOBODY);
    let this = this_hart();
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

/// An exception of the hypervisor itself.
pub(super) extern "C" fn host_exception() -> ! {
    let (scause, stval, sepc) = (read_register!("scause"), read_register!("stval"), read_register!("sepc"));
    fail(format_args!("exception in HS-mode: scause {scause:#x}, stval {stval:#x}, sepc {sepc:#x}"))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}
