//! Unit guests that run on both vendors.

mod cpus;
mod double_faults;
mod events;
mod exits;
mod faults;
mod modes;
mod run_loop;
mod scene;

use super::UnitGuest;
use super::context::Context;
use crate::arch::x86_64::bare::Vendor;
use alloc::vec::Vec;

/// All of them.
pub(super) fn guests<V: Vendor>() -> Vec<UnitGuest<Context<V>>> {
    let mut guests = Vec::from(modes::guests());
    guests.extend(faults::guests());
    guests.extend(events::guests());
    guests.extend(double_faults::guests());
    guests.extend(exits::guests());
    guests.extend(run_loop::guests());
    guests.extend(cpus::guests());
    guests
}
