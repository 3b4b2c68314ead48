//! What a CPU is: the second-level translation that it has, its optional features, and its root register.

/// The second-level translation of the machine's CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mmu {
    /// Intel extended page tables.
    Ept(Ept),
    /// AMD nested paging.
    Npt(Npt),
    /// Arm stage 2, 4 KiB granule.
    Stage2(Stage2),
    /// RISC-V G-stage.
    Gstage(Gstage),
}

/// An Intel CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ept {
    /// MAXPHYADDR: the width of physical addresses in bits.
    pub max_phys_addr: u32,
    /// IA32_VMX_EPT_VPID_CAP (MSR 48CH): bit 0 execute-only pages, 6 and 7 walks of four and five levels, 16 and 17 pages
    /// of 2 MiB and 1 GiB, 21 accessed and dirty flags.
    pub capabilities: u64,
    /// The VM-execution control "mode-based execute control for EPT": bit 10 allows fetches in user mode.
    pub mode_based_execute: bool,
}

impl Default for Ept {
    /// 46 bits, all of the features except mode-based execute control.
    fn default() -> Self {
        Self { max_phys_addr: 46, capabilities: 0x0f01_0633_41c1, mode_based_execute: false }
    }
}

/// An AMD CPU, as its host has set it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Npt {
    /// The width of physical addresses in bits.
    pub max_phys_addr: u32,
    /// The host's CR4.LA57: nested tables have five levels then, else four.
    pub host_la57: bool,
    /// The host's EFER.NXE: without it, bit 63 of an entry is reserved.
    pub host_nxe: bool,
    /// VMCB 090h bit 3, guest mode execute trap.
    pub gmet: bool,
    /// CPUID 8000_0001h EDX\[26\]: pages of 1 GiB.
    pub page_1g: bool,
    /// CPUID 8000_000Ah EDX\[6\]: TLB_CONTROL 3 and 7 flush by ASID. Without it they are reserved, and flush nothing.
    pub flush_by_asid: bool,
}

impl Default for Npt {
    /// 48 bits, four levels, no-execute on, GMET off, 1 GiB pages, flushes by ASID.
    fn default() -> Self {
        Self {
            max_phys_addr: 48,
            host_la57: false,
            host_nxe: true,
            gmet: false,
            page_1g: true,
            flush_by_asid: true,
        }
    }
}

/// An Arm CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// The physical address size in bits (ID_AA64MMFR0_EL1.PARange decoded).
    pub physical_bits: u32,
    /// HCR_EL2.FWB on a CPU with FEAT_S2FWB.
    pub fwb: bool,
    /// FEAT_XNX: XN has two bits.
    pub xnx: bool,
    /// FEAT_TTL: TLBI by address takes a level hint.
    pub ttl: bool,
    /// FEAT_TTST: tables as small as a single level-3 table.
    pub ttst: bool,
    /// FEAT_HAFDBS: what VTCR_EL2.HA and HD can switch on. 0: nothing; 1: the access flag; 2: the dirty state too.
    pub hafdbs: u8,
    /// ID_AA64MMFR2_EL1.BBM: how much of break-before-make a change of size needs.
    pub bbm: u8,
    /// FEAT_VMID16, which VTCR_EL2.VS selects.
    pub vmid16: bool,
}

impl Default for Stage2 {
    /// 48 bits and all features but FWB; break-before-make always.
    fn default() -> Self {
        Self {
            physical_bits: 48,
            fwb: false,
            xnx: true,
            ttl: true,
            ttst: true,
            hafdbs: 2,
            bbm: 0,
            vmid16: true,
        }
    }
}

/// A RISC-V hart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gstage {
    /// Bit n: the hart has hgatp MODE n (8 Sv39x4, 9 Sv48x4, 10 Sv57x4).
    pub modes: u16,
    /// VMIDLEN.
    pub vmid_bits: u32,
    /// menvcfg.ADUE: the hardware sets A and D; without it their absence faults (Svade).
    pub adue: bool,
    /// menvcfg.PBMTE: Svpbmt is on for the G-stage.
    pub pbmte: bool,
    /// Svnapot.
    pub svnapot: bool,
    /// Svrsw60t59b: bits 60:59 of entries are software's.
    pub svrsw60t59b: bool,
    /// Svvptc: no entry is kept of which the valid bit was clear. (The manual promises that a set bit is seen in bounded time;
    /// to the model that is at once.)
    pub svvptc: bool,
    /// The hypervisor's own sstatus.MXR, which G-stage translation obeys.
    pub mxr: bool,
    /// HFENCE with an address leaves a cached invalid entry above level 0 alone. The manual promises the address
    /// operand for leaf entries; an invalid entry is not one, and whether it counts is not said. Off, it counts.
    pub address_fence_skips_invalid: bool,
}

impl Default for Gstage {
    /// All modes, 14 VMID bits, Svade, Svpbmt on, Svnapot, no Svvptc.
    fn default() -> Self {
        Self {
            modes: 0x700,
            vmid_bits: 14,
            adue: false,
            pbmte: true,
            svnapot: true,
            svrsw60t59b: false,
            svvptc: false,
            mxr: false,
            address_fence_skips_invalid: false,
        }
    }
}

/// The root register and what goes with it, as raw values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    /// Intel.
    Ept {
        /// The EPT pointer of the VMCS.
        eptp: u64,
        /// The VPID of the VMCS; 0 stands for the control "enable VPID" being off.
        vpid: u16,
    },
    /// AMD.
    Npt {
        /// nCR3 of the VMCB.
        ncr3: u64,
        /// The guest's ASID of the VMCB, not 0.
        asid: u32,
    },
    /// Arm.
    Stage2 {
        /// VTCR_EL2.
        vtcr: u64,
        /// VTTBR_EL2.
        vttbr: u64,
    },
    /// RISC-V.
    Gstage {
        /// hgatp.
        hgatp: u64,
    },
}

/// Why a root register cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRoot {
    /// The value.
    pub root: Root,
    /// What is wrong with it, naming the manual.
    pub reason: &'static str,
}

impl std::fmt::Display for InvalidRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x?}: {}", self.root, self.reason)
    }
}

impl std::error::Error for InvalidRoot {}
