//! Unit guests that run on both vendors.

mod modes;

use super::UnitGuest;
use super::context::Context;
use crate::arch::x86_64::bare::Vendor;
use alloc::vec::Vec;

/// All of them.
pub(super) fn guests<V: Vendor>() -> Vec<UnitGuest<Context<V>>> {
    [modes::guests()].into_iter().flatten().collect()
}
