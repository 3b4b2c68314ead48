//! The scenarios, one function each. See the table in `main.rs`.

use super::firmware::{BASE, DBCN, HSM, IPI, NOT_SUPPORTED, RFENCE, TIME, call};
use super::machine::{
    FETCH_ACCESS, ILLEGAL_INSTRUCTION, LOAD_ACCESS, STORE_ACCESS, Trap, load, store, trap_of, trap_of_fetch,
};
use super::{Outcome, isolation, wild};
use core::arch::asm;
use slat_test_guest::{RISCV_RAM as RAM, memory_size, word_after};

/// Nothing of the guest's: the emulated serial port, which flat binaries have, lies elsewhere.
const HOLE: u64 = 0x0a00_0000;
/// Wider than what Sv39x4 translates.
const TOO_WIDE: u64 = 1 << 42;

/// Runs the scenario `name`.
pub(super) fn run(name: &str, device_tree: &[u8]) -> Outcome {
    match name {
        "ok" => Ok(()),
        "touch-all" => touch_all(device_tree),
        "inject" => injected(),
        "reset" => {
            super::system_reset(super::firmware::COLD_REBOOT);
        }
        "hole" => must_not_return(|| _ = load(HOLE)),
        "hole-write" => must_not_return(|| store(HOLE, 1)),
        "too-wide" => must_not_return(|| _ = load(TOO_WIDE)),
        "walk-hole" => must_not_return(walk_hole),
        "sbi" => calls(),
        "hypervisor-instructions" => hypervisor_instructions(),
        "isolation" => isolation::run(device_tree),
        "wild" => {
            wild::run(word_after(device_tree, b"seed=").and_then(|seed| seed.parse().ok()).unwrap_or(1))
        }
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
        // Nothing changes, but each page is written to.
        store(page, load(page));
    }
    Ok(())
}

fn injected() -> Outcome {
    let trapped = |scause, stval| Some(Trap { scause, stval });
    check(trap_of(|| _ = load(HOLE + 8)) == trapped(LOAD_ACCESS, HOLE + 8), "a load")?;
    check(trap_of(|| store(HOLE + 16, 1)) == trapped(STORE_ACCESS, HOLE + 16), "a store")?;
    check(trap_of_fetch(HOLE) == trapped(FETCH_ACCESS, HOLE), "a fetch")
}

/// Turns translation on with a table that is not there.
fn walk_hole() {
    // SAFETY: the scenario is over with the next fetch.
    unsafe { asm!("csrw satp, {}", "sfence.vma", in(reg) 8_u64 << 60 | HOLE >> 12, options(nostack)) };
}

/// Calls that make sense are answered, and all others by an error.
fn calls() -> Outcome {
    let refused = |(error, _): (i64, u64)| error < 0;
    let one = |a0| [a0, 0, 0, 0, 0];
    check(call(BASE, 0, [0; 5]).0 == 0, "the version")?;
    for extension in [BASE, TIME, IPI, RFENCE, HSM, DBCN] {
        check(call(BASE, 3, one(extension)) == (0, 1), "an extension is missing")?;
        check(call(extension, 1000, [u64::MAX; 5]).0 == NOT_SUPPORTED, "an unknown function")?;
    }
    for extension in [0x0a00_0000, 0x1234_5678, u64::MAX, 1 << 63] {
        check(call(BASE, 3, one(extension)).1 == 0, "an unknown extension is there")?;
        check(call(extension, 0, [u64::MAX; 5]).0 == NOT_SUPPORTED, "an unknown extension")?;
    }
    // No hart but this one exists.
    for hart in [1, 64, 1 << 32, u64::MAX] {
        check(refused(call(HSM, 0, [hart, RAM, 0, 0, 0])), "a hart that does not exist was started")?;
        check(refused(call(HSM, 2, one(hart))), "a hart that does not exist has a state")?;
    }
    check(refused(call(HSM, 0, [0, RAM, 0, 0, 0])), "the running hart was started")?;
    check(call(HSM, 2, one(0)) == (0, 0), "the running hart does not run")?;
    check(refused(call(IPI, 0, [u64::MAX, 1, 0, 0, 0])), "an interrupt for harts that do not exist")?;
    check(refused(call(RFENCE, 0, [2, 0, 0, 0, 0])), "a fence for a hart that does not exist")?;
    // Buffers of the console in holes, around the end of everything, in devices.
    let buffers =
        [(16, HOLE), (16, u64::MAX - 4), (u64::MAX, HOLE), (1, 1 << 55), (4096, RAM - 2048), (8, 0)];
    for (length, address) in buffers {
        let (error, written) = call(DBCN, 0, [length, address, 0, 0, 0]);
        check(error < 0 || written < length, "a wild buffer was printed")?;
        let (error, read) = call(DBCN, 1, [length, address, 0, 0, 0]);
        check(error < 0 || read == 0, "something was read into a wild buffer")?;
    }
    check(refused(call(DBCN, 0, [8, RAM, 1, 0, 0])), "a buffer beyond 64 bits of address")
}

/// What HS-mode alone may do does not exist here.
fn hypervisor_instructions() -> Outcome {
    macro_rules! refuses {
        ($($instruction:literal),+ $(,)?) => {
            $({
                let trap = trap_of(|| {
                    // SAFETY: does nothing but trap; the vector goes on behind the instruction.
                    unsafe {
                        asm!(".option push", ".option arch, +h", ".option norvc", $instruction, ".option pop",
                             out("t0") _, in("t1") u64::MAX, options(nostack))
                    };
                });
                let cause = trap.ok_or(concat!("no exception: ", $instruction))?.scause;
                check(cause == ILLEGAL_INSTRUCTION, $instruction)?;
            })+
        };
    }
    refuses!(
        "hfence.gvma",
        "hfence.gvma t1, t1",
        "hfence.vvma",
        "hlv.d t0, (t1)",
        "hsv.d t0, (t1)",
        "csrr t0, hgatp",
        "csrw hgatp, t1",
        "csrw hgatp, zero",
        "csrr t0, hstatus",
        "csrw hedeleg, t1",
        "csrw hideleg, zero",
        "csrw hvip, t1",
        "csrw vsatp, t1",
        "csrr t0, mstatus",
        "csrw mtvec, t1",
    );
    Ok(())
}
