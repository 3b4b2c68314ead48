//! Arm EL1&0 stage 1 with the 4 KiB granule: Arm ARM chapter D8, and its pseudocode (AArch64.S1Walk,
//! AArch64.S1DirectBasePermissions). Levels are ours, counted from the leaf; Arm's lookup level is 3 minus that.

use super::fault::{ArmFault, GuestPageFault, GuestWalkError, UnsupportedPaging};
use super::walk::{EntryKind, FirstStage, Mark, RIGHTS, TableMemory, bit, ones, rights};
use crate::addr::{GuestPhysAddr, GuestVirtAddr};
use crate::flags::MappingFlags;

/// Fault status codes without the lookup level.
const ADDRESS_SIZE: u8 = 0b00_0000;
const TRANSLATION: u8 = 0b00_0100;
const ACCESS_FLAG: u8 = 0b00_1000;
const PERMISSION: u8 = 0b00_1100;
const EXTERNAL_ON_WALK: u8 = 0b01_0100;

const AP_USER: u32 = 6;
const AP_READ_ONLY: u32 = 7;
const ACCESS: u32 = 10;
const DIRTY_BIT_MODIFIER: u32 = 51;
const PRIVILEGED_NEVER: u32 = 53;
const USER_NEVER: u32 = 54;
const PRIVILEGED_NEVER_TABLE: u32 = 59;
const USER_NEVER_TABLE: u32 = 60;
const USER_TABLE: u32 = 61;
const READ_ONLY_TABLE: u32 = 62;

/// The paging registers of an Arm guest's EL1, and what of its CPU decides about a walk.
///
/// The contiguous bit only helps TLBs and is ignored, as is nT. Memory attributes are not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArmPaging {
    /// SCTLR_EL1: M (0), WXN (19), EE (25) and EPAN (57) count.
    pub sctlr: u64,
    /// TCR_EL1: the sizes, EPDn, granules, IPS, TBIn, TBIDn, HA, HD, HPDn and DS count.
    pub tcr: u64,
    /// TTBR0_EL1.
    pub ttbr0: u64,
    /// TTBR1_EL1.
    pub ttbr1: u64,
    /// PSTATE.PAN: EL1 has no data access to what EL0 can reach.
    pub pan: bool,
    /// The physical address size of the guest's CPU in bits (ID_AA64MMFR0_EL1.PARange decoded), 32 to 48; taken as the nearest
    /// of these otherwise.
    pub physical_bits: u8,
    /// FEAT_HAFDBS (ID_AA64MMFR1_EL1.HAFDBS): what TCR_EL1.HA and HD can switch on. 0: nothing, 1: the access flag, 2: the
    /// dirty state too.
    pub hafdbs: u8,
    /// FEAT_HPDS: TCR_EL1.HPDn can switch hierarchical permissions off.
    pub hpds: bool,
    /// FEAT_PAN3: SCTLR_EL1.EPAN extends PAN to what EL0 can execute.
    pub pan3: bool,
    /// FEAT_TTST: address ranges down to 64 KiB (TxSZ up to 48), else down to 32 MiB (39).
    pub ttst: bool,
}

impl ArmPaging {
    /// The registers of a guest on a CPU with 48-bit addresses and all of these features. Of SPSR_EL2, PAN counts.
    #[must_use]
    pub const fn new(sctlr: u64, tcr: u64, ttbr0: u64, ttbr1: u64, spsr: u64) -> Self {
        let pan = bit(spsr, 22);
        let (hafdbs, hpds, pan3, ttst) = (2, true, true, true);
        Self { sctlr, tcr, ttbr0, ttbr1, pan, physical_bits: 48, hafdbs, hpds, pan3, ttst }
    }

    fn hardware_access(&self) -> bool {
        self.hafdbs >= 1 && bit(self.tcr, 39)
    }

    fn hardware_dirty(&self) -> bool {
        self.hafdbs >= 2 && self.hardware_access() && bit(self.tcr, 40)
    }

    fn physical_bits(&self) -> u32 {
        u32::from(self.physical_bits).clamp(32, 48)
    }

    /// TCR_EL1.IPS, bounded by what there is.
    fn output_bits(&self) -> u32 {
        let configured = match self.tcr >> 32 & 7 {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            _ => 48,
        };
        self.physical_bits().min(configured)
    }
}

