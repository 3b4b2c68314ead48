//! Walks of second-level tables: what all formats share. Each format says how its root register starts a walk, what one entry
//! means, and how a fault is reported; nothing else reads entries.

mod ept;
mod gstage;
mod npt;
mod stage2;
#[cfg(test)]
mod tests;

use crate::access::{Access, Fault, FaultKind, Memory, Permissions, Syndrome, Translation};
use crate::mmu::{InvalidRoot, Mmu, Root};
use crate::ram::{Ram, Words};

pub(crate) use ept::EptRegime;
pub(crate) use gstage::GstageRegime;
pub(crate) use npt::NptRegime;
pub(crate) use stage2::{Stage2Regime, needs_break_before_make};

/// A table at which a walk has arrived, with what the entries above have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Host physical address.
    pub(crate) table: u64,
    /// Of its entries, counted from the leaf.
    pub(crate) level: u8,
    /// It has 2^index_bits entries.
    pub(crate) index_bits: u32,
    /// The first guest physical address that it translates.
    pub(crate) base: u64,
    /// Of all entries above.
    pub(crate) permissions: Permissions,
    /// x86: the U/S bits of all entries above.
    pub(crate) user: bool,
}

impl Node {
    pub(crate) fn shift(&self) -> u32 {
        12 + 9 * u32::from(self.level)
    }

    pub(crate) fn span(&self) -> u64 {
        1 << (self.shift() + self.index_bits)
    }

    pub(crate) fn bytes(&self) -> u64 {
        8 << self.index_bits
    }

    pub(crate) fn entry(&self, gpa: u64) -> u64 {
        self.table + 8 * ((gpa >> self.shift()) & ((1 << self.index_bits) - 1))
    }

    /// The first guest physical address that the entry at `entry` translates.
    pub(crate) fn input(&self, entry: u64) -> u64 {
        self.base + (((entry - self.table) / 8) << self.shift())
    }
}

/// An entry that maps memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) hpa: u64,
    pub(crate) size: u64,
    pub(crate) permissions: Permissions,
    pub(crate) memory: Memory,
    /// Bits that the hardware sets before it uses the entry at all; nothing is cached before that.
    pub(crate) set_accessed: u64,
    /// Bits that the hardware sets in memory before it writes through the entry.
    pub(crate) set_dirty: u64,
    /// RISC-V Svade: A is clear.
    pub(crate) access_faults: bool,
    /// RISC-V Svade: D is clear.
    pub(crate) store_faults: bool,
}

impl Leaf {
    /// Whether a store finds its dirty flag as it needs it: what is combined with another stage keeps that in mind.
    pub(crate) fn is_dirty(&self) -> bool {
        self.set_dirty == 0 && !self.store_faults
    }
}

/// What one entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// The walk ends in a fault.
    Fault(FaultKind),
    Table {
        node: Node,
        /// Bits that the hardware sets before it uses the entry.
        set_accessed: u64,
    },
    Leaf(Leaf),
}

/// The end of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Leaf(Leaf),
    Fault(FaultKind),
}

/// A table that a walk went through, and the entry that it was read from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) node: Node,
    pub(crate) entry: u64,
    pub(crate) raw: u64,
}

/// A walk for one address.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// Tables that it came to by entries, not the one where it began.
    pub(crate) steps: Vec<Step>,
    pub(crate) end: End,
    pub(crate) level: u8,
    /// The last entry and its value; none if the walk did not begin or left the RAM.
    pub(crate) last: Option<(u64, u64)>,
    /// Host physical address of what is outside of the RAM.
    pub(crate) outside: Option<u64>,
    /// Entries, their values and the bits that the hardware has to set in them: those of tables, and the leaf's accessed flag.
    pub(crate) updates: Vec<(u64, u64, u64)>,
}

/// A root register as its CPU understands it.
#[derive(Clone, Debug)]
pub(crate) enum Regime {
    Ept(EptRegime),
    Npt(NptRegime),
    Stage2(Stage2Regime),
    Gstage(GstageRegime),
}

