//! Arm stage 2, 4 KiB granule: Arm ARM chapter D8, "The AArch64 Virtual Memory System Architecture". FEAT_LPA2 is not modelled.

use super::{Decoded, Leaf, Node, bit, bits, field};
use crate::access::{Access, FaultKind, Memory, Permissions, Syndrome};
use crate::mmu::Stage2;

#[derive(Clone, Debug)]
pub(crate) struct Stage2Regime {
    cpu: Stage2,
    vtcr: u64,
    vttbr: u64,
    /// The start of the walk, or `None` where T0SZ and SL0 do not fit together: then every access faults at level 0.
    start: Option<Start>,
    output_bits: u32,
}

#[derive(Clone, Copy, Debug)]
struct Start {
    level: u8,
    index_bits: u32,
}

impl Stage2Regime {
    pub(crate) fn new(cpu: &Stage2, vtcr: u64, vttbr: u64) -> Result<Self, &'static str> {
        if field(vtcr, 15, 14) != 0 {
            return Err("VTCR_EL2.TG0: only the 4 KiB granule is modelled");
        }
        if bit(vtcr, 32) {
            return Err("VTCR_EL2.DS: FEAT_LPA2 is not modelled");
        }
        if !bit(vtcr, 31) {
            return Err("VTCR_EL2[31] is RES1");
        }
        let ps = match field(vtcr, 18, 16) {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            _ => return Err("VTCR_EL2.PS: 52 bits need FEAT_LPA2"),
        };
        let start = start(cpu, vtcr);
        let alignment = start.map_or(4096, |start| 8 << start.index_bits);
        if bits(vttbr, 47, 1) & (alignment - 1) != 0 {
            return Err("VTTBR_EL2.BADDR is not aligned to the size of the (concatenated) table");
        }
        Ok(Self { cpu: cpu.clone(), vtcr, vttbr, start, output_bits: ps.min(cpu.physical_bits) })
    }

    pub(crate) fn tag(&self) -> u64 {
        let wide = bit(self.vtcr, 19) && self.cpu.vmid16;
        field(self.vttbr, if wide { 63 } else { 55 }, 48)
    }

    pub(crate) fn root(&self) -> Result<Node, FaultKind> {
        let start = self.start.ok_or(FaultKind::NotPresent)?;
        let table = bits(self.vttbr, 47, 1);
        if table >> self.output_bits != 0 {
            return Err(FaultKind::AddressSize);
        }
        let Start { level, index_bits } = start;
        Ok(Node { table, level, index_bits, base: 0, permissions: Permissions::ALL, user: true })
    }

    fn sets_access_flag(&self) -> bool {
        bit(self.vtcr, 21) && self.cpu.hafdbs >= 1
    }

    fn sets_dirty_state(&self) -> bool {
        bit(self.vtcr, 22) && self.sets_access_flag() && self.cpu.hafdbs >= 2
    }

    pub(crate) fn decode(&self, node: &Node, input: u64, raw: u64) -> Decoded {
        let leaf = match (raw & 3, node.level) {
            (3, 0) | (1, 1 | 2) => true,
            (3, _) => false,
            // Bit 0 clear, or a block where there are none: reserved encodings are treated as invalid.
            _ => return Decoded::Fault(FaultKind::NotPresent),
        };
        if bits(raw, 47, 12) >> self.output_bits != 0 {
            return Decoded::Fault(FaultKind::AddressSize);
        }
        if !leaf {
            let next = Node {
                table: bits(raw, 47, 12),
                level: node.level - 1,
                index_bits: 9,
                base: input,
                permissions: Permissions::ALL,
                user: true,
            };
            return Decoded::Table { node: next, set_accessed: 0 };
        }
        if self.is_reserved(node.level, raw) {
            return Decoded::Fault(FaultKind::Reserved);
        }
        let accessed = bit(raw, 10);
        if !accessed && !self.sets_access_flag() {
            return Decoded::Fault(FaultKind::AccessFlag);
        }
        let clean = self.sets_dirty_state() && bit(raw, 51) && !bit(raw, 7);
        let (execute, execute_user) = match (bit(raw, 54), bit(raw, 53) && self.cpu.xnx) {
            (false, false) => (true, true),
            (false, true) => (false, true),
            (true, false) => (false, false),
            (true, true) => (true, false),
        };
        Decoded::Leaf(Leaf {
            hpa: bits(raw, 47, node.shift()),
            size: 1 << node.shift(),
            permissions: Permissions {
                read: bit(raw, 6),
                write: bit(raw, 7) || clean,
                execute,
                execute_user,
            },
            memory: Memory::Stage2 {
                attributes: field(raw, 5, 2) as u8,
                shareability: field(raw, 9, 8) as u8,
            },
            set_accessed: if accessed { 0 } else { 1 << 10 },
            set_dirty: if clean { 1 << 7 } else { 0 },
            access_faults: false,
            store_faults: false,
        })
    }

    /// Encodings of a leaf that are reserved, or bits that are RES0. What a CPU does with them nobody can rely on; here it is
    /// a fault, which no real one reports, so that it cannot pass unseen.
    fn is_reserved(&self, level: u8, raw: u64) -> bool {
        let attributes = field(raw, 5, 2);
        let reserved_attributes =
            if self.cpu.fwb { attributes >= 8 || attributes == 4 } else { matches!(attributes, 4 | 8 | 12) };
        // Bits below the address of a block, without nT (FEAT_BBM).
        let nt = if self.cpu.bbm >= 1 { 1 << 16 } else { 0 };
        let low = if level == 0 { 0 } else { bits(raw, 11 + 9 * u32::from(level), 12) & !nt };
        reserved_attributes
            || field(raw, 9, 8) == 1
            || low != 0
            || bits(raw, 50, 48) != 0
            || (bit(raw, 53) && !self.cpu.xnx)
    }
}

