//! Model-specific registers, CPUID, control and debug registers, and the state of floating point.

#![expect(unsafe_code, reason = "executes system instructions")]

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

/// What CPUID answers: EAX, EBX, ECX, EDX.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    // Rust 1.85 calls this unsafe, later ones do not.
    #[allow(unused_unsafe, reason = "needed by the oldest Rust that is supported")]
    // SAFETY: every CPU in 64-bit mode has CPUID.
    let result = unsafe { __cpuid_count(leaf, subleaf) };
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Reads a model-specific register.
///
/// # Safety
/// The CPU has the register: otherwise the host gets a general protection exception.
#[must_use]
pub unsafe fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise; reading changes nothing.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The CPU has the register, it takes `value`, and the host goes on well with it.
pub unsafe fn wrmsr(index: u32, value: u64) {
    // SAFETY: the caller's promise. Memory counts as changed, for a register may decide what of it is seen.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

macro_rules! register {
    ($(#[$doc:meta])* $read:ident, $write:ident, $name:literal) => {
        $(#[$doc])*
        /// Reads it.
        #[must_use]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: the host runs at privilege level 0; reading changes nothing.
            unsafe {
                asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
            }
            value
        }

        $(#[$doc])*
        /// Writes it.
        ///
        /// # Safety
        /// The CPU takes `value`, and the host goes on well with it.
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's promise.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}

register!(
    /// Control register 0.
    read_cr0, write_cr0, "cr0");
register!(
    /// Control register 2: the address of the last page fault.
    read_cr2, write_cr2, "cr2");
register!(
    /// Control register 3: the root of the host's own table.
    read_cr3, write_cr3, "cr3");
register!(
    /// Control register 4.
    read_cr4, write_cr4, "cr4");
register!(
    /// Debug register 0.
    read_dr0, write_dr0, "dr0");
register!(
    /// Debug register 1.
    read_dr1, write_dr1, "dr1");
register!(
    /// Debug register 2.
    read_dr2, write_dr2, "dr2");
register!(
    /// Debug register 3.
    read_dr3, write_dr3, "dr3");
register!(
    /// Debug register 6: what the last debug exception was about.
    read_dr6, write_dr6, "dr6");
register!(
    /// Debug register 7: which breakpoints are on.
    read_dr7, write_dr7, "dr7");

/// XCR0: which components of the extended state are on.
///
/// # Safety
/// The host's CR4.OSXSAVE is set.
#[must_use]
pub unsafe fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise; reading changes nothing.
    unsafe {
        asm!("xgetbv", in("ecx") 0u32, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Sets XCR0.
///
/// # Safety
/// The host's CR4.OSXSAVE is set, the CPU takes `value`, and the host does not use what it turns off.
pub unsafe fn write_xcr0(value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xsetbv", in("ecx") 0u32, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Saves the `components` of the extended state (XSAVE64, standard format) that XCR0 has on.
///
/// # Safety
/// CR4.OSXSAVE is set, CR0.TS is clear, and `area` is aligned to 64 bytes and has room for all components of XCR0.
pub unsafe fn xsave(area: *mut u8, components: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xsave64 [{}]", in(reg) area, in("eax") components as u32, in("edx") (components >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Loads the `components` of the extended state (XRSTOR64) that XCR0 has on.
///
/// # Safety
/// As [`xsave`], and `area` has what XSAVE64 left there, or zeroes and a valid MXCSR. The host has no floating-point state
/// of its own to lose.
pub unsafe fn xrstor(area: *const u8, components: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) area, in("eax") components as u32, in("edx") (components >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Saves the x87 and SSE state (FXSAVE64), on a CPU without XSAVE.
///
/// # Safety
/// CR4.OSFXSR is set, CR0.TS and EM are clear, and `area` is 512 bytes, aligned to 16.
pub unsafe fn fxsave(area: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
}

/// Loads the x87 and SSE state (FXRSTOR64), on a CPU without XSAVE.
///
/// # Safety
/// As [`fxsave`], and `area` has what FXSAVE64 left there. The host has no floating-point state of its own to lose.
pub unsafe fn fxrstor(area: *const u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
}
