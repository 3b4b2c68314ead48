//! What a space did and when, in a ring of memory of the caller's: feature `tracing`.
//!
//! Every fault, every structural operation and every invalidation becomes one [`Event`] in the [`Ring`] that
//! [`Hal::tracer`](crate::Hal::tracer) names. Nothing is allocated, no lock is taken, and the oldest events make room for
//! the newest ones: what is left after a crash is what led to it. [`Traced`] puts a ring behind any host:
//!
//! ```
//! use slat::trace::{Ring, Traced};
//! use slat::{AddrSpace, GuestPhysAddr, MappingFlags, test_util::HeapHal};
//! use std::sync::atomic::AtomicU64;
//! # fn cpu_number() -> usize { 0 }
//!
//! static MEMORY: [AtomicU64; 8 * 1025] = [const { AtomicU64::new(0) }; 8 * 1025]; // 1024 events
//! static RING: Ring<'_> = Ring::new(&MEMORY);
//!
//! let host = Traced::new(HeapHal::new(), &RING, cpu_number); // yours, and so is `cpu_number`
//! let mut guest: AddrSpace<_> =
//!     AddrSpace::with_format(host, Default::default(), GuestPhysAddr::new(0), 1 << 30, 1)?;
//! guest.map_alloc(GuestPhysAddr::new(0), 0x4000, MappingFlags::READ, false)?;
//! guest.handle_page_fault(GuestPhysAddr::new(0x1234), MappingFlags::READ)?;
//! assert!(guest.handle_page_fault(GuestPhysAddr::new(0x9000), MappingFlags::READ).is_err());
//!
//! let lines: Vec<String> = RING.events().map(|(_, event)| event.what.to_string()).collect();
//! assert_eq!(lines, [
//!     "map_alloc 0x0 + 0x4000: done, 0",
//!     "fault `r---` at 0x1234: populated, 4K",
//!     "fault `r---` at 0x9000: no region",
//! ]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A host of one's own overrides [`Hal::tracer`](crate::Hal::tracer) itself, and [`Hal::trace_time`](crate::Hal::trace_time)
//! where the counter of the CPU is not the clock that it wants. **Cost:** without the feature none; with it and without a
//! tracer none either, as the compiler removes what a constant `None` guards; with one, two reads of the clock, two atomic
//! read-modify-writes and eight stores for each event.
//!
//! A ring of memory that outlives the program, or that a dump contains, can be read by another one: [`Ring::new`] on the
//! same words.

mod event;
mod refusal;
mod ring;
mod traced;

pub use crate::operation::Operation;
pub use event::{Event, FaultAnswer, InvalidationScope, What};
pub use refusal::Refusal;
pub(crate) use refusal::Refused;
pub use ring::{Absent, Ring, Tracer};
pub use traced::Traced;

#[cfg(all(test, not(loom)))]
mod tests;