/// Arm ARM, "Stage 2 translation table walk": the start level of SL0 has to resolve what T0SZ leaves, by at most sixteen
/// concatenated tables.
fn start(cpu: &Stage2, vtcr: u64) -> Option<Start> {
    let input_bits = 64 - field(vtcr, 5, 0) as u32;
    let smallest = if cpu.ttst { 16 } else { 25 };
    if input_bits < smallest || input_bits > cpu.physical_bits.min(48) {
        return None;
    }
    let level = match field(vtcr, 7, 6) {
        0 => 1,
        1 => 2,
        2 if cpu.physical_bits >= 44 => 3,
        3 if cpu.ttst => 0,
        _ => return None,
    };
    let index_bits = input_bits.checked_sub(12 + 9 * u32::from(level))?;
    (1..=13).contains(&index_bits).then_some(Start { level, index_bits })
}

/// ESR_EL2, "ISS encoding for an exception from a Data Abort" and "... an Instruction Abort", and HPFAR_EL2.
pub(crate) fn syndrome(
    kind: FaultKind,
    gpa: u64,
    level: u8,
    permissions: Permissions,
    access: Access,
) -> Syndrome {
    let lookup = u64::from(3 - level.min(3));
    let status = match kind {
        FaultKind::AddressSize => lookup,
        FaultKind::NotPresent | FaultKind::AddressRange | FaultKind::Reserved => 4 | lookup,
        FaultKind::AccessFlag => 8 | lookup,
        FaultKind::Permission => 12 | lookup,
        FaultKind::Bus => 0x14 | lookup, // synchronous external abort on the walk
    };
    let fetch = access.original == crate::access::AccessKind::Execute;
    // "For a fault generated by an atomic instruction: 0 if a read of the address would have generated the fault."
    let atomic_read = access.reads() && (kind != FaultKind::Permission || !permissions.read);
    let write = access.writes() && !atomic_read && !fetch;
    let class = if fetch { 0x20 } else { 0x24 };
    let esr = class << 26 | 1 << 25 | u64::from(access.walk) << 7 | u64::from(write) << 6 | status;
    let known = kind != FaultKind::Permission || access.walk;
    Syndrome::Stage2 { esr, hpfar: known.then_some(field(gpa, 51, 12) << 4) }
}

/// Arm ARM, "Using break-before-make when updating translation table entries": whether an entry that a CPU may hold must not be
/// replaced by this one without an invalid entry and a TLBI between. Both are of the same place in a table of this level.
pub(crate) fn needs_break_before_make(cpu: &Stage2, level: u8, old: u64, new: u64) -> bool {
    let is_leaf = |raw: u64| if level == 0 { raw & 3 == 3 } else { raw & 3 == 1 };
    if new & 1 == 0 || (level == 0 && !is_leaf(new)) {
        return false;
    }
    match (is_leaf(old), is_leaf(new)) {
        (true, true) => {
            // Output address (any change: that the contents are the same and nobody writes is not known here), memory type,
            // shareability.
            let changed = bits(old ^ new, 47, 12 + 9 * u32::from(level))
                | bits(old ^ new, 5, 2)
                | bits(old ^ new, 9, 8);
            changed != 0 || (bit(old ^ new, 52) && cpu.bbm == 0)
        }
        (false, false) => bits(old ^ new, 47, 12) != 0,
        // FEAT_BBM: level 1 asks for nT in the block, level 2 for nothing.
        (true, false) => cpu.bbm == 0 || (cpu.bbm == 1 && !bit(old, 16)),
        (false, true) => cpu.bbm == 0 || (cpu.bbm == 1 && !bit(new, 16)),
    }
}
