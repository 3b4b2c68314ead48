//! The second CPU: starting it, what it does, and the scenarios about its start and its end.

use super::boot::test_guest_begin;
use super::machine::{Function, hvc, read32, soon, stop, this_cpu};
use super::scenarios::{ALREADY_ON, DENIED, HOLE, INVALID_PARAMETERS, check};
use super::{Outcome, conclude, stale};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use slat_test_guest::RAM;

const ON_PENDING: i64 = -5;
const INVALID_ADDRESS: i64 = -9;

/// AFFINITY_INFO's answers.
const ON: i64 = 0;
const OFF: i64 = 1;

/// How often a CPU that another one started has begun.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// What a CPU does that another one has started; its number is the context identifier of CPU_ON.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Work {
    /// Goes off at once.
    GoOff,
    /// Loops for ever without an exit.
    Spin,
    /// Waits for an interrupt for ever; there is none.
    Wait,
    /// Powers the machine off.
    PowerOff,
    /// Reads an address that is nobody's.
    Hole,
    /// Ends the scenario `change-places`, on CPU 1 and then on CPU 0.
    ChangePlaces,
    /// Reads a page.
    Watch,
    /// Writes to a page.
    Write,
    /// Reads a page after it has forgotten all about it.
    Walk,
}

const WORKS: [Work; 9] = {
    use Work::*;
    [GoOff, Spin, Wait, PowerOff, Hole, ChangePlaces, Watch, Write, Walk]
};

/// First Rust on a CPU that another one has started.
pub(super) extern "C" fn begin(context: u64) -> ! {
    // One after the other, and without exclusive accesses: the MMU is off.
    BEGUN.store(BEGUN.load(SeqCst) + 1, SeqCst);
    let Some(&work) = WORKS.iter().find(|&&work| work as u64 == context) else {
        conclude("second", Err("the context identifier of CPU_ON did not arrive"));
    };
    match work {
        Work::GoOff => {}
        Work::Spin => spin(),
        Work::Wait => stop(),
        Work::PowerOff => conclude("off-from-second", Ok(())),
        Work::Hole => _ = read32(HOLE),
        Work::ChangePlaces => change_places_again(),
        Work::Watch | Work::Write | Work::Walk => stale::work(work),
    }
    hvc(Function::CPU_OFF, [0; 3]);
    conclude("second", Err("CPU_OFF returned"))
}

/// Loops without an exit.
fn spin() -> ! {
    loop {
        spin_loop();
    }
}

/// Starts CPU `cpu` on `work`; the answer of CPU_ON.
fn start(cpu: u64, work: Work) -> i64 {
    let entry: unsafe extern "C" fn() = test_guest_begin;
    hvc(Function::CPU_ON, [cpu, entry as usize as u64, work as u64])
}

/// Starts CPU 1 on `work`, and waits until it has begun.
pub(super) fn start_second(work: Work) -> Outcome {
    let before = BEGUN.load(SeqCst);
    check(start(1, work) == 0, "CPU_ON of CPU 1")?;
    check(soon(|| BEGUN.load(SeqCst) > before), "CPU 1 did not begin")
}

/// Waits until CPU `cpu` is off.
pub(super) fn wait_until_off(cpu: u64) -> Outcome {
    let is_off = || hvc(Function::AFFINITY_INFO, [cpu, 0, 0]) == OFF;
    check(soon(is_off), "the other CPU does not go off")
}

/// Scenario `second-cpu`.
pub(super) fn on_and_off() -> Outcome {
    let cpu_on = |cpu: u64, entry: u64| hvc(Function::CPU_ON, [cpu, entry, Work::GoOff as u64]);
    let info = |cpu: u64, level: u64| hvc(Function::AFFINITY_INFO, [cpu, level, 0]);
    for function in [Function::CPU_ON, Function::CPU_OFF, Function::AFFINITY_INFO] {
        check(hvc(Function::FEATURES, [function, 0, 0]) == 0, "FEATURES of a function of CPUs")?;
    }
    check(info(0, 0) == ON && info(1, 0) == OFF, "AFFINITY_INFO at the beginning")?;
    check(info(2, 0) == INVALID_PARAMETERS && info(1, 1) == INVALID_PARAMETERS, "AFFINITY_INFO of nothing")?;
    check(cpu_on(0, RAM) == ALREADY_ON, "CPU_ON of the running CPU")?;
    check(cpu_on(2, RAM) == INVALID_PARAMETERS, "CPU_ON of a CPU that does not exist")?;
    check(cpu_on(1 << 8, RAM) == INVALID_PARAMETERS, "CPU_ON of another CPU that does not exist")?;
    for nowhere in [0, HOLE, RAM - 4, RAM + (1 << 30), RAM + 2, u64::MAX] {
        check(cpu_on(1, nowhere) == INVALID_ADDRESS, "CPU_ON with an entry outside of RAM")?;
    }
    check(hvc(Function::CPU_OFF, [0; 3]) == DENIED, "CPU_OFF of the only CPU that is on")?;

    for _ in 0..50 {
        start_second(Work::GoOff)?;
        // Right behind it, while it goes off; whatever the answer is, it is one of these, and has to be true.
        if !matches!(start(1, Work::GoOff), 0 | ALREADY_ON | ON_PENDING) {
            return Err("CPU_ON of a CPU that goes off");
        }
        wait_until_off(1)?;
    }
    start_second(Work::Spin)?;
    check(info(1, 0) == ON, "AFFINITY_INFO of a CPU that is on")?;
    check(start(1, Work::Spin) == ALREADY_ON, "CPU_ON of a CPU that is on")
}

/// Scenarios `off-while-busy` and `off-while-waiting`: the power-off follows.
pub(super) fn off_while(work: Work) -> Outcome {
    start_second(work)?;
    // Time to get there.
    (0..1_000_000).for_each(|_| spin_loop());
    Ok(())
}

/// Scenarios `off-from-second` and `hole-on-second`: CPU 1 ends the run while this one loops for ever.
pub(super) fn end_from(work: Work) -> Outcome {
    start_second(work)?;
    spin()
}

/// Scenario `change-places`.
pub(super) fn change_places() -> Outcome {
    start_second(Work::ChangePlaces)?;
    hvc(Function::CPU_OFF, [0; 3]);
    Err("CPU_OFF returned")
}

/// CPU 1 has begun and waits for CPU 0 to go off, then turns it on and goes off; then CPU 0 does the rest.
fn change_places_again() {
    let outcome = if this_cpu() == 1 {
        let outcome = wait_until_off(0);
        match outcome.and_then(|()| check(start(0, Work::ChangePlaces) == 0, "CPU_ON of CPU 0")) {
            Ok(()) => return,
            failed => failed,
        }
    } else {
        wait_until_off(1)
    };
    conclude("change-places", outcome)
}
