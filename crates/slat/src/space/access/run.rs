//! Finding the next bytes that an access can reach at once.
//!
//! Nearly always all tables are there, the page too, and its frame is the space's own: then the leaf says everything that
//! there is to know. Everything else asks the region, and populates as a fault would.

use super::{AccessError, AccessRefusal, GuestMemory};
use crate::addr::{GuestPhysAddr, HostPhysAddr, HostPhysRange, PAGE_SIZE};
use crate::error::FaultError;
use crate::fault::FaultOutcome;
use crate::flags::{MappingFlags, MemoryType};
use crate::format::{CacheEvent, Format, allows};
use crate::hal::{CacheActions, CacheMaintenance, Hal};
use crate::space::{Backend, CustomBackend};
use crate::table::Reached;

/// How often a page is looked for, and asked for where it is not there.
const TRIES: usize = 4;

/// Memory of the guest that continues in both address spaces.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// The host's pointer; valid for reads and writes of all bytes while the space is borrowed.
    pub(super) pointer: *mut u8,
    /// Host physical address of the first byte.
    pub(super) hpa: HostPhysAddr,
    /// At least 1, but in part of a piece.
    pub(super) bytes: u64,
    pub(super) upkeep: Upkeep,
}

/// What the caches need around an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upkeep {
    /// Before it.
    before: CacheActions,
    /// After it.
    after: CacheActions,
    /// Whether the memory is the caller's, by `map_linear`.
    linear: bool,
}

impl Upkeep {
    const NONE: Self = Self { before: CacheActions::empty(), after: CacheActions::empty(), linear: false };

    fn new<F: Format>(format: &F, flags: MappingFlags, access: MappingFlags, linear: bool) -> Self {
        let mut upkeep = Self { linear, ..Self::NONE };
        if flags.memory_type() == MemoryType::NonCacheable {
            upkeep.before = format.cache_actions(CacheEvent::FromGuest(flags.memory_type()));
            if access.contains(MappingFlags::WRITE) {
                upkeep.after = format.cache_actions(CacheEvent::ToGuest(flags));
            }
        }
        upkeep
    }

    /// Whether the guest sees every access through the caches. That it fetches no instruction through them is another
    /// matter.
    pub(super) fn is_coherent(self) -> bool {
        self.before.union(self.after).difference(CacheActions::INVALIDATE_INSTRUCTIONS).is_empty()
    }
}

impl Run {
    /// What the caches need before the access.
    #[inline]
    pub(super) fn prepare<H: Hal>(&self, hal: &H) {
        self.maintain(hal, self.upkeep.before);
    }

    /// What the caches need after the access.
    #[inline]
    pub(super) fn complete<H: Hal>(&self, hal: &H) {
        self.maintain(hal, self.upkeep.after);
    }

    #[inline]
    fn maintain<H: Hal>(&self, hal: &H, actions: CacheActions) {
        if !actions.is_empty() && self.bytes > 0 {
            self.maintain_pages(hal, actions);
        }
    }

    #[cold]
    fn maintain_pages<H: Hal>(&self, hal: &H, actions: CacheActions) {
        let offset = self.hpa.page_offset();
        let frames = (offset + self.bytes).div_ceil(PAGE_SIZE) as usize;
        let maintenance = CacheMaintenance { start: self.hpa.align_down(PAGE_SIZE), frames, actions };
        if self.upkeep.linear {
            hal.maintain_linear_cache(self.pointer.wrapping_sub(offset as usize), &maintenance);
        } else {
            hal.maintain_cache(&maintenance);
        }
    }

    /// This and `next`, which follows it in the guest, as one run, if it follows in the host as well.
    pub(super) fn join<H: Hal>(&self, hal: &H, next: &Self) -> Option<Self> {
        let bytes = self.bytes + next.bytes;
        let follows = self.hpa.checked_add(self.bytes) == Some(next.hpa)
            && self.pointer.wrapping_add(self.bytes as usize) == next.pointer
            && self.upkeep == next.upkeep;
        // Two pointers to memory of the caller need not make one: he is asked.
        let one = || hal.linear_to_virt(HostPhysRange::new(self.hpa, bytes).ok()?);
        (follows && (!self.upkeep.linear || one() == Some(self.pointer))).then_some(Self { bytes, ..*self })
    }

    /// The `bytes` bytes from `offset` on, all of them inside.
    pub(super) fn part(&self, offset: u64, bytes: u64) -> Self {
        Self {
            pointer: self.pointer.wrapping_add(offset as usize),
            hpa: HostPhysAddr::new(self.hpa.as_u64() + offset),
            bytes,
            ..*self
        }
    }
}

