//! The machine's own firmware: PSCI by SMC, which is what the device tree of QEMU's `virt` names for a machine that
//! starts at EL2. (Arm DEN 0022.)

#![expect(unsafe_code, reason = "calls the firmware")]

use super::console::Console;
use crate::arch::aarch64::platform::affinity;
use crate::arch::aarch64::psci::function;
use core::arch::asm;

const SUCCESS: i64 = 0;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;

/// Calls before a CPU that is said to be on, while it should be going off, is given up.
const PATIENCE: u32 = 1_000_000;

unsafe extern "C" {
    /// Where a CPU begins, see `boot.rs`; only the address means something here.
    fn slat_hv_start_cpu();
}

/// Makes physical CPU `cpu`, which is off or about to go off, begin at `slat_hv_start_cpu`; whether it will.
pub(super) fn power_on(cpu: usize) -> bool {
    let entry: unsafe extern "C" fn() = slat_hv_start_cpu;
    let arguments = [affinity(cpu), entry as usize as u64, cpu as u64];
    let mut answers = (0..PATIENCE).map(|_| call(function::CPU_ON_64, arguments));
    // A CPU that has told the guest that it is off takes some more instructions until it is.
    answers.find(|answer| !matches!(*answer, ALREADY_ON | ON_PENDING)) == Some(SUCCESS)
}

/// Turns this CPU off.
pub(super) fn cpu_off() -> ! {
    call(function::CPU_OFF, [0; 3]);
    stop()
}

/// Sends what is still in the serial port, then ends the machine.
pub(super) fn system_off() -> ! {
    Console::claim().drain();
    call(function::SYSTEM_OFF, [0; 3]);
    stop()
}

/// Does nothing any more, on this CPU.
pub(super) fn stop() -> ! {
    loop {
        // SAFETY: waits; changes nothing.
        unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) };
    }
}

fn call(function: u32, arguments: [u64; 3]) -> i64 {
    let [x1, x2, x3] = arguments;
    let answer;
    // SAFETY: the firmware changes no memory of this program, and no registers but those that SMCCC names, which are
    // among those of the ABI. A CPU that it starts begins at the entry given, with a stack of its own. The barrier
    // makes what was written before visible to that CPU.
    unsafe {
        asm!("dsb sy", "smc #0", inout("x0") u64::from(function) => answer, in("x1") x1, in("x2") x2, in("x3") x3,
             clobber_abi("C"), options(nostack));
    }
    answer
}
