//! A development host: no second-level translation is in use.

use crate::hal::CacheActions;
use crate::tlb::Invalidation;

pub(crate) fn invalidate(_invalidation: &Invalidation<'_>) {}

pub(crate) fn publish() {}

pub(crate) fn maintain_cache(_start: *mut u8, _bytes: usize, _actions: CacheActions) {}
