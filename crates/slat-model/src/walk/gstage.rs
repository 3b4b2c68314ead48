//! RISC-V G-stage: Privileged ISA, "Hypervisor" chapter, "Guest Physical Address Translation", and the walk of the
//! "Supervisor" chapter, "Virtual Address Translation Process", as seen by U-mode.

use super::{Decoded, Leaf, Node, bit, bits, field};
use crate::access::{Access, AccessKind, FaultKind, Memory, Permissions, Syndrome};
use crate::mmu::Gstage;

#[derive(Clone, Debug)]
pub(crate) struct GstageRegime {
    cpu: Gstage,
    hgatp: u64,
}

impl GstageRegime {
    /// hgatp is WARL: what the hart does not support is not what a read gives back.
    pub(crate) fn new(cpu: &Gstage, hgatp: u64) -> Result<Self, &'static str> {
        match field(hgatp, 63, 60) {
            0 if hgatp != 0 => return Err("hgatp: MODE Bare wants all other fields to be 0"),
            0 => {}
            mode if mode >= 16 || cpu.modes >> mode & 1 == 0 => return Err("hgatp.MODE is not supported"),
            8..=10 => {}
            _ => return Err("hgatp.MODE is reserved"),
        }
        if field(hgatp, 57, 44) >> cpu.vmid_bits != 0 {
            return Err("hgatp.VMID is wider than VMIDLEN");
        }
        if hgatp & 3 != 0 {
            return Err("hgatp.PPN[1:0] read as 0: the root has 16 KiB");
        }
        if bits(hgatp, 59, 58) != 0 {
            return Err("hgatp[59:58] are reserved");
        }
        Ok(Self { cpu: cpu.clone(), hgatp })
    }

    pub(crate) fn tag(&self) -> u64 {
        field(self.hgatp, 57, 44)
    }

    pub(crate) fn is_bare(&self) -> bool {
        field(self.hgatp, 63, 60) == 0
    }

    pub(crate) fn has_napot(&self) -> bool {
        self.cpu.svnapot
    }

    /// Svvptc: an entry that becomes valid is seen, so the invalid one is not kept. What is reserved has its valid bit set.
    pub(crate) fn caches(&self, fault: FaultKind) -> bool {
        match fault {
            FaultKind::NotPresent => !self.cpu.svvptc,
            fault => fault == FaultKind::Reserved,
        }
    }

    pub(crate) fn root(&self) -> Result<Node, FaultKind> {
        if self.is_bare() {
            return Err(FaultKind::NotPresent);
        }
        Ok(Node {
            table: field(self.hgatp, 43, 0) << 12,
            level: field(self.hgatp, 63, 60) as u8 - 6,
            index_bits: 11,
            base: 0,
            permissions: Permissions::ALL,
            user: true,
        })
    }

    pub(crate) fn decode(&self, node: &Node, input: u64, raw: u64) -> Decoded {
        if !bit(raw, 0) {
            return Decoded::Fault(FaultKind::NotPresent);
        }
        let reserved_top = if self.cpu.svrsw60t59b { 58 } else { 60 };
        let pbmt = field(raw, 62, 61);
        let reserved = (bit(raw, 2) && !bit(raw, 1))
            || bits(raw, reserved_top, 54) != 0
            || pbmt == 3
            || (pbmt != 0 && !self.cpu.pbmte)
            || (bit(raw, 63) && !self.cpu.svnapot);
        if reserved {
            return Decoded::Fault(FaultKind::Reserved);
        }
        let page = field(raw, 53, 10) << 12;
        if bits(raw, 3, 1) == 0 {
            // "For non-leaf PTEs, the D, A, and U bits are reserved", and so are PBMT and N. No level is left below 0.
            if node.level == 0 || raw & 0xd0 != 0 || bits(raw, 63, 61) != 0 {
                return Decoded::Fault(FaultKind::Reserved);
            }
            let next = Node {
                table: page,
                level: node.level - 1,
                index_bits: 9,
                base: input,
                permissions: Permissions::ALL,
                user: true,
            };
            return Decoded::Table { node: next, set_accessed: 0 };
        }
        let mut size = 1 << node.shift();
        let mut hpa = page;
        if bit(raw, 63) {
            // Svnapot: 64 KiB at level 0, encoded by ppn[3:0] = 1000.
            if node.level != 0 || field(raw, 13, 10) != 8 {
                return Decoded::Fault(FaultKind::Reserved);
            }
            size = 1 << 16;
            hpa = page & !(size - 1);
        } else if page & (size - 1) != 0 {
            return Decoded::Fault(FaultKind::Reserved); // misaligned superpage
        }
        let execute = bit(raw, 3);
        let own = Permissions {
            read: bit(raw, 1) || (self.cpu.mxr && execute),
            write: bit(raw, 2),
            execute,
            execute_user: execute,
        };
        // "All memory accesses are considered to be user-level accesses, as though executed in U-mode."
        let permissions = if bit(raw, 4) { own } else { Permissions::default() };
        let (accessed, dirty) = (bit(raw, 6), bit(raw, 7));
        let adue = self.cpu.adue;
        Decoded::Leaf(Leaf {
            hpa,
            size,
            permissions,
            memory: Memory::Gstage { pbmt: pbmt as u8 },
            set_accessed: if adue && !accessed { 1 << 6 } else { 0 },
            set_dirty: if adue && !dirty { 1 << 7 } else { 0 },
            access_faults: !adue && !accessed,
            store_faults: !adue && !dirty,
        })
    }
}

/// Guest-page faults report the original access; "Transformed Instruction or Pseudoinstruction for mtinst or htinst" has the
/// values for implicit accesses of a 64-bit guest.
pub(crate) fn syndrome(gpa: u64, access: Access) -> Syndrome {
    let scause = match access.original {
        AccessKind::Execute => 20,
        AccessKind::Read => 21,
        AccessKind::Write | AccessKind::ReadWrite => 23,
    };
    let htinst = match (access.walk, access.writes()) {
        (false, _) => 0,
        (true, false) => 0x3000,
        (true, true) => 0x3020,
    };
    Syndrome::Gstage { scause, htval: gpa >> 2, htinst }
}
