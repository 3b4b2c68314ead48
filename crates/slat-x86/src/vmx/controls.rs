//! The controls of the VMCS: which bits must be set, which are wanted, and what the CPU lets them be (SDM vol. 3C, "VM-
//! Execution Control Fields" and what follows).
//!
//! A capability MSR says in its lower half which bits must be 1 and in its upper half which may be.

use super::capabilities::{RawCapabilities, Unsupported};

macro_rules! bits {
    ($(#[$doc:meta])* $module:ident { $($name:ident = $bit:literal;)* }) => {
        $(#[$doc])*
        pub(crate) mod $module {
            $(pub(crate) const $name: u32 = 1 << $bit;)*
        }
    };
}

bits!(
    /// Pin-based VM-execution controls.
    pin { EXTERNAL_INTERRUPT = 0; NMI = 3; VIRTUAL_NMIS = 5; });
bits!(
/// Primary processor-based VM-execution controls.
primary {
    INTERRUPT_WINDOW = 2; HLT = 7; MWAIT = 10; RDPMC = 11; CR3_LOAD = 15; CR3_STORE = 16; NMI_WINDOW = 22; IO_BITMAPS = 25;
    MSR_BITMAPS = 28; MONITOR = 29; SECONDARY = 31;
});
bits!(
/// Secondary processor-based VM-execution controls.
secondary {
    EPT = 1; RDTSCP = 3; VPID = 5; UNRESTRICTED_GUEST = 7; INVPCID = 12; ENCLS = 15; PML = 17; MODE_BASED_EXECUTE = 22;
});
bits!(
/// Primary VM-exit controls.
exit {
    SAVE_DEBUG = 2; HOST_64 = 9; ACKNOWLEDGE_INTERRUPT = 15; SAVE_PAT = 18; LOAD_PAT = 19; SAVE_EFER = 20; LOAD_EFER = 21;
});
bits!(
    /// VM-entry controls.
    entry { LOAD_DEBUG = 2; IA32E = 9; LOAD_PAT = 14; LOAD_EFER = 15; });

/// Whether the MSR lets a control be 1.
pub(crate) const fn may_be_one(msr: u64, control: u32) -> bool {
    (msr >> 32) as u32 & control != 0
}

/// The controls with which every vCPU begins; a few change at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Controls {
    pub(crate) pin: u32,
    pub(crate) primary: u32,
    pub(crate) secondary: u32,
    pub(crate) exit: u32,
    pub(crate) entry: u32,
}

/// What is set: what must be 1 for the CPU, all of `required`, and of `wanted` what may be.
fn choose(msr: u64, required: u32, wanted: u32, name: &'static str) -> Result<u32, Unsupported> {
    let (must, may) = (msr as u32, (msr >> 32) as u32);
    if required & !may != 0 {
        return Err(Unsupported::Control(name));
    }
    Ok((must | required | wanted) & may)
}

impl Controls {
    pub(crate) fn plan(raw: &RawCapabilities) -> Result<Self, Unsupported> {
        let mut pin = choose(raw.pin, pin::NMI, pin::VIRTUAL_NMIS, "NMI exiting")?;
        let mut primary = choose(
            raw.primary,
            primary::MWAIT
                | primary::RDPMC
                | primary::IO_BITMAPS
                | primary::MSR_BITMAPS
                | primary::MONITOR
                | primary::SECONDARY,
            0,
            "MWAIT, RDPMC and MONITOR exiting, I/O and MSR bitmaps, secondary controls",
        )?;
        if primary & (primary::CR3_LOAD | primary::CR3_STORE) != 0 {
            return Err(Unsupported::NoTrueControls);
        }
        let has = |there: bool, control| if there { control } else { 0 };
        // INVVPID of some type must be there, or else a VPID could never be given to another vCPU.
        let cap = raw.ept_vpid_cap;
        let vpid = cap >> 32 & 1 == 1 && (cap >> 41 & 1 == 1 || cap >> 42 & 1 == 1);
        let wanted = has(raw.cpuid_extended_edx >> 27 & 1 == 1, secondary::RDTSCP)
            | has(vpid, secondary::VPID)
            | has(raw.cpuid_7_ebx >> 10 & 1 == 1, secondary::INVPCID)
            // Only with IA32_VMX_MISC bit 5 does the CPU follow a guest into 64-bit mode by itself.
            | has(raw.misc >> 5 & 1 == 1, secondary::UNRESTRICTED_GUEST)
            | secondary::ENCLS;
        let secondary = choose(raw.secondary, secondary::EPT, wanted, "EPT")?;
        let exit = choose(
            raw.exit,
            exit::SAVE_DEBUG
                | exit::HOST_64
                | exit::ACKNOWLEDGE_INTERRUPT
                | exit::SAVE_PAT
                | exit::LOAD_PAT
                | exit::SAVE_EFER
                | exit::LOAD_EFER,
            0,
            "a 64-bit host, acknowledging of interrupts, saving and loading of debug controls, IA32_PAT and IA32_EFER",
        )?;
        let entry = choose(
            raw.entry,
            entry::LOAD_DEBUG | entry::LOAD_PAT | entry::LOAD_EFER,
            0,
            "loading of debug controls, IA32_PAT and IA32_EFER",
        )?;
        if !may_be_one(raw.entry, entry::IA32E) {
            return Err(Unsupported::Control("64-bit guests"));
        }
        // Without virtual NMIs there is no NMI window, which is what they are for.
        if !may_be_one(raw.primary, primary::NMI_WINDOW) {
            pin &= !pin::VIRTUAL_NMIS | raw.pin as u32;
        }
        // Interrupt windows are asked for at run time.
        if !may_be_one(raw.primary, primary::INTERRUPT_WINDOW) {
            return Err(Unsupported::Control("interrupt-window exiting"));
        }
        primary &= !(primary::INTERRUPT_WINDOW | primary::NMI_WINDOW | primary::HLT) | raw.primary as u32;
        Ok(Self { pin, primary, secondary, exit, entry })
    }

    pub(crate) const fn has_pin(&self, control: u32) -> bool {
        self.pin & control != 0
    }

    pub(crate) const fn has_secondary(&self, control: u32) -> bool {
        self.secondary & control != 0
    }
}
