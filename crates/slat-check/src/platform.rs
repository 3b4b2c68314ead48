//! The four formats as the driver sees them: the CPU that the model plays, its root register, and the invalidation
//! that a correct hypervisor executes for each request of slat.

use crate::specification::{Architecture, Rules};
use slat::format::Format;
use slat::format::ept::{self, Ept};
use slat::format::gstage::{self, Extensions, Gstage, Modes};
use slat::format::npt::{self, Npt};
use slat::format::stage2::{self, Stage2};
use slat::{
    FaultCause, GuestPhysAddr, Invalidation, LeafSize, MappingFlags, MemoryType, NestedPageFaultInfo, Scope,
};
use slat_model::{BarrierAccess, Domain, Instruction, Memory, Mmu, Permissions, Root, Syndrome, Tlbi};

/// A format together with the CPU for which it is meant.
pub trait Platform: Format {
    /// The CPU.
    fn mmu(&self) -> Mmu;

    /// What is loaded into the CPU for a space with this root register and tag.
    fn root(&self, register: u64, tag: u16) -> Root;

    /// What can be expressed, by the manual.
    fn rules(&self) -> Rules;

    /// What each CPU executes for an invalidation, in this order; `root` is loaded into the CPU meanwhile.
    fn maintenance(&self, invalidation: &Invalidation<'_>) -> Vec<Instruction>;

    /// What another CPU executes when it is asked for the same from afar.
    fn remote_maintenance(&self, invalidation: &Invalidation<'_>) -> Vec<Instruction> {
        self.maintenance(invalidation)
    }

    /// What slat makes of the registers that a fault leaves behind, in a guest whose own translation is off: `gva` is the
    /// address of the access, also where its walk has faulted. `None` for what is no fault of the guest's.
    fn decode_fault(&self, syndrome: &Syndrome, gva: u64) -> Option<NestedPageFaultInfo>;

    /// Whether the instructions of one CPU reach all CPUs.
    fn broadcasts(&self) -> bool {
        false
    }

    /// What orders the stores to the table before the guest's next access.
    fn publication(&self) -> &'static [Instruction] {
        &[]
    }
}

/// The address that an entry holds, if it could be a pointer or a leaf at all, read generously.
#[must_use]
pub fn address_in(architecture: Architecture, entry: u64) -> Option<u64> {
    match architecture {
        Architecture::Ept => (entry & 0x407 != 0).then_some(entry & 0x000f_ffff_ffff_f000),
        Architecture::Npt => (entry & 1 != 0).then_some(entry & 0x000f_ffff_ffff_f000),
        Architecture::Stage2 => (entry & 1 != 0).then_some(entry & 0x0000_ffff_ffff_f000),
        Architecture::Gstage => (entry & 1 != 0).then_some((entry >> 10 & 0xfff_ffff_ffff) << 12),
    }
}

/// What the hardware lets pass through a page with these flags, by the manual.
#[must_use]
pub fn permissions(rules: &Rules, flags: MappingFlags) -> Permissions {
    let execute = flags.contains(MappingFlags::EXECUTE);
    Permissions {
        read: flags.contains(MappingFlags::READ),
        write: flags.contains(MappingFlags::WRITE),
        execute,
        execute_user: if rules.user_execute { flags.contains(MappingFlags::USER) } else { execute },
    }
}

/// How the hardware treats the memory of a page with these flags, by the manual.
#[must_use]
pub fn memory(rules: &Rules, flags: MappingFlags) -> Memory {
    use MemoryType::{Device, NonCacheable, StronglyOrdered, WriteBack};
    let memory_type = flags.memory_type();
    match rules.architecture {
        Architecture::Ept => {
            let (memory_type, ignore_pat) = match memory_type {
                WriteBack => (6, false),
                NonCacheable => (1, false),
                Device => (0, false),
                StronglyOrdered => (0, true),
            };
            Memory::Ept { memory_type, ignore_pat }
        }
        Architecture::Npt => Memory::Npt {
            pat_index: match memory_type {
                WriteBack => 0,
                NonCacheable | Device => 2,
                StronglyOrdered => 3,
            },
        },
        Architecture::Stage2 => Memory::Stage2 {
            attributes: match memory_type {
                WriteBack if rules.force_write_back => 0b0110,
                WriteBack => 0b1111,
                NonCacheable => 0b0101,
                Device => 0b0001,
                StronglyOrdered => 0b0000,
            },
            shareability: 3,
        },
        Architecture::Gstage => Memory::Gstage {
            pbmt: match memory_type {
                _ if !rules.memory_types => 0,
                WriteBack => 0,
                NonCacheable => 1,
                Device | StronglyOrdered => 2,
            },
        },
    }
}

