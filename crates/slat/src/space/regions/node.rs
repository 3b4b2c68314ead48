//! The nodes of the tree: one frame each, all integers, sorted by key.
//!
//! The keys of a node stand apart from its values, so that a search touches few cache lines. A region is packed into
//! 24 bytes: its address is the key; size, flags and kind share a word, for sizes are multiples of 4 KiB. **Every bit
//! pattern is a valid node**, so the accessors of [`Node`] are safe Rust; what a [`Link`] names is the tree's promise.

#![expect(unsafe_code, reason = "keeps the regions in frames of the host")]

use super::Region;
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr, PAGE_SIZE};
use crate::device::DeviceId;
use crate::flags::{LeafSize, MappingFlags};
use crate::space::backend::{Backend, SharedId};
use crate::table::LogUnit;
use core::ptr::NonNull;

/// Entries sorted by key: regions in a leaf, children in an inner node.
#[repr(C)]
pub(super) struct Node<V, const N: usize> {
    len: usize,
    /// The frame that this is: what goes back to the host.
    frame: HostPhysAddr,
    keys: [u64; N],
    values: [V; N],
}

/// A node at the bottom: regions by their first address.
pub(super) type Leaf<const N: usize> = Node<Packed, N>;
/// A node above: children by the first key in each.
pub(super) type Inner<const N: usize> = Node<Option<Link>, N>;

/// How a pair of neighbours was brought into shape.
pub(super) enum Balanced {
    /// The left node has everything; the right one is empty.
    Merged,
    /// Both have about half; the right one begins with this key.
    Shared(u64),
}

impl<V: Copy, const N: usize> Node<V, N> {
    /// Every node but the root and those at the right edge has at least this many entries.
    pub(super) const LEAST: usize = N / 4;

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The frame that this is.
    pub(super) fn frame(&self) -> HostPhysAddr {
        self.frame
    }

    /// The keys in use.
    #[inline]
    pub(super) fn keys(&self) -> &[u64] {
        &self.keys[..self.len]
    }

    /// Number of keys up to and including `key`.
    #[inline]
    pub(super) fn count_to(&self, key: u64) -> usize {
        count_to(self.keys(), key)
    }

    /// The entry with the last key up to and including `key`.
    #[inline]
    pub(super) fn before(&self, key: u64) -> Option<(u64, V)> {
        let keys = self.keys();
        let index = count_to(keys, key).checked_sub(1)?;
        Some((*keys.get(index)?, *self.values.get(index)?))
    }

    pub(super) fn get(&self, index: usize) -> Option<(u64, V)> {
        if index < self.len { Some((*self.keys.get(index)?, *self.values.get(index)?)) } else { None }
    }

    /// Overwrites an entry that is in use.
    pub(super) fn set(&mut self, index: usize, key: u64, value: V) {
        assert!(index < self.len, "an entry that is not in use");
        self.keys[index] = key;
        self.values[index] = value;
    }

    /// Lowers the first key to `key`, if it is above.
    pub(super) fn lower_first(&mut self, key: u64) {
        self.keys[0] = self.keys[0].min(key);
    }

    /// Adds an entry where there is room for it.
    pub(super) fn insert(&mut self, index: usize, key: u64, value: V) {
        self.keys.copy_within(index..self.len, index + 1);
        self.values.copy_within(index..self.len, index + 1);
        self.len += 1;
        self.set(index, key, value);
    }

    /// Removes the entries from `from` up to, not including, `to`.
    pub(super) fn remove(&mut self, from: usize, to: usize) {
        if from < to {
            self.keys.copy_within(to..self.len, from);
            self.values.copy_within(to..self.len, from);
            self.len -= to - from;
        }
    }

