//! What a CPU offers of SVM, from CPUID and two registers: looked at before anything is turned on.

#![expect(unsafe_code, reason = "reads model-specific registers")]

use crate::cpuid;
use crate::isa::common as isa;
use slat::format::npt;
use thiserror::Error;

/// VM_CR: SVM cannot be turned on while SVMDIS is set (APM vol. 2, "Enabling SVM").
pub(super) const VM_CR: u32 = 0xc001_0114;
pub(super) const EFER: u32 = 0xc000_0080;
const VM_CR_LOCK: u64 = 1 << 3;
pub(super) const VM_CR_SVMDIS: u64 = 1 << 4;
const EFER_NXE: u64 = 1 << 11;
const CR4_LA57: u64 = 1 << 12;

const fn has(word: u32, bit: u32) -> bool {
    word >> bit & 1 != 0
}

/// What CPUID and the registers say, as they say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// CPUID 1, EAX to EDX.
    pub leaf_1: [u32; 4],
    /// CPUID 7, subleaf 0.
    pub leaf_7: [u32; 4],
    /// CPUID DH, subleaf 0.
    pub leaf_d: [u32; 4],
    /// CPUID 8000_0001H.
    pub extended_1: [u32; 4],
    /// CPUID 8000_0008H.
    pub extended_8: [u32; 4],
    /// CPUID 8000_000AH.
    pub svm: [u32; 4],
    /// VM_CR (C001_0114H), 0 where there is no SVM.
    pub vm_cr: u64,
    /// The host's EFER.
    pub efer: u64,
    /// The host's CR4.
    pub cr4: u64,
}

impl Facts {
    /// Asks the CPU on which this runs, at privilege level 0.
    #[must_use]
    pub fn read() -> Self {
        let basic = isa::cpuid(0, 0)[0];
        let extended = isa::cpuid(0x8000_0000, 0)[0];
        let leaf = |leaf: u32| {
            let last = if leaf < 0x8000_0000 { basic } else { extended };
            if leaf <= last { isa::cpuid(leaf, 0) } else { [0; 4] }
        };
        let extended_1 = leaf(0x8000_0001);
        let svm = has(extended_1[2], 2);
        Self {
            leaf_1: leaf(1),
            leaf_7: leaf(7),
            leaf_d: leaf(0xd),
            extended_1,
            extended_8: leaf(0x8000_0008),
            svm: if svm { leaf(0x8000_000a) } else { [0; 4] },
            // SAFETY: a CPU with SVM has it.
            vm_cr: if svm { unsafe { isa::rdmsr(VM_CR) } } else { 0 },
            // SAFETY: a CPU with long mode has it.
            efer: if has(extended_1[3], 29) { unsafe { isa::rdmsr(EFER) } } else { 0 },
            cr4: isa::read_cr4(),
        }
    }
}

/// Why SVM cannot be used on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unsupported {
    /// CPUID 8000_0001H, ECX bit 2.
    #[error("the CPU has no SVM (CPUID 8000_0001H, ECX bit 2)")]
    NoSvm,
    /// VM_CR.SVMDIS and VM_CR.LOCK are set: the firmware has turned SVM off.
    #[error("the firmware has turned SVM off and locked it (VM_CR {0:#x})")]
    Disabled(u64),
    /// CPUID 8000_000AH, EDX bit 0.
    #[error("the CPU has no nested paging (CPUID 8000_000AH, EDX bit 0)")]
    NoNestedPaging,
    /// ASID 0 is the host's, so a guest needs another one.
    #[error("the CPU has {0} address-space identifiers, and a guest needs one beside the host's")]
    Asids(u32),
    /// Not 32 to 52.
    #[error("a physical address width of {0} bits is outside of 32..=52")]
    PhysicalBits(u32),
}

/// What a CPU offers of SVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Number of ASIDs, the host's 0 included: at least 2.
    pub asids: u32,
    /// The CPU saves the address of the next instruction. Where it does not, instructions are decoded (see
    /// [`needs_instruction`](crate::Vcpu::needs_instruction)).
    pub next_rip: bool,
    /// TLB_CONTROL can drop a single ASID. Where it cannot, a guest gets a fresh ASID instead.
    pub flush_by_asid: bool,
    /// The CPU keeps the bytes of an instruction whose data access faulted, and names the register of a MOV to or from CR.
    pub decode_assists: bool,
    /// The CPU keeps parts of a VMCB from one entry to the next, and clean bits say which are still right.
    pub vmcb_clean: bool,
    /// VM_CR.SVMDIS is set, and not locked: it is to be cleared first.
    pub to_be_unlocked: bool,
    /// MAXPHYADDR: 32 to 52.
    pub physical_bits: u8,
    /// 1 GiB leaves, of nested tables and of a guest's own.
    pub leaf_1g: bool,
    /// The host's EFER.NXE is set: nested leaves can refuse fetches.
    pub no_execute: bool,
    /// Levels of nested tables: as many as the host's own, 4 or 5.
    pub levels: u8,
    /// PSE-36.
    pub pse36: bool,
    /// The components of XCR0 that a guest may have; 0 if the CPU has no XSAVE.
    pub components: u64,
    /// Bytes of an XSAVE area with all components of the CPU.
    pub xsave_bytes: u32,
    /// RDTSCP, and with it TSC_AUX.
    pub rdtscp: bool,
    /// The bits that a guest's CR4 may have.
    pub cr4: u64,
    /// The bits that a guest's EFER may have.
    pub efer: u64,
}

