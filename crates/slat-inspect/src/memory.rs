//! Where tables are read from: the only way in which this crate touches anything.

/// Physical memory, or what there is of it: a dump, the RAM of a model, or the machine's own.
///
/// The reader may ask for any address at all, because tables may point anywhere.
pub trait PhysicalMemory {
    /// The little-endian 8 bytes at `address`, or `None` where this memory has none. `address` is a multiple of 8.
    fn read(&self, address: u64) -> Option<u64>;
}

impl<M: PhysicalMemory + ?Sized> PhysicalMemory for &M {
    fn read(&self, address: u64) -> Option<u64> {
        (**self).read(address)
    }
}

/// Words in a row as a memory.
///
/// ```
/// use slat_inspect::{PhysicalMemory, Words};
///
/// let memory = Words { base: 0x1000, words: &[7, 8] };
/// assert_eq!(memory.read(0x1008), Some(8));
/// assert_eq!(memory.read(0x1010), None);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// The physical address of the first word, a multiple of 8.
    pub base: u64,
    /// The memory from there.
    pub words: &'a [u64],
}

impl PhysicalMemory for Words<'_> {
    fn read(&self, address: u64) -> Option<u64> {
        let index = usize::try_from(address.checked_sub(self.base)? / 8).ok()?;
        self.words.get(index).copied()
    }
}