impl Platform for Ept {
    fn mmu(&self) -> Mmu {
        let capabilities = self.capabilities();
        Mmu::Ept(slat_model::Ept {
            max_phys_addr: capabilities.physical_bits,
            capabilities: capabilities.ept_vpid_cap,
            mode_based_execute: capabilities.mode_based_execute,
        })
    }

    fn root(&self, register: u64, tag: u16) -> Root {
        Root::Ept { eptp: register, vpid: tag }
    }

    fn rules(&self) -> Rules {
        let capabilities = self.capabilities();
        let has = |bit: u32| capabilities.ept_vpid_cap >> bit & 1 == 1;
        Rules {
            architecture: Architecture::Ept,
            user_execute: capabilities.mode_based_execute,
            execute_only: has(0),
            memory_types: true,
            marks: capabilities.accessed_dirty,
            marks_by_fault: false,
            fences_new_entries: false,
            force_write_back: false,
            largest: match (has(16), has(17)) {
                (_, true) => LeafSize::Size1G,
                (true, false) => LeafSize::Size2M,
                (false, false) => LeafSize::Size4K,
            },
        }
    }

    fn maintenance(&self, invalidation: &Invalidation<'_>) -> Vec<Instruction> {
        let kind = if invalidation.scope == Scope::AllSpaces { 2 } else { 1 };
        vec![Instruction::Invept { kind, eptp: invalidation.root }]
    }

    fn decode_fault(&self, syndrome: &Syndrome, gva: u64) -> Option<NestedPageFaultInfo> {
        match *syndrome {
            Syndrome::Ept { reason: 48, qualification, gpa } => {
                Some(Ept::decode_fault(self, &ept::Violation { qualification, gpa, linear: gva }))
            }
            _ => None,
        }
    }
}

impl Platform for Npt {
    fn mmu(&self) -> Mmu {
        let capabilities = self.capabilities();
        Mmu::Npt(slat_model::Npt {
            max_phys_addr: capabilities.physical_bits,
            host_la57: self.geometry().levels == 5,
            host_nxe: capabilities.no_execute,
            gmet: false,
            page_1g: capabilities.leaf_1g,
            flush_by_asid: true,
        })
    }

    fn root(&self, register: u64, tag: u16) -> Root {
        Root::Npt { ncr3: register, asid: tag.into() }
    }

    fn rules(&self) -> Rules {
        Rules {
            architecture: Architecture::Npt,
            user_execute: false,
            execute_only: false,
            memory_types: true,
            marks: self.capabilities().accessed_dirty,
            marks_by_fault: false,
            fences_new_entries: false,
            force_write_back: false,
            largest: if self.capabilities().leaf_1g { LeafSize::Size1G } else { LeafSize::Size2M },
        }
    }

    fn maintenance(&self, invalidation: &Invalidation<'_>) -> Vec<Instruction> {
        let tlb_control = if invalidation.scope == Scope::AllSpaces { 1 } else { 3 };
        vec![Instruction::Vmrun { tlb_control }]
    }

    fn decode_fault(&self, syndrome: &Syndrome, _gva: u64) -> Option<NestedPageFaultInfo> {
        match *syndrome {
            Syndrome::Npt { exitinfo1, exitinfo2 } => npt::decode_fault(exitinfo1, exitinfo2).ok(),
            _ => None,
        }
    }
}

