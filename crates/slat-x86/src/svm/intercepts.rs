//! What leads to an exit (APM vol. 2, "Intercept Operation"; the bits are those of appendix B).

/// What a hypervisor chooses of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intercepts {
    /// HLT.
    pub halt: bool,
    /// PAUSE.
    pub pause: bool,
    /// External interrupts of the host. Without it they are the guest's, masked by its own RFLAGS.IF.
    pub external_interrupts: bool,
    /// RDTSC.
    pub time_stamp: bool,
    /// Exceptions, a bit for each vector.
    pub exceptions: u32,
}

/// The words of the VMCB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) exceptions: u32,
    pub(super) first: u32,
    pub(super) second: u32,
    pub(super) third: u32,
}

const INTR: u32 = 1 << 0;
const NMI: u32 = 1 << 1;
const INIT: u32 = 1 << 3;
const VINTR: u32 = 1 << 4;
const RDTSC: u32 = 1 << 14;
const RDPMC: u32 = 1 << 15;
const CPUID: u32 = 1 << 18;
const IRET: u32 = 1 << 20;
const INVD: u32 = 1 << 22;
const PAUSE: u32 = 1 << 23;
const HLT: u32 = 1 << 24;
const INVLPGA: u32 = 1 << 26;
const IOIO: u32 = 1 << 27;
const MSR: u32 = 1 << 28;
const SHUTDOWN: u32 = 1 << 31;

/// VMRUN (without it no entry succeeds), VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
const SVM_INSTRUCTIONS: u32 = 0x7f;
/// MONITOR and MWAIT, armed or not.
const MONITOR: u32 = 7 << 10;
const XSETBV: u32 = 1 << 13;
const RDPRU: u32 = 1 << 14;
/// INVLPGB, also where it is illegal.
const INVLPGB: u32 = 3;
const MCOMMIT: u32 = 1 << 3;
const TLBSYNC: u32 = 1 << 4;

/// What the vCPU itself wants to know at the next entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The guest takes external interrupts.
    pub(super) interrupt_window: bool,
    /// It is about to execute IRET.
    pub(super) iret: bool,
    /// It has executed one instruction.
    pub(super) step: bool,
}

/// The words for `chosen` and `wanted`.
pub(super) const fn words(chosen: Intercepts, wanted: Wanted) -> Words {
    const fn when(condition: bool, bits: u32) -> u32 {
        if condition { bits } else { 0 }
    }
    Words {
        exceptions: chosen.exceptions | when(wanted.step, 1 << 1),
        first: NMI
            | INIT
            | RDPMC
            | CPUID
            | INVD
            | INVLPGA
            | IOIO
            | MSR
            | SHUTDOWN
            | when(chosen.external_interrupts, INTR)
            | when(chosen.halt, HLT)
            | when(chosen.pause, PAUSE)
            | when(chosen.time_stamp, RDTSC)
            | when(wanted.interrupt_window, VINTR)
            | when(wanted.iret, IRET),
        second: SVM_INSTRUCTIONS | MONITOR | XSETBV | RDPRU,
        third: INVLPGB | MCOMMIT | TLBSYNC,
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
