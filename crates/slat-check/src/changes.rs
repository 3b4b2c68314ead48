//! Unmapping and protecting, one by one and in batches, and emptying a space.

use crate::checks::Violation;
use crate::driver::Driver;
use crate::execute::wrong;
use crate::mistakes::{Mistake, distort_range};
use crate::operation::{BatchEnd, Step};
use crate::platform::Platform;
use crate::specification::Page;
use slat::{ClearError, ProtectError, UnmapError};

impl<P: Platform> Driver<'_, P> {
    /// Unmaps and protects, as single operations (`end` is `None`) or as a batch.
    pub(crate) fn batch(
        &mut self,
        index: usize,
        steps: &[Step],
        end: Option<BatchEnd>,
    ) -> Result<(), Violation> {
        // What may be seen: every state in between, for the CPUs may remember each of them.
        let mut ahead = self.subjects[index].specification.clone();
        // Where tables are shared, each step takes frames, and the next ones find what it was refused to take out.
        let refused = self.subjects[index].specification.clone();
        for step in steps {
            let (Step::Unmap(span) | Step::Protect(span, _)) = step;
            let (gpa, size) = self.shape.range(*span);
            let start = gpa.as_u64();
            if let (Step::Protect(_, flags), true) = (step, self.subjects[index].shares) {
                let hole = refused.first_hole(&self.shape, start, size);
                for page in
                    self.shape.pages_in(start, size).filter(|_| hole.is_none() && self.takes(index, *flags))
                {
                    let spec = refused.page(page).map(|page| Page { flags: *flags, ..*page });
                    self.allow_spec(page, spec.as_ref());
                }
            }
            if ahead.first_hole(&self.shape, start, size).is_some() {
                continue;
            }
            match step {
                Step::Unmap(_) if ahead.any(&self.shape, start, size, |page| page.pins > 0) => {}
                Step::Unmap(_) => ahead.unmap(&self.shape, start, size),
                Step::Protect(_, flags) if self.takes(index, *flags) => {
                    ahead.protect(&self.shape, start, size, *flags);
                    for page in self.shape.pages_in(start, size) {
                        self.allow_spec(page, ahead.page(page));
                    }
                }
                Step::Protect(..) => {}
            }
        }
        let Some(end) = end else {
            return steps.iter().try_for_each(|step| self.single(index, *step));
        };
        let (host, mistake) = (self.host, self.host.mistake());
        let shape = self.shape.clone();
        let takes: Vec<bool> = steps
            .iter()
            .map(|step| if let Step::Protect(_, flags) = step { self.takes(index, *flags) } else { true })
            .collect();
        let subject = &mut self.subjects[index];
        let space = subject.space.as_mut().expect("there");
        let mut debt = space.defer();
        for (step, takes) in steps.iter().zip(takes) {
            let (Step::Unmap(span) | Step::Protect(span, _)) = step;
            let (gpa, size) = shape.range(*span);
            let (start, hole) = (gpa.as_u64(), subject.specification.first_hole(&shape, gpa.as_u64(), size));
            match step {
                Step::Unmap(_) => {
                    let pinned = subject.specification.any(&shape, start, size, |page| page.pins > 0);
                    let (gpa, given) = distort_range(mistake, true, gpa, size);
                    let result = debt.unmap(gpa, given);
                    judge_unmap(&result, hole, pinned, host.refused())?;
                    if result.is_ok() {
                        subject.specification.unmap(&shape, start, size);
                    }
                }
                Step::Protect(_, flags) => {
                    let (gpa, given) = distort_range(mistake, false, gpa, size);
                    let result = debt.protect(gpa, given, *flags);
                    judge_protect(&result, hole, takes, host.refused())?;
                    if result.is_ok() {
                        subject.specification.protect(&shape, start, size, *flags);
                    }
                }
            }
        }
        match end {
            BatchEnd::Discharge => debt.discharge(),
            BatchEnd::Forget => std::mem::forget(debt),
        }
        Ok(())
    }

    fn single(&mut self, index: usize, step: Step) -> Result<(), Violation> {
        let (Step::Unmap(span) | Step::Protect(span, _)) = step;
        let (gpa, size) = self.shape.range(span);
        let start = gpa.as_u64();
        let hole = self.subjects[index].specification.first_hole(&self.shape, start, size);
        let (mistake, refused) = (self.host.mistake(), |driver: &Self| driver.host.refused());
        let before = self.fingerprint(index);
        let done = match step {
            Step::Unmap(_) => {
                let pinned = self.pinned(index, start, size);
                let (gpa, given) = distort_range(mistake, true, gpa, size);
                if mistake == Some(Mistake::PinIgnored) {
                    _ = self.subjects[index].space_mut().unpin(gpa, given);
                }
                self.lose_marks(Mistake::SplitLosesMark, index, gpa.as_u64());
                let result = self.subjects[index].space_mut().unmap(gpa, given);
                judge_unmap(&result, hole, pinned, refused(self))?;
                if result.is_ok() {
                    self.subjects[index].specification.unmap(&self.shape, start, size);
                }
                result.is_ok()
            }
            Step::Protect(_, flags) => {
                let takes = self.takes(index, flags);
                let (gpa, given) = distort_range(mistake, false, gpa, size);
                self.lose_marks(Mistake::ProtectLosesMark, index, gpa.as_u64());
                let result = self.subjects[index].space_mut().protect(gpa, given, flags);
                judge_protect(&result, hole, takes, refused(self))?;
                if result.is_ok() {
                    self.subjects[index].specification.protect(&self.shape, start, size, flags);
                }
                result.is_ok()
            }
        };
        if done { Ok(()) } else { self.untouched(before) }
    }

    pub(crate) fn clear(&mut self, index: usize) -> Result<(), Violation> {
        let pinned = self.subjects[index].specification.pages.values().any(|page| page.pins > 0);
        match self.subjects[index].space_mut().clear() {
            Ok(()) if !pinned => {
                self.subjects[index].specification.pages.clear();
                self.subjects[index].shares = false;
            }
            Err(ClearError::Pinned(_)) if pinned => {}
            result => return wrong("clear", (pinned, result)),
        }
        Ok(())
    }
}

fn judge_unmap(
    result: &Result<(), UnmapError>,
    hole: Option<u64>,
    pinned: bool,
    refused: u64,
) -> Result<(), Violation> {
    match result {
        Ok(()) if hole.is_none() && !pinned => Ok(()),
        Err(UnmapError::NotMapped(at)) if Some(at.as_u64()) == hole => Ok(()),
        Err(UnmapError::Pinned(_)) if hole.is_none() && pinned => Ok(()),
        Err(UnmapError::OutOfMemory) if hole.is_none() && !pinned && refused > 0 => Ok(()),
        _ => wrong("unmap", (hole, pinned, result)),
    }
}

fn judge_protect(
    result: &Result<(), ProtectError>,
    hole: Option<u64>,
    takes: bool,
    refused: u64,
) -> Result<(), Violation> {
    match result {
        Ok(()) if hole.is_none() && takes => Ok(()),
        Err(ProtectError::UnsupportedFlags(_)) if !takes => Ok(()),
        Err(ProtectError::NotMapped(at)) if Some(at.as_u64()) == hole => Ok(()),
        Err(ProtectError::OutOfMemory) if hole.is_none() && takes && refused > 0 => Ok(()),
        _ => wrong("protect", (hole, takes, result)),
    }
}
