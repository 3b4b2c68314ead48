//! The same tables before this crate and before slat-model's CPUs, which read them with a decoder of their own.
//!
//! A case is a path of sound pointers down to one level, and an entry there that may be anything; the verdicts on all accesses to
//! an address below it have to be the same.

use crate::{
    Access, AccessKind, Cpu, Denial, Effect, Format, MemoryType, PhysicalMemory, Register, Tables, WalkEnd,
};
use proptest::prelude::*;
use slat_model::{
    Ept, Fault, FaultKind, Gstage, GuestSyndrome, Machine, Memory, Mmu, Npt, Policy, Ram, Stage1, Stage2,
    VirtualFault, X86Features,
};
use std::vec::Vec;

const BASE: u64 = 0x10_0000;
const FRAMES: u64 = 16;
/// Of the tables by level: the root takes up to 64 KiB, which only Arm uses beyond the fourth frame.
const ROOT: u64 = BASE;
/// A second level for x86-64: the first GiB is mapped to itself.
const IDENTITY: u64 = BASE + 0xe000;

/// One entry, where it stands, and the CPU that reads it.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) format: Format,
    /// Features of the CPU, bit by bit.
    pub(super) features: u64,
    /// At which level the entry is, as far as there are that many.
    pub(super) level: u8,
    /// What it is before bits are flipped.
    pub(super) shape: Shape,
    pub(super) noise: u64,
    pub(super) flips: Vec<u8>,
    pub(super) address: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Noise,
    Leaf,
    /// To one of the tables that are there.
    Pointer,
}

pub(super) fn case(format: Format) -> impl Strategy<Value = Case> {
    let shape = prop_oneof![1 => Just(Shape::Noise), 4 => Just(Shape::Leaf), 2 => Just(Shape::Pointer)];
    let flips = prop::collection::vec(0u8..64, 0..4);
    (any::<u64>(), 0u8..5, shape, any::<u64>(), flips, any::<u64>()).prop_map(
        move |(features, level, shape, noise, flips, address)| Case {
            format,
            features,
            level,
            shape,
            noise,
            flips,
            address,
        },
    )
}

/// What comes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passes {
        output: u64,
        /// Size and memory type, where the model tells of them.
        size: Option<u64>,
        memory: Option<Memory>,
    },
    Faults(FaultKind),
    /// RISC-V's single stage: which fault it is of those that an entry with its valid bit set can have, the model does not tell.
    Refuses,
}

/// The tables of a case, and who reads them.
pub(super) struct Setup {
    machine: Machine,
    stage1: Option<Stage1>,
    pub(super) tables: Tables,
    pub(super) level: u8,
    pub(super) entry: u64,
    address: u64,
}

impl Setup {
    fn is_riscv_single(&self) -> bool {
        matches!(self.stage1, Some(Stage1::Riscv { .. }))
    }

