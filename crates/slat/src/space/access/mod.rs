//! The host's access to memory of a guest, beside vCPUs that run and fault.
//!
//! A guest chooses the addresses and lengths, so all of them are allegations: what cannot be accessed is an
//! [`AccessError`] that says where it stopped, and nothing but memory of the guest is ever touched. **No Rust reference to
//! guest memory ever exists,** because the guest may change it at any time: data is copied in and out (`isa/racing.rs`),
//! and [`GuestPiece`] has a pointer. What an access does, it does as the guest would: it needs the permission of the
//! region, populates what is missing, and leaves the marks of the hardware in the table, **dirty before the data changes.**
//!
//! Accesses take `&self`, like faults, and structural operations `&mut self`: a frame that was found stays where it is for
//! as long as the space is borrowed.

#![expect(unsafe_code, reason = "copies to and from memory of the guest")]

mod atomic;
mod error;
mod object;
mod piece;
mod run;

pub use atomic::AtomicWord;
pub use error::{AccessError, AccessRefusal, CopyError};
pub use object::GuestObject;
pub use piece::{GuestBuffer, GuestPiece};

use super::{AddrSpace, Backend, CustomBackend, NoBackend};
use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysRange, PAGE_SIZE};
use crate::flags::MappingFlags;
use crate::format::{CacheEvent, Format, Native};
use crate::hal::{CacheMaintenance, Hal};
use crate::isa;

/// What fills a page that an access populates, if nothing does: it stays zero.
pub type Zeroed = fn(GuestPhysAddr, &mut [u8]);

/// The memory of a guest, for the host to access: made by [`AddrSpace::memory`] and [`AddrSpace::memory_with`].
///
/// - **Where.** Any guest-physical address and any size; an access goes on from page to page and from region to region.
///   An access of no bytes is always fine. On an error, what lies before the address in the error has been done.
/// - **Permissions** are those of the regions: reading wants `READ`, writing `WRITE`, what does both wants both.
/// - **Absent pages** of lazy regions are populated as a fault of the guest would populate them.
/// - **Device memory** and trap regions are refused. Linear memory is reached where the host gives a pointer to it
///   ([`Hal::linear_to_virt`]).
/// - **Marks.** A leaf is marked accessed and dirty, where the hardware marks leaves.
/// - **Races.** The guest may write to the same bytes meanwhile; then the result is some mixture of both, in which each
///   aligned word of 1, 2, 4 or 8 bytes is one or the other. A copy of exactly such a word is one access.
/// - **Caches.** Memory mapped `UNCACHED` has its pages cleaned and invalidated before and after where the format asks for
///   it; what the guest writes to the same cache line meanwhile can be lost. For a guest that runs with its caches off, or
///   that executes what was written, see [`clean`](Self::clean).
/// - **TLBs.** Nothing is invalidated.
///
/// ```
/// use slat::{AccessRefusal, AddrSpace, GuestPhysAddr, MappingFlags, test_util::HeapHal};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut guest = AddrSpace::<HeapHal>::new_empty(GuestPhysAddr::new(0), 1 << 30)?;
/// let flags = MappingFlags::READ | MappingFlags::WRITE;
/// guest.map_alloc(GuestPhysAddr::new(0x1000), 0x2000, flags, false)?; // populated by the accesses
///
/// guest.write(GuestPhysAddr::new(0x1ffe), b"over the edge of a page")?;
/// let length: u16 = guest.read_obj(GuestPhysAddr::new(0x1ffe))?;
/// assert_eq!(length, u16::from_ne_bytes(*b"ov"));
///
/// // Numbers from a guest are allegations.
/// let refused = guest.write(GuestPhysAddr::new(0x2ffc), &[0xff; 16]).unwrap_err();
/// assert_eq!((refused.gpa, refused.done), (GuestPhysAddr::new(0x3000), 4));
/// assert!(matches!(refused.reason, AccessRefusal::Fault(_))); // no region is there
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct GuestMemory<'s, H: Hal, F: Format = Native, B: CustomBackend = NoBackend, I = Zeroed> {
    space: &'s AddrSpace<H, F, B>,
    init: I,
}

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// The guest's memory; a page that an access populates is zero.
    #[inline]
    pub fn memory(&self) -> GuestMemory<'_, H, F, B> {
        GuestMemory { space: self, init: |_, _| {} }
    }

    /// The guest's memory; `init` is given every fresh frame before a CPU can see it, as that of
    /// [`handle_page_fault_with`](Self::handle_page_fault_with) is.
    pub fn memory_with<I: Fn(GuestPhysAddr, &mut [u8])>(&self, init: I) -> GuestMemory<'_, H, F, B, I> {
        GuestMemory { space: self, init }
    }

    /// As [`GuestMemory::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), AccessError> {
        self.memory().read(gpa, bytes)
    }

    /// As [`GuestMemory::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), AccessError> {
        self.memory().write(gpa, bytes)
    }

    /// As [`GuestMemory::read_obj`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn read_obj<T: GuestObject>(&self, gpa: GuestPhysAddr) -> Result<T, AccessError> {
        self.memory().read_obj(gpa)
    }

    /// As [`GuestMemory::write_obj`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn write_obj<T: GuestObject>(&self, gpa: GuestPhysAddr, object: T) -> Result<(), AccessError> {
        self.memory().write_obj(gpa, object)
    }

    /// As [`GuestMemory::translated_byte_buffer`].
    pub fn translated_byte_buffer(
        &self,
        gpa: GuestPhysAddr,
        size: u64,
        access: MappingFlags,
    ) -> GuestBuffer<'_, H, F, B> {
        GuestBuffer::new(self.memory(), gpa, size, access)
    }
}

