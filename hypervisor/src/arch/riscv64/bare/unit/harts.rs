//! Work for the other hart, which waits until it is given some.

#![expect(unsafe_code, reason = "lends work to another hart for as long as the call lasts")]

use super::super::{fail, firmware};
use super::Failure;
use alloc::boxed::Box;
use alloc::format;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU8, Ordering};
use spin::Mutex;

/// Looks at a hart that does not answer before it is taken for dead: many seconds on any machine.
const PATIENCE: u64 = 1 << 33;

/// It was never started.
const OFF: u8 = 0;
/// It has no work.
const IDLE: u8 = 1;
/// Work was put down for it, or it works.
const BUSY: u8 = 2;

type Work = Box<dyn FnOnce() + Send>;

static STATE: AtomicU8 = AtomicU8::new(OFF);
static WORK: Mutex<Option<Work>> = Mutex::new(None);

/// What the other hart does from its start on.
pub(in super::super) fn serve() -> ! {
    STATE.store(IDLE, Ordering::Release);
    loop {
        while STATE.load(Ordering::Acquire) != BUSY {
            spin_loop();
        }
        let work = WORK.lock().take();
        if let Some(work) = work {
            work();
        }
        STATE.store(IDLE, Ordering::Release);
    }
}

/// Lets hart `other` do `work` while this one does `here`; returns when both are done.
///
/// # Errors
/// One line if the firmware does not start it.
pub(super) fn beside<R: Send, S>(
    other: usize,
    work: impl FnOnce() -> R + Send,
    here: impl FnOnce() -> S,
) -> Result<(R, S), Failure> {
    if STATE.load(Ordering::Acquire) == OFF {
        firmware::start_hart(other).map_err(|error| format!("hart {other} does not start: {error:?}"))?;
        wait_until_idle();
    }
    let result = Mutex::new(None);
    let work: Box<dyn FnOnce() + Send + '_> = Box::new(|| *result.lock() = Some(work()));
    // SAFETY: only the lifetime changes. Whatever the work borrows lives until this function returns, and it returns only after the
    // work is done: a hart that does not finish ends the machine. Nothing unwinds here.
    let work = unsafe { core::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Work>(work) };
    *WORK.lock() = Some(work);
    STATE.store(BUSY, Ordering::Release);
    let here = here();
    wait_until_idle();
    let result = result.into_inner().ok_or("the other hart has not done its work")?;
    Ok((result, here))
}

fn wait_until_idle() {
    for _ in 0..PATIENCE {
        if STATE.load(Ordering::Acquire) == IDLE {
            return;
        }
        spin_loop();
    }
    fail(format_args!("the other hart does not finish its work"));
}
