//! Instructions that are carried out for the guest because of what they touch.

use super::{Left, Machine};
use crate::vcpu::{Exit, Vcpu};
use slat::format::Format;
use slat::{Hal, InstructionBytes};

impl<H: Hal, F: Format> Machine<'_, H, F> {
    /// Lets the vCPU carry out the instruction that led to an [`Exit::Instruction`].
    ///
    /// The guest has fetched it, but its page may be gone since: then the guest is to fetch it again, and gets its page back by
    /// the fault of that.
    pub(super) fn instruction<V: Vcpu>(&self, cpu: usize, vcpu: &mut V) -> Result<(), Left> {
        match self.instruction_bytes(vcpu)? {
            Some(bytes) => {
                let exit = vcpu.execute(bytes);
                self.answer(cpu, vcpu, exit)
            }
            None => {
                self.count(cpu, |faults| &mut faults.retried);
                self.nothing_done(cpu, vcpu, "an instruction that cannot be read")
            }
        }
    }

    fn instruction_bytes<V: Vcpu>(&self, vcpu: &V) -> Result<Option<InstructionBytes>, Left> {
        let Some(program) = vcpu.program() else { return Ok(None) };
        let space = self.space.read();
        let space = space.as_ref().filter(|_| !self.cpus.is_ending()).ok_or(Left::Stopped)?;
        Ok(space.fetch_instruction(&program.paging, program.address, program.user).ok())
    }
}
