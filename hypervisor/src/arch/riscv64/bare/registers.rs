//! Control and status registers: single ones, and those that make up a guest's VS-mode and VU-mode, which are saved
//! and restored when a vCPU changes harts.

#![expect(unsafe_code, reason = "reads and writes control and status registers")]

use core::arch::asm;

/// Reads register `$name`.
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: every register named in this crate exists on every hart on which the line is reached, and reading
        // it has no side effect.
        unsafe {
            ::core::arch::asm!(concat!("csrr {}, ", $name), out(reg) value, options(nostack, preserves_flags))
        };
        value
    }};
}
pub(super) use read_register;

/// Writes `$value` to register `$name`, one that works for the guest or decides about interrupts.
macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the registers named in this crate decide what the guest may do and what it is interrupted by, not how
        // the hypervisor's own memory is reached, and exist on every hart on which the line is reached.
        unsafe {
            ::core::arch::asm!(concat!("csrw ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags))
        };
    }};
}
pub(super) use write_register;

/// Whether register `$name` can be read: its value, or `None` if that is an illegal instruction here.
macro_rules! probe_register {
    ($name:literal) => {{
        let (value, there): (u64, u64);
        // SAFETY: reading the register has no side effect. Where it does not exist the trap goes to label 2, with the
        // vector that the hart had put back; it changes scause, sepc, stval and fields of sstatus and hstatus that nothing
        // outside of a guest's entry depends on, and that is made anew for each.
        unsafe {
            ::core::arch::asm!(
                "la {vector}, 2f",
                "csrrw {vector}, stvec, {vector}",
                "li {there}, 0",
                concat!("csrr {value}, ", $name),
                "li {there}, 1",
                ".balign 4",
                "2:",
                "csrw stvec, {vector}",
                vector = out(reg) _,
                there = out(reg) there,
                value = out(reg) value,
                options(nostack)
            )
        };
        (there == 1).then_some(value)
    }};
}
pub(super) use probe_register;

macro_rules! system_registers {
    ($($(#[$doc:meta])* $name:ident = $initial:expr,)*) => {
        /// The guest's registers while it is not bound.
        #[derive(Clone, Debug)]
        pub(super) struct SystemRegisters {
            $($(#[$doc])* pub(super) $name: u64,)*
        }

        impl SystemRegisters {
            /// As a hart starts: translation and interrupts off.
            pub(super) const INITIAL: Self = Self { $($name: $initial,)* };

            /// How many there are.
            pub(super) const COUNT: usize = [$(stringify!($name)),*].len();

            /// The registers, one after the other.
            pub(super) fn to_words(&self) -> [u64; Self::COUNT] {
                [$(self.$name),*]
            }

            /// Their names, in the same order.
            pub(super) const NAMES: [&'static str; Self::COUNT] = [$(stringify!($name)),*];

            /// The registers that [`to_words`](Self::to_words) was called for.
            pub(super) fn from_words(words: &[u64; Self::COUNT]) -> Self {
                let [$($name),*] = *words;
                Self { $($name),* }
            }

            /// Takes the registers from the hart.
            pub(super) fn save(&mut self) {
                $(
                    let value: u64;
                    // SAFETY: reading a register of VS-mode or VU-mode has no side effect.
                    unsafe {
                        asm!(concat!("csrr {}, ", stringify!($name)), out(reg) value,
                             options(nostack, preserves_flags))
                    };
                    self.$name = value;
                )*
            }

            /// Gives the registers to the hart.
            pub(super) fn restore(&self) {
                $(
                    // SAFETY: the register belongs to VS-mode or VU-mode, which the hypervisor does not use: the value takes
                    // effect for the guest only, behind the G-stage.
                    unsafe {
                        asm!(concat!("csrw ", stringify!($name), ", {}"), in(reg) self.$name,
                             options(nostack, preserves_flags))
                    };
                )*
            }
        }
    };
}

// scounteren and senvcfg have no copy for VS-mode: the hypervisor has no use for its own. vsatp, hgatp and vstimecmp have
// an order of their own, see `vcpu.rs`.
system_registers! {
    vsstatus = crate::arch::riscv64::registers::sstatus::UXL_64,
    vsie = 0,
    vstvec = 0,
    vsscratch = 0,
    vsepc = 0,
    vscause = 0,
    vstval = 0,
    hvip = 0,
    scounteren = 0,
    senvcfg = 0,
}
