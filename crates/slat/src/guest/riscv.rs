//! RISC-V VS-stage: Privileged ISA, "Supervisor" chapter, "Virtual Address Translation Process", Svnapot, Svpbmt, Svadu.

use super::fault::{GuestPageFault, GuestWalkError, UnsupportedPaging};
use super::walk::{EntryKind, FirstStage, Mark, RIGHTS, TableMemory, bit, is_sign_extended, ones, rights};
use crate::addr::{GuestPhysAddr, GuestVirtAddr};
use crate::flags::MappingFlags;

const VALID: u32 = 0;
const READ: u32 = 1;
const WRITE: u32 = 2;
const EXECUTE: u32 = 3;
const USER: u32 = 4;
const ACCESSED: u32 = 6;
const DIRTY: u32 = 7;
const NAPOT: u32 = 63;

/// The paging registers of a RISC-V guest.
///
/// Bits 60:59 of entries are reserved here (no Svrsw60t59b).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RiscvPaging {
    /// vsatp.
    pub vsatp: u64,
    /// vsstatus.SUM: VS-mode may read and write pages of user mode.
    pub sum: bool,
    /// vsstatus.MXR, or the hypervisor's own sstatus.MXR: what can be executed can be read.
    pub mxr: bool,
    /// henvcfg.ADUE: the hardware sets A and D; without it their absence faults (Svade).
    pub adue: bool,
    /// henvcfg.PBMTE: entries may have a memory type (Svpbmt).
    pub pbmte: bool,
    /// The hart has Svnapot: pages of 64 KiB.
    pub svnapot: bool,
}

impl RiscvPaging {
    /// The registers of a guest on a hart with Svnapot. Of vsstatus, SUM and MXR count; of henvcfg, ADUE and PBMTE.
    #[must_use]
    pub const fn new(vsatp: u64, vsstatus: u64, henvcfg: u64) -> Self {
        Self {
            vsatp,
            sum: bit(vsstatus, 18),
            mxr: bit(vsstatus, 19),
            adue: bit(henvcfg, 61),
            pbmte: bit(henvcfg, 62),
            svnapot: true,
        }
    }
}

/// One walk.
struct Walk<'a, M> {
    paging: &'a RiscvPaging,
    memory: &'a M,
    gva: GuestVirtAddr,
    access: MappingFlags,
}

pub(super) fn walk<M: TableMemory>(
    paging: &RiscvPaging,
    memory: &M,
    gva: GuestVirtAddr,
    access: MappingFlags,
) -> Result<FirstStage, GuestWalkError> {
    let root_level = match (paging.vsatp >> 60) as u8 {
        0 => return Ok(FirstStage::flat(gva.as_u64())),
        8 => 2,
        9 => 3,
        10 => 4,
        mode => return Err(GuestWalkError::Unsupported(UnsupportedPaging::Mode(mode))),
    };
    let walk = Walk { paging, memory, gva, access };
    if !is_sign_extended(gva.as_u64(), 21 + 9 * u32::from(root_level)) {
        return Err(walk.refuse());
    }
    walk.descend(root_level)
}

impl<M: TableMemory> Walk<'_, M> {
    fn descend(&self, mut level: u8) -> Result<FirstStage, GuestWalkError> {
        let address = self.gva.as_u64();
        let mut table = (self.paging.vsatp & ones(44)) << 12;
        loop {
            let shift = 12 + 9 * u32::from(level);
            let entry = GuestPhysAddr::new(table + (address >> shift & ones(9)) * 8);
            let raw = self
                .memory
                .load(entry, EntryKind::Long)
                .map_err(|fault| fault.error(entry, self.gva, self.exception([1, 5, 7])))?;
            if !bit(raw, VALID) || bit(raw, WRITE) && !bit(raw, READ) || raw >> 54 & ones(7) != 0 {
                return Err(self.refuse());
            }
            if bit(raw, READ) || bit(raw, EXECUTE) {
                return self.leaf(level, entry, raw);
            }
            // In a pointer D, A and U are reserved, and PBMT and N.
            let reserved = 1 << USER | 1 << ACCESSED | 1 << DIRTY | 7 << 61;
            if level == 0 || raw & reserved != 0 {
                return Err(self.refuse());
            }
            table = page_of(raw);
            level -= 1;
        }
    }

    fn leaf(&self, level: u8, entry: GuestPhysAddr, raw: u64) -> Result<FirstStage, GuestWalkError> {
        let memory_type = raw >> 61 & 3;
        if memory_type == 3 || memory_type != 0 && !self.paging.pbmte {
            return Err(self.refuse());
        }
        let mut page = page_of(raw);
        let mut shift = 12 + 9 * u32::from(level);
        if bit(raw, NAPOT) {
            // "Svnapot": the one encoding is ppn[0] = xxxx_x1000 in a leaf of level 0.
            if !self.paging.svnapot || level != 0 || page >> 12 & 0xf != 8 {
                return Err(self.refuse());
            }
            shift = 16;
            page &= !ones(shift);
        }
        let allowed = self.allowed(raw);
        let wanted = self.access & RIGHTS;
        // A superpage whose number is not a multiple of its size is misaligned.
        if page & ones(shift) != 0 || !allowed.contains(wanted) {
            return Err(self.refuse());
        }
        let writes = wanted.contains(MappingFlags::WRITE);
        let marked = raw | 1 << ACCESSED | u64::from(writes) << DIRTY;
        let mut marks = [None; 5];
        if marked != raw {
            if !self.paging.adue {
                return Err(self.refuse());
            }
            marks[0] = Some(Mark { entry, old: raw, new: marked, fault: self.exception([1, 5, 7]) });
        }
        Ok(FirstStage {
            gpa: GuestPhysAddr::new(page | self.gva.as_u64() & ones(shift)),
            level,
            page_size: 1 << shift,
            allowed,
            user: bit(raw, USER),
            kind: EntryKind::Long,
            marks,
        })
    }

    fn allowed(&self, raw: u64) -> MappingFlags {
        let user = bit(raw, USER);
        // VS-mode never executes pages of user mode, and reads and writes them with SUM only.
        let (data, fetch) = if self.access.contains(MappingFlags::USER) {
            (user, user)
        } else {
            (!user || self.paging.sum, !user)
        };
        let readable = bit(raw, READ) || self.paging.mxr && bit(raw, EXECUTE);
        rights(data && readable, data && bit(raw, WRITE), fetch && bit(raw, EXECUTE))
    }

    fn refuse(&self) -> GuestWalkError {
        GuestWalkError::Guest(self.exception([12, 13, 15]))
    }

    /// The exception for a fetch, a load or a store, whichever the access is; an atomic one counts as a store.
    fn exception(&self, [fetch, load, store]: [u64; 3]) -> GuestPageFault {
        let scause = if self.access.contains(MappingFlags::EXECUTE) {
            fetch
        } else if self.access.contains(MappingFlags::WRITE) {
            store
        } else {
            load
        };
        GuestPageFault::Riscv { scause, stval: self.gva }
    }
}

/// The page that an entry points to: 44 bits of page number.
const fn page_of(raw: u64) -> u64 {
    (raw >> 10 & ones(44)) << 12
}