macro_rules! each {
    ($self:expr, $regime:ident => $body:expr) => {
        match $self {
            Regime::Ept($regime) => $body,
            Regime::Npt($regime) => $body,
            Regime::Stage2($regime) => $body,
            Regime::Gstage($regime) => $body,
        }
    };
}

impl Regime {
    pub(crate) fn new(mmu: &Mmu, root: Root) -> Result<Self, InvalidRoot> {
        let regime = match (mmu, root) {
            (Mmu::Ept(cpu), Root::Ept { eptp, .. }) => EptRegime::new(cpu, eptp).map(Self::Ept),
            (Mmu::Npt(cpu), Root::Npt { ncr3, asid }) => NptRegime::new(cpu, ncr3, asid).map(Self::Npt),
            (Mmu::Stage2(cpu), Root::Stage2 { vtcr, vttbr }) => {
                Stage2Regime::new(cpu, vtcr, vttbr).map(Self::Stage2)
            }
            (Mmu::Gstage(cpu), Root::Gstage { hgatp }) => GstageRegime::new(cpu, hgatp).map(Self::Gstage),
            _ => Err("the root register of another ISA"),
        };
        regime.map_err(|reason| InvalidRoot { root, reason })
    }

    /// What TLB entries of this root are told apart by: EP4TA, ASID or VMID.
    pub(crate) fn tag(&self) -> u64 {
        each!(self, regime => regime.tag())
    }

    /// The root table, or the fault that every walk ends in.
    pub(crate) fn root(&self) -> Result<Node, FaultKind> {
        each!(self, regime => regime.root())
    }

    /// Whether the root translates nothing (hgatp MODE Bare).
    pub(crate) fn is_bare(&self) -> bool {
        matches!(self, Self::Gstage(regime) if regime.is_bare())
    }

    pub(crate) fn decode(&self, node: &Node, entry: u64, raw: u64) -> Decoded {
        each!(self, regime => regime.decode(node, node.input(entry), raw))
    }

    /// Whether the CPU may keep an entry that ends a walk in this fault. Arm: "faults ... are not permitted to be cached"
    /// but permission faults, which are leaves here. x86: nothing is cached of what is not present or reserved.
    pub(crate) fn caches(&self, fault: FaultKind) -> bool {
        matches!(self, Self::Gstage(regime) if regime.caches(fault))
    }

    /// Whether leaves can have 64 KiB, each in sixteen entries.
    pub(crate) fn has_napot(&self) -> bool {
        matches!(self, Self::Gstage(regime) if regime.has_napot())
    }

    /// The access as this level of translation sees it.
    fn effective(&self, access: Access) -> Access {
        match self {
            Self::Ept(regime) => regime.effective(access),
            Self::Npt(_) => npt::effective(access),
            _ => access,
        }
    }

    /// Walks for `gpa` from the root.
    pub(crate) fn walk(&self, memory: &Ram, gpa: u64) -> Path {
        match self.root() {
            Ok(root) if gpa < root.span() => self.walk_from(memory, root, gpa),
            root => {
                let kind = root.err().unwrap_or(FaultKind::AddressRange);
                // Arm reports both at lookup level 0; elsewhere the level is not reported.
                let (steps, updates) = (Vec::new(), Vec::new());
                Path { steps, end: End::Fault(kind), level: 3, last: None, outside: None, updates }
            }
        }
    }

