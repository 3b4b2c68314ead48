//! AMD nested paging: APM volume 2, "Nested Paging". The tables have the format of the host's own long mode.

use super::{Decoded, Leaf, Node, bit, bits, field};
use crate::access::{Access, AccessKind, FaultKind, Memory, Permissions, Syndrome};
use crate::mmu::Npt;

#[derive(Clone, Debug)]
pub(crate) struct NptRegime {
    cpu: Npt,
    ncr3: u64,
    asid: u32,
}

impl NptRegime {
    pub(crate) fn new(cpu: &Npt, ncr3: u64, asid: u32) -> Result<Self, &'static str> {
        if asid == 0 {
            return Err("ASID 0 is the host's: VMRUN fails (VMEXIT_INVALID)");
        }
        if ncr3 >> cpu.max_phys_addr != 0 {
            return Err("nCR3: a reserved bit");
        }
        Ok(Self { cpu: cpu.clone(), ncr3, asid })
    }

    pub(crate) fn tag(&self) -> u64 {
        u64::from(self.asid)
    }

    pub(crate) fn root(&self) -> Result<Node, FaultKind> {
        Ok(Node {
            table: bits(self.ncr3, 51, 12),
            level: if self.cpu.host_la57 { 4 } else { 3 },
            index_bits: 9,
            base: 0,
            permissions: Permissions::ALL,
            user: true,
        })
    }

    pub(crate) fn decode(&self, node: &Node, input: u64, raw: u64) -> Decoded {
        if !bit(raw, 0) {
            return Decoded::Fault(FaultKind::NotPresent);
        }
        let large = node.level > 0 && node.level < 3 && bit(raw, 7);
        let leaf = node.level == 0 || large;
        let reserved = (self.cpu.max_phys_addr < 52 && bits(raw, 51, self.cpu.max_phys_addr) != 0)
            || (bit(raw, 63) && !self.cpu.host_nxe)
            || match node.level {
                0 => false,
                1 => large && bits(raw, 20, 13) != 0, // bit 12 is PAT
                2 => large && (bits(raw, 29, 13) != 0 || !self.cpu.page_1g),
                _ => bits(raw, 8, 7) != 0,
            };
        if reserved {
            return Decoded::Fault(FaultKind::Reserved);
        }
        let user = node.user && bit(raw, 2);
        let execute = !bit(raw, 63);
        let own = Permissions { read: true, write: bit(raw, 1), execute, execute_user: execute };
        let mut permissions = node.permissions.and(own);
        let flag = |n: u32| if bit(raw, n) { 0 } else { 1 << n };
        if !leaf {
            let next = Node {
                table: bits(raw, 51, 12),
                level: node.level - 1,
                index_bits: 9,
                base: input,
                permissions,
                user,
            };
            return Decoded::Table { node: next, set_accessed: flag(5) };
        }
        if self.cpu.gmet {
            // "Guest Mode Execute Trap": U/S counts for fetches only, and the guest's kernel may not fetch from user pages.
            permissions.execute &= !user;
            permissions.execute_user &= user;
        } else if !user {
            permissions = Permissions::default(); // all nested accesses are those of a user
        }
        let page = if large { bits(raw, 51, 13) } else { bits(raw, 51, 12) };
        let pat = bit(raw, if large { 12 } else { 7 });
        Decoded::Leaf(Leaf {
            hpa: page,
            size: 1 << node.shift(),
            permissions,
            memory: Memory::Npt { pat_index: u8::from(pat) << 2 | field(raw, 4, 3) as u8 },
            set_accessed: flag(5),
            set_dirty: flag(6),
            access_faults: false,
            store_faults: false,
        })
    }

    /// APM, "Nested versus Guest Page Faults, Fault Ordering": EXITINFO1 is an error code, bits 32 and 33 say which access.
    pub(crate) fn syndrome(&self, kind: FaultKind, gpa: u64, access: Access) -> Syndrome {
        let present = matches!(kind, FaultKind::Permission | FaultKind::Reserved);
        let flags = [
            (0, present),
            (1, access.writes()),
            (2, true),
            (3, kind == FaultKind::Reserved),
            (4, access.executes() && self.cpu.host_nxe),
            (32, !access.walk),
            (33, access.walk),
        ];
        let exitinfo1 = flags.iter().map(|&(n, set)| u64::from(set) << n).sum();
        Syndrome::Npt { exitinfo1, exitinfo2: gpa }
    }
}

/// The guest's page walks are writes, whether or not they set a flag.
pub(crate) fn effective(access: Access) -> Access {
    if access.walk {
        return Access { kind: AccessKind::ReadWrite, user: true, ..access };
    }
    access
}
