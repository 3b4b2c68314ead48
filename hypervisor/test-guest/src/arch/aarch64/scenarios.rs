//! The scenarios, one function each. See the table in `main.rs`.

use super::Outcome;
use super::machine::{
    DISTRIBUTOR, Exception, Function, UART, enable_timer_interrupt, exception_of, exception_of_fetch, hvc,
    hvc_with_immediate, read32, smc, wait_for_timer, write32,
};
use super::stage1::turn_mmu_on;
use super::{buffers, emulated, second, stale, wild};
use core::arch::asm;
use slat_test_guest::{RAM, memory_size, word_after};

/// A device of the machine that the guest does not have.
pub(super) const HOLE: u64 = 0x0a00_0000;
/// Wider than the guest's 40 bits, within what the CPU's stage 1 lets through.
const TOO_WIDE: u64 = 1 << 42;

pub(super) const NOT_SUPPORTED: i64 = -1;
pub(super) const INVALID_PARAMETERS: i64 = -2;
pub(super) const DENIED: i64 = -3;
pub(super) const ALREADY_ON: i64 = -4;

/// Runs the scenario `name`.
pub(super) fn run(name: &str, device_tree: &[u8]) -> Outcome {
    match name {
        "ok" => Ok(()),
        "touch-all" => touch_all(device_tree),
        "write-device-ok" => write_device(),
        "wfi-storm" => wfi_storm(),
        "psci-cpu-on" => psci(hvc),
        "smc" => psci(smc),
        "hvc-unknown" => unknown_calls(),
        "undef-sysreg" => undefined_register(),
        "inject" => injected(),
        "inject-device" => injected_fetch(UART),
        "reset" => {
            hvc(Function::SYSTEM_RESET, [0; 3]);
            Err("reset returned")
        }
        "hole" => must_not_return(|| _ = read32(HOLE)),
        "hole-write" => must_not_return(|| write32(HOLE, 1)),
        "too-wide" => must_not_return(|| _ = read32(TOO_WIDE)),
        "exec-device" => must_not_return(|| _ = exception_of_fetch(UART)),
        "walk-hole" => must_not_return(|| turn_mmu_on(HOLE)),
        "no-vector" => must_not_return(lose_vectors),
        "wild" => {
            wild::run(word_after(device_tree, b"seed=").and_then(|seed| seed.parse().ok()).unwrap_or(1))
        }
        "second-cpu" => second::on_and_off(),
        "off-while-busy" => second::off_while(second::Work::Spin),
        "off-while-waiting" => second::off_while(second::Work::Wait),
        "off-from-second" => second::end_from(second::Work::PowerOff),
        "hole-on-second" => second::end_from(second::Work::Hole),
        "change-places" => second::change_places(),
        "stale-move" => stale::moved(),
        "stale-protect" => stale::write_protected(),
        "stale-renew" => stale::renewed(),
        "stale-table" => stale::table_moved(),
        "stale-alone" => stale::alone(),
        "emulated-uart" => emulated::used_well(),
        "hostile-uart" => emulated::used_badly(),
        "hostile-buffer" => buffers::run(device_tree),
        _ => Err("no such scenario"),
    }
}

pub(super) fn check(condition: bool, why: &'static str) -> Outcome {
    if condition { Ok(()) } else { Err(why) }
}

fn must_not_return(access: impl FnOnce()) -> Outcome {
    access();
    Err("the access was answered")
}

fn touch_all(device_tree: &[u8]) -> Outcome {
    let size = memory_size(device_tree, RAM).ok_or("no memory node")?;
    for page in (RAM..RAM + size).step_by(4096) {
        // SAFETY: a word of RAM is written with what it holds: nothing changes, but each page is written to.
        unsafe { asm!("ldr {0}, [{1}]", "str {0}, [{1}]", out(reg) _, in(reg) page, options(nostack)) };
    }
    Ok(())
}

