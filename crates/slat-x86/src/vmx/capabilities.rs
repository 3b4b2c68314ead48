//! What a CPU offers of VMX and EPT, from its MSRs and CPUID, before anything of it is used.
//!
//! [`RawCapabilities`] are the numbers as the CPU gives them; [`Capabilities::new`] is a pure function of them. What no
//! vCPU can do without is an [`Unsupported`]; what has a fallback is a `bool` whose documentation names the fallback.

use super::controls::{self, Controls};
use super::instructions::Instructions;
use slat::format::ept;
use thiserror::Error;

/// The MSRs of VMX (SDM vol. 3D, appendix "VMX Capability Reporting Facility").
pub(crate) mod msr {
    pub(crate) const FEATURE_CONTROL: u32 = 0x3a;
    pub(crate) const BASIC: u32 = 0x480;
    pub(crate) const PIN: u32 = 0x481;
    pub(crate) const PRIMARY: u32 = 0x482;
    pub(crate) const EXIT: u32 = 0x483;
    pub(crate) const ENTRY: u32 = 0x484;
    pub(crate) const MISC: u32 = 0x485;
    pub(crate) const CR0_FIXED0: u32 = 0x486;
    pub(crate) const CR0_FIXED1: u32 = 0x487;
    pub(crate) const CR4_FIXED0: u32 = 0x488;
    pub(crate) const CR4_FIXED1: u32 = 0x489;
    pub(crate) const SECONDARY: u32 = 0x48b;
    pub(crate) const EPT_VPID_CAP: u32 = 0x48c;
    pub(crate) const TRUE_PIN: u32 = 0x48d;
    pub(crate) const TRUE_PRIMARY: u32 = 0x48e;
    pub(crate) const TRUE_EXIT: u32 = 0x48f;
    pub(crate) const TRUE_ENTRY: u32 = 0x490;
}

/// The numbers that [`Capabilities`] are made of.
///
/// Of the four control registers these are the `TRUE` ones where IA32_VMX_BASIC bit 55 says that there are any. What a CPU
/// does not have is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawCapabilities {
    /// CPUID 1, ECX: VMX 5, PCID 17, XSAVE 26.
    pub cpuid_1_ecx: u32,
    /// CPUID 7, EBX: INVPCID 10.
    pub cpuid_7_ebx: u32,
    /// CPUID 8000_0001H, EDX: 1 GiB pages 26, RDTSCP 27.
    pub cpuid_extended_edx: u32,
    /// MAXPHYADDR: CPUID 8000_0008H, EAX bits 7:0.
    pub physical_bits: u32,
    /// Bytes of the extended state with everything on (CPUID DH, ECX).
    pub extended_bytes: u32,
    /// Components that XCR0 may have (CPUID DH, EDX:EAX).
    pub extended_components: u64,
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// IA32_VMX_(TRUE_)PINBASED_CTLS.
    pub pin: u64,
    /// IA32_VMX_(TRUE_)PROCBASED_CTLS.
    pub primary: u64,
    /// IA32_VMX_PROCBASED_CTLS2.
    pub secondary: u64,
    /// IA32_VMX_(TRUE_)EXIT_CTLS.
    pub exit: u64,
    /// IA32_VMX_(TRUE_)ENTRY_CTLS.
    pub entry: u64,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// IA32_VMX_CR0_FIXED0: the bits that must be 1.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1: the bits that may be 1.
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0.
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1.
    pub cr4_fixed1: u64,
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept_vpid_cap: u64,
}

impl RawCapabilities {
    /// Reads them from this CPU, each only where another one says that it exists.
    pub fn read(cpu: &impl Instructions) -> Self {
        let [basic_leaves, ..] = cpu.cpuid(0, 0);
        let [extended_leaves, ..] = cpu.cpuid(0x8000_0000, 0);
        let basic = |leaf| if leaf <= basic_leaves { cpu.cpuid(leaf, 0) } else { [0; 4] };
        let extended = |leaf| if leaf <= extended_leaves { cpu.cpuid(leaf, 0) } else { [0; 4] };
        let cpuid_1_ecx = basic(1)[2];
        let mut raw = Self {
            cpuid_1_ecx,
            cpuid_7_ebx: basic(7)[1],
            cpuid_extended_edx: extended(0x8000_0001)[3],
            physical_bits: extended(0x8000_0008)[0] & 0xff,
            ..Self::default()
        };
        if cpuid_1_ecx >> 26 & 1 == 1 {
            let [low, _, bytes, high] = basic(0xd);
            raw.extended_bytes = bytes;
            raw.extended_components = u64::from(high) << 32 | u64::from(low);
        }
        if cpuid_1_ecx >> 5 & 1 == 0 {
            return raw;
        }
        raw.feature_control = cpu.rdmsr(msr::FEATURE_CONTROL);
        raw.basic = cpu.rdmsr(msr::BASIC);
        let exact = raw.basic >> 55 & 1 == 1;
        let control = |ordinary, exactly| cpu.rdmsr(if exact { exactly } else { ordinary });
        raw.pin = control(msr::PIN, msr::TRUE_PIN);
        raw.primary = control(msr::PRIMARY, msr::TRUE_PRIMARY);
        raw.exit = control(msr::EXIT, msr::TRUE_EXIT);
        raw.entry = control(msr::ENTRY, msr::TRUE_ENTRY);
        raw.misc = cpu.rdmsr(msr::MISC);
        raw.cr0_fixed0 = cpu.rdmsr(msr::CR0_FIXED0);
        raw.cr0_fixed1 = cpu.rdmsr(msr::CR0_FIXED1);
        raw.cr4_fixed0 = cpu.rdmsr(msr::CR4_FIXED0);
        raw.cr4_fixed1 = cpu.rdmsr(msr::CR4_FIXED1);
        if controls::may_be_one(raw.primary, controls::primary::SECONDARY) {
            raw.secondary = cpu.rdmsr(msr::SECONDARY);
            if controls::may_be_one(raw.secondary, controls::secondary::EPT)
                || controls::may_be_one(raw.secondary, controls::secondary::VPID)
            {
                raw.ept_vpid_cap = cpu.rdmsr(msr::EPT_VPID_CAP);
            }
        }
        raw
    }
}

