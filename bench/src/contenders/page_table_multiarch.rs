//! page_table_multiarch 0.6.2 with ordinary x86-64 entries. It has no regions.

use crate::contender::Contender;
use crate::frames;
use crate::work::Work;
use ::page_table_multiarch::x86_64::X64PageTable;
use ::page_table_multiarch::{MappingFlags, PageSize, PagingHandler};
use memory_addr::{PhysAddr, VirtAddr};

struct Host;

impl PagingHandler for Host {
    #[inline]
    fn alloc_frame() -> Option<PhysAddr> {
        frames::alloc().map(|frame| PhysAddr::from(frame as usize))
    }

    fn alloc_frames(count: usize, align: usize) -> Option<PhysAddr> {
        frames::alloc_run(count, align / 4096).map(|start| PhysAddr::from(start as usize))
    }

    #[inline]
    fn dealloc_frame(frame: PhysAddr) {
        frames::free(frame.as_usize() as u64);
    }

    fn dealloc_frames(start: PhysAddr, count: usize) {
        frames::free_run(start.as_usize() as u64, count);
    }

    #[inline]
    fn phys_to_virt(address: PhysAddr) -> VirtAddr {
        VirtAddr::from(address.as_usize())
    }
}

pub(crate) struct Table(X64PageTable<Host>);

fn rwx() -> MappingFlags {
    MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE
}

fn va(gpa: u64) -> VirtAddr {
    VirtAddr::from(gpa as usize)
}

impl Contender for Table {
    const NAME: &'static str = "page_table_multiarch-0.6.2";
    const SHORT: &'static str = "multiarch";
    type OnZeroingHost = Self;

    fn can(work: Work) -> bool {
        // Unmapping a part of a large leaf panics.
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
        Self(X64PageTable::try_new().expect("an empty table"))
    }

    fn map(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        let hpa_of = |address: VirtAddr| PhysAddr::from((address.as_usize() as u64 - gpa + hpa) as usize);
        self.0.cursor().map_region(va(gpa), hpa_of, bytes as usize, rwx(), true).expect("map_region");
    }

    #[inline]
    fn translate(&self, gpa: u64) -> Option<u64> {
        self.0.query(va(gpa)).ok().map(|(hpa, ..)| hpa.as_usize() as u64)
    }

    #[inline]
    fn fault(&mut self, gpa: u64) {
        let frame = PhysAddr::from(frames::alloc().expect("a frame") as usize);
        self.0.cursor().map(va(gpa), frame, PageSize::Size4K, rwx()).expect("map");
    }

    #[inline]
    fn fault_zeroed(&mut self, gpa: u64) {
        let frame = frames::alloc().expect("a frame");
        frames::zero(frame);
        let frame = PhysAddr::from(frame as usize);
        self.0.cursor().map(va(gpa), frame, PageSize::Size4K, rwx()).expect("map");
    }

    fn populate(&mut self, gpa: u64, bytes: u64) {
        let resolve = |_| {
            let frame = frames::alloc().expect("a frame");
            frames::zero(frame);
            PhysAddr::from(frame as usize)
        };
        self.0.cursor().map_region(va(gpa), resolve, bytes as usize, rwx(), false).expect("map_region");
    }

    fn protect(&mut self, gpa: u64, bytes: u64) {
        self.0.cursor().protect_region(va(gpa), bytes as usize, MappingFlags::READ).expect("protect_region");
    }

    fn unmap(&mut self, gpa: u64, bytes: u64) {
        self.0.cursor().unmap_region(va(gpa), bytes as usize).expect("unmap_region");
    }

    fn unmap_free(&mut self, gpa: u64, bytes: u64) {
        let mut cursor = self.0.cursor();
        for address in (gpa..gpa + bytes).step_by(4096) {
            let (frame, ..) = cursor.unmap(va(address)).expect("unmap");
            frames::free(frame.as_usize() as u64);
        }
    }
}
