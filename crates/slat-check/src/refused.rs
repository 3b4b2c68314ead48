//! Operations that must be refused for their arguments, and numbers of a guest's that must harm nobody.

use crate::checks::{Check, Violation, ensure};
use crate::driver::Driver;
use crate::host::PROTECTED_END;
use crate::platform::Platform;
use slat::{
    AddrSpace, BadRange, CollapseError, CreateError, FaultError, GuestPhysAddr, HostPhysAddr, MapError,
    MappingFlags, MigrateError, PAGE_SIZE, PopulateError, ProtectError, QueryError, UnmapError,
};

impl<P: Platform> Driver<'_, P> {
    pub(crate) fn refused(&mut self, index: usize, which: u8) -> Result<(), Violation> {
        let inside = GuestPhysAddr::new(self.shape.start());
        let outside = GuestPhysAddr::new(self.subjects[index].space().range().end().as_u64());
        let format = *self.host.platform();
        let wide = 1u64 << format.geometry().gpa_bits;
        let rw = MappingFlags::READ | MappingFlags::WRITE;
        let space = self.subjects[index].space_mut();
        // A range that is empty, unaligned, wraps, or leaves the space.
        let (gpa, size) = match which % 6 {
            0 => (inside, 0),
            1 => (GuestPhysAddr::new(inside.as_u64() + 0x10), PAGE_SIZE),
            2 => (inside, PAGE_SIZE - 1),
            3 => (GuestPhysAddr::new(u64::MAX - PAGE_SIZE + 1), 2 * PAGE_SIZE),
            4 => (outside, PAGE_SIZE),
            _ => (inside, outside.as_u64()),
        };
        let bad = |bad: &BadRange| match which % 6 {
            0 | 3 => matches!(bad, BadRange::Malformed { .. }),
            1 | 2 => matches!(bad, BadRange::Unaligned(_)),
            _ => matches!(bad, BadRange::OutsideSpace { .. }),
        };
        let hpa = HostPhysAddr::new(0);
        let ranges = [
            matches!(space.map_linear(gpa, hpa, size, rw), Err(MapError::BadRange(why)) if bad(&why)),
            matches!(space.map_alloc(gpa, size, rw, which & 64 != 0), Err(MapError::BadRange(why)) if bad(&why)),
            matches!(space.unmap(gpa, size), Err(UnmapError::BadRange(why)) if bad(&why)),
            matches!(space.protect(gpa, size, rw), Err(ProtectError::BadRange(why)) if bad(&why)),
            matches!(space.migrate(gpa, size), Err(MigrateError::BadRange(why)) if bad(&why)),
            matches!(space.collapse(gpa, size), Err(CollapseError::BadRange(why)) if bad(&why)),
            matches!(space.populate(gpa, size), Err(PopulateError::BadRange(why)) if bad(&why)),
        ];
        ensure(ranges == [true; 7], Check::Verdict, || format!("{gpa:#x} + {size:#x} is taken: {ranges:?}"))?;
        // Host addresses that no entry can hold. Where something is mapped, that is said instead.
        let in_the_way = |error: &MapError| matches!(error, MapError::AlreadyMapped { .. });
        let unaligned = space.map_linear(inside, HostPhysAddr::new(0x1008), PAGE_SIZE, rw);
        let too_wide = HostPhysAddr::new(1 << format.hpa_bits());
        let too_wide = space.map_linear(inside, too_wide, PAGE_SIZE, rw);
        let end = space.map_linear(inside, HostPhysAddr::new(!(PAGE_SIZE - 1)), PAGE_SIZE, rw);
        let hosts = [
            matches!(&unaligned, Err(error) if in_the_way(error) || matches!(error, MapError::UnalignedHost(_))),
            matches!(&too_wide, Err(error) if in_the_way(error) || matches!(error, MapError::HostTooWide { .. })),
            matches!(&end, Err(error) if in_the_way(error) || matches!(error, MapError::HostTooWide { .. })),
        ];
        ensure(hosts == [true; 3], Check::Verdict, || format!("{unaligned:?}, {too_wide:?}, {end:?}"))?;
        let own = HostPhysAddr::new(u64::from(which) << 12 & (PROTECTED_END - 1));
        let own = space.map_linear(inside, own, PAGE_SIZE, rw);
        let own =
            matches!(&own, Err(error) if in_the_way(error) || matches!(error, MapError::HostProtected(_)));
        ensure(own, Check::Verdict, || "memory of the host's own is mapped".into())?;
        // Numbers that a guest chooses: outside of the space, too wide for the format, the last of all.
        let alias = self.shape.pages[usize::from(which) % self.shape.pages.len()] + wide;
        let aliases = self.host.mistake() == Some(crate::mistakes::Mistake::WideAddressAliases);
        for gpa in [outside.as_u64(), alias, wide, u64::MAX, 1 << 63] {
            let gpa = GuestPhysAddr::new(if aliases { gpa & (wide - 1) } else { gpa });
            let space = self.subjects[index].space();
            let fault = space.handle_page_fault(gpa, MappingFlags::READ);
            self.host.ledger.answered(self.host.cpu.get(), &fault);
            let query = space.query(gpa);
            let nothing = space.translate(gpa).is_none()
                && space.translate_and_get_limit(gpa).is_none()
                && matches!(query, Err(QueryError::OutsideSpace { .. }))
                && matches!(fault, Err(FaultError::OutsideSpace { .. }));
            ensure(nothing, Check::Verdict, || format!("{gpa:#x}: {query:?}, {fault:?}"))?;
        }
        let too_wide = AddrSpace::with_format(self.host, format, GuestPhysAddr::new(0), wide + PAGE_SIZE, 0);
        let too_wide = too_wide.map(drop);
        ensure(matches!(too_wide, Err(CreateError::TooWide { .. })), Check::Verdict, || {
            format!("a space wider than the format: {too_wide:?}")
        })
    }
}
