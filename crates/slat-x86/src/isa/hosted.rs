//! A development host: none of the registers can be reached. They read as 0, and writes are lost.

#![expect(unsafe_code, reason = "the functions of bare metal have contracts, and these are in their place")]

/// What CPUID answers: a CPU without any feature.
#[must_use]
pub fn cpuid(_leaf: u32, _subleaf: u32) -> [u32; 4] {
    [0; 4]
}

/// Reads a model-specific register.
///
/// # Safety
/// The CPU has the register.
#[must_use]
pub unsafe fn rdmsr(_index: u32) -> u64 {
    0
}

/// Writes a model-specific register.
///
/// # Safety
/// The CPU has the register, it takes `value`, and the host goes on well with it.
pub unsafe fn wrmsr(_index: u32, _value: u64) {}

macro_rules! register {
    ($($read:ident, $write:ident, $name:literal;)*) => { $(
        #[doc = concat!("Reads ", $name, ".")]
        #[must_use]
        pub fn $read() -> u64 {
            0
        }

        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The CPU takes `value`, and the host goes on well with it.
        pub unsafe fn $write(_value: u64) {}
    )* };
}

register! {
    read_cr0, write_cr0, "CR0";
    read_cr2, write_cr2, "CR2";
    read_cr3, write_cr3, "CR3";
    read_cr4, write_cr4, "CR4";
    read_dr0, write_dr0, "DR0";
    read_dr1, write_dr1, "DR1";
    read_dr2, write_dr2, "DR2";
    read_dr3, write_dr3, "DR3";
    read_dr6, write_dr6, "DR6";
    read_dr7, write_dr7, "DR7";
}

/// XCR0.
///
/// # Safety
/// The host's CR4.OSXSAVE is set.
#[must_use]
pub unsafe fn read_xcr0() -> u64 {
    0
}

/// Sets XCR0.
///
/// # Safety
/// The host's CR4.OSXSAVE is set, the CPU takes `value`, and the host does not use what it turns off.
pub unsafe fn write_xcr0(_value: u64) {}

/// Saves components of the extended state.
///
/// # Safety
/// `area` is aligned to 64 bytes and has room for all components of XCR0.
pub unsafe fn xsave(_area: *mut u8, _components: u64) {}

/// Loads components of the extended state.
///
/// # Safety
/// As [`xsave`].
pub unsafe fn xrstor(_area: *const u8, _components: u64) {}

/// Saves the x87 and SSE state.
///
/// # Safety
/// `area` is 512 bytes, aligned to 16.
pub unsafe fn fxsave(_area: *mut u8) {}

/// Loads the x87 and SSE state.
///
/// # Safety
/// As [`fxsave`].
pub unsafe fn fxrstor(_area: *const u8) {}
