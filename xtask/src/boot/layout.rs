//! Where things lie in the emulated machine's memory.
//!
//! Layout, upwards from the start of RAM: on Arm the machine's device tree, the parameters, the hypervisor with its
//! stack and heap, on x86 and RISC-V the hypervisor and then the parameters; the guest's kernel and RAM disk as blobs, then the
//! pool of frames, which ends where RAM ends.
//!
//! On RISC-V QEMU puts the machine's device tree near the end of RAM, or near 3 GiB if RAM goes on beyond that. **Invariant:**
//! nothing that the layout places lies there, so that the tree stays whole whatever the hypervisor does with the rest.

use slat_hv_protocol::{MemoryMap, Span};

/// Alignment of everything, and the unit of the guest's memory.
pub(crate) const BLOCK: u64 = 2 << 20;

/// Memory of a recording: room for 2.8 million events, twenty times what a boot under churn takes.
const RECORDING: u64 = 64 << 20;

/// Memory of a trace: room for 262,144 events, of which a boot takes a twentieth, and one under churn a third.
const TRACE: u64 = (16 << 20) + BLOCK;

/// Pool memory beyond what the guest and its tables can take.
const SLACK: u64 = 32 << 20;

/// What QEMU's device tree on RISC-V may lie in: it begins at most 16 MiB and its own size before the end of RAM, and is smaller
/// than 1 MiB; QEMU since 8 comes closer to the end.
const DEVICE_TREE_ROOM: u64 = 32 << 20;

/// Where RAM has to end for that; there the tree lies if RAM ends above.
const DEVICE_TREE_LIMIT: u64 = 3 << 30;

/// The largest guest: its RAM and ours must fit below the emulated machine's limits.
pub(crate) const MOST_MEMORY: u64 = 16 << 30;

/// The memory map of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// First byte of RAM.
    ram: u64,
    /// Whether the machine's device tree lies at the end of RAM.
    tree_at_end: bool,
    /// The kernel's blob.
    pub(crate) kernel: Span,
    /// The initial RAM disk's blob.
    pub(crate) initrd: Span,
    /// The frames.
    pub(crate) pool: Span,
    /// The recording of the run; empty for none.
    pub(crate) recording: Span,
    /// The trace of the run; empty for none.
    pub(crate) trace: Span,
    /// A snapshot of the guest; empty for none.
    pub(crate) image: Span,
    /// The store of what is paged out; empty for none.
    pub(crate) store: Span,
    /// RAM of the emulated machine in bytes.
    pub(crate) machine_memory: u64,
}

impl Layout {
    /// Places blobs of these sizes and a pool for `guest_memory` bytes of guests.
    pub(crate) fn new(map: &MemoryMap, kernel_size: u64, initrd_size: u64, guest_memory: u64) -> Self {
        // One table page of 4 KiB maps one block, so tables take a 512th, and the upper levels next to nothing.
        let tables = guest_memory / 512;
        Self::with_pool(map, kernel_size, initrd_size, guest_memory + tables + SLACK)
    }

    /// Places blobs of these sizes and a pool of `pool_size` bytes, rounded up to blocks.
    pub(crate) fn with_pool(map: &MemoryMap, kernel_size: u64, initrd_size: u64, pool_size: u64) -> Self {
        let ram = map.ram;
        let tree_at_end = *map == MemoryMap::RISCV64;
        let kernel = Span { address: map.blobs, size: kernel_size };
        let initrd =
            Span { address: (kernel.address + kernel.size).next_multiple_of(BLOCK), size: initrd_size };
        let first = (initrd.address + initrd.size).next_multiple_of(BLOCK);
        let size = pool_size.next_multiple_of(BLOCK);
        let pool = Span { address: if tree_at_end { beside_tree(first, size) } else { first }, size };
        let (recording, trace) = (Span::default(), Span::default());
        let (image, store) = (Span::default(), Span::default());
        Self { ram, tree_at_end, kernel, initrd, pool, recording, trace, image, store, machine_memory: 0 }
            .ending_with(pool)
    }

    /// The same in a machine whose RAM ends with `last`, but for what has to follow it.
    fn ending_with(self, last: Span) -> Self {
        let end = last.address + last.size;
        let room = if self.tree_at_end && end < DEVICE_TREE_LIMIT { DEVICE_TREE_ROOM } else { 0 };
        Self { machine_memory: end + room - self.ram, ..self }
    }

    /// The same with a recording behind the pool.
    pub(crate) fn with_recording(self) -> Self {
        let first = self.pool.address + self.pool.size;
        let address = if self.tree_at_end { beside_tree(first, RECORDING) } else { first };
        let recording = Span { address, size: RECORDING };
        Self { recording, ..self }.ending_with(recording)
    }

    /// The same with a snapshot of so many bytes behind the pool, and no recording.
    pub(crate) fn with_image(self, size: u64) -> Self {
        let first = self.pool.address + self.pool.size;
        let room = size.next_multiple_of(BLOCK);
        let address = if self.tree_at_end { beside_tree(first, room) } else { first };
        Self { image: Span { address, size }, ..self }.ending_with(Span { address, size: room })
    }

    /// The same with a store of so many bytes for what is paged out, behind the pool and the recording, and no snapshot.
    pub(crate) fn with_store(self, size: u64) -> Self {
        let last = if self.recording.size > 0 { self.recording } else { self.pool };
        let (first, size) = (last.address + last.size, size.next_multiple_of(BLOCK));
        let address = if self.tree_at_end { beside_tree(first, size) } else { first };
        let store = Span { address, size };
        Self { store, ..self }.ending_with(store)
    }

    /// The same with a trace behind everything else.
    pub(crate) fn with_trace(self) -> Self {
        let ends = [self.pool, self.recording, self.image, self.store].map(|span| span.address + span.size);
        let first = ends.into_iter().max().unwrap_or(0).next_multiple_of(BLOCK);
        let address = if self.tree_at_end { beside_tree(first, TRACE) } else { first };
        let trace = Span { address, size: TRACE };
        Self { trace, ..self }.ending_with(trace)
    }

    /// Where `span` lies in a file that holds the machine's RAM.
    pub(crate) fn offset(&self, span: Span) -> u64 {
        span.address - self.ram
    }
}

/// The first place from `first` on for `size` bytes that leaves the device tree alone, should RAM go on above its limit.
fn beside_tree(first: u64, size: u64) -> u64 {
    let is_clear = first >= DEVICE_TREE_LIMIT || first + size <= DEVICE_TREE_LIMIT - DEVICE_TREE_ROOM;
    if is_clear { first } else { DEVICE_TREE_LIMIT }
}

/// The least memory with which a kernel that takes `kernel_memory` bytes can start at all: it unpacks an initial
/// RAM disk of `initrd_size` while it still holds the packed one, and needs some room to work.
pub(crate) fn least_memory(kernel_memory: u64, initrd_size: u64) -> u64 {
    (kernel_memory + 2 * initrd_size + (8 << 20)).next_multiple_of(BLOCK)
}

/// The memory from which on such a guest may be expected to reach its user space, found by trial with Debian's
/// kernels. `at_once` is what it takes in one piece when it begins.
pub(crate) fn comfortable_memory(kernel_memory: u64, initrd_size: u64, at_once: u64) -> u64 {
    (kernel_memory + 2 * initrd_size + at_once + (12 << 20)).next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests;
