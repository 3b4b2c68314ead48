//! What guests do while slat works, and what is looked at after each store.

use super::Host;
use crate::checks::Violation;
use crate::platform::Platform;
use crate::specification::Architecture;
use crate::watch::Watch;
use slat_model::{Access, AccessKind, Fault, Outcome, Source, Stage1, VirtualFault};

impl<P: Platform> Host<P> {
    /// The guest uses a page on a CPU; a write also changes its first word.
    pub fn guest_access(&self, cpu: usize, page: usize, access: Access) -> Result<(), Fault> {
        self.access_in(&mut self.watch.borrow_mut(), cpu, page, access)
    }

    fn access_in(&self, watch: &mut Watch, cpu: usize, page: usize, access: Access) -> Result<(), Fault> {
        let gpa = watch.gpa(page);
        let by_linear_address = !is_fetch(access) && self.random.borrow_mut().one_in(2);
        let mut machine = self.machine.borrow_mut();
        let translation = if by_linear_address {
            // With its own translation off: the CPU may combine both stages all the same.
            machine
                .access_virtual(cpu, gpa, access, &untranslated(self.rules.architecture))
                .map_err(second)?
        } else {
            machine.access(cpu, gpa, access)?
        };
        drop(machine);
        watch.note_use(page, access.kind == AccessKind::Write);
        if let Err(violation) = watch.judge(self, page, &translation) {
            self.report(violation);
        } else if access.kind == AccessKind::Write && self.born(translation.hpa).is_some() {
            let word = self.random.borrow_mut().number();
            self.ram.write(translation.hpa, word);
            watch.wrote(page, word);
            self.guest_words.borrow_mut().push(word);
        }
        Ok(())
    }

    /// Whether a guest of any space wrote this word in this operation.
    pub(crate) fn has_written(&self, word: u64) -> bool {
        self.guest_words.borrow().contains(&word)
    }

    /// Every result that an access can have, by the entries that combine both stages too.
    pub fn possible(&self, cpu: usize, gpa: u64, access: Access) -> Vec<Outcome> {
        let machine = self.machine.borrow();
        let mut outcomes = machine.possible(cpu, gpa, access);
        // Arm's are among those already.
        if !is_fetch(access) && self.rules.architecture != Architecture::Stage2 {
            let combined = machine.possible_virtual(cpu, gpa, access, &untranslated(self.rules.architecture));
            let seen = |translation| outcomes.iter().any(|outcome| outcome.result == Ok(translation));
            let more: Vec<_> = combined.into_iter().flatten().filter(|found| !seen(*found)).collect();
            let outcome = |found| Outcome { result: Ok(found), source: Source::Combined(0) };
            outcomes.extend(more.into_iter().map(outcome));
        }
        outcomes
    }

    /// Between two stores of slat the guests go on, those of other spaces too.
    pub(super) fn interleave(&self) {
        let (mut own, mut others) = (self.watch.borrow_mut(), self.bystanders.borrow_mut());
        let (other, write) = {
            let mut random = self.random.borrow_mut();
            if !random.one_in(6) {
                return;
            }
            let other = !others.is_empty() && random.one_in(2);
            let other = other.then(|| random.below(others.len() as u64) as usize);
            (other, random.one_in(2) && !self.reads_only.get())
        };
        let watch = match other.and_then(|other| others.get_mut(other)) {
            Some((_, watch)) => watch,
            None => &mut *own,
        };
        if watch.cpus().is_empty() {
            return;
        }
        let (page, cpu) = {
            let mut random = self.random.borrow_mut();
            (random.below(watch.pages() as u64) as usize, random.choose(watch.cpus()))
        };
        let access = if write { Access::WRITE } else { Access::READ };
        // A fault means that the guest waits until it is answered.
        let _ = self.access_in(watch, cpu, page, access);
    }

    /// Looks at every page in play that lies in a range, on every CPU that runs a space.
    pub(super) fn look(&self, start: u64, size: u64) {
        if self.violation.borrow().is_some() {
            return;
        }
        self.look_in(&self.watch.borrow(), start, size);
        self.bystanders.borrow().iter().for_each(|(_, watch)| self.look_in(watch, start, size));
    }

    fn look_in(&self, watch: &Watch, start: u64, size: u64) {
        for page in watch.pages_in(start, size) {
            for cpu in watch.cpus() {
                self.looks.set(self.looks.get() + 1);
                for outcome in self.possible(*cpu, watch.gpa(page), Access::READ) {
                    let Ok(translation) = outcome.result else { continue };
                    if let Err(violation) = watch.judge(self, page, &translation) {
                        let detail = format!("CPU {cpu}, from {:x?}: {}", outcome.source, violation.detail);
                        self.report(Violation { detail, ..violation });
                    }
                }
            }
        }
    }
}

/// By Intel's manual, whose page a fetch is of depends on stage 1.
fn is_fetch(access: Access) -> bool {
    access.kind == AccessKind::Execute
}

/// The registers of a guest whose own translation is off.
fn untranslated(architecture: Architecture) -> Stage1 {
    match architecture {
        Architecture::Ept | Architecture::Npt => Stage1::x86(0, 0, 0, 0, false),
        Architecture::Stage2 => Stage1::arm(0, 0, 0, 0),
        Architecture::Gstage => Stage1::riscv(0),
    }
}

/// Where stage 1 is off, only the second level can refuse.
fn second(fault: VirtualFault) -> Fault {
    match fault {
        VirtualFault::Second(fault) => fault,
        VirtualFault::Guest { gva, .. } => unreachable!("stage 1 is off and refused {gva:#x}"),
    }
}
