//! Churn while the guest runs: what [`Churn`] draws is carried out here, and given back when the guest asks.

use super::{Machine, RAM, Stop};
use crate::churn::{Churn, Operation};
use crate::pool::{Host, POISON};
use crate::vcpu::Vcpu;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use slat::format::Format;
use slat::{FaultError, FaultOutcome, GuestPhysAddr, MappingFlags, NestedPageFaultInfo, PAGE_SIZE};

/// Of so many pages that move, one loses its contents if that is wanted.
const SPOILED: u64 = 50;

impl<H: Host, F: Format> Machine<'_, H, F> {
    /// A permission is missing: gives the page back if churn has taken it, and returns nothing. If not, another CPU
    /// may have been faster with that; what comes of asking once more while churn holds still is the answer.
    pub(super) fn give_back<V: Vcpu>(
        &self,
        cpu: usize,
        vcpu: &V,
        info: &NestedPageFaultInfo,
    ) -> Result<Option<Result<FaultOutcome, FaultError>>, Stop> {
        let Some(churn) = &self.churn else { return Ok(None) };
        let mut churn = churn.lock();
        if !self.restore(vcpu, &mut churn, info.gpa)? {
            let mut populated = Vec::new();
            let outcome = self.ask(info, &mut populated)?;
            populated.into_iter().for_each(|(gpa, bytes)| churn.populated(gpa, bytes));
            return Ok(Some(outcome));
        }
        self.count(cpu, |faults| &mut faults.restored);
        self.books.of(cpu, |counts| counts.idle_faults = 0);
        Ok(None)
    }

    /// Gives the page around `gpa` back if churn has taken it; tells whether it had.
    pub(super) fn restore<V: Vcpu>(
        &self,
        vcpu: &V,
        churn: &mut Churn,
        gpa: GuestPhysAddr,
    ) -> Result<bool, Stop> {
        let Some(page) = churn.give_back(gpa.as_u64()) else { return Ok(false) };
        let page = GuestPhysAddr::new(page);
        let returns = self.returns();
        let restored = self.change(|space| space.protect(page, PAGE_SIZE, RAM))?;
        restored.map_err(|error| {
            // It may be tried again.
            churn.keep(page.as_u64());
            let pc = Some(vcpu.program_counter());
            self.churn_failed(pc, "restoring", page, &error.to_string(), returns)
        })?;
        Ok(true)
    }

    /// Lets churn do its work after an exit at `pc`, or beside the guest.
    pub(super) fn stir(&self, pc: Option<u64>) -> Result<(), Stop> {
        let Some(churn) = &self.churn else { return Ok(()) };
        let mut churn = churn.lock();
        for _ in 0..churn.per_exit() {
            let Some((page, operation)) = churn.draw() else { break };
            let (gpa, returns) = (GuestPhysAddr::new(page), self.returns());
            let spoil = self.job.skip_copies && churn.report().moved % SPOILED == SPOILED - 1;
            let done = self.carry_out(gpa, operation, spoil)?;
            done.map_err(|error| self.churn_failed(pc, &format!("{operation:?}"), gpa, &error, returns))?;
            churn.done(page, operation);
        }
        Ok(())
    }

    /// Carries out an operation of churn; with `spoil`, what moves loses its contents.
    fn carry_out(
        &self,
        page: GuestPhysAddr,
        operation: Operation,
        spoil: bool,
    ) -> Result<Result<(), String>, Stop> {
        let flags = match operation {
            Operation::Move => {
                let moved = self.change(|space| {
                    let moved = space.migrate(page, PAGE_SIZE);
                    if spoil {
                        // What a frame holds that nobody copied to. The page is there, or there is nothing to spoil.
                        let _ = space.memory().fill(page, PAGE_SIZE, POISON);
                    }
                    moved
                })?;
                return Ok(moved.map(drop).map_err(|error| error.to_string()));
            }
            Operation::Unmap => MappingFlags::empty(),
            Operation::WriteProtect => RAM.difference(MappingFlags::WRITE),
        };
        let protected = self.change(|space| space.protect(page, PAGE_SIZE, flags))?;
        Ok(protected.map_err(|error| error.to_string()))
    }

    /// The pages are the guest's and the flags are legal: what can be missing is a frame.
    fn churn_failed(
        &self,
        pc: Option<u64>,
        doing: &str,
        page: GuestPhysAddr,
        error: &str,
        returns: u64,
    ) -> Stop {
        let place = pc.map_or("beside the guest".to_string(), |pc| format!("PC {pc:#x}"));
        let left_over = self.left_over();
        self.starved(format!("{place}: churn: {doing} GPA {page:#x}: {error}{left_over}"), returns)
    }
}
