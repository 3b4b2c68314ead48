//! axaddrspace 0.3.0: regions over page_table_multiarch with EPT entries. Its host is a set of static functions.

use crate::contender::Contender;
use crate::frames;
use crate::work::Work;
use ::page_table_multiarch::PagingHandler;
use axaddrspace_old::{AddrSpace, GuestPhysAddr, MappingFlags};
use memory_addr::{PhysAddr, VirtAddr};

/// The host; `ZEROING` if it zeroes what it gives.
struct Host<const ZEROING: bool>;

impl<const ZEROING: bool> PagingHandler for Host<ZEROING> {
    #[inline]
    fn alloc_frame() -> Option<PhysAddr> {
        let frame = frames::alloc()?;
        if ZEROING {
            frames::zero(frame);
        }
        Some(PhysAddr::from(frame as usize))
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

pub(crate) struct Space<const ZEROING: bool>(AddrSpace<Host<ZEROING>>);

fn rwx() -> MappingFlags {
    MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE
}

fn gpa_of(gpa: u64) -> GuestPhysAddr {
    GuestPhysAddr::from(gpa as usize)
}

impl<const ZEROING: bool> Contender for Space<ZEROING> {
    const NAME: &'static str = "axaddrspace-0.3.0";
    const SHORT: &'static str = "ax-0.3.0";
    const HAS_REGIONS: bool = true;
    type OnZeroingHost = Space<true>;

    fn can(work: Work) -> bool {
        // It has no protect and reads no objects, and panics when a part of a large leaf is to be unmapped.
        !matches!(
            work,
            Work::Protect4k | Work::ProtectEverySecond | Work::Split1g | Work::ReadObj | Work::Copy1mLarge
        )
    }

    fn new() -> Self {
        Self(AddrSpace::new_empty(4, gpa_of(0), 1 << 47).expect("an empty space"))
    }

    fn map(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        let hpa = PhysAddr::from(hpa as usize);
        self.0.map_linear(gpa_of(gpa), hpa, bytes as usize, rwx()).expect("map_linear");
    }

    #[inline]
    fn translate(&self, gpa: u64) -> Option<u64> {
        self.0.translate(gpa_of(gpa)).map(|hpa| hpa.as_usize() as u64)
    }

    fn copy(&self, gpa: u64, to: &mut [u8]) {
        let pieces = self.0.translated_byte_buffer(gpa_of(gpa), to.len()).expect("translated_byte_buffer");
        let mut rest = to;
        for piece in pieces {
            let (now, later) = rest.split_at_mut(piece.len());
            now.copy_from_slice(piece);
            rest = later;
        }
    }

    fn declare(&mut self, gpa: u64, bytes: u64) {
        self.0.map_alloc(gpa_of(gpa), bytes as usize, rwx(), false).expect("map_alloc");
    }

    #[inline]
    fn fault(&mut self, gpa: u64) {
        assert!(self.0.handle_page_fault(gpa_of(gpa), MappingFlags::WRITE), "handle_page_fault");
    }

    fn populate(&mut self, gpa: u64, bytes: u64) {
        self.0.map_alloc(gpa_of(gpa), bytes as usize, rwx(), true).expect("map_alloc");
    }

    fn unmap(&mut self, gpa: u64, bytes: u64) {
        self.0.unmap(gpa_of(gpa), bytes as usize).expect("unmap");
    }

    fn unmap_free(&mut self, gpa: u64, bytes: u64) {
        self.unmap(gpa, bytes);
    }
}