/// What a vCPU cannot do without, and the CPU does not offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unsupported {
    /// CPUID 1 ECX bit 5 is clear.
    #[error("the CPU has no VMX")]
    NoVmx,
    /// IA32_FEATURE_CONTROL is locked without VMX outside of SMX.
    #[error("the firmware has turned VMX off (IA32_FEATURE_CONTROL {0:#x} is locked)")]
    LockedOff(u64),
    /// IA32_VMX_BASIC bit 55 is clear: controls cannot be turned off that make every change of CR3 exit.
    #[error("the CPU cannot leave CR3 to a guest (IA32_VMX_BASIC bit 55)")]
    NoTrueControls,
    /// VMCSs are not write-back memory (IA32_VMX_BASIC bits 53:50).
    #[error("the CPU does not keep VMCSs in write-back memory (type {0})")]
    MemoryType(u8),
    /// There is no secondary control "enable EPT".
    #[error("the CPU has no EPT")]
    NoEpt,
    /// IA32_VMX_EPT_VPID_CAP lacks four levels, write-back tables, INVEPT or INVEPT of all contexts (bits 6, 14, 20, 26).
    #[error("the CPU's EPT lacks what every guest needs (IA32_VMX_EPT_VPID_CAP {0:#x})")]
    IncompleteEpt(u64),
    /// A control cannot be what it must be.
    #[error("the CPU cannot set {0}")]
    Control(&'static str),
}

/// What a CPU offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    raw: RawCapabilities,
    controls: Controls,
}

const fn bit(value: u64, bit: u32) -> bool {
    value >> bit & 1 == 1
}

impl Capabilities {
    /// What these numbers mean.
    ///
    /// # Errors
    /// [`Unsupported`]: the first thing that is lacking, in the order of the variants.
    pub fn new(raw: &RawCapabilities) -> Result<Self, Unsupported> {
        if raw.cpuid_1_ecx >> 5 & 1 == 0 {
            return Err(Unsupported::NoVmx);
        }
        // Bit 0: locked; 2: VMX outside of SMX.
        if raw.feature_control & 0b101 == 0b001 {
            return Err(Unsupported::LockedOff(raw.feature_control));
        }
        if !controls::may_be_one(raw.primary, controls::primary::SECONDARY)
            || !controls::may_be_one(raw.secondary, controls::secondary::EPT)
        {
            return Err(Unsupported::NoEpt);
        }
        if !bit(raw.basic, 55) {
            return Err(Unsupported::NoTrueControls);
        }
        let memory_type = (raw.basic >> 50 & 0xf) as u8;
        if memory_type != 6 {
            return Err(Unsupported::MemoryType(memory_type));
        }
        let needed = 1 << 6 | 1 << 14 | 1 << 20 | 1 << 26;
        if raw.ept_vpid_cap & needed != needed {
            return Err(Unsupported::IncompleteEpt(raw.ept_vpid_cap));
        }
        let controls = Controls::plan(raw)?;
        Ok(Self { raw: *raw, controls })
    }