    /// The memory as this crate gets it: what the model takes for zero (of a guest's) is zero.
    pub(super) fn memory(&self) -> impl PhysicalMemory + use<'_> {
        View { ram: self.machine.ram(), stage1: self.stage1.as_ref() }
    }

    pub(super) fn accesses() -> impl Iterator<Item = Access> {
        [AccessKind::Read, AccessKind::Write, AccessKind::Execute]
            .into_iter()
            .flat_map(|kind| [false, true].map(|user| Access { kind, user }))
    }

    /// Ours.
    pub(super) fn ours(&self, memory: &impl PhysicalMemory, access: Access) -> Verdict {
        let walk = self.tables.walk(memory, self.address);
        let kind = match walk.end() {
            WalkEnd::Mapped(mapping) => match self.tables.check(mapping, access) {
                Ok(()) => {
                    let second = self.stage1.is_none();
                    return Verdict::Passes {
                        output: walk.output().unwrap(),
                        size: second.then_some(mapping.leaf.size),
                        memory: second.then_some(memory_of(mapping.leaf.memory, mapping.at.raw)),
                    };
                }
                Err(Denial::NotAccessed | Denial::NotDirty) => FaultKind::AccessFlag,
                Err(_) => FaultKind::Permission,
            },
            WalkEnd::Absent { .. } => FaultKind::NotPresent,
            WalkEnd::Malformed { problem, .. } => match problem.effect() {
                Effect::TranslationFault => FaultKind::NotPresent,
                Effect::AddressSizeFault => FaultKind::AddressSize,
                _ => FaultKind::Reserved,
            },
            WalkEnd::OutOfRange if self.stage1.is_some() => FaultKind::NotPresent,
            WalkEnd::OutOfRange => FaultKind::AddressRange,
            WalkEnd::Unreadable { .. } => FaultKind::Bus,
        };
        if self.is_riscv_single() && kind != FaultKind::NotPresent {
            return Verdict::Refuses;
        }
        Verdict::Faults(kind)
    }

    /// The model's.
    pub(super) fn theirs(&self, access: Access) -> Verdict {
        let access_of_model = of_model(access);
        let Some(stage1) = &self.stage1 else {
            let outcomes = self.machine.possible(0, self.address, access_of_model);
            assert_eq!(outcomes.len(), 1, "nothing is cached");
            return match outcomes[0].result {
                Ok(found) => {
                    Verdict::Passes { output: found.hpa, size: Some(found.size), memory: Some(found.memory) }
                }
                Err(fault) => Verdict::Faults(fault.kind),
            };
        };
        let results = self.machine.possible_virtual(0, self.address, access_of_model, stage1);
        assert_eq!(results.len(), 1, "nothing is cached");
        let passes = |output| Verdict::Passes { output, size: None, memory: None };
        match results[0] {
            Ok(found) => passes(found.hpa),
            // Beyond what the second level of the test maps.
            Err(VirtualFault::Second(fault)) if fault.access.walk => Verdict::Faults(FaultKind::Bus),
            Err(VirtualFault::Second(fault)) => passes(fault.gpa),
            Err(VirtualFault::Guest { present: false, .. }) => Verdict::Faults(FaultKind::NotPresent),
            Err(VirtualFault::Guest { syndrome: GuestSyndrome::X86 { error_code, .. }, .. }) => {
                let reserved = error_code & 8 != 0;
                Verdict::Faults(if reserved { FaultKind::Reserved } else { FaultKind::Permission })
            }
            Err(VirtualFault::Guest { .. }) => Verdict::Refuses,
        }
    }

    /// The fault of an access at the second level, by the model.
    pub(super) fn fault(&self, access: Access) -> Option<Fault> {
        let outcomes = self.machine.possible(0, self.address, of_model(access));
        outcomes.first().and_then(|outcome| outcome.result.err())
    }

    /// The first access on which the two do not agree, this crate reading `memory`.
    pub(super) fn disagreement(&self, memory: &impl PhysicalMemory) -> Option<(Access, Verdict, Verdict)> {
        Self::accesses().find_map(|access| {
            let (ours, theirs) = (self.ours(memory, access), self.theirs(access));
            (ours != theirs).then_some((access, ours, theirs))
        })
    }
}

fn of_model(access: Access) -> slat_model::Access {
    let kind = match access.kind {
        AccessKind::Read => slat_model::AccessKind::Read,
        AccessKind::Write => slat_model::AccessKind::Write,
        AccessKind::Execute => slat_model::AccessKind::Execute,
    };
    slat_model::Access { user: access.user, ..slat_model::Access::new(kind) }
}

/// The fields of a leaf that hold its memory type, if what was made of them fits.
fn memory_of(memory: MemoryType, raw: u64) -> Memory {
    let field = |high: u32, low: u32| (raw >> low & ((1 << (high - low + 1)) - 1)) as u8;
    match memory {
        MemoryType::Ept { kind, ignore_pat } => {
            let memory_type = (0..8).find(|&n| crate::X86MemoryType::from_number(n) == kind).unwrap();
            Memory::Ept { memory_type, ignore_pat }
        }
        MemoryType::Pat { index, .. } => Memory::Npt { pat_index: index },
        MemoryType::Stage2 { .. } => Memory::Stage2 { attributes: field(5, 2), shareability: field(9, 8) },
        MemoryType::Pbmt(pbmt) => Memory::Gstage { pbmt: pbmt as u8 },
    }
}

struct View<'a> {
    ram: &'a Ram,
    stage1: Option<&'a Stage1>,
}

impl PhysicalMemory for View<'_> {
    fn read(&self, address: u64) -> Option<u64> {
        self.ram.read(address).or(match self.stage1 {
            None => None,
            Some(Stage1::X86 { .. }) => (address < 1 << 30).then_some(0),
            Some(_) => Some(0),
        })
    }
}

fn pointer(format: Format, table: u64) -> u64 {
    match format {
        Format::Ept => table | 7,
        Format::Npt | Format::X86_64 => table | 0x27,
        Format::Stage2 => table | 3,
        _ => table >> 2 | 1,
    }
}