    /// Adds an entry to a full node, whose upper part moves to the empty `next`. `edge` is given for the last node of
    /// its level: the number of entries that `next` gets if the new one comes after all others.
    ///
    /// Keys that come in ascending order thus leave full nodes behind. Elsewhere the cut is near the new entry, as far
    /// as both parts get [`LEAST`](Self::LEAST): runs in either direction leave nodes three quarters full.
    pub(super) fn insert_split(
        &mut self,
        index: usize,
        key: u64,
        value: V,
        next: &mut Self,
        edge: Option<usize>,
    ) {
        let at = match edge {
            Some(edge) if index == N => N + 1 - edge,
            _ => index.clamp(Self::LEAST, N + 1 - Self::LEAST),
        };
        // The new entry counts: one entry fewer moves if it goes to the lower part.
        let kept = if index < at { at - 1 } else { at };
        next.append(self, kept);
        if index < at {
            self.insert(index, key, value);
        } else {
            next.insert(index - at, key, value);
        }
    }

    /// Moves the entries of `other` from `from` on to the end of this node.
    fn append(&mut self, other: &mut Self, from: usize) {
        let end = self.len + other.len - from;
        self.keys[self.len..end].copy_from_slice(&other.keys[from..other.len]);
        self.values[self.len..end].copy_from_slice(&other.values[from..other.len]);
        (self.len, other.len) = (end, from);
    }

    /// Merges with `next`, the neighbour behind, or shares the entries evenly if they would nearly fill one node:
    /// after either, it takes many more changes until the pair has to be touched again.
    pub(super) fn balance(&mut self, next: &mut Self) -> Balanced {
        let total = self.len + next.len;
        if total <= N / 4 * 3 {
            self.append(next, 0);
            return Balanced::Merged;
        }
        let half = total / 2;
        if self.len < half {
            let missing = half - self.len;
            self.keys[self.len..half].copy_from_slice(&next.keys[..missing]);
            self.values[self.len..half].copy_from_slice(&next.values[..missing]);
            self.len = half;
            next.remove(0, missing);
        } else {
            let surplus = self.len - half;
            next.keys.copy_within(..next.len, surplus);
            next.values.copy_within(..next.len, surplus);
            next.keys[..surplus].copy_from_slice(&self.keys[half..self.len]);
            next.values[..surplus].copy_from_slice(&self.values[half..self.len]);
            next.len += surplus;
            self.len = half;
        }
        Balanced::Shared(next.keys[0])
    }
}

/// Number of `keys`, which ascend, up to and including `key`.
#[inline]
fn count_to(keys: &[u64], key: u64) -> usize {
    if keys.len() <= 8 {
        keys.partition_point(|other| *other <= key)
    } else {
        // The compiler then knows it of both ways, and faults need not compare.
        count_to_of_many(keys, key).min(keys.len())
    }
}

/// As [`count_to`]: begins where the key would be if all were equally far apart. Regions often are, and then this
/// touches three cache lines, two of them at once, instead of one after the other at each bisection.
fn count_to_of_many(keys: &[u64], key: u64) -> usize {
    let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return 0 };
    if key < *first {
        return 0;
    }
    if key >= *last {
        return keys.len();
    }
    // Not zero: keys are multiples of 4 KiB, and no two are the same.
    let each = ((last - first) / (keys.len() as u64 - 1)).max(1);
    let guess = (((key - first) / each) as usize).min(keys.len() - 2);
    if keys[guess] > key {
        return keys[..guess].partition_point(|other| *other <= key);
    }
    if keys[guess + 1] > key {
        return guess + 1;
    }
    guess + 1 + keys[guess + 1..].partition_point(|other| *other <= key)
}

impl<const N: usize> Leaf<N> {
    /// The region at `index`.
    #[inline]
    pub(super) fn region(&self, index: usize) -> Option<Region> {
        let (start, packed) = self.get(index)?;
        packed.unpack(start)
    }

    /// Overwrites the region at `index`.
    pub(super) fn set_region(&mut self, index: usize, region: &Region) {
        self.set(index, region.range.start().as_u64(), Packed::new(region));
    }

