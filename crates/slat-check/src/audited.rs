//! slat's audit of all spaces, and whether it finds exactly what the specification says there is to be found.

use crate::checks::{Check, Violation, ensure};
use crate::driver::{Driver, Subject};
use crate::host::FIRST_FRAME;
use crate::mistakes::Mistake;
use crate::platform::{Platform, permissions};
use crate::specification::{Backing, Page};
use slat::{
    Audit, AuditError, AuditRecord, AuditViolation, AuditedSpace, HostPhysAddr, HostPhysRange, MappingFlags,
    PAGE_SIZE,
};
use slat_model::Access;

/// Host memory of the caller, which all spaces may map: everything from here on. There is no RAM, so no access can do
/// harm.
pub(crate) const LINEAR: u64 = 4 << 30;
/// And up to here.
const LINEAR_END: u64 = 1 << 40;
/// An audit looks at every entry of every table, so not each operation is worth one.
const OPERATIONS_PER_AUDIT: u64 = 16;

impl<P: Platform> Driver<'_, P> {
    /// What a mistaken caller maps instead of its own memory.
    pub(crate) fn distort_linear(
        &self,
        index: usize,
        size: u64,
        hpa: u64,
        flags: MappingFlags,
    ) -> (u64, MappingFlags) {
        let subject = &self.subjects[index];
        let owned = subject.specification.pages.values().find_map(Page::owned);
        match (self.host.mistake(), owned) {
            // Nothing that the guest can spoil, so that only an audit tells.
            (Some(Mistake::TableMapped), _) if size == PAGE_SIZE => {
                (subject.space().root().as_u64(), MappingFlags::READ)
            }
            (Some(Mistake::OwnedFrameMapped), Some(frame)) if size == PAGE_SIZE => (frame.hpa, flags),
            _ => (hpa, flags),
        }
    }

    /// Audits all spaces after an operation, if it is its turn.
    pub(crate) fn audit_in_turn(&mut self) -> Result<(), Violation> {
        let turn = self.host.operation() % OPERATIONS_PER_AUDIT == 0;
        if turn || self.host.mistake().is_some() { self.audit() } else { Ok(()) }
    }

    /// Audits all spaces. There is nothing to be found but what the operations asked for: pages that are writable and
    /// executable, host memory that several spaces write to, a debt that was forgotten.
    pub(crate) fn audit(&mut self) -> Result<(), Violation> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut found = vec![];
        let result = loop {
            found.clear();
            match self.run_audit(&mut scratch, &mut found) {
                Err(AuditError::TooFewRecords { needed, .. }) if needed > scratch.len() => {
                    scratch.resize(needed, AuditRecord::default());
                }
                other => break other,
            }
        };
        self.scratch = scratch;
        ensure(result == Ok(found.len()), Check::Audit, || format!("{result:?}, {found:?}"))?;
        self.judge_audit(&found)
    }

    fn run_audit(
        &self,
        scratch: &mut [AuditRecord],
        found: &mut Vec<AuditViolation>,
    ) -> Result<usize, AuditError> {
        let spaces: Vec<_> = self
            .subjects
            .iter()
            .map(|subject| AuditedSpace { space: subject.space(), write_xor_execute: true })
            .collect();
        let range = |start, end| {
            HostPhysRange::between(HostPhysAddr::new(start), HostPhysAddr::new(end)).expect("not empty")
        };
        // Neither frames of the allocator nor the caller's memory.
        let reserved = [range(0, FIRST_FRAME), range(self.host.end_of_frames(), LINEAR)];
        let shared = [range(LINEAR, LINEAR_END)];
        // Where all pages are known, what is shared is counted instead of declared.
        let shared = if self.shape.complete { &shared[..0] } else { &shared };
        Audit { spaces: &spaces, reserved: &reserved, shared }.run(scratch, |violation| found.push(violation))
    }

    fn judge_audit(&self, found: &[AuditViolation]) -> Result<(), Violation> {
        let mut shared = 0;
        for violation in found {
            let meant = match violation {
                AuditViolation::WriteAndExecute(_) => true,
                AuditViolation::TwoWriters { first, second } => {
                    shared += first.hpa.size() / PAGE_SIZE;
                    self.shape.complete && first.hpa == second.hpa && first.hpa.start().as_u64() >= LINEAR
                }
                AuditViolation::Unsettled { space, .. } => self.subjects[*space].forgot,
                _ => false,
            };
            ensure(meant, Check::Audit, || violation.to_string())?;
        }
        for index in 0..self.subjects.len() {
            self.judge_write_and_execute(index, found)?;
        }
        let wanted = self.pages_with_two_writers();
        let held =
            |subject: &Subject<'_, P>| subject.specification.pages.values().any(|page| page.marks.held);
        let shares = self.subjects.iter().any(|subject| subject.shares || held(subject));
        ensure(!self.shape.complete || shared == wanted || shares && shared < wanted, Check::Audit, || {
            format!("{shared} pages have two writers, {wanted} should: {found:?}")
        })
    }

    fn judge_write_and_execute(&self, index: usize, found: &[AuditViolation]) -> Result<(), Violation> {
        let rules = self.host.rules();
        for (page, gpa) in self.shape.pages.iter().enumerate() {
            let reached =
                self.subjects[index].specification.page(page).filter(|page| page.target().is_some());
            let wanted = reached.is_some_and(|page| {
                let granted = permissions(rules, page.grants());
                granted.allow(Access::WRITE)
                    && (granted.allow(Access::EXECUTE) || granted.allow(Access::EXECUTE.by_user()))
            });
            let shares = self.subjects[index].shares || reached.is_some_and(|page| page.marks.held);
            let told = found.iter().any(|violation| {
                matches!(violation, AuditViolation::WriteAndExecute(site)
                    if site.space == index && site.gpa.contains(slat::GuestPhysAddr::new(*gpa)))
            });
            ensure(told == wanted || shares && !told, Check::Audit, || {
                format!("{gpa:#x} of space {index}: {reached:?} among {found:?}")
            })?;
        }
        Ok(())
    }

    /// Pairs of pages of two spaces that can write to the same memory of the caller.
    fn pages_with_two_writers(&self) -> u64 {
        let rules = self.host.rules();
        // Shared memory is declared by itself.
        let caller = |page: &Page| matches!(page.backing, Backing::Linear(_));
        let writable = |page: &Page| {
            page.target().filter(|_| caller(page) && permissions(rules, page.flags).allow(Access::WRITE))
        };
        let mut pairs = 0;
        for (index, one) in self.subjects.iter().enumerate() {
            for other in &self.subjects[index + 1..] {
                for target in one.specification.pages.values().filter_map(writable) {
                    let there = other.specification.pages.values().filter_map(writable);
                    pairs += there.filter(|hpa| *hpa == target).count() as u64;
                }
            }
        }
        pairs
    }
}
