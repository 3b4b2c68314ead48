//! Memory of a guest piece by piece, for code that does its own copying.

#![expect(unsafe_code, reason = "copies to and from memory of the guest")]

use super::run::Run;
use super::{AccessError, AccessRefusal, AtomicWord, GuestMemory, Zeroed, check_wrap, object};
use crate::addr::{GuestPhysAddr, HostPhysAddr};
use crate::flags::MappingFlags;
use crate::format::{Format, Native};
use crate::hal::Hal;
use crate::isa;
use crate::space::{CustomBackend, NoBackend};
use core::fmt;
use core::iter::FusedIterator;

/// The pieces of a range of a guest's memory, in ascending order; nothing follows after an error. Made by
/// [`GuestMemory::translated_byte_buffer`].
pub struct GuestBuffer<'s, H: Hal, F: Format = Native, B: CustomBackend = NoBackend, I = Zeroed> {
    memory: GuestMemory<'s, H, F, B, I>,
    gpa: GuestPhysAddr,
    /// Bytes that were looked for, and of how many.
    done: u64,
    size: u64,
    access: MappingFlags,
    /// What was found behind the last piece.
    ahead: Option<Result<Run, AccessError>>,
}

/// Part of a guest's memory that continues in both address spaces. It borrows the space, so that the memory stays.
///
/// The guest may change the bytes at any time.
pub struct GuestPiece<'s, H: Hal> {
    hal: &'s H,
    gpa: GuestPhysAddr,
    run: Run,
    access: MappingFlags,
}

impl<'s, H: Hal, F: Format, B: CustomBackend, I: Fn(GuestPhysAddr, &mut [u8])> GuestBuffer<'s, H, F, B, I> {
    pub(super) fn new(
        memory: GuestMemory<'s, H, F, B, I>,
        gpa: GuestPhysAddr,
        size: u64,
        access: MappingFlags,
    ) -> Self {
        let some = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
        let access = if access.intersects(some) { access } else { access | MappingFlags::READ };
        let ahead = check_wrap(gpa, size).err().map(Err);
        Self { memory, gpa, done: 0, size, access, ahead }
    }

    /// The next run, which is not looked for again.
    fn run(&mut self) -> Option<Result<Run, AccessError>> {
        if let Some(ahead) = self.ahead.take() {
            return Some(ahead);
        }
        if self.done == self.size {
            return None;
        }
        let run = self.memory.run_after(self.gpa, self.done, self.size, self.access);
        if let Ok(run) = run {
            self.done += run.bytes;
        }
        Some(run)
    }
}

impl<'s, H: Hal, F: Format, B: CustomBackend, I: Fn(GuestPhysAddr, &mut [u8])> Iterator
    for GuestBuffer<'s, H, F, B, I>
{
    type Item = Result<GuestPiece<'s, H>, AccessError>;

    fn next(&mut self) -> Option<Self::Item> {
        let hal = self.memory.space.hal();
        let mut run = match self.run()? {
            Ok(run) => run,
            Err(error) => {
                self.done = self.size;
                return Some(Err(error));
            }
        };
        let mut end = self.done;
        while let Some(next) = self.run() {
            let Some(joined) = next.ok().and_then(|next| run.join(hal, &next)) else {
                self.ahead = Some(next);
                end = self.done - next.map_or(0, |next| next.bytes);
                break;
            };
            run = joined;
            end = self.done;
        }
        let gpa = GuestPhysAddr::new(self.gpa.as_u64() + (end - run.bytes));
        Some(Ok(GuestPiece { hal, gpa, run, access: self.access }))
    }
}

impl<H: Hal, F: Format, B: CustomBackend, I: Fn(GuestPhysAddr, &mut [u8])> FusedIterator
    for GuestBuffer<'_, H, F, B, I>
{
}

