//! Bits of the registers that the hypervisor writes (RISC-V privileged manual, "Hypervisor and Virtual Supervisor CSRs",
//! "Supervisor CSRs").

/// sstatus and vsstatus.
pub mod sstatus {
    /// Interrupts are enabled.
    pub const SIE: u64 = 1 << 1;
    /// They were, before the trap.
    pub const SPIE: u64 = 1 << 5;
    /// The trap came from S-mode, and SRET goes there.
    pub const SPP: u64 = 1 << 8;
    /// State of the floating-point registers.
    pub const FS: u64 = 0b11 << 13;
    /// They are as they were loaded.
    pub const FS_CLEAN: u64 = 0b10 << 13;
    /// They have changed.
    pub const FS_DIRTY: u64 = 0b11 << 13;
    /// U-mode is 64 bits wide.
    pub const UXL_64: u64 = 0b10 << 32;
}

/// hstatus.
pub mod hstatus {
    /// The trap came from a guest, and SRET goes there.
    pub const SPV: u64 = 1 << 7;
    /// WFI in VS-mode is a virtual instruction.
    pub const VTW: u64 = 1 << 21;
    /// VS-mode is 64 bits wide.
    pub const VSXL_64: u64 = 0b10 << 32;
}

/// Interrupts, as bits of sie and sip, and of hvip one to the left.
pub mod interrupt {
    /// Software, for HS-mode.
    pub const SOFTWARE: u64 = 1 << 1;
    /// Timer, for HS-mode.
    pub const TIMER: u64 = 1 << 5;
    /// Software, for VS-mode.
    pub const VS_SOFTWARE: u64 = 1 << 2;
    /// Timer, for VS-mode.
    pub const VS_TIMER: u64 = 1 << 6;
    /// External, for VS-mode.
    pub const VS_EXTERNAL: u64 = 1 << 10;
}

/// henvcfg.
pub mod henvcfg {
    /// CBO.INVAL works, and invalidates.
    pub const CBIE: u64 = 0b11 << 4;
    /// CBO.CLEAN and CBO.FLUSH work.
    pub const CBCFE: u64 = 1 << 6;
    /// CBO.ZERO works.
    pub const CBZE: u64 = 1 << 7;
    /// vstimecmp works.
    pub const STCE: u64 = 1 << 63;
}

/// Exceptions that go to the guest at once: those that its own kernel would get on a machine without hypervisor. An
/// illegal instruction is among them only while the floating-point registers are the guest's, see
/// [`without_float`].
pub const HEDELEG: u64 = 0xb1ff;

/// Interrupts that go to the guest at once: its own.
pub const HIDELEG: u64 = interrupt::VS_SOFTWARE | interrupt::VS_TIMER | interrupt::VS_EXTERNAL;

/// Counters that the guest may read: cycle, time, instret.
pub const HCOUNTEREN: u64 = 0b111;

/// [`HEDELEG`] for a guest whose floating-point registers are not in the hart: its first use of one comes here.
#[must_use]
pub const fn without_float(hedeleg: u64) -> u64 {
    hedeleg & !(1 << super::exit::code::ILLEGAL_INSTRUCTION)
}

/// Names of the general registers, x0 first (RISC-V calling conventions, "Integer Register Convention").
pub const GENERAL: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];
