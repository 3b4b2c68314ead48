//! The machine's own firmware: SBI, which is M-mode's.

#![expect(unsafe_code, reason = "calls the firmware")]

use super::console::Console;
use crate::arch::riscv64::sbi::Machine;
use core::arch::asm;
use sbi_spec::{base, hsm, rfnc, spi, srst, time};

/// An error of the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SbiError(pub(super) i64);

unsafe extern "C" {
    /// Where a hart begins, see `boot.rs`; only the address means something here.
    fn slat_hv_start_hart();
}

/// SBI_ERR_ALREADY_AVAILABLE: the hart is on.
const ALREADY_AVAILABLE: SbiError = SbiError(-6);

/// Calls before a hart that should be off is believed to be on: a second or so.
const PATIENCE: u32 = 1 << 18;

/// Makes hart `hart`, which is off, begin at `slat_hv_start_hart`.
pub(super) fn start_hart(hart: usize) -> Result<(), SbiError> {
    let entry: unsafe extern "C" fn() = slat_hv_start_hart;
    let arguments = [hart as u64, entry as usize as u64, hart as u64, 0, 0];
    let mut left = PATIENCE;
    loop {
        match call(hsm::EID_HSM, hsm::HART_START, arguments) {
            // OpenSBI 1.1 was seen to say so of a hart that nobody had started; it may be late to bring it up.
            Err(ALREADY_AVAILABLE) if left > 0 => left -= 1,
            answer => return answer.map(drop),
        }
    }
}

/// Interrupts the harts in `mask`.
pub(super) fn send_interrupts(mask: u64) -> Result<(), SbiError> {
    call(spi::EID_SPI, spi::SEND_IPI, [mask, 0, 0, 0, 0]).map(drop)
}

/// The next interrupt of this hart's timer is at `time`.
pub(super) fn set_timer(time: u64) -> Result<(), SbiError> {
    call(time::EID_TIME, time::SET_TIMER, [time, 0, 0, 0, 0]).map(drop)
}

/// The harts in `mask` execute FENCE.I.
pub(super) fn remote_fence_i(mask: u64) -> Result<(), SbiError> {
    call(rfnc::EID_RFNC, rfnc::REMOTE_FENCE_I, [mask, 0, 0, 0, 0]).map(drop)
}

/// The harts in `mask` execute HFENCE.VVMA for the VMID of this hart's hgatp: of these addresses (all of them if none are
/// given), and of one address space of the guest's if one is named.
pub(super) fn remote_hfence_vvma(
    mask: u64,
    range: Option<(u64, u64)>,
    asid: Option<u16>,
) -> Result<(), SbiError> {
    let (start, size) = range.unwrap_or((0, u64::MAX));
    let (function, asid) = match asid {
        Some(asid) => (rfnc::REMOTE_HFENCE_VVMA_ASID, asid.into()),
        None => (rfnc::REMOTE_HFENCE_VVMA, 0),
    };
    call(rfnc::EID_RFNC, function, [mask, 0, start, size, asid]).map(drop)
}

/// What the machine is.
pub(super) fn machine() -> Machine {
    let ask = |function| call(base::EID_BASE, function, [0; 5]).unwrap_or(0);
    Machine {
        vendor: ask(base::GET_MVENDORID),
        architecture: ask(base::GET_MARCHID),
        implementation: ask(base::GET_MIMPID),
    }
}

/// Sends what is still in the serial port, then ends the machine.
pub(super) fn system_off() -> ! {
    Console::claim().drain();
    let arguments = [srst::RESET_TYPE_SHUTDOWN.into(), srst::RESET_REASON_NO_REASON.into(), 0, 0, 0];
    // It does not come back, or there is nothing left to be done.
    let _ = call(srst::EID_SRST, srst::SYSTEM_RESET, arguments);
    stop()
}

/// Does nothing any more, on this hart.
pub(super) fn stop() -> ! {
    loop {
        wait_for_interrupt();
    }
}

/// Waits until an interrupt is pending that sie allows, although sstatus does not let it in.
pub(super) fn wait_for_interrupt() {
    // SAFETY: waits; changes nothing.
    unsafe { asm!("wfi", options(nostack, preserves_flags)) };
}

/// Calls the firmware; what it returns in a1.
pub(super) fn call(extension: usize, function: usize, arguments: [u64; 5]) -> Result<u64, SbiError> {
    let [a0, a1, a2, a3, a4] = arguments;
    let (error, value): (i64, u64);
    // SAFETY: the firmware changes no memory of this program and, by SBI's "Binary Encoding", no registers but a0 and a1.
    // A hart that it starts begins at the entry given, with a stack of its own. The fence makes what was written before
    // visible to whoever acts on the call.
    unsafe {
        asm!("fence rw, rw", "ecall", inlateout("a0") a0 => error, inlateout("a1") a1 => value, in("a2") a2,
             in("a3") a3, in("a4") a4, in("a6") function, in("a7") extension, options(nostack));
    }
    if error == 0 { Ok(value) } else { Err(SbiError(error)) }
}
