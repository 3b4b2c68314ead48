//! Copies of shared memory that come about page by page: a page of a private mapping is the memory's until the guest writes.

use crate::checks::{Check, Violation, ensure};
use crate::driver::{Driver, leaf_at};
use crate::host::Host;
use crate::lending::SharedState;
use crate::mistakes::Mistake;
use crate::platform::Platform;
use crate::watch::{Target, Watch};

impl<P: Platform> SharedState<'_, P> {
    /// Takes over where slat has put page `number` of the memory, which a private mapping has as its page `page`: planned may be
    /// a copy of it, where an operation ends before it comes to that.
    pub(crate) fn adopt_seen(
        &mut self,
        host: &Host<P>,
        watch: &Watch,
        (page, planned): (usize, Option<Target>),
        number: u64,
        (seen, found): (&mut Option<u64>, Option<u64>),
    ) -> Result<(), Violation> {
        let planned = match planned {
            Some(Target::Copied(_)) => Some(Target::Kept),
            other => other,
        };
        self.adopt(host, watch, (page, planned), number, (seen, found))
    }
}

impl<P: Platform> Driver<'_, P> {
    /// Says what may be seen of a private page that is about to be written to for the first time.
    pub(crate) fn plan_private_copy(&mut self, index: usize, page: usize) {
        let Some(spec) = self.subjects[index].specification.page(page) else { return };
        let (flags, Some((memory, number))) = (spec.flags, spec.to_copy()) else { return };
        let known = self.shared[memory].as_ref().and_then(|state| state.frames.get(&number));
        let target = Target::Copied(known.map_or(0, |frame| frame.word));
        self.planned[page] = Some(target);
        self.allow(page, flags, target);
    }

    /// No page of a range is a memory's: a device that writes must not write to that.
    pub(crate) fn are_copies(&self, index: usize, (start, size): (u64, u64)) -> Result<(), Violation> {
        for (page, spec) in self.subjects[index].specification.pages.range(self.shape.pages_in(start, size)) {
            let Some((memory, number)) = spec.to_copy() else { continue };
            let gpa = self.shape.pages[*page];
            let known = self.shared[memory].as_ref().and_then(|state| state.frames.get(&number));
            let found = leaf_at(self.subjects[index].space(), gpa);
            let found = found.map(|leaf| leaf.hpa.as_u64() + (gpa - leaf.gpa.as_u64()));
            ensure(found != known.map(|frame| frame.hpa), Check::Isolation, || {
                format!("{gpa:#x} is pinned, and page {number} of a shared memory")
            })?;
        }
        Ok(())
    }

    /// Empties the copy that the answer to a fault has made, if that mistake is to be made.
    pub(crate) fn lose_private_copy(&self, index: usize, page: usize) {
        let spec = self.subjects[index].specification.page(page);
        let (Some(Mistake::PrivateCopyEmpty), Some(_)) =
            (self.host.mistake(), spec.and_then(|spec| spec.to_copy()))
        else {
            return;
        };
        let leaf = leaf_at(self.subjects[index].space(), self.shape.pages[page]).filter(|leaf| leaf.owned);
        leaf.map(|leaf| self.host.ram().write(leaf.hpa.as_u64(), 0x00bad));
    }
}
