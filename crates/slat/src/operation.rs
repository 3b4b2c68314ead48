//! The names of the structural operations.

#![cfg_attr(
    not(feature = "tracing"),
    expect(dead_code, unreachable_pub, reason = "only `trace`, which is not there, shows and reads them")
)]

use core::fmt;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// The structural operations of a space, by the names of their methods: what the events of a trace call them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Operation {
            $($(#[$doc])* $variant,)*
        }

        impl Operation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name of the method.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

operations! {
    /// [`AddrSpace::map_linear`](crate::AddrSpace::map_linear).
    MapLinear "map_linear",
    /// [`AddrSpace::map_alloc`](crate::AddrSpace::map_alloc) and [`map_alloc_with`](crate::AddrSpace::map_alloc_with).
    MapAlloc "map_alloc",
    /// [`AddrSpace::map_trap`](crate::AddrSpace::map_trap).
    MapTrap "map_trap",
    /// [`AddrSpace::map_shared`](crate::AddrSpace::map_shared).
    MapShared "map_shared",
    /// [`AddrSpace::map_private`](crate::AddrSpace::map_private).
    MapPrivate "map_private",
    /// [`AddrSpace::map_custom`](crate::AddrSpace::map_custom).
    MapCustom "map_custom",
    /// [`AddrSpace::map_paged`](crate::AddrSpace::map_paged).
    MapPaged "map_paged",
    /// [`AddrSpace::unmap`](crate::AddrSpace::unmap), also in a [`Debt`](crate::Debt).
    Unmap "unmap",
    /// [`AddrSpace::protect`](crate::AddrSpace::protect), also in a [`Debt`](crate::Debt).
    Protect "protect",
    /// [`AddrSpace::migrate`](crate::AddrSpace::migrate).
    Migrate "migrate",
    /// [`AddrSpace::discard`](crate::AddrSpace::discard).
    Discard "discard",
    /// [`AddrSpace::clear`](crate::AddrSpace::clear).
    Clear "clear",
    /// [`AddrSpace::populate`](crate::AddrSpace::populate).
    Populate "populate",
    /// The window around a fault: [`AllocOptions::fault_around`](crate::AllocOptions::fault_around).
    PopulateAround "populate_around",
    /// [`AddrSpace::collapse`](crate::AddrSpace::collapse).
    Collapse "collapse",
    /// [`AddrSpace::pin`](crate::AddrSpace::pin).
    Pin "pin",
    /// [`AddrSpace::unpin`](crate::AddrSpace::unpin).
    Unpin "unpin",
    /// [`AddrSpace::fork`](crate::AddrSpace::fork) and [`fork_with`](crate::AddrSpace::fork_with).
    Fork "fork",
    /// [`AddrSpace::snapshot`](crate::AddrSpace::snapshot).
    Snapshot "snapshot",
    /// [`AddrSpace::reset`](crate::AddrSpace::reset).
    Reset "reset",
    /// [`AddrSpace::consolidate`](crate::AddrSpace::consolidate).
    Consolidate "consolidate",
    /// [`AddrSpace::set_in_children`](crate::AddrSpace::set_in_children).
    SetInChildren "set_in_children",
    /// [`AddrSpace::start_dirty_log`](crate::AddrSpace::start_dirty_log).
    StartDirtyLog "start_dirty_log",
    /// [`AddrSpace::collect_dirty`](crate::AddrSpace::collect_dirty), also into a bitmap.
    CollectDirty "collect_dirty",
    /// [`AddrSpace::collect_logged`](crate::AddrSpace::collect_logged).
    CollectLogged "collect_logged",
    /// [`AddrSpace::stop_dirty_log`](crate::AddrSpace::stop_dirty_log).
    StopDirtyLog "stop_dirty_log",
    /// [`AddrSpace::scan_idle`](crate::AddrSpace::scan_idle).
    ScanIdle "scan_idle",
    /// [`AddrSpace::page_out`](crate::AddrSpace::page_out).
    PageOut "page_out",
    /// [`AddrSpace::evict`](crate::AddrSpace::evict).
    Evict "evict",
    /// The end of the space.
    Drop "drop",
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
