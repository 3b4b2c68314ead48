//! The state of a vCPU as words, for one that goes on elsewhere: in a fork, in another place of the machine, in another run.
//!
//! **Time.** A guest that goes on in another run finds its own time go on: what it reads is the machine's plus htimedelta.

use super::{RiscvVcpu, SystemRegisters};
use crate::arch::riscv64::bare::float::FloatRegisters;
use crate::arch::riscv64::bare::timer;
use crate::arch::riscv64::registers::sstatus;
use crate::vcpu::Replica;
use alloc::vec::Vec;

/// Words in front of the registers.
const FRONT: usize = 6;

impl RiscvVcpu {
    /// What the guest's CPU is while it is not bound: the program counter, whether it is in VS-mode, vsatp, the time of its timer, its
    /// time, whether another CPU has interrupted it; x0 to x31; the registers of VS-mode; f0 to f31 and fcsr.
    pub(in super::super) fn to_words(&self) -> Vec<u64> {
        let front = [
            self.registers.pc,
            self.registers.sstatus & sstatus::SPP,
            self.vsatp,
            self.timer,
            self.guest_time(timer::now()),
            self.config.shared.is_interrupted(self.id).into(),
        ];
        let system = self.system.to_words();
        let float = self.float.to_words();
        [&front[..], &self.registers.x, &system, &float].concat()
    }

    /// Becomes what `words` say, of a CPU with the same extensions. `false` if they are not as many as there are, and nothing changes.
    ///
    /// What the words can say is the guest's own; nothing of it reaches HS-mode.
    #[must_use]
    pub(in super::super) fn set_words(&mut self, words: &[u64]) -> bool {
        let parts = || {
            let (&[pc, spp, vsatp, timer, time, interrupt], rest) = words.split_first_chunk::<FRONT>()?;
            let (&x, rest) = rest.split_first_chunk::<32>()?;
            let (system, rest) = rest.split_first_chunk::<{ SystemRegisters::COUNT }>()?;
            let float = rest.try_into().ok()?;
            Some((pc, spp, vsatp, timer, time, interrupt, x, system, FloatRegisters::from_words(float)))
        };
        let Some((pc, spp, vsatp, timer, time, interrupt, x, system, float)) = parts() else { return false };
        self.registers.pc = pc;
        self.registers.sstatus = spp & sstatus::SPP | sstatus::UXL_64;
        self.registers.x = x;
        // x0 is 0 whatever is written to it.
        self.registers.x[0] = 0;
        (self.vsatp, self.timer) = (vsatp, timer);
        self.offset = time.wrapping_sub(timer::now());
        self.system = SystemRegisters::from_words(system);
        self.float = float;
        self.config.shared.set_interrupted(self.id, interrupt != 0);
        true
    }

    /// The guest's time when the machine's is `time`.
    pub(super) fn guest_time(&self, time: u64) -> u64 {
        time.wrapping_add(self.offset)
    }

    /// The machine's time when the guest's is `time`; 0 if that was before its beginning.
    pub(super) fn host_time(&self, time: u64) -> u64 {
        let now = timer::now();
        match time.checked_sub(self.guest_time(now)) {
            Some(later) => now.saturating_add(later),
            None => 0,
        }
    }
}

impl Replica for RiscvVcpu {
    fn take_after(&mut self, original: &Self) {
        self.registers.clone_from(&original.registers);
        self.system.clone_from(&original.system);
        self.float.clone_from(&original.float);
        (self.vsatp, self.timer, self.offset) = (original.vsatp, original.timer, original.offset);
        let interrupted = original.config.shared.is_interrupted(original.id);
        self.config.shared.set_interrupted(self.id, interrupted);
    }
}
