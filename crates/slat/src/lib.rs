//! Guest-physical address spaces behind second-level address translation: what a hypervisor needs to give a guest
//! memory and to take it away again.
//!
//! An [`AddrSpace`] is made on a host, a value of a type that implements [`Hal`]: frames, a way to reach them, and
//! hooks for invalidation and cache maintenance. Map regions with [`map_linear`](AddrSpace::map_linear) (memory of
//! yours) and [`map_alloc`](AddrSpace::map_alloc) (frames of the host, at once or on the first access), load
//! [`root_register`](AddrSpace::root_register) into the CPU, and answer the guest's faults with
//! [`handle_page_fault`](AddrSpace::handle_page_fault).
//!
//! Other backends: [`map_shared`](AddrSpace::map_shared) for memory that several guests have in common,
//! [`map_trap`](AddrSpace::map_trap) for devices that you emulate, [`map_custom`](AddrSpace::map_custom) for
//! [a backend of your own](CustomBackend). [`memory`](AddrSpace::memory) is what the host reads and writes of a guest,
//! [`translate_virt`](AddrSpace::translate_virt) walks the guest's own tables; [`pin`](AddrSpace::pin) keeps pages where they are,
//! [`discard`](AddrSpace::discard) gives them up; [`Audit`] says what a set of guests can reach, [`Counted`] counts,
//! and with the feature `tracing` a ring in `slat::trace` has what happened last, and when.
//!
//! The guide tells what second-level address translation is, how to bring this crate into a hypervisor in five minutes, what each ISA asks
//! for, what may run beside what, what operations cost, and how to come from `axaddrspace`: [`guide`].
//!
//! What holds throughout:
//! - An operation that returns an error has changed nothing, also when the host ran out of frames half way.
//! - Frames are zeroed before a guest can see them, and go back to the host only after every CPU was told to forget
//!   them. Dropping a space gives everything back.
//! - No number that comes from a guest can panic, overflow or alias.
//! - The crate has no global state, allocates nothing but frames of the host, and needs no heap.
//!
//! The formats are plain integers ([`format`](mod@format)): all of them build and are tested on every machine. Only
//! [`isa`] has instructions of one architecture.
#![cfg_attr(not(any(test, feature = "std")), no_std)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
#[cfg(doctest)]
#[doc = include_str!("../adding-a-backend.md")]
struct AddingABackend;

mod addr;
mod audit;
mod counters;
pub mod device;
mod dump;
mod error;
mod fault;
mod flags;
pub mod format;
mod frame;
pub mod guest;
#[cfg(any(doc, doctest))]
pub mod guide;
mod hal;
pub mod isa;
mod observe;
mod operation;
mod space;
mod sync;
mod table;
pub mod tlb;
#[cfg(feature = "tracing")]
pub mod trace;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(any(test, feature = "std"))]
pub mod test_util;

pub use addr::{
    GuestPhysAddr, GuestPhysRange, GuestVirtAddr, HostPhysAddr, HostPhysRange, PAGE_SIZE, RangeError,
};
pub use audit::{
    Audit, AuditError, AuditRecord, AuditSite, AuditViolation, Audited, AuditedSpace, Holding, ReachableLeaf,
};
pub use counters::{Counted, Counters, Totals};
pub use dump::Dump;
pub use error::{
    BadRange, ClearError, CollapseError, CollectLogError, CreateError, DiscardError, FaultError, ForkError,
    InheritError, MapError, MigrateError, PageOutError, PinError, PopulateError, ProtectError, QueryError,
    ResetError, ScanError, StartLogError, StopLogError, TopUpError, UnmapError, UnpinError, UnsupportedFlags,
};
pub use fault::{FaultCause, FaultOutcome, NestedPageFaultInfo};
pub use flags::{LeafSize, MappingFlags, MemoryType};
pub use format::Native;
pub use guest::{GuestPageFault, GuestPageWalkInfo, GuestTranslation, GuestWalkError, InstructionBytes};
pub use hal::{CacheActions, CacheMaintenance, Hal};
pub use space::{
    AccessError, AccessRefusal, AddrSpace, AllocOptions, AtomicWord, Backend, BackendError, BackendPage,
    CopyError, CustomBackend, Debt, GuestBuffer, GuestMemory, GuestObject, GuestPiece, NoBackend, PagedOut,
    Pager, PagerBackend, Region, SharedId, SharedMemory, SharedMemoryError, Snapshot, Stats, Zeroed,
};
pub use table::{Census, LogUnit, Mapping};
pub use tlb::{Invalidation, Reach, Scope, TableKind, Tag, TagError, TagPool, TlbFeatures};
