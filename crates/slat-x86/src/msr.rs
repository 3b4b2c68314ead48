//! Model-specific registers: which a guest has for itself, and what it reads from the others.
//!
//! **Invariant:** a register that is not named here does not exist for a guest: RDMSR and WRMSR of it are general protection
//! exceptions. Those that pass through belong to the guest alone: they are in the VMCS or the VMCB, or in
//! [`SWITCHED`], which a vCPU saves and loads itself. (Intel SDM vol. 4; AMD64 APM vol. 2, appendix A.)

use crate::vcpu::Control;

/// Registers that pass through and that the hardware does not switch (AMD: VMSAVE and VMLOAD do, but for the last).
pub const SWITCHED: [u32; 6] = [STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX];

const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const BIOS_SIGN_ID: u32 = 0x8b;
const MTRRCAP: u32 = 0xfe;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_EIP: u32 = 0x176;
const MCG_CAP: u32 = 0x179;
const MCG_CTL: u32 = 0x17b;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUGCTL: u32 = 0x1d9;
const MTRR_FIRST: u32 = 0x200;
const MTRR_LAST: u32 = 0x26f;
const PAT: u32 = 0x277;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const EFER: u32 = 0xc000_0080;
/// SYSCALL's.
pub const STAR: u32 = 0xc000_0081;
/// SYSCALL's entry in 64-bit mode.
pub const LSTAR: u32 = 0xc000_0082;
/// SYSCALL's entry in compatibility mode.
pub const CSTAR: u32 = 0xc000_0083;
/// SYSCALL's flag mask.
pub const FMASK: u32 = 0xc000_0084;
/// Base of FS.
pub const FS_BASE: u32 = 0xc000_0100;
/// Base of GS.
pub const GS_BASE: u32 = 0xc000_0101;
/// What SWAPGS swaps in.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// What RDTSCP tells.
pub const TSC_AUX: u32 = 0xc000_0103;
const SYSCFG: u32 = 0xc001_0010;
const HWCR: u32 = 0xc001_0015;
const NB_CFG: u32 = 0xc001_001f;
const VM_CR: u32 = 0xc001_0114;
const DE_CFG: u32 = 0xc001_1029;

/// What becomes of a guest's access to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// No exit: the register is the guest's own.
    PassThrough,
    /// Reads pass through; writes are refused.
    ReadThrough,
    /// A control of the CPU's mode: reads give what the guest sees, writes are checked.
    Control(Control),
    /// Reads give the machine's value; a write of that same value is accepted and changes nothing, any other is refused.
    Host,
    /// Reads give this; writes are accepted and change nothing.
    Constant(u64),
    /// Reads give this; writes are refused.
    ReadOnly(u64),
    /// It does not exist: a general protection exception.
    Refused,
}

/// The rule for register `index`.
#[must_use]
pub const fn rule(index: u32) -> Rule {
    match index {
        SYSENTER_CS..=SYSENTER_EIP | PAT | STAR..=FMASK | FS_BASE..=TSC_AUX => Rule::PassThrough,
        TSC => Rule::ReadThrough,
        EFER => Rule::Control(Control::Efer),
        // A guest that moved its local APIC would move the machine's.
        APIC_BASE | MISC_ENABLE | HWCR => Rule::Host,
        // Locked, VMX off.
        FEATURE_CONTROL => Rule::ReadOnly(1),
        // SVM disabled, locked.
        VM_CR => Rule::ReadOnly(1 << 4 | 1 << 3),
        // No variable and no fixed ranges, and all memory write-back: under second-level translation the type stands in the leaf.
        MTRRCAP => Rule::ReadOnly(0),
        MTRR_DEF_TYPE => Rule::Constant(1 << 11 | 6),
        MTRR_FIRST..=MTRR_LAST => Rule::Refused,
        // No banks of machine-check registers.
        MCG_CAP..=MCG_CTL => Rule::Constant(0),
        PLATFORM_ID | BIOS_SIGN_ID | DEBUGCTL | SYSCFG | NB_CFG => Rule::Constant(0),
        // LFENCE serializes.
        DE_CFG => Rule::Constant(1 << 1),
        _ => Rule::Refused,
    }
}

/// Whether the bitmap lets reads (or `write`s) of register `index` pass.
#[must_use]
pub const fn passes(index: u32, write: bool) -> bool {
    match rule(index) {
        Rule::PassThrough => true,
        Rule::ReadThrough => !write,
        _ => false,
    }
}

/// The registers of which [`passes`] may be true, the first and the last of each range.
const PASSING: [(u32, u32); 5] =
    [(TSC, TSC), (SYSENTER_CS, SYSENTER_EIP), (PAT, PAT), (STAR, FMASK), (FS_BASE, TSC_AUX)];

/// Whether [`passes`] may be true of one of `count` registers from `first` on, which has a bit in the bitmaps: so that they can be filled
/// without a look at each.
pub(crate) fn may_pass(first: u32, count: u32) -> bool {
    PASSING.iter().any(|&(low, high)| first <= high && low < first + count)
}

#[cfg(all(test, not(loom)))]
mod tests;
