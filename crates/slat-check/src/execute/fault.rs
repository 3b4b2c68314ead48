//! Faults that the space answers, and accesses of the guest that lead to them.

use super::wrong;
use crate::checks::{Check, Violation, ensure};
use crate::driver::{Driver, leaf_at, model_access};
use crate::host::Moment;
use crate::mistakes::Mistake;
use crate::platform::Platform;
use crate::specification::{Backing, Page};
use slat::device::DeviceId;
use slat::{FaultError, FaultOutcome, GuestPhysAddr, LeafSize, MappingFlags, PAGE_SIZE};
use slat_model::{FaultKind, Source};

impl<P: Platform> Driver<'_, P> {
    /// Answers a fault; returns whether the guest may go on.
    pub(super) fn fault(
        &mut self,
        index: usize,
        page: usize,
        access: MappingFlags,
        contents: bool,
    ) -> Result<bool, Violation> {
        let gpa = self.shape.pages[page];
        let spec = self.subjects[index].specification.page(page).copied();
        let window = self.window(index, page);
        let word_of = |gpa: u64| if contents { gpa ^ 0x0123_4567_89ab_cdef } else { 0 };
        for page in &window {
            self.plan_page(index, *page, word_of(self.shape.pages[*page]));
        }
        let replaces = self.host.mistake() == Some(Mistake::FaultReplaces);
        let pages = self.shape.pages.clone();
        let space = self.subjects[index].space_mut();
        if let (true, Some(Page { flags, backing: Backing::Alloc { .. }, .. })) = (replaces, spec) {
            if space.translate(GuestPhysAddr::new(gpa)).is_some() {
                _ = space.unmap(GuestPhysAddr::new(gpa), PAGE_SIZE);
                _ = space.map_alloc(GuestPhysAddr::new(gpa), PAGE_SIZE, flags, false);
            }
        }
        let already = leaf_at(space, gpa).is_some();
        let shares = self.subjects[index].shares;
        let to_copy = spec.is_some_and(|spec| spec.to_copy().is_some());
        if access.contains(MappingFlags::WRITE)
            && spec.is_some_and(|spec| self.host.rules().allows(spec.flags, access))
        {
            self.plan_copy(index, page);
        }
        let space = self.subjects[index].space();
        let at = GuestPhysAddr::new(gpa + 0x238);
        self.host.moment.set(Moment::Fault);
        let answer = if contents {
            space.handle_page_fault_with(at, access, |first, bytes| {
                for gpa in pages.iter().copied() {
                    let Some(offset) = gpa.checked_sub(first.as_u64()) else { continue };
                    if let Some(word) = bytes.get_mut(offset as usize..offset as usize + 8) {
                        word.copy_from_slice(&word_of(gpa).to_le_bytes());
                    }
                }
            })
        } else {
            space.handle_page_fault(at, access)
        };
        self.host.moment.set(Moment::Other);
        self.host.ledger.answered(self.host.cpu.get(), &answer);
        let rules = self.host.rules();
        let written = access.contains(MappingFlags::WRITE);
        let right = match (&answer, spec) {
            (Ok(FaultOutcome::Copied(size)), Some(spec)) => {
                let shared = shares && spec.is_owned() || to_copy;
                shared && written && rules.allows(spec.flags, access) && already && fits(&spec, *size)
            }
            (Ok(FaultOutcome::MadeWritable), Some(spec)) => {
                let lacks = shares && spec.is_owned() || spec.marks.held;
                lacks && written && rules.allows(spec.flags, access) && already
            }
            (Ok(FaultOutcome::Unshared), Some(spec)) => shares && rules.allows(spec.flags, access) && already,
            (Err(FaultError::NoRegion(fault)), None) => fault.as_u64() == gpa + 0x238,
            (Err(FaultError::Permission { allowed, .. }), Some(spec)) => {
                !rules.allows(spec.flags, access) && *allowed == spec.flags
            }
            (Err(FaultError::OutOfMemory(_)), Some(spec)) => {
                let takes = shares || !window.is_empty() || to_copy && written;
                rules.allows(spec.flags, access) && takes && self.host.refused() > 0
            }
            (Ok(FaultOutcome::Populated(size)), Some(spec)) => {
                rules.allows(spec.flags, access) && !window.is_empty() && !already && fits(&spec, *size)
            }
            (Ok(FaultOutcome::Spurious), Some(spec)) => rules.allows(spec.flags, access) && already,
            (Ok(FaultOutcome::Marked), Some(spec)) => {
                (rules.marks_by_fault || spec.marks.idle) && rules.allows(spec.flags, access) && already
            }
            (
                Ok(FaultOutcome::Trap(told)),
                Some(Page { flags, backing: Backing::Trap(device, offset), .. }),
            ) => {
                let expected = (DeviceId(device), offset + 0x238, access, None);
                rules.allows(flags, access) && (told.device, told.offset, told.access, told.width) == expected
            }
            _ => false,
        };
        if !right {
            return wrong("a fault", (gpa, access, spec, answer));
        }
        let answered = matches!(
            answer,
            Ok(FaultOutcome::Populated(_)
                | FaultOutcome::Spurious
                | FaultOutcome::Marked
                | FaultOutcome::Copied(_)
                | FaultOutcome::MadeWritable
                | FaultOutcome::Unshared)
        );
        self.lose_private_copy(index, page);
        if let (Some(Mistake::CopyLosesContents), Ok(FaultOutcome::Copied(_))) =
            (self.host.mistake(), &answer)
        {
            let copy = self.subjects[index].space().translate(GuestPhysAddr::new(gpa));
            copy.map(|hpa| self.host.ram().write(hpa.as_u64(), 0x00bad));
        }
        if let (true, Some(spec)) = (written, self.subjects[index].specification.pages.get_mut(&page)) {
            // Nobody knows that it was not the guest.
            spec.marks.told = true;
        }
        if answered {
            let unmarked = matches!(answer, Ok(FaultOutcome::MadeWritable | FaultOutcome::Unshared));
            self.walks(gpa, access, unmarked)?;
        }
        if let (true, Ok(FaultOutcome::Populated(size) | FaultOutcome::Copied(size))) =
            (rules.fences_new_entries, &answer)
        {
            self.goes_on(gpa, access, *size)?;
        }
        if let (Ok(FaultOutcome::Populated(_)), Some(Page { backing: Backing::Alloc { around, .. }, .. })) =
            (&answer, spec)
        {
            self.check_window(index, page, around)?;
        }
        Ok(answered)
    }

    /// A fault was answered: also a CPU whose TLB is empty must find the page, or it would fault for ever.
    /// The next fault may be for a mark, if the page was not `unmarked` before.
    fn walks(&self, gpa: u64, access: MappingFlags, unmarked: bool) -> Result<(), Violation> {
        for cpu in self.host.watch.borrow().cpus() {
            for outcome in self.host.possible(*cpu, gpa, model_access(access)) {
                if let (Source::Walk, Err(fault)) = (outcome.source, outcome.result) {
                    if self.host.rules().marks_by_fault && fault.kind == FaultKind::AccessFlag && unmarked {
                        continue;
                    }
                    let detail = format!("a fault was answered, and a walk still ends in {fault}");
                    return Err(Violation::new(Check::Progress, detail));
                }
            }
        }
        Ok(())
    }

    /// Where the CPU that faulted forgets at once what was invalid, it does not fault again, unless for an entry above that
    /// became valid earlier, by other hands.
    fn goes_on(&self, gpa: u64, access: MappingFlags, size: LeafSize) -> Result<(), Violation> {
        let outcomes = self.host.possible(self.host.cpu.get(), gpa, model_access(access));
        let faults = outcomes.into_iter().filter_map(|outcome| outcome.result.err());
        let again = faults.into_iter().find(|fault| fault.level <= size.level());
        ensure(again.is_none(), Check::Progress, || format!("{again:?} although the entry was fenced"))
    }

    /// Unless the host refused a frame, all of the window around a fault is populated.
    fn check_window(&self, index: usize, page: usize, around: LeafSize) -> Result<(), Violation> {
        let gpa = self.shape.pages[page];
        let space = self.subjects[index].space();
        let Some(region) = space.region(GuestPhysAddr::new(gpa)) else { return Ok(()) };
        if self.host.refused() > 0 || self.subjects[index].owed.is_some() {
            return Ok(());
        }
        let start = (gpa & !(around.bytes() - 1)).max(region.range.start().as_u64());
        let end = ((gpa & !(around.bytes() - 1)) + around.bytes()).min(region.range.end().as_u64());
        self.populated(index, (start, end - start), "a fault")
    }

    /// The guest uses a page until it gets through, or until the space says that it may not.
    pub(super) fn access(
        &mut self,
        index: usize,
        cpu: usize,
        page: usize,
        access: MappingFlags,
    ) -> Result<(), Violation> {
        // One fault that populates, one for what the CPU remembers of the time before; one for a table that was shared, one
        // for a mark that is missing then.
        let marks = self.subjects[index].specification.page(page).map(|page| page.marks);
        let more = marks.is_some_and(|marks| marks.held || marks.weaker || marks.idle);
        for _ in 0..if more || self.subjects[index].shares { 5 } else { 3 } {
            if self.write_past_slat(index, page, access) {
                return Ok(());
            }
            let Err(fault) = self.host.guest_access(cpu, page, model_access(access)) else { return Ok(()) };
            let reserved =
                matches!(fault.kind, slat_model::FaultKind::Reserved | slat_model::FaultKind::AddressRange);
            ensure(!reserved, Check::Architecture, || fault.to_string())?;
            let gpa = self.shape.pages[page];
            let read = self.host.platform().decode_fault(&fault.syndrome, gpa);
            let done = access - MappingFlags::USER;
            let same = read.is_some_and(|info| (info.gpa.as_u64(), info.access) == (gpa, done));
            ensure(same, Check::Verdict, || format!("{fault} is read as {read:x?}"))?;
            if !self.fault(index, page, access, false)? {
                return Ok(());
            }
        }
        let gpa = self.shape.pages[page];
        let detail = format!("`{access}` of {gpa:#x} on CPU {cpu} goes on faulting though it is answered");
        Err(Violation::new(Check::Progress, detail))
    }
}

fn fits(spec: &Page, size: LeafSize) -> bool {
    match spec.backing {
        Backing::Alloc { largest, .. } => size <= largest,
        _ => size == LeafSize::Size4K,
    }
}
