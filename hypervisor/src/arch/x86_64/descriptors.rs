//! Segments, the task state segments and the interrupt descriptors of the hypervisor itself, as integers.
//!
//! **What the descriptors are for:** in 64-bit mode segments are flat whatever they say, but a CPU that returns from its guest
//! must find a task register, and an exception a stack of its own. CPU n has the n-th task state segment, so that a
//! CPU tells its number from its task register. (Intel SDM vol. 3A, "Segment Descriptors", "64-Bit Mode Task
//! Management", "64-Bit Mode IDT".)

/// Selector of the code segment.
pub const CODE: u16 = 0x08;
/// Selector of the data segment.
pub const DATA: u16 = 0x10;
/// Selector of a flat 32-bit code segment, which the boot code passes through.
pub const CODE_32: u16 = 0x18;
/// Selector of the task state segment of CPU 0; each takes two places.
pub const FIRST_TASK: u16 = 0x20;

/// Descriptors of 8 bytes in the table, with the task state segments of [`CPUS_MAX`](slat_hv_protocol::CPUS_MAX) CPUs.
pub const GDT_ENTRIES: usize = 4 + 2 * slat_hv_protocol::CPUS_MAX;

/// The table's beginning: null, 64-bit code, data, 32-bit code; all flat, present, ring 0, accessed.
pub const SEGMENTS: [u64; 4] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff];

/// Bytes of a 64-bit task state segment.
pub const TASK_SIZE: u64 = 104;

/// Selector of the task state segment of `cpu`.
#[must_use]
pub const fn task_selector(cpu: usize) -> u16 {
    FIRST_TASK + 16 * cpu as u16
}

/// The CPU whose task state segment `selector` names.
#[must_use]
pub const fn cpu_of(selector: u16) -> usize {
    (selector.saturating_sub(FIRST_TASK) / 16) as usize
}

/// The two descriptors of an available 64-bit task state segment at `address`.
#[must_use]
pub const fn task_descriptor(address: u64) -> [u64; 2] {
    const PRESENT: u64 = 1 << 47;
    const AVAILABLE: u64 = 0x9 << 40;
    let low =
        (TASK_SIZE - 1) | (address & 0xff_ffff) << 16 | AVAILABLE | PRESENT | (address >> 24 & 0xff) << 56;
    [low, address >> 32]
}

/// A task state segment whose interrupt stacks 1 and 2 begin at `exception` and `nmi`, without an I/O bitmap.
#[must_use]
pub fn task(exception: u64, nmi: u64) -> [u32; TASK_SIZE as usize / 4] {
    let mut words = [0; TASK_SIZE as usize / 4];
    for (index, address) in [(9, exception), (11, nmi)] {
        words[index] = address as u32;
        words[index + 1] = (address >> 32) as u32;
    }
    // The bitmap would begin at the end.
    words[25] = (TASK_SIZE as u32) << 16;
    words
}

/// Which of the stacks in the task state segment an exception or interrupt is taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// The one for exceptions, which lead to the end.
    Exception = 1,
    /// The one for NMIs, which return.
    Nmi = 2,
}

/// An interrupt gate to `handler`.
#[must_use]
pub const fn gate(handler: u64, stack: Stack) -> [u64; 2] {
    const PRESENT: u64 = 1 << 47;
    const INTERRUPT: u64 = 0xe << 40;
    let low = (handler & 0xffff)
        | (CODE as u64) << 16
        | (stack as u64) << 32
        | INTERRUPT
        | PRESENT
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

#[cfg(test)]
mod tests;
