//! What a hypervisor executes to invalidate TLBs, with the operands of the hardware.

/// One instruction, or (x86) one transition that invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instruction {
    /// Intel INVEPT.
    Invept {
        /// The type: 1 single-context, 2 all-context.
        kind: u64,
        /// The EPT pointer of the descriptor.
        eptp: u64,
    },
    /// Intel INVVPID.
    Invvpid {
        /// The type: 0 individual-address, 1 single-context, 2 all-context, 3 single-context-retaining-globals.
        kind: u64,
        /// The VPID of the descriptor.
        vpid: u16,
        /// The linear address of the descriptor.
        linear: u64,
    },
    /// Intel VM entry with what [`load_root`](crate::Machine::load_root) has set.
    VmEntry,
    /// Intel VM exit.
    VmExit,
    /// AMD VMRUN with what [`load_root`](crate::Machine::load_root) has set.
    Vmrun {
        /// TLB_CONTROL of the VMCB: 0 nothing, 1 all, 3 this ASID, 7 the non-global entries of this ASID.
        tlb_control: u8,
    },
    /// AMD INVLPGA.
    Invlpga {
        /// A guest *virtual* address.
        address: u64,
        /// The ASID.
        asid: u32,
    },
    /// AMD INVLPGB: every CPU; done after [`Tlbsync`](Self::Tlbsync) on the same CPU.
    Invlpgb {
        /// rAX: bit 0 address valid, 1 PCID valid, 2 ASID valid, 3 include global, 4 final translation only, 5 include nested
        /// translations; 63:12 the guest virtual address.
        rax: u64,
        /// EDX: 15:0 the ASID, 27:16 the PCID.
        edx: u32,
        /// ECX\[15:0\]: further pages.
        ecx: u32,
    },
    /// AMD TLBSYNC.
    Tlbsync,
    /// Arm TLBI.
    Tlbi {
        /// Which.
        operation: Tlbi,
        /// The IS form: all CPUs of the inner shareable domain. Without it, this CPU.
        broadcast: bool,
        /// Xt, 0 where the operation takes none.
        operand: u64,
    },
    /// Arm DSB.
    Dsb {
        /// The shareability domain.
        domain: Domain,
        /// The types of access that it waits for.
        access: BarrierAccess,
    },
    /// Arm ISB (or another context synchronization event).
    Isb,
    /// Arm DC: one line of 64 bytes to the point of coherency, by *host physical* address.
    Dc {
        /// Which.
        operation: Dc,
        /// An address in the line.
        hpa: u64,
    },
    /// RISC-V HFENCE.GVMA.
    HfenceGvma {
        /// rs1: the guest physical address shifted right by 2; `None` for x0.
        address: Option<u64>,
        /// rs2: the VMID; `None` for x0.
        vmid: Option<u64>,
    },
    /// RISC-V HFENCE.VVMA, for the VMID in hgatp.
    HfenceVvma {
        /// rs1: the guest virtual address; `None` for x0.
        address: Option<u64>,
        /// rs2: the ASID; `None` for x0.
        asid: Option<u64>,
    },
    /// RISC-V HINVAL.GVMA; ordered by the two SFENCEs around it.
    HinvalGvma {
        /// As in [`HfenceGvma`](Self::HfenceGvma).
        address: Option<u64>,
        /// As in [`HfenceGvma`](Self::HfenceGvma).
        vmid: Option<u64>,
    },
    /// RISC-V HINVAL.VVMA; ordered by the two SFENCEs around it.
    HinvalVvma {
        /// As in [`HfenceVvma`](Self::HfenceVvma).
        address: Option<u64>,
        /// As in [`HfenceVvma`](Self::HfenceVvma).
        asid: Option<u64>,
    },
    /// RISC-V SFENCE.W.INVAL: stores before it are seen by HINVALs after it.
    SfenceWInval,
    /// RISC-V SFENCE.INVAL.IR: HINVALs before it are done.
    SfenceInvalIr,
}

/// An Arm TLBI operation, without its shareability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tlbi {
    /// IPAS2E1: stage 2, one IPA, any level.
    Ipas2e1,
    /// IPAS2LE1: stage 2, one IPA, last level.
    Ipas2le1,
    /// RIPAS2E1: stage 2, a range of IPAs, any level.
    Ripas2e1,
    /// RIPAS2LE1: stage 2, a range of IPAs, last level.
    Ripas2le1,
    /// VMALLE1: stage 1 (so also what combines both) of the current VMID.
    Vmalle1,
    /// VMALLS12E1: both stages of the current VMID.
    Vmalls12e1,
    /// ALLE1: both stages of all VMIDs.
    Alle1,
    /// VAE1: stage 1, one virtual address and ASID of the current VMID.
    Vae1,
    /// VAAE1: stage 1, one virtual address of the current VMID, all ASIDs.
    Vaae1,
    /// ASIDE1: stage 1, one ASID of the current VMID.
    Aside1,
}

/// A shareability domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// This CPU.
    NonShareable,
    /// All CPUs of the machine.
    InnerShareable,
    /// Those and more.
    OuterShareable,
    /// Everything.
    FullSystem,
}

/// What an Arm barrier waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BarrierAccess {
    /// Loads and stores; only such a DSB waits for TLBIs.
    All,
    /// Stores.
    Stores,
    /// Loads.
    Loads,
}

/// An Arm data cache operation by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dc {
    /// CVAC: clean.
    Cvac,
    /// CIVAC: clean and invalidate.
    Civac,
    /// IVAC: invalidate, which loses what was not clean.
    Ivac,
}
