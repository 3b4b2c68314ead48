//! aarch64-paging 0.12.3 with its stage-2 regime, four levels. It has no regions. The table is not marked active:
//! its checks for break-before-make are left out, in its favour.

use crate::contender::Contender;
use crate::frames;
use crate::work::Work;
use ::aarch64_paging::Mapping;
use ::aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes, UpdatableDescriptor};
use ::aarch64_paging::paging::{Constraints, MemoryRegion, PageTable, Stage2, Translation};
use std::ptr::NonNull;

struct Host;

impl Translation<Stage2Attributes> for Host {
    fn allocate_table(&mut self) -> (NonNull<PageTable<Stage2Attributes>>, PhysicalAddress) {
        let frame = frames::alloc().expect("a frame");
        frames::zero(frame);
        let address = PhysicalAddress(frame as usize);
        (self.physical_to_virtual(address), address)
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<Stage2Attributes>>) {
        frames::free(table.as_ptr() as u64);
    }

    #[inline]
    fn physical_to_virtual(&self, address: PhysicalAddress) -> NonNull<PageTable<Stage2Attributes>> {
        NonNull::new(address.0 as *mut _).expect("no frame is at address 0")
    }
}

pub(crate) struct Table(Mapping<Host, Stage2>);

const LEAF_R: Stage2Attributes = Stage2Attributes::VALID
    .union(Stage2Attributes::MEMATTR_NORMAL_INNER_WB)
    .union(Stage2Attributes::MEMATTR_NORMAL_OUTER_WB)
    .union(Stage2Attributes::SH_INNER)
    .union(Stage2Attributes::ACCESS_FLAG)
    .union(Stage2Attributes::S2AP_ACCESS_RO);
const LEAF_RWX: Stage2Attributes = LEAF_R.union(Stage2Attributes::S2AP_ACCESS_WO);

fn region(gpa: u64, bytes: u64) -> MemoryRegion {
    MemoryRegion::new(gpa as usize, (gpa + bytes) as usize)
}

impl Contender for Table {
    const NAME: &'static str = "aarch64-paging-0.12.3";
    const SHORT: &'static str = "aarch64-p.";
    type OnZeroingHost = Self;

    fn can(work: Work) -> bool {
        !matches!(
            work,
            Work::LazyDeclare | Work::RegionsRemoveOne | Work::ReadObj | Work::Copy1m | Work::Copy1mLarge
        )
    }

    fn new() -> Self {
        Self(Mapping::new(Host, 0, Stage2))
    }

    fn map(&mut self, gpa: u64, hpa: u64, bytes: u64) {
        let hpa = PhysicalAddress(hpa as usize);
        self.0.map_range(&region(gpa, bytes), hpa, LEAF_RWX, Constraints::empty()).expect("map_range");
    }

    #[inline]
    fn translate(&self, gpa: u64) -> Option<u64> {
        let mut hpa = None;
        self.0
            .walk_range(&region(gpa, 1), &mut |_, entry, level| {
                if entry.is_valid() {
                    let inside = (4096usize << (9 * (3 - level))) - 1;
                    hpa = Some((entry.output_address().0 | gpa as usize & inside) as u64);
                }
                Ok(())
            })
            .ok()?;
        hpa
    }

    #[inline]
    fn fault(&mut self, gpa: u64) {
        self.map(gpa, frames::alloc().expect("a frame"), 4096);
    }

    #[inline]
    fn fault_zeroed(&mut self, gpa: u64) {
        let frame = frames::alloc().expect("a frame");
        frames::zero(frame);
        self.map(gpa, frame, 4096);
    }

    fn populate(&mut self, gpa: u64, bytes: u64) {
        for address in (gpa..gpa + bytes).step_by(4096) {
            self.fault_zeroed(address);
        }
    }

    fn protect(&mut self, gpa: u64, bytes: u64) {
        let withdraw = |_: &MemoryRegion, entry: &mut UpdatableDescriptor<'_, Stage2Attributes>| {
            entry.modify_flags(Stage2Attributes::empty(), Stage2Attributes::S2AP_ACCESS_WO)
        };
        self.0.modify_range(&region(gpa, bytes), &withdraw).expect("modify_range");
    }

    fn unmap(&mut self, gpa: u64, bytes: u64) {
        let (nowhere, nothing) = (PhysicalAddress(0), Stage2Attributes::empty());
        self.0.map_range(&region(gpa, bytes), nowhere, nothing, Constraints::empty()).expect("map_range");
    }

    fn unmap_free(&mut self, gpa: u64, bytes: u64) {
        self.0
            .walk_range(&region(gpa, bytes), &mut |_, entry, _| {
                frames::free(entry.output_address().0 as u64);
                Ok(())
            })
            .expect("walk_range");
        self.unmap(gpa, bytes);
    }
}