/// What entries say about permissions, those of tables and of the leaf together.
#[derive(Clone, Copy, Debug)]
struct Denials {
    write: bool,
    user: bool,
    execute: bool,
    execute_user: bool,
}

/// One walk.
struct Walk<'a, M> {
    paging: &'a ArmPaging,
    memory: &'a M,
    gva: GuestVirtAddr,
    access: MappingFlags,
}

pub(super) fn walk<M: TableMemory>(
    paging: &ArmPaging,
    memory: &M,
    gva: GuestVirtAddr,
    access: MappingFlags,
) -> Result<FirstStage, GuestWalkError> {
    let walk = Walk { paging, memory, gva, access };
    let address = gva.as_u64();
    let upper = bit(address, 55);
    let which = u32::from(upper);
    let tcr = paging.tcr;
    // "Address tagging": TBID takes fetches out.
    let tagged = bit(tcr, 37 + which) && !(walk.fetches() && bit(tcr, 51 + which));
    // What of the address is looked at, moved to the top.
    let significant = if tagged { 56 } else { 64 };
    if !bit(paging.sctlr, 0) {
        let whole = address << (64 - significant) >> (64 - significant);
        if whole >> paging.physical_bits() != 0 {
            return Err(walk.refuse(ADDRESS_SIZE, 3));
        }
        return Ok(FirstStage::flat(whole));
    }
    let unsupported = |reason| Err(GuestWalkError::Unsupported(reason));
    if bit(paging.sctlr, 25) {
        return unsupported(UnsupportedPaging::BigEndian);
    }
    if bit(tcr, 59) {
        return unsupported(UnsupportedPaging::WideDescriptors);
    }
    let (size, disabled, granule, ttbr) = if upper {
        (tcr >> 16 & 0x3f, bit(tcr, 23), tcr >> 30 & 3 == 2, paging.ttbr1)
    } else {
        (tcr & 0x3f, bit(tcr, 7), tcr >> 14 & 3 == 0, paging.ttbr0)
    };
    let width = 64 - size as u32;
    let narrowest = if paging.ttst { 16 } else { 25 };
    // All that is above the range repeats bit 55; faults before the first entry count as lookup level 0.
    let above = ((address << (64 - significant)) as i64) >> (64 - significant) >> width.min(63);
    let outside = above != if upper { -1 } else { 0 };
    if disabled || !(narrowest..=48).contains(&width) || outside {
        return Err(walk.refuse(TRANSLATION, 3));
    }
    if !granule {
        return unsupported(UnsupportedPaging::Granule);
    }
    let level = ((width - 13) / 9) as u8;
    let index_bits = width - 12 - 9 * u32::from(level);
    let table = ttbr & ones(48) & !ones(3 + index_bits);
    if table >> paging.output_bits() != 0 {
        return Err(walk.refuse(ADDRESS_SIZE, 3));
    }
    let hierarchical = !(paging.hpds && bit(tcr, 41 + which));
    walk.descend(level, index_bits, table, hierarchical)
}

