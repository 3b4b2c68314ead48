//! Accesses by guest virtual address.

use super::Machine;
use crate::access::{Access, Translation};
use crate::stage1::{Stage1, VirtualFault};

impl Machine {
    pub(super) fn access_both(
        &mut self,
        cpu: usize,
        gva: u64,
        access: Access,
        stage1: &Stage1,
    ) -> Result<Translation, VirtualFault> {
        let _ = (cpu, gva, access, stage1);
        todo!()
    }

    pub(super) fn possible_both(
        &self,
        cpu: usize,
        gva: u64,
        access: Access,
        stage1: &Stage1,
    ) -> Vec<Result<Translation, VirtualFault>> {
        let _ = (cpu, gva, access, stage1);
        todo!()
    }
}