    /// Changes the regions from `from` on that begin before `end`, removes those of which `change` makes nothing, and
    /// joins what then is one, with the neighbours before and behind too. Returns how many regions went.
    pub(super) fn rewrite(
        &mut self,
        from: usize,
        end: u64,
        change: &mut impl FnMut(Region) -> Option<Region>,
    ) -> usize {
        let (mut read, mut kept) = (from, from);
        while let Some(region) = self.region(read).filter(|region| region.range.start().as_u64() < end) {
            read += 1;
            let Some(new) = change(region) else { continue };
            debug_assert_eq!(new.range, region.range, "a change moves nothing");
            if !self.extend_before(kept, &new) {
                self.set_region(kept, &new);
                kept += 1;
            }
        }
        if let Some(behind) = self.region(read) {
            read += usize::from(self.extend_before(kept, &behind));
        }
        self.remove(kept, read);
        read - kept
    }

    /// Extends the region before `index` by `next`, if the two are really one.
    pub(super) fn extend_before(&mut self, index: usize, next: &Region) -> bool {
        let Some(before) = index.checked_sub(1) else { return false };
        // Most neighbours are told apart by where they are or by their flags.
        let Some((start, packed)) = self.get(before).filter(|(start, packed)| packed.may_join(*start, next))
        else {
            return false;
        };
        let joined = packed.unpack(start).and_then(|region| region.joined(next));
        if let Some(joined) = &joined {
            self.set_region(before, joined);
        }
        joined.is_some()
    }
}

/// A region without its address: size, flags, kind of the backend, pins, and what the backend is about.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    /// Size in bytes; in its low 12 bits the flags, [`LOGGED`], [`ABSENT_IN_CHILDREN`], [`OTHER`], [`WINDOW`] and [`KIND`].
    size: u64,
    /// In the highest bit [`LOG_LEAVES`], from [`PINS_SHIFT`] on the pins; below, the number of the host's first page
    /// ([`Backend::Linear`]), the levels of the leaf sizes ([`Backend::Alloc`]), or a number from [`NUMBER_SHIFT`] on and an
    /// offset in pages.
    backend: u64,
}

/// Bits of [`Packed::size`] that hold the flags.
const FLAGS: u64 = 0x3f;
const _: () = assert!(MappingFlags::all().bits() as u64 == FLAGS);
/// Bit of [`Packed::size`]: what the guest writes to is logged.
const LOGGED: u64 = 1 << 6;
/// Bit of [`Packed::size`]: a fork does not have it.
const ABSENT_IN_CHILDREN: u64 = 1 << 7;
/// Bit of [`Packed::backend`]: the log is of leaves as they are.
const LOG_LEAVES: u64 = 1 << 63;
/// Bit of [`Packed::size`], above the flags: the backend is another one than [`Backend::Alloc`]. So whatever makes a fault
/// unusual is a bit that is set, and one instruction looks at all of them.
const OTHER: u64 = 1 << 8;
/// Bit of [`Packed::size`]: a fault populates more than a leaf of 4 KiB at once.
const WINDOW: u64 = 1 << 9;
/// Bits of [`Packed::size`]: which backend it is, if not [`Backend::Alloc`], which has [`WINDOW`] there.
const KIND: u64 = 7 << 9;
const LINEAR: u64 = OTHER;
const SHARED: u64 = OTHER | 1 << 10;
const PRIVATE: u64 = SHARED | 1 << 9;
const TRAP: u64 = OTHER | 2 << 10;
const CUSTOM: u64 = OTHER | 3 << 10;
const PAGED: u64 = CUSTOM | 1 << 9;
/// Where the pins stand in [`Packed::backend`].
const PINS_SHIFT: u32 = 52;
/// Where a number stands, with an offset in pages below it.
const NUMBER_SHIFT: u32 = 36;

/// Most pins of one region.
pub(in crate::space) const MOST_PINS: u16 = (1 << (63 - PINS_SHIFT)) - 1;
/// Offsets in a backend are below this many bytes.
pub(in crate::space) const OFFSET_LIMIT: u64 = PAGE_SIZE << NUMBER_SHIFT;

/// A number, and an offset below [`OFFSET_LIMIT`], a multiple of 4 KiB.
const fn numbered(number: u16, offset: u64) -> u64 {
    ((number as u64) << NUMBER_SHIFT) | (offset / PAGE_SIZE)
}

