//! x86_64 0.15.5: `OffsetPageTable` with ordinary x86-64 entries. It has no regions, maps page by page, and leaves
//! both the choice of the leaf size and freeing tables to its user.

use crate::contender::Contender;
use crate::frames;
use crate::work::Work;
use ::x86_64::structures::paging::FrameDeallocator;
use ::x86_64::structures::paging::mapper::{CleanUp, Mapper, OffsetPageTable, Translate};
use ::x86_64::structures::paging::{
    FrameAllocator, Page, PageSize, PageTable, PageTableFlags, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
};
use ::x86_64::{PhysAddr, VirtAddr};

struct Host;

// SAFETY: the arena gives a frame once until it comes back.
unsafe impl FrameAllocator<Size4KiB> for Host {
    #[inline]
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        frames::alloc().map(frame_at)
    }
}

impl FrameDeallocator<Size4KiB> for Host {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        frames::free(frame.start_address().as_u64());
    }
}

pub(crate) struct Table(OffsetPageTable<'static>);

const RW: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);

#[inline]
fn page_at<S: PageSize>(gpa: u64) -> Page<S> {
    Page::containing_address(VirtAddr::new_truncate(gpa))
}

#[inline]
fn frame_at<S: PageSize>(hpa: u64) -> PhysFrame<S> {
    PhysFrame::containing_address(PhysAddr::new_truncate(hpa))
}

impl Table {
    #[inline]
    fn map_in<S>(&mut self, gpa: u64, hpa: u64, bytes: u64)
    where
        OffsetPageTable<'static>: Mapper<S>,
        S: PageSize + std::fmt::Debug,
    {
        for offset in (0..bytes).step_by(S::SIZE as usize) {
            let (page, frame) = (page_at::<S>(gpa + offset), frame_at::<S>(hpa + offset));
            // SAFETY: no CPU ever walks this table.
            let flush = unsafe { self.0.map_to(page, frame, RW, &mut Host) };
            flush.expect("map_to").ignore();
        }
    }
}

impl Contender for Table {
    const NAME: &'static str = "x86_64-0.15.5";
    const SHORT: &'static str = "x86_64";
    type OnZeroingHost = Self;

    fn can(work: Work) -> bool {
        // It has no way to split a large leaf.
        !matches!(
            work,
            Work::LazyDeclare
                | Work::RegionsRemoveOne
                | Work::ReadObj
                | Work::Copy1m
                | Work::Copy1mLarge
                | Work::Split1g
        )
    }

    fn new() -> Self {
        let root = frames::alloc().expect("a frame");
        frames::zero(root);
        // SAFETY: the frame is taken, zeroed, and nobody else's until the next sample.
        let root = unsafe { &mut *(root as *mut PageTable) };
        // SAFETY: host physical addresses are addresses of this process: the offset is 0.
        Self(unsafe { OffsetPageTable::new(root, VirtAddr::new(0)) })
    }

    fn map(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        let aligned = |size: u64| (gpa | hpa | bytes).is_multiple_of(size);
        if aligned(Size1GiB::SIZE) {
            self.map_in::<Size1GiB>(gpa, hpa, bytes);
        } else if aligned(Size2MiB::SIZE) {
            self.map_in::<Size2MiB>(gpa, hpa, bytes);
        } else {
            self.map_in::<Size4KiB>(gpa, hpa, bytes);
        }
    }

    #[inline]
    fn translate(&self, gpa: u64) -> Option<u64> {
        self.0.translate_addr(VirtAddr::new_truncate(gpa)).map(PhysAddr::as_u64)
    }

    #[inline]
    fn fault(&mut self, gpa: u64) {
        let frame = frames::alloc().expect("a frame");
        self.map_in::<Size4KiB>(gpa, frame, 4096);
    }

    #[inline]
    fn fault_zeroed(&mut self, gpa: u64) {
        let frame = frames::alloc().expect("a frame");
        frames::zero(frame);
        self.map_in::<Size4KiB>(gpa, frame, 4096);
    }

    fn populate(&mut self, gpa: u64, bytes: u64) {
        for address in (gpa..gpa + bytes).step_by(4096) {
            self.fault_zeroed(address);
        }
    }

    fn protect(&mut self, gpa: u64, bytes: u64) {
        for address in (gpa..gpa + bytes).step_by(4096) {
            // SAFETY: no CPU ever walks this table.
            let flush = unsafe { self.0.update_flags(page_at::<Size4KiB>(address), PageTableFlags::PRESENT) };
            flush.expect("update_flags").ignore();
        }
    }

    fn unmap(&mut self, gpa: u64, bytes: u64) {
        for address in (gpa..gpa + bytes).step_by(4096) {
            let (_, flush) = self.0.unmap(page_at::<Size4KiB>(address)).expect("unmap");
            flush.ignore();
        }
        if bytes > 4096 {
            self.clean_up(gpa, bytes);
        }
    }

    fn unmap_free(&mut self, gpa: u64, bytes: u64) {
        for address in (gpa..gpa + bytes).step_by(4096) {
            let (frame, flush) = self.0.unmap(page_at::<Size4KiB>(address)).expect("unmap");
            flush.ignore();
            frames::free(frame.start_address().as_u64());
        }
        self.clean_up(gpa, bytes);
    }
}

impl Table {
    /// Frees the tables that became empty.
    fn clean_up(&mut self, gpa: u64, bytes: u64) {
        let range = Page::range_inclusive(page_at(gpa), page_at(gpa + bytes - 4096));
        // SAFETY: no CPU ever walks this table, and all its tables came from the host.
        unsafe { self.0.clean_up_addr_range(range, &mut Host) };
    }
}