    /// What this CPU offers.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn read(cpu: &impl Instructions) -> Result<Self, Unsupported> {
        Self::new(&RawCapabilities::read(cpu))
    }

    /// The numbers.
    #[must_use]
    pub const fn raw(&self) -> &RawCapabilities {
        &self.raw
    }

    pub(crate) const fn controls(&self) -> &Controls {
        &self.controls
    }

    /// VMCS revision identifier: the first word of a VMCS and of the VMXON region.
    #[must_use]
    pub const fn revision(&self) -> u32 {
        self.raw.basic as u32 & 0x7fff_ffff
    }

    /// Regions have to lie in the first 4 GiB (IA32_VMX_BASIC bit 48).
    #[must_use]
    pub const fn regions_below_4g(&self) -> bool {
        bit(self.raw.basic, 48)
    }

    /// Guests may run without paging, in real mode too. Otherwise a guest begins in protected mode with paging on and stays
    /// there; another state is [`SetupError`](super::SetupError) or `#GP`.
    #[must_use]
    pub const fn unrestricted_guest(&self) -> bool {
        self.controls.has_secondary(controls::secondary::UNRESTRICTED_GUEST)
    }

    /// Translations of vCPUs are told apart. Otherwise each entry and exit drops all of them.
    #[must_use]
    pub const fn vpid(&self) -> bool {
        self.controls.has_secondary(controls::secondary::VPID)
    }

    /// The CPU tracks how NMIs block each other in the guest. Otherwise an NMI for the guest is delivered whenever it comes.
    #[must_use]
    pub const fn virtual_nmis(&self) -> bool {
        self.controls.has_pin(controls::pin::VIRTUAL_NMIS)
    }

    /// The CPU keeps accessed and dirty flags in the EPT. Otherwise nobody does.
    #[must_use]
    pub const fn accessed_dirty(&self) -> bool {
        bit(self.raw.ept_vpid_cap, 21)
    }

    /// The CPU logs pages that become dirty. Otherwise [`enable_log`](super::VmxVcpu::enable_log) is an error, and dirty flags
    /// are to be looked for in the table.
    #[must_use]
    pub const fn modification_log(&self) -> bool {
        controls::may_be_one(self.raw.secondary, controls::secondary::PML) && self.accessed_dirty()
    }

    /// Pages can be executed and not read. Otherwise mapping one is an error of slat's.
    #[must_use]
    pub const fn execute_only(&self) -> bool {
        bit(self.raw.ept_vpid_cap, 0)
    }

    /// Tables may have five levels. Otherwise guest-physical addresses end at 256 TiB.
    #[must_use]
    pub const fn five_levels(&self) -> bool {
        bit(self.raw.ept_vpid_cap, 7)
    }

    /// Tables may be uncacheable.
    #[must_use]
    pub const fn uncacheable_tables(&self) -> bool {
        bit(self.raw.ept_vpid_cap, 8)
    }

    /// Leaves of 2 MiB. slat uses smaller ones otherwise.
    #[must_use]
    pub const fn leaves_2m(&self) -> bool {
        bit(self.raw.ept_vpid_cap, 16)
    }

    /// Leaves of 1 GiB. slat uses smaller ones otherwise.
    #[must_use]
    pub const fn leaves_1g(&self) -> bool {
        bit(self.raw.ept_vpid_cap, 17)
    }

    /// INVEPT of one context. Otherwise all are dropped.
    #[must_use]
    pub const fn invept_single(&self) -> bool {
        bit(self.raw.ept_vpid_cap, 25)
    }

    /// INVVPID of one virtual processor. Otherwise all are dropped.
    #[must_use]
    pub const fn invvpid_single(&self) -> bool {
        bit(self.raw.ept_vpid_cap, 41)
    }

    /// INVVPID of one address.
    #[must_use]
    pub const fn invvpid_address(&self) -> bool {
        bit(self.raw.ept_vpid_cap, 40)
    }

    /// INVVPID of one virtual processor but for global translations.
    #[must_use]
    pub const fn invvpid_retaining_globals(&self) -> bool {
        bit(self.raw.ept_vpid_cap, 43)
    }

    /// Mode-based execute control. This crate leaves it off.
    #[must_use]
    pub const fn mode_based_execute(&self) -> bool {
        controls::may_be_one(self.raw.secondary, controls::secondary::MODE_BASED_EXECUTE)
    }

    /// An exit notes in the VMCS whether the guest was in 64-bit mode (IA32_VMX_MISC bit 5): every CPU with
    /// [`unrestricted_guest`](Self::unrestricted_guest) does.
    #[must_use]
    pub const fn stores_long_mode(&self) -> bool {
        bit(self.raw.misc, 5)
    }

    /// A vCPU can be made to halt.
    #[must_use]
    pub const fn halt_state(&self) -> bool {
        bit(self.raw.misc, 6)
    }

    /// A vCPU can be made to wait for a start-up IPI.
    #[must_use]
    pub const fn wait_state(&self) -> bool {
        bit(self.raw.misc, 8)
    }

    /// Components of the extended state that a guest may have; 0 without XSAVE.
    #[must_use]
    pub const fn extended_components(&self) -> u64 {
        self.raw.extended_components & crate::cpuid::XCR0
    }

    /// The CPU has XSAVE.
    #[must_use]
    pub const fn xsave(&self) -> bool {
        self.raw.cpuid_1_ecx >> 26 & 1 == 1
    }

    /// The CPU has RDTSCP, and with it IA32_TSC_AUX.
    #[must_use]
    pub const fn rdtscp(&self) -> bool {
        self.raw.cpuid_extended_edx >> 27 & 1 == 1
    }

    /// The same for slat's tables. `accessed_dirty` asks for the flags; where the CPU has none it does without.
    #[must_use]
    pub const fn ept(&self, accessed_dirty: bool) -> ept::Capabilities {
        ept::Capabilities {
            ept_vpid_cap: self.raw.ept_vpid_cap,
            physical_bits: self.raw.physical_bits,
            mode_based_execute: false,
            accessed_dirty: accessed_dirty && self.accessed_dirty(),
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests;
