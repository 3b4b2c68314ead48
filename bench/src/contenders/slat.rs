//! slat, in the formats of Intel EPT and of Arm stage 2, four levels each.

use crate::contender::Contender;
use crate::frames;
use crate::measure::Sample;
use crate::sharing;
use crate::work::{Sizes, Work};
use slat::format::Format;
use slat::format::ept::{Capabilities, Ept};
use slat::format::stage2::{Features, Stage2};
use slat::{AddrSpace, AllocOptions, GuestPhysAddr, Hal, HostPhysAddr, LeafSize, MappingFlags};

/// The arena as a host; with `ZERO` unset its frames count as zeroed already, as they do for the peers.
pub(crate) struct Host<const ZERO: bool>;

// SAFETY: frames are those of the arena, identity-mapped; no CPU ever walks the tables.
unsafe impl<const ZERO: bool> Hal for Host<ZERO> {
    #[inline]
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        frames::alloc_run(count, align).map(HostPhysAddr::new)
    }

    #[inline]
    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        frames::free_run(start.as_u64(), count);
    }

    #[inline]
    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        hpa.as_u64() as *mut u8
    }

    #[inline]
    unsafe fn zero_frames(&self, start: HostPhysAddr, count: usize) {
        if ZERO {
            // SAFETY: the frames are taken and unused (the caller's promise).
            unsafe { slat::isa::zero(self.phys_to_virt(start), count * 4096) };
        }
    }
}

/// A format, ready to use.
pub(crate) trait Ready: Format {
    const NAME: &'static str;
    const SHORT: &'static str;
    /// Whether [`ready`](Self::ready) can have the CPU mark leaves as accessed and dirty.
    const MARKS: bool;
    fn ready(marked: bool) -> Self;
}

impl Ready for Ept {
    const NAME: &'static str = super::SLAT;
    const SHORT: &'static str = super::SLAT;
    const MARKS: bool = true;

    fn ready(marked: bool) -> Self {
        // Four levels, write-back tables, leaves of 2 MiB and 1 GiB, accessed and dirty flags.
        let ept_vpid_cap = 1 << 6 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 21;
        let capabilities = Capabilities {
            ept_vpid_cap,
            physical_bits: 52,
            accessed_dirty: marked,
            ..Capabilities::BASELINE
        };
        Self::new(capabilities, 4).expect("the capabilities cover four levels")
    }
}

impl Ready for Stage2 {
    const NAME: &'static str = "slat-stage2";
    const SHORT: &'static str = "slat-s2";
    const MARKS: bool = false;

    fn ready(_marked: bool) -> Self {
        let features = Features { pa_bits: 48, fwb: true, idc: true, dic: true, ..Features::BASELINE };
        Self::new(features, Some(48)).expect("48 bits are within the width of the CPU")
    }
}

pub(crate) struct Slat<F: Format, const ZERO: bool = false>(AddrSpace<Host<ZERO>, F>);

pub(crate) type SlatEpt = Slat<Ept>;
pub(crate) type SlatStage2 = Slat<Stage2>;

impl<F: Format, const ZERO: bool> Slat<F, ZERO> {
    fn empty(format: F) -> Self {
        let space = AddrSpace::with_format(Host::<ZERO>, format, gpa_of(0), 1 << 47, 1);
        Self(space.expect("an empty space"))
    }
}

const RWX: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE);

fn gpa_of(gpa: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(gpa)
}

impl<F: Ready, const ZERO: bool> Contender for Slat<F, ZERO> {
    const NAME: &'static str = F::NAME;
    const SHORT: &'static str = F::SHORT;
    const CONCURRENT: bool = true;
    const ATOMIC_PROTECT: bool = F::MARKS;
    const HAS_REGIONS: bool = true;
    type OnZeroingHost = Slat<F, true>;

    fn can(_work: Work) -> bool {
        true
    }

    fn new() -> Self {
        Self::empty(F::ready(false))
    }

    fn new_marked() -> Self {
        Self::empty(F::ready(true))
    }

    fn map(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        self.0.map_linear(gpa_of(gpa), HostPhysAddr::new(hpa), bytes, RWX).expect("map_linear");
    }

    #[inline]
    fn translate(&self, gpa: u64) -> Option<u64> {
        self.0.translate(gpa_of(gpa)).map(HostPhysAddr::as_u64)
    }

    #[inline]
    fn read_obj(&self, gpa: u64) -> u64 {
        self.0.read_obj(gpa_of(gpa)).expect("read_obj")
    }

    fn copy(&self, gpa: u64, to: &mut [u8]) {
        self.0.read(gpa_of(gpa), to).expect("read");
    }

    fn populate_large(&mut self, gpa: u64, bytes: u64) {
        self.0.map_alloc(gpa_of(gpa), bytes, RWX, true).expect("map_alloc");
        assert_eq!(self.0.stats().table.leaves_4k, 0, "only large leaves");
    }

    fn declare(&mut self, gpa: u64, bytes: u64) {
        let options = AllocOptions { largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
        self.0.map_alloc_with(gpa_of(gpa), bytes, RWX, options).expect("map_alloc_with");
    }

    #[inline]
    fn fault(&mut self, gpa: u64) {
        self.fault_shared(gpa);
    }

    #[inline]
    fn fault_shared(&self, gpa: u64) {
        self.0.handle_page_fault(gpa_of(gpa), MappingFlags::WRITE).expect("handle_page_fault");
    }

    fn populate(&mut self, gpa: u64, bytes: u64) {
        let options =
            AllocOptions { populate: true, largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
        self.0.map_alloc_with(gpa_of(gpa), bytes, RWX, options).expect("map_alloc_with");
    }

    fn protect(&mut self, gpa: u64, bytes: u64) {
        self.0.protect(gpa_of(gpa), bytes, MappingFlags::READ).expect("protect");
    }

    fn protect_atomic(&mut self, gpa: u64, bytes: u64) {
        self.protect(gpa, bytes);
    }

    fn unmap(&mut self, gpa: u64, bytes: u64) {
        self.0.unmap(gpa_of(gpa), bytes).expect("unmap");
    }

    fn unmap_free(&mut self, gpa: u64, bytes: u64) {
        self.unmap(gpa, bytes);
    }

    fn share(work: Work, sizes: &Sizes) -> Option<Sample> {
        sharing::counted(work, F::ready(false), sizes)
    }

    fn region_frames(&self) -> u64 {
        self.0.stats().region_frames as u64
    }
}
