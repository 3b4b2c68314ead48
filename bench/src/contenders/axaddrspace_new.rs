//! axaddrspace 0.6.0: regions over a table of the caller's choice, here page-table-generic, which its authors use.

use super::page_table_generic::{Ept, EptTable, Host, LEAF_RWX};
use crate::contender::Contender;
use crate::frames;
use crate::work::Work;
use ::page_table_generic::{MapConfig, PageTable, PhysAddr, VirtAddr};
use axaddrspace_new::{
    AddrSpace, AddrSpaceError, AddrSpaceResult, MappingFlags, NestedPageTableOps, PageSize,
};
use axvm_types::GuestPhysAddr;

/// The table that the space works on. `ZEROING` if the host zeroes what it gives.
pub(crate) struct Glue<const ZEROING: bool>(EptTable);

fn va(gpa: GuestPhysAddr) -> VirtAddr {
    VirtAddr::from_usize(gpa.as_usize())
}

/// Read, write and execute are the three lowest bits of both.
fn config(flags: MappingFlags) -> u64 {
    LEAF_RWX & !7 | flags.bits() as u64 & 7
}

fn size_of_leaf(bytes: usize) -> PageSize {
    match bytes {
        0x1000 => PageSize::Size4K,
        0x20_0000 => PageSize::Size2M,
        _ => PageSize::Size1G,
    }
}

impl<const ZEROING: bool> NestedPageTableOps for Glue<ZEROING> {
    fn root_paddr(&self) -> PhysAddr {
        self.0.root_paddr()
    }

    fn levels(&self) -> usize {
        4
    }

    #[inline]
    fn alloc_frame(&self) -> Option<PhysAddr> {
        let frame = frames::alloc()?;
        if ZEROING {
            frames::zero(frame);
        }
        Some(PhysAddr::from_usize(frame as usize))
    }

    #[inline]
    fn dealloc_frame(&self, frame: PhysAddr) {
        frames::free(frame.as_usize() as u64);
    }

    fn phys_to_virt(&self, address: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(address.as_usize())
    }

    fn map(
        &mut self,
        gpa: GuestPhysAddr,
        hpa: PhysAddr,
        size: PageSize,
        flags: MappingFlags,
    ) -> AddrSpaceResult {
        self.0
            .map_page(va(gpa), hpa, size as usize, config(flags))
            .map_err(|_| AddrSpaceError::MappingConflict)
    }

    fn unmap(&mut self, gpa: GuestPhysAddr) -> AddrSpaceResult<(PhysAddr, MappingFlags, PageSize)> {
        let (hpa, config, bytes) =
            self.0.unmap_page(va(gpa)).map_err(|_| AddrSpaceError::Unmapped { address: gpa })?;
        Ok((hpa, MappingFlags::from_bits_truncate(config as usize & 7), size_of_leaf(bytes)))
    }

    fn map_linear(
        &mut self,
        gpa: GuestPhysAddr,
        hpa: PhysAddr,
        size: usize,
        flags: MappingFlags,
        allow_huge: bool,
    ) -> AddrSpaceResult {
        let pte = config(flags);
        self.0
            .map(&MapConfig { vaddr: va(gpa), paddr: hpa, size, pte, allow_huge, flush: true })
            .map_err(|_| AddrSpaceError::MappingConflict)
    }

    fn unmap_region(&mut self, start: GuestPhysAddr, size: usize) -> AddrSpaceResult {
        self.0.unmap(va(start), size).map_err(|_| AddrSpaceError::Unmapped { address: start })
    }

    fn remap(&mut self, gpa: GuestPhysAddr, hpa: PhysAddr, flags: MappingFlags) -> bool {
        let pte = config(flags);
        self.0.map_page(va(gpa), hpa, 4096, pte).is_ok() || self.0.remap_page(va(gpa), hpa, pte).is_ok()
    }

    fn protect_region(&mut self, start: GuestPhysAddr, size: usize, flags: MappingFlags) -> bool {
        self.0.protect_region(va(start), size, config(flags)).is_ok()
    }

    #[inline]
    fn query(&self, gpa: GuestPhysAddr) -> AddrSpaceResult<(PhysAddr, MappingFlags, PageSize)> {
        let (hpa, config, bytes) =
            self.0.query(va(gpa)).map_err(|_| AddrSpaceError::Unmapped { address: gpa })?;
        Ok((hpa, MappingFlags::from_bits_truncate(config as usize & 7), size_of_leaf(bytes)))
    }
}

pub(crate) struct Space<const ZEROING: bool>(AddrSpace<Glue<ZEROING>>);

fn rwx() -> MappingFlags {
    MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE
}

fn gpa_of(gpa: u64) -> GuestPhysAddr {
    GuestPhysAddr::from(gpa as usize)
}

impl<const ZEROING: bool> Contender for Space<ZEROING> {
    const NAME: &'static str = "axaddrspace-0.6.0";
    const SHORT: &'static str = "ax-0.6.0";
    const HAS_REGIONS: bool = true;
    type OnZeroingHost = Space<true>;

    fn can(work: Work) -> bool {
        // Its protect cannot be reached, and unmapping a part of a large leaf unmaps all of it.
        !matches!(
            work,
            Work::Protect4k
                | Work::ProtectEverySecond
                | Work::Split1g
                | Work::ReadObj
                | Work::Copy1m
                | Work::Copy1mLarge
        )
    }

    fn new() -> Self {
        let table = PageTable::<Ept, Host>::new(Host).expect("an empty table");
        Self(AddrSpace::new_empty(Glue(table), gpa_of(0), 1 << 47).expect("an empty space"))
    }

    fn map(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        let hpa = PhysAddr::from_usize(hpa as usize);
        self.0.map_linear(gpa_of(gpa), hpa, bytes as usize, rwx()).expect("map_linear");
    }

    #[inline]
    fn translate(&self, gpa: u64) -> Option<u64> {
        self.0.translate(gpa_of(gpa)).map(|hpa| hpa.as_usize() as u64)
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