impl Capabilities {
    /// What the CPU offers on which this runs.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn read() -> Result<Self, Unsupported> {
        Self::from_facts(&Facts::read())
    }

    /// What a CPU offers that says so (APM vol. 3, appendix E; vol. 2, "Enabling SVM").
    ///
    /// # Errors
    /// [`Unsupported`].
    pub const fn from_facts(facts: &Facts) -> Result<Self, Unsupported> {
        let [_, _, extended_ecx, extended_edx] = facts.extended_1;
        let [_, asids, _, svm] = facts.svm;
        if !has(extended_ecx, 2) {
            return Err(Unsupported::NoSvm);
        }
        if facts.vm_cr & VM_CR_SVMDIS != 0 && facts.vm_cr & VM_CR_LOCK != 0 {
            return Err(Unsupported::Disabled(facts.vm_cr));
        }
        if !has(svm, 0) {
            return Err(Unsupported::NoNestedPaging);
        }
        if asids < 2 {
            return Err(Unsupported::Asids(asids));
        }
        // Without the leaf, 36 bits (APM vol. 3, "CPUID Fn8000_0008").
        let physical_bits = match facts.extended_8[0] & 0xff {
            0 => 36,
            bits => bits,
        };
        if physical_bits < 32 || physical_bits > 52 {
            return Err(Unsupported::PhysicalBits(physical_bits));
        }
        let xsave = has(facts.leaf_1[2], 26);
        let [components, _, xsave_bytes, components_high] = facts.leaf_d;
        let components = (components_high as u64) << 32 | components as u64;
        Ok(Self {
            asids,
            next_rip: has(svm, 3),
            vmcb_clean: has(svm, 5),
            flush_by_asid: has(svm, 6),
            decode_assists: has(svm, 7),
            to_be_unlocked: facts.vm_cr & VM_CR_SVMDIS != 0,
            physical_bits: physical_bits as u8,
            leaf_1g: has(extended_edx, 26),
            no_execute: facts.efer & EFER_NXE != 0,
            levels: if facts.cr4 & CR4_LA57 != 0 { 5 } else { 4 },
            pse36: has(facts.leaf_1[3], 17),
            components: if xsave { components & cpuid::XCR0 } else { 0 },
            xsave_bytes,
            rdtscp: has(extended_edx, 27),
            cr4: guest_cr4(facts, xsave),
            efer: guest_efer(facts),
        })
    }

    /// What slat's [`Npt`](npt::Npt) has to know. With `accessed_dirty` the CPU tells which pages a guest has used and written,
    /// as every CPU with nested paging can.
    #[must_use]
    pub const fn npt(&self, accessed_dirty: bool) -> npt::Capabilities {
        npt::Capabilities {
            physical_bits: self.physical_bits as u32,
            leaf_1g: self.leaf_1g,
            no_execute: self.no_execute,
            asids: self.asids,
            accessed_dirty,
        }
    }
}

/// The bits of CR4 whose features the CPU has, without those that are kept from guests (protection keys, shadow stacks).
const fn guest_cr4(facts: &Facts, xsave: bool) -> u64 {
    let [_, _, ecx, edx] = facts.leaf_1;
    let [_, ebx7, ecx7, _] = facts.leaf_7;
    // TSD, PGE, PCE; OSFXSR and OSXMMEXCPT come with SSE.
    let mut bits = 1 << 2 | 1 << 8;
    // A feature's word and bit in CPUID, and its bit in CR4.
    let features = [
        (edx, 1, 0),    // VME
        (edx, 1, 1),    // PVI
        (edx, 2, 3),    // DE
        (edx, 3, 4),    // PSE
        (edx, 6, 5),    // PAE
        (edx, 7, 6),    // MCE
        (edx, 13, 7),   // PGE
        (edx, 24, 9),   // OSFXSR
        (edx, 25, 10),  // OSXMMEXCPT
        (ecx7, 2, 11),  // UMIP
        (ecx7, 16, 12), // LA57
        (ebx7, 0, 16),  // FSGSBASE
        (ecx, 17, 17),  // PCIDE
        (ebx7, 7, 20),  // SMEP
        (ebx7, 20, 21), // SMAP
    ];
    let mut index = 0;
    while index < features.len() {
        let (word, feature, bit) = features[index];
        if has(word, feature) {
            bits |= 1 << bit;
        }
        index += 1;
    }
    // OSXSAVE.
    if xsave { bits | 1 << 18 } else { bits }
}

/// SCE and LME exist in every CPU with SVM; NXE, FFXSR and the translation cache extension have their own bits.
const fn guest_efer(facts: &Facts) -> u64 {
    let [_, _, ecx, edx] = facts.extended_1;
    let mut bits = 1 << 0 | 1 << 8 | 1 << 10;
    if has(edx, 20) {
        bits |= EFER_NXE;
    }
    if has(edx, 25) {
        bits |= 1 << 14;
    }
    if has(ecx, 17) {
        bits |= 1 << 15;
    }
    bits
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests;