/// The backend of kind `kind`, one with a number and an offset.
fn lent_backend(kind: u64, about: u64) -> Backend {
    let number = (about >> NUMBER_SHIFT) as u16;
    let offset = (about & ((1 << NUMBER_SHIFT) - 1)) * PAGE_SIZE;
    match kind {
        SHARED => Backend::Shared { memory: SharedId(number), offset },
        PRIVATE => Backend::Private { memory: SharedId(number), offset },
        TRAP => Backend::Trap { device: DeviceId(number), offset },
        PAGED => Backend::Paged { source: number, offset },
        _ => Backend::Custom { source: number, offset },
    }
}

impl Packed {
    pub(super) fn new(region: &Region) -> Self {
        debug_assert!(region.range.is_aligned(PAGE_SIZE), "the low bits are taken");
        let (kind, backend) = match region.backend {
            Backend::Linear { hpa } => (LINEAR, hpa.as_u64() / PAGE_SIZE),
            Backend::Alloc { largest_leaf, fault_around } => {
                let window = if fault_around > LeafSize::Size4K { WINDOW } else { 0 };
                (window, u64::from(largest_leaf.level()) | u64::from(fault_around.level()) << 8)
            }
            Backend::Shared { memory, offset } => (SHARED, numbered(memory.0, offset)),
            Backend::Private { memory, offset } => (PRIVATE, numbered(memory.0, offset)),
            Backend::Trap { device, offset } => (TRAP, numbered(device.0, offset)),
            Backend::Custom { source, offset } => (CUSTOM, numbered(source, offset)),
            Backend::Paged { source, offset } => (PAGED, numbered(source, offset)),
        };
        let (logged, leaves) = match region.log {
            None => (0, 0),
            Some(LogUnit::Page) => (LOGGED, 0),
            Some(LogUnit::Leaf) => (LOGGED, LOG_LEAVES),
        };
        let absent = if region.in_children { 0 } else { ABSENT_IN_CHILDREN };
        Self {
            size: region.range.size() | u64::from(region.flags.bits()) | kind | logged | absent,
            backend: leaves | u64::from(region.pins) << PINS_SHIFT | backend,
        }
    }

    #[inline]
    pub(super) fn flags(self) -> MappingFlags {
        MappingFlags::from_bits_retain((self.size & FLAGS) as u8)
    }

    /// The flags, where nothing stands beside them.
    #[inline]
    pub(super) fn flags_alone(self) -> MappingFlags {
        debug_assert_eq!(self.size & (LOGGED | ABSENT_IN_CHILDREN), 0, "the caller looked");
        MappingFlags::from_bits_retain(self.size as u8)
    }

    /// Whether `next` begins where the region at `start` ends, and has its flags.
    #[inline]
    fn may_join(self, start: u64, next: &Region) -> bool {
        let end = start.wrapping_add(self.size & !(PAGE_SIZE - 1));
        end == next.range.start().as_u64() && self.flags() == next.flags
    }

    /// Whether a fault where only a page is missing takes a single frame and nothing more, and
    /// [`flags_alone`](Self::flags_alone) are those of the region.
    #[inline]
    pub(super) fn populates_single_pages(self) -> bool {
        self.size & (OTHER | WINDOW | LOGGED | ABSENT_IN_CHILDREN) == 0
    }

    /// Whether `address`, which is not below `start`, lies in the region at `start`.
    #[inline]
    pub(super) fn covers(self, start: u64, address: u64) -> bool {
        address - start < self.size & !(PAGE_SIZE - 1)
    }

