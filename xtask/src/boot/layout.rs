//! Where things lie in the emulated machine's memory.
//!
//! Layout, upwards from the start of RAM: on Arm the machine's device tree, the parameters, the hypervisor with its
//! stack and heap, on x86 the hypervisor and then the parameters; the guest's kernel and RAM disk as blobs, then the pool of
//! frames, which ends where RAM ends.

use slat_hv_protocol::{MemoryMap, Span};

/// Alignment of everything, and the unit of the guest's memory.
pub(crate) const BLOCK: u64 = 2 << 20;

/// Memory of a recording: room for 2.8 million events, twenty times what a boot under churn takes.
const RECORDING: u64 = 64 << 20;

/// Pool memory beyond what the guest and its tables can take.
const SLACK: u64 = 32 << 20;

/// The largest guest: its RAM and ours must fit below the emulated machine's limits.
pub(crate) const MOST_MEMORY: u64 = 16 << 30;

/// The memory map of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// First byte of RAM.
    ram: u64,
    /// The kernel's blob.
    pub(crate) kernel: Span,
    /// The initial RAM disk's blob.
    pub(crate) initrd: Span,
    /// The frames.
    pub(crate) pool: Span,
    /// The recording of the run; empty for none.
    pub(crate) recording: Span,
    /// RAM of the emulated machine in bytes.
    pub(crate) machine_memory: u64,
}

impl Layout {
    /// Places blobs of these sizes and a pool for `guest_memory` bytes of guest.
    pub(crate) fn new(map: &MemoryMap, kernel_size: u64, initrd_size: u64, guest_memory: u64) -> Self {
        let ram = map.ram;
        let kernel = Span { address: map.blobs, size: kernel_size };
        let initrd =
            Span { address: (kernel.address + kernel.size).next_multiple_of(BLOCK), size: initrd_size };
        // One table page of 4 KiB maps one block, so tables take a 512th, and the upper levels next to nothing.
        let tables = guest_memory / 512;
        let pool = Span {
            address: (initrd.address + initrd.size).next_multiple_of(BLOCK),
            size: (guest_memory + tables + SLACK).next_multiple_of(BLOCK),
        };
        let end = pool.address + pool.size;
        Self { ram, kernel, initrd, pool, recording: Span::default(), machine_memory: end - ram }
    }

    /// The same with a recording behind the pool.
    pub(crate) fn with_recording(self) -> Self {
        let recording = Span { address: self.ram + self.machine_memory, size: RECORDING };
        Self { recording, machine_memory: self.machine_memory + RECORDING, ..self }
    }

    /// Where `span` lies in a file that holds the machine's RAM.
    pub(crate) fn offset(&self, span: Span) -> u64 {
        span.address - self.ram
    }
}

/// The least memory with which a kernel that takes `kernel_memory` bytes can start at all: it unpacks an initial
/// RAM disk of `initrd_size` while it still holds the packed one, and needs some room to work.
pub(crate) fn least_memory(kernel_memory: u64, initrd_size: u64) -> u64 {
    (kernel_memory + 2 * initrd_size + (8 << 20)).next_multiple_of(BLOCK)
}

/// The memory from which on such a guest may be expected to reach its user space, found by trial with Debian's
/// kernels.
pub(crate) fn comfortable_memory(kernel_memory: u64, initrd_size: u64) -> u64 {
    (kernel_memory + 2 * initrd_size + (12 << 20)).next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests;