#[expect(clippy::len_without_is_empty, reason = "a piece is never empty")]
impl<H: Hal> GuestPiece<'_, H> {
    /// Guest-physical address of the first byte.
    #[must_use]
    pub fn gpa(&self) -> GuestPhysAddr {
        self.gpa
    }

    /// Host physical address of the first byte.
    #[must_use]
    pub fn hpa(&self) -> HostPhysAddr {
        self.run.hpa
    }

    /// Length in bytes, at least 1.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.run.bytes
    }

    /// The host's pointer to the first byte. While the space is borrowed it is valid for reads, and for writes if the piece
    /// was made for them, of [`len`](Self::len) bytes; but the guest may write to them at any time, so that no reference may
    /// be made of it, and caches are not maintained.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.run.pointer
    }

    /// Copies the bytes from `offset` on into `bytes`.
    ///
    /// # Errors
    /// [`AccessRefusal::OutsidePiece`], [`AccessRefusal::WrongPiece`] if it was not made for reading; nothing is done then.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), AccessError> {
        let run = self.part(offset, bytes.len() as u64, MappingFlags::READ)?;
        run.prepare(self.hal);
        // SAFETY: `part` checked that so many bytes of the guest's memory are there.
        unsafe { isa::read(run.pointer, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// [`AccessRefusal::OutsidePiece`], [`AccessRefusal::WrongPiece`] if it was not made for writing; nothing is done then.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let run = self.part(offset, bytes.len() as u64, MappingFlags::WRITE)?;
        run.prepare(self.hal);
        // SAFETY: as in `read`.
        unsafe { isa::write(bytes.as_ptr(), run.pointer, bytes.len()) };
        run.complete(self.hal);
        Ok(())
    }

    /// Reads the word at `offset` by exactly one access, which the compiler neither leaves out nor repeats.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`AccessRefusal::Unaligned`].
    pub fn read_volatile<T: AtomicWord>(&self, offset: u64) -> Result<T, AccessError> {
        let run = self.word::<T>(offset, MappingFlags::READ)?;
        run.prepare(self.hal);
        // SAFETY: `word` checked that an aligned word of the guest's memory is there.
        Ok(unsafe { object::load(run.pointer) })
    }

    /// Writes the word at `offset` by exactly one access, which the compiler neither leaves out nor repeats.
    ///
    /// # Errors
    /// As [`write`](Self::write), and [`AccessRefusal::Unaligned`].
    pub fn write_volatile<T: AtomicWord>(&self, offset: u64, value: T) -> Result<(), AccessError> {
        let run = self.word::<T>(offset, MappingFlags::WRITE)?;
        run.prepare(self.hal);
        // SAFETY: as in `read_volatile`.
        unsafe { object::store(run.pointer, value) };
        run.complete(self.hal);
        Ok(())
    }

    /// `size` bytes from `offset` on, for `access`.
    fn part(&self, offset: u64, size: u64, access: MappingFlags) -> Result<Run, AccessError> {
        let gpa = GuestPhysAddr::new(self.gpa.as_u64().saturating_add(offset));
        let refused = |reason| Err(AccessError { gpa, done: 0, reason });
        if !self.access.contains(access) {
            return refused(AccessRefusal::WrongPiece);
        }
        if offset.checked_add(size).is_none_or(|end| end > self.run.bytes) {
            return refused(AccessRefusal::OutsidePiece);
        }
        Ok(self.run.part(offset, size))
    }

    fn word<T: AtomicWord>(&self, offset: u64, access: MappingFlags) -> Result<Run, AccessError> {
        let run = self.part(offset, size_of::<T>() as u64, access)?;
        let gpa = GuestPhysAddr::new(self.gpa.as_u64() + offset);
        if gpa.is_aligned(size_of::<T>() as u64) {
            Ok(run)
        } else {
            Err(AccessError { gpa, done: 0, reason: AccessRefusal::Unaligned })
        }
    }
}

impl<H: Hal> fmt::Debug for GuestPiece<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestPiece")
            .field("gpa", &self.gpa)
            .field("hpa", &self.run.hpa)
            .field("len", &self.run.bytes)
            .field("access", &self.access)
            .finish()
    }
}