impl Platform for Stage2 {
    fn mmu(&self) -> Mmu {
        let features = self.features();
        Mmu::Stage2(slat_model::Stage2 {
            physical_bits: features.pa_bits,
            fwb: features.fwb,
            xnx: features.xnx,
            ttl: true,
            ttst: true,
            hafdbs: 2,
            bbm: 0,
            vmid16: features.vmid_bits == 16,
        })
    }

    fn root(&self, register: u64, _tag: u16) -> Root {
        Root::Stage2 { vtcr: self.vtcr_el2(), vttbr: register }
    }

    fn rules(&self) -> Rules {
        Rules {
            architecture: Architecture::Stage2,
            user_execute: self.features().xnx,
            execute_only: false,
            memory_types: true,
            marks: false,
            marks_by_fault: false,
            fences_new_entries: false,
            force_write_back: self.features().fwb,
            largest: if self.geometry().levels >= 3 { LeafSize::Size1G } else { LeafSize::Size2M },
        }
    }

    fn maintenance(&self, invalidation: &Invalidation<'_>) -> Vec<Instruction> {
        stage2::instructions(invalidation).map(arm_instruction).collect()
    }

    fn decode_fault(&self, syndrome: &Syndrome, gva: u64) -> Option<NestedPageFaultInfo> {
        let Syndrome::Stage2 { esr, hpfar } = *syndrome else { return None };
        // What is UNKNOWN may be anything. EL1h.
        let hpfar = hpfar.unwrap_or(u64::MAX);
        let syndrome = stage2::Syndrome { esr, far: gva, hpfar, spsr: 0b0101 };
        let fault = stage2::decode_fault(&syndrome).ok()?;
        // Where stage 1 is off, AT S1E1R gives the address back.
        fault.info().or_else(|| fault.with_par(gva & !0xfff))
    }

    fn broadcasts(&self) -> bool {
        true
    }

    fn publication(&self) -> &'static [Instruction] {
        const STORES: Instruction =
            Instruction::Dsb { domain: Domain::InnerShareable, access: BarrierAccess::Stores };
        &[STORES, Instruction::Isb]
    }
}

/// The model's word for an instruction of slat's.
#[must_use]
pub fn arm_instruction(instruction: stage2::Instruction) -> Instruction {
    use stage2::Instruction as I;
    let tlbi = |operation, broadcast, operand: u64| Instruction::Tlbi { operation, broadcast, operand };
    let dsb = |domain, access| Instruction::Dsb { domain, access };
    match instruction {
        I::DsbIshst => dsb(Domain::InnerShareable, BarrierAccess::Stores),
        I::DsbIsh => dsb(Domain::InnerShareable, BarrierAccess::All),
        I::DsbNshst => dsb(Domain::NonShareable, BarrierAccess::Stores),
        I::DsbNsh => dsb(Domain::NonShareable, BarrierAccess::All),
        I::Isb => Instruction::Isb,
        I::Ipas2e1is(operand) => tlbi(Tlbi::Ipas2e1, true, operand),
        I::Ipas2e1(operand) => tlbi(Tlbi::Ipas2e1, false, operand),
        I::Ripas2e1is(operand) => tlbi(Tlbi::Ripas2e1, true, operand),
        I::Ripas2e1(operand) => tlbi(Tlbi::Ripas2e1, false, operand),
        I::Vmalle1is => tlbi(Tlbi::Vmalle1, true, 0),
        I::Vmalle1 => tlbi(Tlbi::Vmalle1, false, 0),
        I::Vmalls12e1is => tlbi(Tlbi::Vmalls12e1, true, 0),
        I::Vmalls12e1 => tlbi(Tlbi::Vmalls12e1, false, 0),
        I::Alle1is => tlbi(Tlbi::Alle1, true, 0),
        I::Alle1 => tlbi(Tlbi::Alle1, false, 0),
    }
}

