//! Intel EPT: SDM volume 3C, "The Extended Page Table Mechanism (EPT)".

use super::{Decoded, Leaf, Node, bit, bits, field};
use crate::access::{Access, AccessKind, FaultKind, Memory, Permissions, Syndrome};
use crate::mmu::Ept;

#[derive(Clone, Debug)]
pub(crate) struct EptRegime {
    cpu: Ept,
    eptp: u64,
}

impl EptRegime {
    /// SDM, "Checks on VMX Controls": the EPTP must be one that IA32_VMX_EPT_VPID_CAP allows.
    pub(crate) fn new(cpu: &Ept, eptp: u64) -> Result<Self, &'static str> {
        let has = |n| bit(cpu.capabilities, n);
        match field(eptp, 2, 0) {
            0 if has(8) => {}
            6 if has(14) => {}
            _ => return Err("EPTP[2:0]: the memory type is not supported"),
        }
        match field(eptp, 5, 3) {
            3 if has(6) => {}
            4 if has(7) => {}
            _ => return Err("EPTP[5:3]: the page-walk length is not supported"),
        }
        if bit(eptp, 6) && !has(21) {
            return Err("EPTP[6]: accessed and dirty flags are not supported");
        }
        if bits(eptp, 11, 7) != 0 || eptp >> cpu.max_phys_addr != 0 {
            return Err("EPTP: a reserved bit");
        }
        Ok(Self { cpu: cpu.clone(), eptp })
    }

    /// EP4TA: the TLB does not look at the other bits (SDM, "Information That May Be Cached").
    pub(crate) fn tag(&self) -> u64 {
        bits(self.eptp, 51, 12)
    }

    pub(crate) fn root(&self) -> Result<Node, FaultKind> {
        Ok(Node {
            table: self.tag(),
            level: field(self.eptp, 5, 3) as u8,
            index_bits: 9,
            base: 0,
            permissions: Permissions::ALL,
            user: true,
        })
    }

    fn accessed_dirty(&self) -> bool {
        bit(self.eptp, 6)
    }

    pub(crate) fn decode(&self, node: &Node, input: u64, raw: u64) -> Decoded {
        let by_mode = self.cpu.mode_based_execute;
        if raw & 7 == 0 && !(by_mode && bit(raw, 10)) {
            return Decoded::Fault(FaultKind::NotPresent);
        }
        let large = node.level > 0 && node.level < 3 && bit(raw, 7);
        if self.is_misconfigured(node.level, large, raw) {
            return Decoded::Fault(FaultKind::Reserved);
        }
        let own = Permissions {
            read: bit(raw, 0),
            write: bit(raw, 1),
            execute: bit(raw, 2),
            execute_user: bit(raw, if by_mode { 10 } else { 2 }),
        };
        let permissions = node.permissions.and(own);
        let flag = |n: u32| if self.accessed_dirty() && !bit(raw, n) { 1 << n } else { 0 };
        if node.level > 0 && !large {
            let next = Node {
                table: bits(raw, 51, 12),
                level: node.level - 1,
                index_bits: 9,
                base: input,
                permissions,
                user: true,
            };
            return Decoded::Table { node: next, set_accessed: flag(8) };
        }
        Decoded::Leaf(Leaf {
            hpa: bits(raw, 51, 12),
            size: 1 << node.shift(),
            permissions,
            memory: Memory::Ept { memory_type: field(raw, 5, 3) as u8, ignore_pat: bit(raw, 6) },
            set_accessed: flag(8),
            set_dirty: flag(9),
            access_faults: false,
            store_faults: false,
        })
    }

    /// SDM, "EPT Misconfigurations".
    fn is_misconfigured(&self, level: u8, large: bool, raw: u64) -> bool {
        let has = |n| bit(self.cpu.capabilities, n);
        if !bit(raw, 0) && (bit(raw, 1) || !has(0)) {
            return true; // writable or executable, but not readable
        }
        if self.cpu.max_phys_addr < 52 && bits(raw, 51, self.cpu.max_phys_addr) != 0 {
            return true;
        }
        if level > 0 && !large {
            // In a PML5E or PML4E bit 7 is reserved too.
            return bits(raw, if level >= 3 { 7 } else { 6 }, 3) != 0;
        }
        let unaligned = match level {
            0 => false,
            1 => bits(raw, 20, 12) != 0 || !has(16),
            _ => bits(raw, 29, 12) != 0 || !has(17),
        };
        unaligned || matches!(field(raw, 5, 3), 2 | 3 | 7)
    }

    /// SDM, "Accessed and Dirty Flags for EPT": with them, the processor's accesses to guest paging structures are writes.
    pub(crate) fn effective(&self, access: Access) -> Access {
        if access.walk && self.accessed_dirty() {
            return Access { kind: AccessKind::ReadWrite, ..access };
        }
        access
    }

    /// SDM, "Exit Qualification for EPT Violations". The linear address is always valid here.
    pub(crate) fn syndrome(
        &self,
        kind: FaultKind,
        gpa: u64,
        permissions: Permissions,
        access: Access,
    ) -> Syndrome {
        if kind == FaultKind::Reserved {
            return Syndrome::Ept { reason: 49, qualification: 0, gpa };
        }
        let flags = [
            access.reads(),
            access.writes(),
            access.executes(),
            permissions.read,
            permissions.write,
            permissions.execute,
            permissions.execute_user && self.cpu.mode_based_execute,
            true,
            !access.walk,
        ];
        let qualification = flags.iter().enumerate().map(|(n, &set)| u64::from(set) << n).sum();
        Syndrome::Ept { reason: 48, qualification, gpa }
    }
}