fn leaf(format: Format, level: u8, address: u64) -> u64 {
    // As narrow as any CPU's physical addresses; what is wider comes by flips. At the highest levels nothing is left of it.
    let page = address & 0xffff_ffff & (u64::MAX << (12 + 9 * u32::from(level)));
    match format {
        Format::Ept => page | 0x37 | if level > 0 { 0x80 } else { 0 },
        Format::Npt | Format::X86_64 => page | 0x67 | if level > 0 { 0x80 } else { 0 },
        // The bits below the page choose S2AP[1] and DBM.
        Format::Stage2 => {
            let rights = (address & 1) << 7 | (address >> 1 & 1) << 51;
            page | 0x77c | rights | if level > 0 { 1 } else { 3 }
        }
        _ => page >> 2 | 0xdf,
    }
}

impl Case {
    /// Both readers, and the tables in memory.
    pub(super) fn setup(&self) -> Setup {
        let has = |n: u32| self.features >> n & 1 != 0;
        let width = 32 + (self.features >> 32) as u32 % 21;
        let mut cpu = Cpu::permissive(self.format);
        let mut stage1 = None;
        let riscv_root = |mode: u64| mode << 60 | ROOT >> 12;
        let sv = |first: Format| 8 + self.format as u64 - first as u64;
        let (mmu, root, register) = match self.format {
            Format::Ept => {
                let capabilities = 0x0f01_0633_41c1
                    & !u64::from(has(0))
                    & !(u64::from(has(1)) << 16)
                    & !(u64::from(has(2)) << 17);
                let mode_based_execute = has(3);
                cpu.physical_bits = width;
                cpu.execute_only = !has(0);
                (cpu.page_2m, cpu.page_1g) = (!has(1), !has(2));
                cpu.mode_based_execute = mode_based_execute;
                let eptp = ROOT | if has(4) { 0x26 } else { 0x1e } | if has(5) { 0x40 } else { 0 };
                let mmu = Mmu::Ept(Ept {
                    max_phys_addr: width,
                    capabilities: capabilities | 0x80,
                    mode_based_execute,
                });
                (mmu, slat_model::Root::Ept { eptp, vpid: 1 }, Register::Eptp(eptp))
            }
            Format::Npt => {
                cpu.physical_bits = width;
                cpu.no_execute = !has(0);
                cpu.page_1g = !has(1);
                cpu.guest_mode_execute_trap = has(2);
                let mmu = Mmu::Npt(Npt {
                    max_phys_addr: width,
                    host_la57: has(3),
                    host_nxe: !has(0),
                    gmet: has(2),
                    page_1g: !has(1),
                    flush_by_asid: true,
                });
                let register = Register::Ncr3 { ncr3: ROOT, la57: has(3) };
                (mmu, slat_model::Root::Npt { ncr3: ROOT, asid: 1 }, register)
            }
            Format::Stage2 => self.stage2(&mut cpu),
            Format::Sv39x4 | Format::Sv48x4 | Format::Sv57x4 => {
                let hart = Gstage {
                    adue: has(0),
                    pbmte: has(1),
                    svnapot: has(2),
                    svrsw60t59b: has(3),
                    mxr: has(4),
                    ..Gstage::default()
                };
                (cpu.sets_accessed, cpu.sets_dirty) = (has(0), has(0));
                (cpu.svpbmt, cpu.svnapot, cpu.svrsw60t59b) = (has(1), has(2), has(3));
                cpu.make_executable_readable = has(4);
                let hgatp = riscv_root(sv(Format::Sv39x4));
                (Mmu::Gstage(hart), slat_model::Root::Gstage { hgatp }, Register::Hgatp(hgatp))
            }
            Format::Sv39 | Format::Sv48 | Format::Sv57 => {
                let vsatp = riscv_root(sv(Format::Sv39));
                (cpu.sets_accessed, cpu.sets_dirty) = (has(0), has(0));
                (cpu.svpbmt, cpu.svnapot, cpu.svrsw60t59b) = (has(1), has(2), false);
                cpu.make_executable_readable = has(4);
                stage1 = Some(Stage1::Riscv {
                    vsatp,
                    sum: true,
                    mxr: has(4),
                    adue: has(0),
                    pbmte: has(1),
                    svnapot: has(2),
                });
                let root = slat_model::Root::Gstage { hgatp: 0 };
                (Mmu::Gstage(Gstage::default()), root, Register::Satp(vsatp))
            }
            Format::X86_64 => {
                cpu.physical_bits = width;
                cpu.no_execute = !has(0);
                cpu.page_1g = !has(1);
                let la57 = has(2);
                stage1 = Some(Stage1::X86 {
                    cr0: 1 << 31 | 1 << 16,
                    cr3: ROOT,
                    cr4: 1 << 5 | u64::from(la57) << 12,
                    efer: 1 << 10 | u64::from(!has(0)) << 11,
                    ac: false,
                    pdptes: None,
                    features: X86Features { physical_bits: width, page_1g: !has(1), pse36: true },
                });
                let root = slat_model::Root::Ept { eptp: IDENTITY | 0x1e, vpid: 1 };
                (Mmu::Ept(Ept::default()), root, Register::Cr3 { cr3: ROOT, la57 })
            }
        };
        let sets = (cpu.sets_accessed, cpu.sets_dirty);
        register.apply_to(&mut cpu);
        if self.format == Format::Stage2 {
            // What the CPU does not have, the register cannot switch on.
            cpu.sets_accessed &= sets.0;
            cpu.sets_dirty &= sets.1;
        }
        let tables = Tables::new(register.root().unwrap(), cpu);
        let ram = Ram::new(BASE, FRAMES << 12);
        let mut machine = Machine::new(mmu, ram.clone(), 1, Policy::Everything);
        machine.load_root(0, root).unwrap();
        self.fill(&ram, machine, stage1, tables)
    }