impl<H: Hal, F: Format, B: CustomBackend, I: Fn(GuestPhysAddr, &mut [u8])> GuestMemory<'_, H, F, B, I> {
    /// Copies the guest's memory from `gpa` on into `bytes`. One walk for each run of leaves that continue each other.
    ///
    /// # Errors
    /// [`AccessError`]; the bytes before it have been copied, the others are as they were.
    pub fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), AccessError> {
        let to = bytes.as_mut_ptr();
        self.each_run(gpa, bytes.len() as u64, MappingFlags::READ, |from, done, size| {
            // SAFETY: the run is memory of the guest that is reached atomically only; `done + size` is within `bytes`.
            unsafe { isa::read(from, to.wrapping_add(done as usize), size as usize) };
        })
    }

    /// Copies `bytes` to the guest's memory from `gpa` on. One walk for each run of leaves that continue each other.
    ///
    /// # Errors
    /// [`AccessError`]; the bytes before it have been written.
    pub fn write(&self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), AccessError> {
        let from = bytes.as_ptr();
        self.each_run(gpa, bytes.len() as u64, MappingFlags::WRITE, |to, done, size| {
            // SAFETY: as in `read`.
            unsafe { isa::write(from.wrapping_add(done as usize), to, size as usize) };
        })
    }

    /// Fills `size` bytes at `gpa` with `byte`.
    ///
    /// # Errors
    /// [`AccessError`]; the bytes before it have been filled.
    pub fn fill(&self, gpa: GuestPhysAddr, size: u64, byte: u8) -> Result<(), AccessError> {
        self.each_run(gpa, size, MappingFlags::WRITE, |to, _, size| {
            // SAFETY: the run is memory of the guest that is reached atomically only.
            unsafe { isa::fill(to, byte, size as usize) };
        })
    }

    /// Copies `size` bytes at `gpa` to `to`, the memory of the same guest or of another one on whatever host and format,
    /// from `to_gpa` on.
    ///
    /// The copy goes upwards byte after byte: where the two overlap in memory and `to_gpa` is the higher one, what stands
    /// before the overlap is repeated.
    ///
    /// # Errors
    /// [`CopyError`] says on which side; the bytes before it have been copied.
    pub fn copy_to<H2: Hal, F2: Format, B2: CustomBackend, I2: Fn(GuestPhysAddr, &mut [u8])>(
        &self,
        gpa: GuestPhysAddr,
        to: &GuestMemory<'_, H2, F2, B2, I2>,
        to_gpa: GuestPhysAddr,
        size: u64,
    ) -> Result<(), CopyError> {
        check_wrap(gpa, size).map_err(CopyError::From)?;
        check_wrap(to_gpa, size).map_err(CopyError::To)?;
        let mut done = 0;
        while done < size {
            let from = self.run_after(gpa, done, size, MappingFlags::READ).map_err(CopyError::From)?;
            let end = done + from.bytes;
            from.prepare(self.space.hal());
            while done < end {
                let target = to.run_after(to_gpa, done, end, MappingFlags::WRITE).map_err(CopyError::To)?;
                target.prepare(to.space.hal());
                // A page that is copied when it is written to may be part of the source as well, which is its copy then.
                let moved = || {
                    let again = self.run_after(gpa, done, done + target.bytes, MappingFlags::READ);
                    let at = from.hpa.checked_add(done + from.bytes - end);
                    !again.is_ok_and(|again| (Some(again.hpa), again.bytes) == (at, target.bytes))
                };
                if core::ptr::addr_eq(self.space, to.space) && moved() {
                    break;
                }
                let inside = (done + from.bytes - end) as usize;
                // SAFETY: both runs are memory of guests that is reached atomically only, and the rest of the source's is as
                // long as the target's at least.
                unsafe {
                    isa::copy(from.pointer.wrapping_add(inside), target.pointer, target.bytes as usize)
                };
                target.complete(to.space.hal());
                done += target.bytes;
            }
        }
        Ok(())
    }

    /// The pieces of host memory that `size` bytes at `gpa` consist of, in ascending order, for an access `access` (`READ`,
    /// `WRITE`, or `EXECUTE` to look at code, or several of them; none counts as `READ`): each as long as both address spaces continue. Pages are populated, and marked
    /// as the access would mark them, one piece ahead.
    pub fn translated_byte_buffer(
        &self,
        gpa: GuestPhysAddr,
        size: u64,
        access: MappingFlags,
    ) -> GuestBuffer<'_, H, F, B, &I> {
        GuestBuffer::new(GuestMemory { space: self.space, init: &self.init }, gpa, size, access)
    }

    /// Maintains the caches for what is populated of `size` bytes at `gpa`, in whole pages, as before a frame goes to the
    /// guest: so that a guest that runs with its caches off, or executes there, sees what the host wrote. Does nothing where
    /// the format asks for nothing. Device memory is passed over.
    ///
    /// Costs one walk for each leaf and each empty entry, beside the maintenance.
    ///
    /// # Errors
    /// [`AccessRefusal::Wraps`], and [`AccessRefusal::Unreachable`] for linear memory to which the host gives no pointer;
    /// what lies before has been maintained.
    pub fn clean(&self, gpa: GuestPhysAddr, size: u64) -> Result<(), AccessError> {
        check_wrap(gpa, size)?;
        let end = gpa.checked_add(size).map_or(self.space.range.end(), |end| end.min(self.space.range.end()));
        let Some(range) = GuestPhysRange::between(gpa, end) else { return Ok(()) };
        let hal = self.space.hal();
        for mapping in self.space.mappings(range) {
            let flags = mapping.flags;
            let actions = self.space.format().cache_actions(CacheEvent::ToGuest(flags));
            let cached = flags.is_accessible() && !flags.contains(MappingFlags::DEVICE);
            let (Some(part), true) = (mapping.range().intersection(range), cached && !actions.is_empty())
            else {
                continue;
            };
            let first = part.start().align_down(PAGE_SIZE);
            let bytes = (part.end().as_u64() - first.as_u64()).next_multiple_of(PAGE_SIZE);
            let inside = first.as_u64() - mapping.gpa.as_u64();
            let unreachable = AccessError {
                gpa: part.start(),
                done: part.start().as_u64() - gpa.as_u64(),
                reason: AccessRefusal::Unreachable,
            };
            let start = mapping.hpa.checked_add(inside).ok_or(unreachable)?;
            let maintenance = CacheMaintenance { start, frames: (bytes / PAGE_SIZE) as usize, actions };
            let backend = self.space.region(part.start()).map(|region| region.backend);
            if let Some(Backend::Linear { .. }) = backend {
                let range = HostPhysRange::new(start, bytes).map_err(|_| unreachable)?;
                let pointer = hal.linear_to_virt(range).ok_or(unreachable)?;
                hal.maintain_linear_cache(pointer, &maintenance);
            } else {
                hal.maintain_cache(&maintenance);
            }
        }
        Ok(())
    }

    /// Calls `with` for the runs of `size` bytes at `gpa` with a pointer, the bytes done before and the bytes of the run.
    #[inline]
    fn each_run(
        &self,
        gpa: GuestPhysAddr,
        size: u64,
        access: MappingFlags,
        mut with: impl FnMut(*mut u8, u64, u64),
    ) -> Result<(), AccessError> {
        check_wrap(gpa, size)?;
        let mut done = 0;
        while done < size {
            let run = self.run_after(gpa, done, size, access)?;
            run.prepare(self.space.hal());
            with(run.pointer, done, run.bytes);
            run.complete(self.space.hal());
            done += run.bytes;
        }
        Ok(())
    }
}

/// The last byte of an access has an address of 64 bits, if there is one.
fn check_wrap(gpa: GuestPhysAddr, size: u64) -> Result<(), AccessError> {
    if gpa.checked_add(size.saturating_sub(1)).is_none() {
        return Err(AccessError { gpa, done: 0, reason: AccessRefusal::Wraps });
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests;