fn write_device() -> Outcome {
    check(read32(UART + 0xfe0) == 0x11, "the UART is no PL011")?;
    check(read32(DISTRIBUTOR + 0xffe8) >> 4 & 0xf == 3, "the interrupt controller is no GICv3")?;
    let exception = exception_of(|| write32(UART, u32::from(b'.')))?;
    check(exception.is_none(), "writing to the UART led to an exception")
}

fn wfi_storm() -> Outcome {
    enable_timer_interrupt();
    for _ in 0..200 {
        check(wait_for_timer(2000), "woken before the timer expired")?;
    }
    Ok(())
}

fn psci(call: fn(u64, [u64; 3]) -> i64) -> Outcome {
    let self_and = |other: u64| [other, 0, 0];
    check(call(Function::VERSION, [0; 3]) == 0x1_0001, "PSCI_VERSION")?;
    check(call(Function::CPU_ON, self_and(0)) == ALREADY_ON, "CPU_ON of the running CPU")?;
    check(call(Function::CPU_ON, self_and(1)) == INVALID_PARAMETERS, "CPU_ON of a CPU that does not exist")?;
    check(call(Function::AFFINITY_INFO, self_and(0)) == 0, "AFFINITY_INFO of the running CPU")?;
    check(call(Function::CPU_OFF, [0; 3]) == DENIED, "CPU_OFF of the only CPU")?;
    check(call(Function::FEATURES, [Function::SYSTEM_OFF, 0, 0]) == 0, "FEATURES of SYSTEM_OFF")?;
    check(call(Function::FEATURES, [0xc400_0012, 0, 0]) == NOT_SUPPORTED, "FEATURES of SYSTEM_RESET2")?;
    check(call(0xc600_1234, [1, 2, 3]) == NOT_SUPPORTED, "an unknown function")
}

fn unknown_calls() -> Outcome {
    for function in [0, 1, 0x8400_00ff, 0xc400_00ff, 0x8600_0000, 0xffff_ffff, u64::MAX] {
        check(hvc(function, [u64::MAX; 3]) == NOT_SUPPORTED, "an unknown function was answered")?;
    }
    let answer = hvc_with_immediate(Function::SYSTEM_OFF, [0; 3]);
    check(answer == NOT_SUPPORTED, "a reserved immediate was answered")
}

fn undefined_register() -> Outcome {
    let exception = exception_of(|| {
        // SAFETY: reads a register that the hypervisor traps; the vector skips the instruction.
        unsafe { asm!("mrs {}, actlr_el1", out(reg) _, options(nostack)) };
    })?;
    let esr = exception.ok_or("no exception")?.esr;
    check(esr >> 26 == 0, "the exception class is not `unknown reason`")
}

fn injected() -> Outcome {
    let read = exception_of(|| _ = read32(HOLE + 8))?;
    check_abort(read, 0x25, HOLE + 8, false)?;
    let write = exception_of(|| write32(HOLE + 12, 1))?;
    check_abort(write, 0x25, HOLE + 12, true)?;
    injected_fetch(HOLE)
}

fn injected_fetch(address: u64) -> Outcome {
    check_abort(exception_of_fetch(address)?, 0x21, address, false)
}

pub(super) fn check_abort(exception: Option<Exception>, class: u64, address: u64, write: bool) -> Outcome {
    let Exception { esr, far } = exception.ok_or("no exception")?;
    check(esr >> 26 & 0x3f == class, "wrong exception class")?;
    check(esr & 0x3f == 0x10, "not a synchronous external abort")?;
    check(esr >> 6 & 1 == u64::from(write), "wrong direction")?;
    check(far == address, "wrong fault address")
}

fn lose_vectors() {
    // SAFETY: the scenario is over with the next exception.
    unsafe { asm!("msr vbar_el1, {}", "isb", "ldr xzr, [{}]", in(reg) HOLE, in(reg) HOLE, options(nostack)) };
}