    fn stage2(&self, cpu: &mut Cpu) -> (Mmu, slat_model::Root, Register) {
        let has = |n: u32| self.features >> n & 1 != 0;
        let physical_bits = [36, 40, 42, 44, 48][(self.features >> 32) as usize % 5];
        let hafdbs = (self.features >> 40) as u8 % 3;
        let (level, bits, sl0) = [
            (2, 36, 1),
            (1, 34, 0),
            (1, 28, 0),
            (2, 31.max(physical_bits.min(43)), 1),
            (3, physical_bits.min(48), 2),
            (0, 17, 3),
        ][(self.features >> 44) as usize % 6];
        let (level, bits, sl0) =
            if level == 3 && physical_bits < 44 { (1, 30, 0) } else { (level, bits, sl0) };
        let _ = level;
        let ps = (self.features >> 48) % 6;
        let vtcr = 1 << 31
            | u64::from(has(0)) << 21
            | u64::from(has(1)) << 22
            | ps << 16
            | sl0 << 6
            | u64::from(64 - bits);
        cpu.physical_bits = physical_bits;
        (cpu.force_write_back, cpu.execute_never_per_level, cpu.block_nt) = (has(2), has(3), has(4));
        (cpu.sets_accessed, cpu.sets_dirty) = (hafdbs >= 1, hafdbs >= 2);
        let mmu = Mmu::Stage2(Stage2 {
            physical_bits,
            fwb: has(2),
            xnx: has(3),
            ttl: true,
            ttst: true,
            hafdbs,
            bbm: u8::from(has(4)),
            vmid16: true,
        });
        let vttbr = ROOT | 1 << 48;
        (mmu, slat_model::Root::Stage2 { vtcr, vttbr }, Register::Stage2 { vttbr, vtcr })
    }

    fn fill(&self, ram: &Ram, machine: Machine, stage1: Option<Stage1>, tables: Tables) -> Setup {
        let root = *tables.root();
        // Mostly an address that is translated; one in sixteen cases any.
        let mask = u64::MAX >> (64 - root.input_bits());
        let offset = self.address & mask;
        let address = if self.features >> 60 == 0 { self.address } else { root.address(offset) };
        let level = self.level.min(root.level());
        let mut table = root.table();
        for above in (level + 1..=root.level()).rev() {
            // Behind the largest root that is used here.
            let next = BASE + 0x8000 + 0x1000 * u64::from(above);
            ram.write(entry_address(&tables, table, above, offset), pointer(self.format, next));
            table = next;
        }
        let mut entry = match self.shape {
            Shape::Noise => self.noise,
            Shape::Leaf => leaf(self.format, level, self.noise),
            Shape::Pointer => {
                let next = BASE + 0xc000;
                // A page below, so that what the pointer says is seen in what comes of it.
                if level > 0 {
                    let page = leaf(self.format, level - 1, self.noise >> 8);
                    ram.write(entry_address(&tables, next, level - 1, offset), page);
                }
                pointer(self.format, next)
            }
        };
        for flip in &self.flips {
            entry ^= 1 << flip;
        }
        ram.write(entry_address(&tables, table, level, offset), entry);
        ram.write(IDENTITY, (IDENTITY + 0x1000) | 7);
        ram.write(IDENTITY + 0x1000, 0xb7);
        Setup { machine, stage1, tables, level, entry, address }
    }
}

fn entry_address(tables: &Tables, table: u64, level: u8, offset: u64) -> u64 {
    let index = offset >> (12 + 9 * u32::from(level));
    table + 8 * if level == tables.root().level() { index } else { index & 0x1ff }
}
