//! Structural operations as those see them who trace: one event for each.
//!
//! Without the feature `tracing` these functions only call what they are given.

use super::{AddrSpace, CustomBackend};
use crate::addr::GuestPhysAddr;
use crate::format::Format;
use crate::hal::Hal;
use crate::observe::Begin;
use crate::operation::Operation;

#[cfg(not(feature = "tracing"))]
use core::convert::Infallible;

#[cfg(feature = "tracing")]
use super::PagedOut;
#[cfg(feature = "tracing")]
use crate::trace::{Refused, What};

/// What an operation returns, as its event tells it.
pub(super) trait Observable {
    /// How many pages or leaves, 0 where none are counted; or why nothing changed.
    #[cfg(feature = "tracing")]
    fn result(&self) -> Result<u64, crate::trace::Refusal>;

    /// As without the feature: never asked.
    #[cfg(not(feature = "tracing"))]
    fn result(&self) -> Result<u64, Infallible> {
        Ok(0)
    }
}

#[cfg(not(feature = "tracing"))]
impl<T> Observable for T {}

#[cfg(feature = "tracing")]
impl<T: Amount, E: Refused> Observable for Result<T, E> {
    fn result(&self) -> Result<u64, crate::trace::Refusal> {
        self.as_ref().map(T::amount).map_err(E::refusal)
    }
}

/// What is counted.
#[cfg(feature = "tracing")]
pub(super) trait Amount {
    fn amount(&self) -> u64;
}

#[cfg(feature = "tracing")]
impl Amount for () {
    fn amount(&self) -> u64 {
        0
    }
}

#[cfg(feature = "tracing")]
impl Amount for u64 {
    fn amount(&self) -> u64 {
        *self
    }
}

#[cfg(feature = "tracing")]
impl Amount for PagedOut {
    fn amount(&self) -> u64 {
        self.pages
    }
}

#[cfg(feature = "tracing")]
impl<H: Hal, F: Format, B: CustomBackend> Amount for AddrSpace<H, F, B> {
    fn amount(&self) -> u64 {
        0
    }
}

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Carries out an operation on `size` bytes at `gpa`, numbers of the caller's.
    #[inline(always)]
    pub(super) fn observed<R: Observable>(
        &mut self,
        operation: Operation,
        (gpa, size): (GuestPhysAddr, u64),
        change: impl FnOnce(&mut Self) -> R,
    ) -> R {
        #[cfg(not(feature = "tracing"))]
        {
            let _ = (operation, gpa, size);
            change(self)
        }
        #[cfg(feature = "tracing")]
        {
            let begin = Begin::now(self.hal());
            let result = change(self);
            self.over(begin, operation, (gpa, size), || result.result());
            result
        }
    }

    /// An operation is over.
    #[cfg(feature = "tracing")]
    #[inline(always)]
    pub(super) fn over(
        &self,
        begin: Begin,
        operation: Operation,
        (start, size): (GuestPhysAddr, u64),
        result: impl FnOnce() -> Result<u64, crate::trace::Refusal>,
    ) {
        let result = || What::Operation { operation, start, size, result: result() };
        begin.end(self.hal(), (self.tag(), self.root()), result);
    }

    /// As without the feature: nothing.
    #[cfg(not(feature = "tracing"))]
    #[inline(always)]
    pub(super) fn over(
        &self,
        _: Begin,
        _: Operation,
        _: (GuestPhysAddr, u64),
        _: impl FnOnce() -> Result<u64, Infallible>,
    ) {
    }

    /// The range of the space, as numbers.
    #[inline(always)]
    pub(super) fn whole(&self) -> (GuestPhysAddr, u64) {
        (self.range.start(), self.range.size())
    }
}
