//! Work for the other CPUs: each sleeps until it is given some.
//!
//! Protocol: a CPU that has come up asks for work, does it, says so and asks again; while there is none it halts, and a
//! kick ends that. A kick between its look and its halt is lost, so whoever gives work kicks until it is taken.

#![expect(unsafe_code, reason = "lends work to another CPU for as long as the call lasts")]

use super::machine;
use alloc::boxed::Box;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU8, Ordering};
use slat_hv_protocol::CPUS_MAX;
use spin::Mutex;

/// Looks at a CPU that does not answer before it is taken for dead: seconds on any machine.
const PATIENCE: u64 = 100_000_000;
/// Looks between two kicks.
const KICK_AGAIN: u64 = 10_000;

/// Never started.
const OFF: u8 = 0;
/// Started, and not there yet.
const STARTING: u8 = 1;
/// It has no work.
const IDLE: u8 = 2;
/// Work was put down for it.
const CALLED: u8 = 3;
/// It works.
const WORKING: u8 = 4;

type Work = Box<dyn FnOnce() + Send>;

struct Desk {
    state: AtomicU8,
    work: Mutex<Option<Work>>,
}

static DESKS: [Desk; CPUS_MAX] =
    [const { Desk { state: AtomicU8::new(OFF), work: Mutex::new(None) } }; CPUS_MAX];

/// What a CPU that has come up does from then on.
pub(super) fn serve(cpu: usize) -> ! {
    let Some(desk) = DESKS.get(cpu) else { machine::stop() };
    desk.state.store(IDLE, Ordering::Release);
    loop {
        if desk.state.load(Ordering::Acquire) != CALLED {
            machine::wait();
            continue;
        }
        desk.state.store(WORKING, Ordering::Release);
        if let Some(work) = desk.work.lock().take() {
            work();
        }
        desk.state.store(IDLE, Ordering::Release);
    }
}

/// Lets CPU `cpu` do `work` while this one does `here`; returns when both are done.
///
/// # Errors
/// One line if the CPU does not come up, take the work or finish it.
pub(in crate::arch::x86_64) fn beside<R: Send, S>(
    cpu: usize,
    work: impl FnOnce() -> R + Send,
    here: impl FnOnce() -> S,
) -> Result<(R, S), &'static str> {
    let desk = DESKS.get(cpu).filter(|_| cpu != 0).ok_or("there is no such CPU")?;
    if desk.state.compare_exchange(OFF, STARTING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        machine::start(cpu);
    }
    if !wait_until(desk, IDLE, || ()) {
        return Err("the other CPU does not come up");
    }
    let result = Mutex::new(None);
    let work: Box<dyn FnOnce() + Send + '_> = Box::new(|| *result.lock() = Some(work()));
    // SAFETY: only the lifetime changes. Whatever the work borrows lives until this function returns, and it returns only
    // after the work is done: a CPU that does not finish ends the machine. Nothing unwinds here.
    let work = unsafe { core::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Work>(work) };
    *desk.work.lock() = Some(work);
    desk.state.store(CALLED, Ordering::Release);
    if !wait_until(desk, WORKING, || machine::kick(cpu)) && desk.state.load(Ordering::Acquire) == CALLED {
        super::fail(format_args!("CPU {cpu} does not take its work"));
    }
    let here = here();
    if !wait_until(desk, IDLE, || ()) {
        super::fail(format_args!("CPU {cpu} does not finish its work"));
    }
    let result = result.into_inner().ok_or("the other CPU has not done its work")?;
    Ok((result, here))
}

/// Waits until `desk` is in `state`, or beyond it; `false` if that takes too long. `again` is called now and then.
fn wait_until(desk: &Desk, state: u8, again: impl Fn()) -> bool {
    (0..PATIENCE).any(|look| {
        if look % KICK_AGAIN == 0 {
            again();
        }
        spin_loop();
        let now = desk.state.load(Ordering::Acquire);
        now == state || state == WORKING && now == IDLE
    })
}
