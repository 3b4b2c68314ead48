//! What is looked up in a guest's memory and table beside its faults: an instruction, and what hardware marks tell.

use super::{Machine, Space};
use crate::pool::Host;
use slat::format::Format;
use slat::{GuestPageWalkInfo, GuestPhysAddr, GuestPhysRange, GuestVirtAddr, InstructionBytes, PAGE_SIZE};

impl<H: Host, F: Format> Machine<'_, H, F> {
    /// The bytes of the guest's instruction at `address`, under its paging registers; `user` says that it runs in user mode.
    /// `None` if its memory is not there.
    pub fn instruction(
        &self,
        paging: &GuestPageWalkInfo,
        address: GuestVirtAddr,
        user: bool,
    ) -> Option<InstructionBytes> {
        self.space.read().as_ref()?.fetch_instruction(paging, address, user).ok()
    }

    /// Pages of guest RAM in leaves that the guest has written to, where the hardware tells.
    pub(super) fn pages_written(&self, space: &Space<'_, H, F>) -> Option<u64> {
        if space.format().dirty_bit() == 0 {
            return None;
        }
        let ram = GuestPhysRange::new(GuestPhysAddr::new(self.job.ram), self.job.memory).ok()?;
        let written = space.mappings(ram).filter(|mapping| mapping.dirty);
        Some(written.map(|mapping| mapping.size.bytes() / PAGE_SIZE).sum())
    }
}
