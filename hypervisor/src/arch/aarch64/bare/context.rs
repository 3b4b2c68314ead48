//! The system registers that make up a guest's EL1 and EL0: saved and restored when a vCPU changes CPUs.

#![expect(unsafe_code, reason = "reads and writes system registers")]

use core::arch::asm;

/// Reads system register `$name`.
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: every register named in this crate exists on every CPU on which the line is reached, and reading
        // it has no side effect.
        unsafe {
            ::core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags))
        };
        value
    }};
}
pub(super) use read_register;

/// Writes `$value` to system register `$name`, one of EL2 that works for the guest.
macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the registers named in this crate decide what the guest may do, not how the hypervisor's own memory
        // is reached, and exist on every CPU on which the line is reached.
        unsafe {
            ::core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags))
        };
    }};
}
pub(super) use write_register;

macro_rules! system_registers {
    ($($(#[$doc:meta])* $name:ident = $initial:expr,)*) => {
        /// The guest's system registers while it is not bound.
        #[derive(Clone, Debug)]
        pub(super) struct SystemRegisters {
            $($(#[$doc])* $name: u64,)*
        }

        impl SystemRegisters {
            /// As the boot protocol wants them: MMU and caches off.
            pub(super) const INITIAL: Self = Self { $($name: $initial,)* };

            /// The registers, each with its name.
            pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }

            /// Takes the registers from the CPU.
            pub(super) fn save(&mut self) {
                $(
                    let value: u64;
                    // SAFETY: reading a register of EL1 or EL0 has no side effect.
                    unsafe {
                        asm!(concat!("mrs {}, ", stringify!($name)), out(reg) value,
                             options(nostack, preserves_flags))
                    };
                    self.$name = value;
                )*
            }

            /// Gives the registers to the CPU.
            pub(super) fn restore(&self) {
                $(
                    // SAFETY: the register belongs to EL1 or EL0, which the hypervisor does not use: the value takes
                    // effect for the guest only, behind stage 2.
                    unsafe {
                        asm!(concat!("msr ", stringify!($name), ", {}"), in(reg) self.$name,
                             options(nostack, preserves_flags))
                    };
                )*
            }
        }
    };
}

system_registers! {
    // The bits that are one in Armv8.0, all else off.
    sctlr_el1 = 0x30d0_0800,
    ttbr0_el1 = 0,
    ttbr1_el1 = 0,
    tcr_el1 = 0,
    mair_el1 = 0,
    amair_el1 = 0,
    vbar_el1 = 0,
    contextidr_el1 = 0,
    tpidr_el0 = 0,
    tpidrro_el0 = 0,
    tpidr_el1 = 0,
    sp_el0 = 0,
    sp_el1 = 0,
    elr_el1 = 0,
    spsr_el1 = 0,
    esr_el1 = 0,
    far_el1 = 0,
    afsr0_el1 = 0,
    afsr1_el1 = 0,
    cpacr_el1 = 0,
    cntkctl_el1 = 0,
    cntv_cval_el0 = 0,
    cntv_ctl_el0 = 0,
    cntp_cval_el0 = 0,
    cntp_ctl_el0 = 0,
    par_el1 = 0,
    mdscr_el1 = 0,
    csselr_el1 = 0,
}