impl<M: TableMemory> Walk<'_, M> {
    fn fetches(&self) -> bool {
        self.access.contains(MappingFlags::EXECUTE)
    }

    fn by_user(&self) -> bool {
        self.access.contains(MappingFlags::USER)
    }

    /// Walks down from a table of `level` with 2^`index_bits` entries.
    fn descend(
        &self,
        mut level: u8,
        mut index_bits: u32,
        mut table: u64,
        hierarchical: bool,
    ) -> Result<FirstStage, GuestWalkError> {
        let address = self.gva.as_u64();
        let mut denials = Denials { write: false, user: false, execute: false, execute_user: false };
        loop {
            let shift = 12 + 9 * u32::from(level);
            let entry = GuestPhysAddr::new(table + (address >> shift & ones(index_bits)) * 8);
            let raw = self.memory.load(entry, EntryKind::Long).map_err(|fault| {
                fault.error(entry, self.gva, self.fault(EXTERNAL_ON_WALK, level, MappingFlags::empty()))
            })?;
            match (raw & 3, level) {
                (3, 0) | (1, 1 | 2) => return self.leaf(level, entry, raw, denials),
                (3, _) => {}
                _ => return Err(self.refuse(TRANSLATION, level)),
            }
            table = raw & ones(48) & !ones(12);
            if table >> self.paging.output_bits() != 0 {
                return Err(self.refuse(ADDRESS_SIZE, level));
            }
            if hierarchical {
                denials.write |= bit(raw, READ_ONLY_TABLE);
                denials.user |= bit(raw, USER_TABLE);
                denials.execute |= bit(raw, PRIVILEGED_NEVER_TABLE);
                denials.execute_user |= bit(raw, USER_NEVER_TABLE);
            }
            level -= 1;
            index_bits = 9;
        }
    }

    fn leaf(
        &self,
        level: u8,
        entry: GuestPhysAddr,
        raw: u64,
        mut denials: Denials,
    ) -> Result<FirstStage, GuestWalkError> {
        let shift = 12 + 9 * u32::from(level);
        let page = raw & ones(48) & !ones(shift);
        if page >> self.paging.output_bits() != 0 {
            return Err(self.refuse(ADDRESS_SIZE, level));
        }
        if !bit(raw, ACCESS) && !self.paging.hardware_access() {
            return Err(self.refuse(ACCESS_FLAG, level));
        }
        // "Descriptors marked with DBM set have the effective value of AP[2] cleared."
        let managed = self.paging.hardware_dirty() && bit(raw, DIRTY_BIT_MODIFIER);
        denials.write |= bit(raw, AP_READ_ONLY) && !managed;
        denials.user |= !bit(raw, AP_USER);
        denials.execute |= bit(raw, PRIVILEGED_NEVER);
        denials.execute_user |= bit(raw, USER_NEVER);
        let allowed = self.allowed(denials);
        let wanted = self.access & RIGHTS;
        if !allowed.contains(wanted) {
            return Err(GuestWalkError::Guest(self.fault(PERMISSION, level, allowed)));
        }
        let mut marked = raw | 1 << ACCESS;
        if managed && wanted.contains(MappingFlags::WRITE) {
            marked &= !(1 << AP_READ_ONLY);
        }
        let mut marks = [None; 5];
        if marked != raw {
            let fault = self.fault(EXTERNAL_ON_WALK, level, MappingFlags::empty());
            marks[0] = Some(Mark { entry, old: raw, new: marked, fault });
        }
        Ok(FirstStage {
            gpa: GuestPhysAddr::new(page | self.gva.as_u64() & ones(shift)),
            level,
            page_size: 1 << shift,
            allowed,
            user: !denials.user,
            kind: EntryKind::Long,
            marks,
        })
    }

    /// AArch64.S1DirectBasePermissions, and WXN after it.
    fn allowed(&self, denials: Denials) -> MappingFlags {
        let never_writable = bit(self.paging.sctlr, 19); // WXN
        let user_read = !denials.user;
        let user_write = user_read && !denials.write;
        // EL0 may execute what it can neither read nor write.
        let user_execute = !denials.execute_user;
        if self.by_user() {
            return rights(user_read, user_write, user_execute && !(never_writable && user_write));
        }
        let write = !denials.write;
        // "Locations writable by unprivileged cannot be executed by privileged."
        let execute = !(denials.execute || user_write || never_writable && write);
        let extended = self.paging.pan3 && bit(self.paging.sctlr, 57);
        let data = !(self.paging.pan && (user_read || extended && user_execute));
        rights(data, data && write, execute)
    }

    fn refuse(&self, status: u8, level: u8) -> GuestWalkError {
        GuestWalkError::Guest(self.fault(status, level, MappingFlags::empty()))
    }

    /// The fault of a page that allows this.
    fn fault(&self, status: u8, level: u8, allowed: MappingFlags) -> GuestPageFault {
        // What the access wants and does not get; an atomic access tries its read first.
        let missing = self.access & RIGHTS & !allowed;
        GuestPageFault::Arm(ArmFault {
            status: status | (3 - level),
            write: missing.contains(MappingFlags::WRITE) && !missing.contains(MappingFlags::READ),
            fetch: self.fetches(),
            user: self.by_user(),
            far: self.gva,
        })
    }
}
