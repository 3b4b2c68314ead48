//! Addresses and ranges of addresses.
//!
//! Three address types that cannot be mixed up, and ranges that are valid by construction: never empty, never
//! wrapping. All arithmetic is checked: a number that a guest chose can make an operation fail, never overflow.

use core::fmt;
use thiserror::Error;

/// Bytes of the smallest page, on every format: 4 KiB.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this value, in bytes; every value is allowed.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The address with this value, in bytes.
            #[must_use]
            pub const fn from_usize(value: usize) -> Self {
                Self(value as u64)
            }

            /// The value in bytes.
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The value in bytes, or `None` where a `usize` is too narrow for it.
            #[must_use]
            pub fn as_usize(self) -> Option<usize> {
                usize::try_from(self.0).ok()
            }

            /// The address `bytes` further up, or `None` if that would wrap.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }

            /// Bytes from `base` up to here, or `None` if this lies below `base`.
            #[must_use]
            pub const fn checked_offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// Whether this is a multiple of `align` bytes, a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// The nearest multiple of `align` bytes (a power of two) at or below this.
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }

            /// The nearest multiple of `align` bytes (a power of two) at or above this, or `None` if it wraps.
            #[must_use]
            pub const fn align_up(self, align: u64) -> Option<Self> {
                match self.0.checked_add(align - 1) {
                    Some(value) => Some(Self(value & !(align - 1))),
                    None => None,
                }
            }

            /// Bytes from the start of the 4 KiB page that this lies in: 0 to 4095.
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl fmt::UpperHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::UpperHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A guest-physical address: what the guest believes to be physical, the input of second-level translation.
    GuestPhysAddr
}
address! {
    /// A host physical address: what the memory bus sees, the output of second-level translation.
    HostPhysAddr
}
address! {
    /// A guest virtual address: the input of the guest's own translation.
    GuestVirtAddr
}

/// Why two numbers make no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RangeError {
    /// The size is zero.
    #[error("the size is zero")]
    Empty,
    /// Start plus size does not fit into 64 bits.
    #[error("the range wraps around the end of the address space")]
    Wraps,
}

/// What a range of either kind of addresses is: first address and size, neither zero nor wrapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Span {
    start: u64,
    size: u64,
}

impl Span {
    const fn new(start: u64, size: u64) -> Result<Self, RangeError> {
        if size == 0 {
            return Err(RangeError::Empty);
        }
        match start.checked_add(size) {
            Some(_) => Ok(Self { start, size }),
            None => Err(RangeError::Wraps),
        }
    }

    const fn between(start: u64, end: u64) -> Option<Self> {
        match end.checked_sub(start) {
            None | Some(0) => None,
            Some(size) => Some(Self { start, size }),
        }
    }

    const fn end(self) -> u64 {
        self.start + self.size
    }

    const fn contains(self, address: u64) -> bool {
        match address.checked_sub(self.start) {
            Some(offset) => offset < self.size,
            None => false,
        }
    }

    const fn contains_range(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    fn intersection(self, other: Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end().min(other.end()))
    }

    fn hull(self, other: Self) -> Self {
        let start = self.start.min(other.start);
        Self { start, size: self.end().max(other.end()) - start }
    }

    const fn is_aligned(self, align: u64) -> bool {
        (self.start | self.size) & (align - 1) == 0
    }
}

// Nothing but names: the arithmetic stands above, where tools that break code on purpose find it.
macro_rules! range {
    ($(#[$doc:meta])* $name:ident of $address:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(Span);

        impl $name {
            /// The range of `size` bytes that begins at `start`.
            ///
            /// # Errors
            /// [`RangeError::Empty`] if `size` is zero, [`RangeError::Wraps`] if `start + size` exceeds `u64::MAX`.
            pub const fn new(start: $address, size: u64) -> Result<Self, RangeError> {
                match Span::new(start.0, size) {
                    Ok(span) => Ok(Self(span)),
                    Err(error) => Err(error),
                }
            }

            /// The range from `start` up to, not including, `end`; `None` if that is empty.
            #[must_use]
            pub const fn between(start: $address, end: $address) -> Option<Self> {
                match Span::between(start.0, end.0) {
                    Some(span) => Some(Self(span)),
                    None => None,
                }
            }

            /// First address.
            #[must_use]
            pub const fn start(self) -> $address {
                $address(self.0.start)
            }

            /// Length in bytes, at least 1.
            #[must_use]
            pub const fn size(self) -> u64 {
                self.0.size
            }

            /// The address after the last one.
            #[must_use]
            pub const fn end(self) -> $address {
                $address(self.0.end())
            }

            /// Whether `address` lies inside.
            #[must_use]
            pub const fn contains(self, address: $address) -> bool {
                self.0.contains(address.0)
            }

            /// Whether all of `other` lies inside.
            #[must_use]
            pub const fn contains_range(self, other: Self) -> bool {
                self.0.contains_range(other.0)
            }

            /// What the two ranges have in common, or `None`.
            #[must_use]
            pub fn intersection(self, other: Self) -> Option<Self> {
                self.0.intersection(other.0).map(Self)
            }

            /// The smallest range that contains both.
            #[must_use]
            pub fn hull(self, other: Self) -> Self {
                Self(self.0.hull(other.0))
            }

            /// Whether start and size are multiples of `align` bytes, a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0.is_aligned(align)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}..{:#x}", self.start(), self.end())
            }
        }
    };
}

range! {
    /// A non-empty, non-wrapping range of guest-physical addresses.
    GuestPhysRange of GuestPhysAddr
}
range! {
    /// A non-empty, non-wrapping range of host physical addresses.
    HostPhysRange of HostPhysAddr
}

#[cfg(all(test, not(loom)))]
mod tests;
