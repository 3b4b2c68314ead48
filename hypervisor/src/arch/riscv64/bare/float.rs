//! The floating-point registers: only moved, never used. They are a guest's as long as its vCPU is bound and has used
//! one; see `vcpu.rs`.

#![expect(unsafe_code, reason = "moves registers that the compiler does not know of")]

use core::arch::asm;

/// f0 to f31 and fcsr.
#[derive(Clone, Debug)]
pub(super) struct FloatRegisters {
    f: [u64; 32],
    fcsr: u64,
}

macro_rules! each_register {
    ($operation:literal) => {
        concat!(
            ".irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n",
            $operation,
            " f\\number, 8*\\number({file})\n",
            ".endr"
        )
    };
}

impl FloatRegisters {
    /// As a hart may start.
    pub(super) const INITIAL: Self = Self { f: [0; 32], fcsr: 0 };

    /// The registers, one after the other.
    pub(super) fn to_words(&self) -> [u64; 33] {
        let mut words = [self.fcsr; 33];
        words[..32].copy_from_slice(&self.f);
        words
    }

    /// The registers that [`to_words`](Self::to_words) was called for.
    pub(super) fn from_words(words: &[u64; 33]) -> Self {
        let (f, fcsr) = words.split_first_chunk().unwrap_or((&[0; 32], &[0]));
        Self { f: *f, fcsr: fcsr.first().copied().unwrap_or(0) }
    }

    /// Gives the registers to the hart, which has them.
    pub(super) fn restore(&self) {
        // SAFETY: the hypervisor uses none of the registers that are written; sstatus.FS, which opens them, is off outside
        // of these functions. The memory that is read is all of `f`.
        unsafe {
            asm!(
                ".option push",
                ".option arch, +f, +d",
                "csrs sstatus, {state}",
                each_register!("fld"),
                "fscsr {fcsr}",
                "csrc sstatus, {state}",
                ".option pop",
                file = in(reg) self.f.as_ptr(),
                fcsr = in(reg) self.fcsr,
                state = in(reg) crate::arch::riscv64::registers::sstatus::FS,
                options(nostack, readonly)
            );
        }
    }

    /// Takes the registers from the hart, which has them.
    pub(super) fn save(&mut self) {
        // SAFETY: as in `restore`; the memory that is written is all of `f`, which is exclusively borrowed.
        unsafe {
            asm!(
                ".option push",
                ".option arch, +f, +d",
                "csrs sstatus, {state}",
                each_register!("fsd"),
                "frcsr {fcsr}",
                "csrc sstatus, {state}",
                ".option pop",
                file = in(reg) self.f.as_mut_ptr(),
                fcsr = out(reg) self.fcsr,
                state = in(reg) crate::arch::riscv64::registers::sstatus::FS,
                options(nostack)
            );
        }
    }
}