    /// The region at `start`; `None` for no bits that [`new`](Self::new) makes.
    #[inline]
    pub(super) fn unpack(self, start: u64) -> Option<Region> {
        let range = GuestPhysRange::new(GuestPhysAddr::new(start), self.size & !(PAGE_SIZE - 1)).ok()?;
        let flags = self.flags();
        let pins = (self.backend >> PINS_SHIFT) as u16 & MOST_PINS;
        let about = self.backend & ((1 << PINS_SHIFT) - 1);
        let backend = match self.size & (OTHER | KIND) {
            LINEAR => Backend::Linear { hpa: HostPhysAddr::new(about * PAGE_SIZE) },
            kind if kind & OTHER == 0 => {
                let [largest_leaf, fault_around] = [about, about >> 8].map(|level| match level & 3 {
                    0 => LeafSize::Size4K,
                    1 => LeafSize::Size2M,
                    _ => LeafSize::Size1G,
                });
                Backend::Alloc { largest_leaf, fault_around }
            }
            kind => lent_backend(kind, about),
        };
        let log = match (self.size & LOGGED != 0, self.backend & LOG_LEAVES != 0) {
            (false, _) => None,
            (true, false) => Some(LogUnit::Page),
            (true, true) => Some(LogUnit::Leaf),
        };
        let in_children = self.size & ABSENT_IN_CHILDREN == 0;
        Some(Region { range, flags, backend, pins, log, in_children })
    }
}

/// The address of a node, or of a spare frame that may become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Link(NonNull<u8>);

// SAFETY: a link is only an address; whoever follows it answers for what is there.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

/// What a frame holds while it is spare.
#[repr(C)]
struct Spare {
    frame: HostPhysAddr,
    next: Option<Link>,
}

impl Link {
    /// Makes the frame `frame`, at `pointer`, a spare one with `next` behind it.
    ///
    /// # Safety
    /// The pointer is to all of that frame, which is taken and belongs to the caller alone.
    pub(super) unsafe fn spare(pointer: NonNull<u8>, frame: HostPhysAddr, next: Option<Self>) -> Self {
        // SAFETY: the frame is 4 KiB of memory of the caller, aligned to as much.
        unsafe { pointer.cast().write(Spare { frame, next }) };
        Self(pointer)
    }

    /// The frame of a spare one, and the spare one behind it.
    ///
    /// # Safety
    /// The link was made by [`spare`](Self::spare), and nothing was done with it since.
    pub(super) unsafe fn into_spare(self) -> (HostPhysAddr, Option<Self>) {
        // SAFETY: `spare` wrote it.
        let Spare { frame, next } = unsafe { self.0.cast().read() };
        (frame, next)
    }

    /// Makes a spare frame an empty node; returns the spare one behind it.
    ///
    /// # Safety
    /// As for [`into_spare`](Self::into_spare), and zeroes are a `V`.
    pub(super) unsafe fn into_node<V, const N: usize>(self) -> Option<Self> {
        const { assert!(size_of::<Node<V, N>>() <= PAGE_SIZE as usize && N >= 8) };
        // SAFETY: the same contract.
        let (frame, next) = unsafe { self.into_spare() };
        // SAFETY: a node fits into the frame, which belongs to the caller alone.
        unsafe { self.0.cast::<Node<V, N>>().write_bytes(0, 1) };
        // SAFETY: zeroes are an empty node: integers, and values of which the caller promised it.
        unsafe { self.node_mut::<V, N>() }.frame = frame;
        next
    }

    /// Gives up a node: its frame is spare now, with `next` behind it.
    ///
    /// # Safety
    /// The link is of a node of these very parameters that belongs to the caller; nobody will use it any more.
    pub(super) unsafe fn retire<V, const N: usize>(self, next: Option<Self>) {
        // SAFETY: it is a node, by the caller's promise.
        let frame = unsafe { self.node::<V, N>() }.frame;
        // SAFETY: a node has a frame to itself, and nobody uses it any more.
        unsafe { Self::spare(self.0, frame, next) };
    }

    /// The node.
    ///
    /// # Safety
    /// The link is of a node of these very parameters, which nobody changes or retires while the reference lives.
    pub(super) unsafe fn node<'t, V, const N: usize>(self) -> &'t Node<V, N> {
        // SAFETY: the caller's promise; `into_node` made all of it valid.
        unsafe { self.0.cast().as_ref() }
    }

    /// The node, to be changed.
    ///
    /// # Safety
    /// As for [`node`](Self::node), and no other reference to the node exists while this one lives.
    pub(super) unsafe fn node_mut<'t, V, const N: usize>(self) -> &'t mut Node<V, N> {
        // SAFETY: the caller's promise; `into_node` made all of it valid.
        unsafe { self.0.cast().as_mut() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
