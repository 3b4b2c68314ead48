//! A clock for traces: the counter that every CPU of the architecture has.

#![expect(unsafe_code, reason = "reads a counter of the CPU")]

/// The count of the CPU's counter at this moment, in its own units: the time-stamp counter (x86-64), the physical count of
/// the generic timer (Arm; the virtual one in a process), `time` (RISC-V). Elsewhere 0.
#[must_use]
#[inline]
pub fn timestamp() -> u64 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        // SAFETY: the instruction has no effect on anything; every CPU of this architecture has it.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(all(target_arch = "aarch64", target_os = "none"))]
    {
        let count: u64;
        // SAFETY: reading this register has no effect on memory or on the flags.
        unsafe {
            core::arch::asm!("mrs {}, cntpct_el0", out(reg) count, options(nomem, nostack, preserves_flags));
        }
        count
    }
    #[cfg(all(target_arch = "aarch64", not(target_os = "none"), not(miri)))]
    {
        let count: u64;
        // SAFETY: as above.
        unsafe {
            core::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack, preserves_flags));
        }
        count
    }
    #[cfg(all(target_arch = "riscv64", not(miri)))]
    {
        let count: u64;
        // SAFETY: reading this counter has no effect on anything.
        unsafe { core::arch::asm!("rdtime {}", out(reg) count, options(nomem, nostack, preserves_flags)) };
        count
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))))]
    {
        0
    }
}