    /// Walks for `gpa` from a table that translates it.
    pub(crate) fn walk_from(&self, memory: &Ram, start: Node, gpa: u64) -> Path {
        let mut path = Path {
            steps: Vec::new(),
            end: End::Fault(FaultKind::Bus),
            level: start.level,
            last: None,
            outside: None,
            updates: Vec::new(),
        };
        let mut node = start;
        loop {
            path.level = node.level;
            let entry = node.entry(gpa);
            let Some(raw) = memory.read(entry) else {
                path.outside = Some(entry);
                path.last = None;
                return path;
            };
            path.last = Some((entry, raw));
            match self.decode(&node, entry, raw) {
                Decoded::Fault(kind) => {
                    path.end = End::Fault(kind);
                    return path;
                }
                Decoded::Leaf(leaf) => {
                    if leaf.set_accessed != 0 {
                        path.updates.push((entry, raw, leaf.set_accessed));
                    }
                    path.end = End::Leaf(leaf);
                    return path;
                }
                Decoded::Table { node: next, set_accessed } => {
                    if set_accessed != 0 {
                        path.updates.push((entry, raw, set_accessed));
                    }
                    path.steps.push(Step { node: next, entry, raw });
                    node = next;
                }
            }
        }
    }

    /// Whether a leaf allows the access.
    pub(crate) fn check(&self, leaf: &Leaf, access: Access) -> Result<(), FaultKind> {
        let access = self.effective(access);
        if !leaf.permissions.allow(access) {
            return Err(FaultKind::Permission);
        }
        if leaf.access_faults || (leaf.store_faults && access.writes()) {
            return Err(FaultKind::AccessFlag);
        }
        Ok(())
    }

    /// Whether the hardware would have to set the dirty flag first.
    pub(crate) fn dirties(&self, leaf: &Leaf, access: Access) -> bool {
        leaf.set_dirty != 0 && self.effective(access).writes()
    }

    /// The result of an access that came to this end.
    pub(crate) fn result(&self, gpa: u64, level: u8, end: End, access: Access) -> Result<Translation, Fault> {
        let (kind, permissions) = match end {
            End::Leaf(leaf) => match self.check(&leaf, access) {
                Ok(()) => return Ok(translate(&leaf, gpa)),
                Err(kind) => (kind, leaf.permissions),
            },
            End::Fault(kind) => (kind, Permissions::default()),
        };
        Err(Fault {
            kind,
            gpa,
            level,
            access,
            syndrome: self.syndrome(kind, gpa, level, permissions, access),
        })
    }

    fn syndrome(
        &self,
        kind: FaultKind,
        gpa: u64,
        level: u8,
        permissions: Permissions,
        access: Access,
    ) -> Syndrome {
        let seen = self.effective(access);
        match self {
            Self::Ept(regime) => regime.syndrome(kind, gpa, permissions, seen),
            Self::Npt(regime) => regime.syndrome(kind, gpa, seen),
            Self::Stage2(_) => stage2::syndrome(kind, gpa, level, permissions, seen),
            Self::Gstage(_) => gstage::syndrome(gpa, seen),
        }
    }

    /// Visits every entry below `node`, first to last, each before what is below it; `visit` says whether to go there. What
    /// is outside of the RAM is passed over.
    pub(crate) fn visit(
        &self,
        memory: &impl Words,
        node: &Node,
        visit: &mut impl FnMut(&Node, u64, u64, &Decoded) -> bool,
    ) {
        for index in 0..1 << node.index_bits {
            let entry = node.table + 8 * index;
            let Some(raw) = memory.read(entry) else { continue };
            let decoded = self.decode(node, entry, raw);
            if visit(node, entry, raw, &decoded) {
                if let Decoded::Table { node: next, .. } = decoded {
                    self.visit(memory, &next, visit);
                }
            }
        }
    }
}

/// Where an address in a leaf's page goes.
pub(crate) fn translate(leaf: &Leaf, address: u64) -> Translation {
    Translation {
        hpa: leaf.hpa + (address & (leaf.size - 1)),
        size: leaf.size,
        permissions: leaf.permissions,
        memory: leaf.memory,
    }
}

/// Bits `high:low` of a value, in place.
pub(crate) const fn bits(value: u64, high: u32, low: u32) -> u64 {
    value & (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// Bits `high:low` of a value, shifted down.
pub(crate) const fn field(value: u64, high: u32, low: u32) -> u64 {
    bits(value, high, low) >> low
}

/// Bit `n` of a value.
pub(crate) const fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 != 0
}
