//! page-table-generic 0.9.1, with EPT entries: the crate leaves the entry to its user. It has no regions.

use crate::contender::Contender;
use crate::frames;
use crate::work::Work;
use ::page_table_generic::{
    FrameAllocator, MapConfig, PageTable, PageTableEntry, PhysAddr, TableMeta, VirtAddr,
};

/// Read, write, execute, write-back.
pub(crate) const LEAF_RWX: u64 = 7 | 6 << 3;
const LEAF_R: u64 = 1 | 6 << 3;
const PERMISSIONS: u64 = 7;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The host.
#[derive(Clone, Copy)]
pub(crate) struct Host;

impl FrameAllocator for Host {
    #[inline]
    fn alloc_frame(&self) -> Option<PhysAddr> {
        frames::alloc().map(|frame| PhysAddr::from_usize(frame as usize))
    }

    #[inline]
    fn dealloc_frame(&self, frame: PhysAddr) {
        frames::free(frame.as_usize() as u64);
    }

    #[inline]
    fn phys_to_virt(&self, address: PhysAddr) -> *mut u8 {
        address.as_usize() as *mut u8
    }
}

/// An EPT entry; its configuration is its bits without the address.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Entry(u64);

impl PageTableEntry for Entry {
    type PteConfig = u64;

    #[inline]
    fn new_page(address: PhysAddr, config: u64, is_huge: bool) -> Self {
        Self(address.as_usize() as u64 | config | if is_huge { LARGE } else { 0 })
    }

    #[inline]
    fn new_table(address: PhysAddr) -> Self {
        Self(address.as_usize() as u64 | PERMISSIONS)
    }

    #[inline]
    fn paddr(&self, _is_dir: bool) -> PhysAddr {
        PhysAddr::from_usize((self.0 & ADDRESS) as usize)
    }

    #[inline]
    fn config(&self, _is_dir: bool) -> u64 {
        self.0 & !ADDRESS & !LARGE
    }

    #[inline]
    fn present(&self) -> bool {
        self.0 & PERMISSIONS != 0
    }

    #[inline]
    fn huge(&self, is_dir: bool) -> bool {
        is_dir && self.0 & LARGE != 0
    }

    #[inline]
    fn unused(&self) -> bool {
        self.0 == 0
    }

    #[inline]
    fn clear(&mut self) {
        self.0 = 0;
    }
}

/// Four levels, leaves of up to 1 GiB, and no TLB to flush.
#[derive(Clone, Copy)]
pub(crate) struct Ept;

impl TableMeta for Ept {
    type P = Entry;
    const PAGE_SIZE: usize = 4096;
    const LEVEL_BITS: &[usize] = &[9, 9, 9, 9];
    const MAX_BLOCK_LEVEL: usize = 3;

    #[inline]
    fn flush(_address: Option<VirtAddr>) {}
}

pub(crate) type EptTable = PageTable<Ept, Host>;

pub(crate) struct Table(EptTable);

fn va(gpa: u64) -> VirtAddr {
    VirtAddr::from_usize(gpa as usize)
}

impl Contender for Table {
    const NAME: &'static str = "page-table-generic-0.9.1";
    const SHORT: &'static str = "generic";
    type OnZeroingHost = Self;

    fn can(work: Work) -> bool {
        !matches!(
            work,
            Work::LazyDeclare | Work::RegionsRemoveOne | Work::ReadObj | Work::Copy1m | Work::Copy1mLarge
        )
    }

    fn new() -> Self {
        Self(PageTable::new(Host).expect("an empty table"))
    }

    fn map(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        let config = MapConfig {
            vaddr: va(gpa),
            paddr: PhysAddr::from_usize(hpa as usize),
            size: bytes as usize,
            pte: LEAF_RWX,
            allow_huge: true,
            flush: true,
        };
        self.0.map(&config).expect("map");
    }

    #[inline]
    fn translate(&self, gpa: u64) -> Option<u64> {
        self.0.translate_phys(va(gpa)).ok().map(|hpa| hpa.as_usize() as u64)
    }

    #[inline]
    fn fault(&mut self, gpa: u64) {
        let frame = frames::alloc().expect("a frame");
        self.0.map_page(va(gpa), PhysAddr::from_usize(frame as usize), 4096, LEAF_RWX).expect("map_page");
    }

    #[inline]
    fn fault_zeroed(&mut self, gpa: u64) {
        let frame = frames::alloc().expect("a frame");
        frames::zero(frame);
        self.0.map_page(va(gpa), PhysAddr::from_usize(frame as usize), 4096, LEAF_RWX).expect("map_page");
    }

    fn populate(&mut self, gpa: u64, bytes: u64) {
        let resolve = |_| {
            let frame = frames::alloc().expect("a frame");
            frames::zero(frame);
            PhysAddr::from_usize(frame as usize)
        };
        self.0.map_region(va(gpa), resolve, bytes as usize, LEAF_RWX).expect("map_region");
    }

    fn protect(&mut self, gpa: u64, bytes: u64) {
        self.0.protect_region(va(gpa), bytes as usize, LEAF_R).expect("protect_region");
    }

    fn unmap(&mut self, gpa: u64, bytes: u64) {
        self.0.unmap(va(gpa), bytes as usize).expect("unmap");
    }

    fn unmap_free(&mut self, gpa: u64, bytes: u64) {
        for leaf in self.0.walk_occupied_range(va(gpa), va(gpa + bytes)) {
            frames::free(leaf.pte.paddr(false).as_usize() as u64);
        }
        self.unmap(gpa, bytes);
    }

    fn unmap_inside(&mut self, gpa: u64) {
        // Its unmap takes the whole large leaf; splitting is a call of its own, one level at a time.
        self.0.split_huge_page(va(gpa)).expect("split_huge_page");
        self.0.split_huge_page(va(gpa)).expect("split_huge_page");
        self.unmap(gpa, 4096);
    }
}