impl<H: Hal, F: Format, B: CustomBackend, I: Fn(GuestPhysAddr, &mut [u8])> GuestMemory<'_, H, F, B, I> {
    /// The host's pointer to `gpa` in a page that is there and needs no closer look.
    #[inline(always)]
    pub(super) fn plain_pointer(&self, gpa: GuestPhysAddr, access: MappingFlags) -> Option<*mut u8> {
        let (_, entry) = self.space.table.plain_page(gpa, access)?;
        let page = self.space.format().address(entry).as_u64();
        Some(self.space.hal().phys_to_virt(HostPhysAddr::new(page | gpa.page_offset())))
    }

    /// The bytes of an access of `size` bytes at `gpa` that follow after the first `done`: as many as can be reached at
    /// once.
    #[inline]
    pub(super) fn run_after(
        &self,
        gpa: GuestPhysAddr,
        done: u64,
        size: u64,
        access: MappingFlags,
    ) -> Result<Run, AccessError> {
        // The access does not wrap.
        let at = GuestPhysAddr::new(gpa.as_u64().wrapping_add(done));
        self.run(at, size - done, access).map_err(|reason| AccessError { gpa: at, done, reason })
    }

    #[inline]
    fn run(&self, gpa: GuestPhysAddr, most: u64, access: MappingFlags) -> Result<Run, AccessRefusal> {
        let Some((slot, entry)) = self.space.table.plain_page(gpa, access) else {
            return self.unusual_run(gpa, most, access);
        };
        let offset = gpa.page_offset();
        let hpa = HostPhysAddr::new(self.space.format().address(entry).as_u64() | offset);
        let pointer = self.space.hal().phys_to_virt(hpa);
        // What continues the page has the same marks and therefore all of them.
        let bytes = self.space.table.run((slot, entry), offset, most, 0, Some(pointer));
        Ok(Run { pointer, hpa, bytes, upkeep: Upkeep::NONE })
    }

    #[inline(never)]
    fn unusual_run(&self, gpa: GuestPhysAddr, most: u64, access: MappingFlags) -> Result<Run, AccessRefusal> {
        let space = self.space;
        for _ in 0..TRIES {
            let Some(region) = space.regions.find(gpa) else {
                let outside = FaultError::OutsideSpace { gpa, space: space.range };
                let inside = space.range.contains(gpa);
                return Err(if inside { FaultError::NoRegion(gpa) } else { outside }.into());
            };
            let flags = region.flags;
            if !allows(space.format(), flags, access) {
                let (region, allowed) = (region.range, flags);
                return Err(FaultError::Permission { gpa, access, region, allowed }.into());
            }
            if flags.contains(MappingFlags::DEVICE) {
                return Err(AccessRefusal::Device);
            }
            // What continues the leaf beyond the region may be of another kind.
            let most = most.min(region.range.end().as_u64() - gpa.as_u64());
            let linear = matches!(region.backend, Backend::Linear { .. });
            if let Some(reached) = space.table.reach(gpa, most, access, linear) {
                let upkeep = Upkeep::new(space.format(), flags, access, linear);
                match self.take(reached, access, upkeep).ok_or(AccessRefusal::Unreachable)? {
                    Some(run) => return Ok(run),
                    None => continue,
                }
            }
            match space.answer_fault(gpa, access, &mut |gpa, bytes| (self.init)(gpa, bytes))? {
                FaultOutcome::Trap(_) => return Err(AccessRefusal::Device),
                FaultOutcome::Wait => return Err(AccessRefusal::NotYet),
                FaultOutcome::Populated(_)
                | FaultOutcome::Spurious
                | FaultOutcome::Marked
                | FaultOutcome::Copied(_)
                | FaultOutcome::MadeWritable
                | FaultOutcome::Unshared
                | FaultOutcome::Retry => {}
            }
        }
        Err(AccessRefusal::NotYet)
    }

    /// What was found, with a pointer, and marked; `None` if the host has none, and nothing inside if the leaves are not there
    /// any more.
    fn take(&self, mut reached: Reached, access: MappingFlags, upkeep: Upkeep) -> Option<Option<Run>> {
        let pointer = match reached.pointer {
            Some(pointer) => pointer,
            None => self.linear_pointer(&mut reached)?,
        };
        let marked = self.space.table.mark(&reached, access);
        Some(marked.then_some(Run { pointer, hpa: reached.hpa, bytes: reached.bytes, upkeep }))
    }

    /// The host's pointer to memory of the caller: to all of it, or to the first page, so that an access goes as far as it
    /// can.
    fn linear_pointer(&self, reached: &mut Reached) -> Option<*mut u8> {
        let range = |bytes| HostPhysRange::new(reached.hpa, bytes).ok();
        let all = range(reached.bytes).and_then(|range| self.space.hal().linear_to_virt(range));
        all.or_else(|| {
            let page = reached.bytes.min(PAGE_SIZE - reached.hpa.page_offset());
            let pointer = self.space.hal().linear_to_virt(range(page)?);
            reached.bytes = page;
            pointer
        })
    }
}