/// The model's word for an instruction of slat's.
#[must_use]
pub fn riscv_instruction(instruction: gstage::Instruction) -> Instruction {
    use gstage::Instruction as I;
    let operands = |fence: gstage::Fence| (fence.address, fence.vmid.map(u64::from));
    match instruction {
        I::HfenceGvma(fence) => {
            let (address, vmid) = operands(fence);
            Instruction::HfenceGvma { address, vmid }
        }
        I::HinvalGvma(fence) => {
            let (address, vmid) = operands(fence);
            Instruction::HinvalGvma { address, vmid }
        }
        I::SfenceWInval => Instruction::SfenceWInval,
        I::SfenceInvalIr => Instruction::SfenceInvalIr,
    }
}

/// What an SBI implementation does on each hart of the call's mask, by "RFENCE Extension": all addresses for (0, 0), else
/// page by page, or all of them where it finds that there are too many.
fn sbi_fences(call: &gstage::RemoteFence) -> Vec<Instruction> {
    const MOST: u64 = 64;
    let arguments = call.arguments(gstage::HartMask::ALL);
    let [_, _, start, size, vmid] = arguments;
    let vmid = (call.function() == 3).then_some(vmid);
    let fence = |address| Instruction::HfenceGvma { address, vmid };
    if (start, size) == (0, 0) || size == u64::MAX || size > MOST << 12 {
        return vec![fence(None)];
    }
    (start..start + size).step_by(1 << 12).map(|gpa| fence(Some(gpa >> 2))).collect()
}

/// Bit n: the hart has MODE n.
fn gstage_modes(modes: Modes) -> u16 {
    let numbers = [(Modes::SV39X4, 8), (Modes::SV48X4, 9), (Modes::SV57X4, 10)];
    numbers.into_iter().filter(|(mode, _)| modes.contains(*mode)).map(|(_, number)| 1 << number).sum()
}

impl Platform for Gstage {
    fn mmu(&self) -> Mmu {
        Mmu::Gstage(slat_model::Gstage {
            modes: gstage_modes(self.capabilities().modes),
            vmid_bits: self.tag_bits(),
            adue: self.capabilities().has(Extensions::SVADU),
            pbmte: self.capabilities().has(Extensions::SVPBMT),
            svnapot: self.capabilities().has(Extensions::SVNAPOT),
            svvptc: self.capabilities().has(Extensions::SVVPTC),
            // The least that the manual promises.
            address_fence_skips_invalid: true,
            ..slat_model::Gstage::default()
        })
    }

    fn root(&self, register: u64, _tag: u16) -> Root {
        Root::Gstage { hgatp: register }
    }

    fn rules(&self) -> Rules {
        Rules {
            architecture: Architecture::Gstage,
            user_execute: false,
            execute_only: true,
            memory_types: self.capabilities().has(Extensions::SVPBMT),
            marks: self.capabilities().accessed_dirty,
            marks_by_fault: self.capabilities().accessed_dirty && !self.capabilities().has(Extensions::SVADU),
            fences_new_entries: self.capabilities().fence_new_entries
                && !self.capabilities().has(Extensions::SVVPTC),
            force_write_back: false,
            largest: LeafSize::Size1G,
        }
    }

    fn maintenance(&self, invalidation: &Invalidation<'_>) -> Vec<Instruction> {
        gstage::instructions(invalidation).map(riscv_instruction).collect()
    }

    fn remote_maintenance(&self, invalidation: &Invalidation<'_>) -> Vec<Instruction> {
        gstage::remote_fences(invalidation).flat_map(|call| sbi_fences(&call)).collect()
    }

    fn decode_fault(&self, syndrome: &Syndrome, gva: u64) -> Option<NestedPageFaultInfo> {
        match *syndrome {
            Syndrome::Gstage { scause, htval, htinst } => {
                let trap = gstage::Trap { scause, stval: gva, htval, htinst };
                // An address of 0 may be none at all: where the guest's own translation is off, it is that of the access.
                let fault = gstage::decode_fault(&trap).ok()?;
                fault.info().or_else(|| {
                    let (gpa, gva) = (GuestPhysAddr::new(gva), Some(fault.gva));
                    let cause = FaultCause::NotPresent;
                    let (access, width) = (fault.access, fault.width);
                    Some(NestedPageFaultInfo { gpa, gva, access, cause, walk: false, width })
                })
            }
            _ => None,
        }
    }
}
