//! The harts of the machine: how the others are started, kicked, and what time it is for all of them.
//!
//! A kick is the supervisor software interrupt, by SBI. It is never taken in HS-mode: a hart that is in a guest leaves it, and one
//! that sleeps goes on; until it looked what there is, the interrupt stays pending.

use super::{firmware, this_hart, timer};
use crate::guests::Hart;
use alloc::format;
use alloc::string::String;

/// Kicks `hart`.
pub(super) fn kick(hart: usize) {
    if let Err(error) = firmware::send_interrupts(1 << hart) {
        super::fail(format_args!("the firmware does not interrupt hart {hart}: {error:?}"));
    }
}

/// Starts all harts below `count` but this one.
pub(super) fn start_others(count: usize) -> Result<(), String> {
    for hart in (0..count).filter(|hart| *hart != this_hart()) {
        firmware::start_hart(hart)
            .map_err(|error| format!("the firmware does not start hart {hart}: {error:?}"))?;
    }
    Ok(())
}

/// This hart, for the scheduler; ticks are those of `time`.
pub(super) struct ThisHart;

impl Hart for ThisHart {
    fn now(&self) -> u64 {
        timer::now()
    }

    fn preempt_at(&mut self, time: u64) {
        timer::preempt_at(time);
    }

    fn sleep(&mut self, until: Option<u64>) {
        timer::set(until.unwrap_or(timer::NEVER));
        firmware::wait_for_interrupt();
        timer::set(timer::NEVER);
        timer::acknowledge_software();
    }
}
