//! x86 paging: SDM volume 3A, chapter "Paging"; APM volume 2, "Page Translation and Protection".

use super::fault::{GuestPageFault, GuestWalkError};
use super::walk::{EntryKind, FirstStage, Mark, RIGHTS, TableMemory, bit, is_sign_extended, ones, rights};
use crate::addr::{GuestPhysAddr, GuestVirtAddr};
use crate::flags::MappingFlags;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u32 = 1;
const USER: u32 = 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u32 = 7;
const NO_EXECUTE: u32 = 63;

/// The error code of a page fault.
const ERROR_PRESENT: u32 = 1 << 0;
const ERROR_WRITE: u32 = 1 << 1;
const ERROR_USER: u32 = 1 << 2;
const ERROR_RESERVED: u32 = 1 << 3;
const ERROR_FETCH: u32 = 1 << 4;

/// The paging registers of an x86 guest, and what of its CPU decides about a walk.
///
/// Paging is off without CR0.PG. It has 2 levels without CR4.PAE, 3 with it and without EFER.LMA, else 4, or 5 with
/// CR4.LA57. In the modes with 32-bit linear addresses what is above them in an address is cut, as the CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X86Paging {
    /// CR0: PG (31) and WP (16) count.
    pub cr0: u64,
    /// CR3; a PCID in it does not matter.
    pub cr3: u64,
    /// CR4: PSE (4), PAE (5), LA57 (12), SMEP (20) and SMAP (21) count.
    pub cr4: u64,
    /// IA32_EFER: LMA (10) and NXE (11) count.
    pub efer: u64,
    /// EFLAGS.AC, which lifts SMAP. False for implicit supervisor accesses (of the GDT, the TSS, ...), which it does not
    /// concern.
    pub ac: bool,
    /// MAXPHYADDR of the guest's CPU, 32 to 52: address bits above are reserved. Taken as the nearest of these otherwise.
    pub physical_bits: u8,
    /// The four PDPTEs of PAE paging, where the CPU holds them in registers (VMX saves them in the VMCS). `None`: they are
    /// read from memory.
    pub pdptes: Option<[u64; 4]>,
    /// The CPU has 1 GiB pages (CPUID 8000_0001h EDX\[26\]).
    pub page_1g: bool,
    /// The CPU has PSE-36 (CPUID 1 EDX\[17\]): 4 MiB pages lie in the first TiB, not only in the first 4 GiB.
    pub pse36: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    /// 32-bit paging; with CR4.PSE.
    TwoLevels(bool),
    Pae,
    FourLevels,
    FiveLevels,
}

impl X86Paging {
    /// The registers of a guest on a CPU with 52-bit physical addresses, 1 GiB pages and PSE-36, whose PDPTEs are read from
    /// memory. Of RFLAGS, AC counts.
    #[must_use]
    pub const fn new(cr0: u64, cr3: u64, cr4: u64, efer: u64, rflags: u64) -> Self {
        let ac = bit(rflags, 18);
        Self { cr0, cr3, cr4, efer, ac, physical_bits: 52, pdptes: None, page_1g: true, pse36: true }
    }

    fn mode(&self) -> Mode {
        match (bit(self.cr0, 31), bit(self.cr4, 5), bit(self.efer, 10), bit(self.cr4, 12)) {
            (false, ..) => Mode::Off,
            (true, false, ..) => Mode::TwoLevels(bit(self.cr4, 4)),
            (true, true, false, _) => Mode::Pae,
            (true, true, true, false) => Mode::FourLevels,
            (true, true, true, true) => Mode::FiveLevels,
        }
    }

    fn no_execute(&self) -> bool {
        bit(self.efer, 11)
    }

    /// The bits from MAXPHYADDR up to, not including, `end`.
    fn beyond_physical(&self, end: u32) -> u64 {
        ones(end) & !ones(u32::from(self.physical_bits).clamp(32, 52))
    }

    /// The bits that must be clear in a present entry ("... Entry That ..." in the SDM's tables of formats).
    fn reserved(&self, mode: Mode, level: u8, large: bool) -> u64 {
        if let Mode::TwoLevels(_) = mode {
            // "Table 4-4": (M-20):13 are address bits, 21:(M-19) reserved.
            let width = if self.pse36 { u32::from(self.physical_bits).clamp(32, 40) } else { 32 };
            return if large { ones(22) & !ones(width - 19) } else { 0 };
        }
        let wide = self.beyond_physical(if mode == Mode::Pae { 63 } else { 52 });
        let no_execute = if self.no_execute() { 0 } else { 1 << NO_EXECUTE };
        let by_level = match level {
            1 if large => ones(21) & !ones(13),
            2 if large && self.page_1g => ones(30) & !ones(13),
            2..=4 => 1 << LARGE,
            _ => 0,
        };
        wide | no_execute | by_level
    }
}

/// One walk.
struct Walk<'a, M> {
    paging: &'a X86Paging,
    mode: Mode,
    memory: &'a M,
    gva: GuestVirtAddr,
    access: MappingFlags,
}

pub(super) fn walk<M: TableMemory>(
    paging: &X86Paging,
    memory: &M,
    gva: GuestVirtAddr,
    access: MappingFlags,
) -> Result<FirstStage, GuestWalkError> {
    let mode = paging.mode();
    let walk = Walk { paging, mode, memory, gva, access };
    let linear = gva.as_u64();
    let narrow = linear & ones(32);
    match mode {
        Mode::Off => Ok(FirstStage::flat(narrow)),
        Mode::TwoLevels(_) => walk.descend(1, 10, paging.cr3 & ones(32) & !ones(12), narrow),
        Mode::Pae => walk.descend(1, 9, walk.pdpte(narrow)?, narrow),
        Mode::FourLevels => walk.canonical(3, linear),
        Mode::FiveLevels => walk.canonical(4, linear),
    }
}

impl<M: TableMemory> Walk<'_, M> {
    fn canonical(&self, level: u8, linear: u64) -> Result<FirstStage, GuestWalkError> {
        if !is_sign_extended(linear, 21 + 9 * u32::from(level)) {
            return Err(GuestWalkError::Guest(GuestPageFault::X86NonCanonical(self.gva)));
        }
        self.descend(level, 9, self.paging.cr3 & ones(52) & !ones(12), linear)
    }

    /// The page directory of an address under PAE paging ("PDPTE Registers").
    fn pdpte(&self, linear: u64) -> Result<u64, GuestWalkError> {
        let index = linear >> 30;
        let raw = match self.paging.pdptes {
            Some([first, second, third, fourth]) => match index {
                0 => first,
                1 => second,
                2 => third,
                _ => fourth,
            },
            None => {
                let table = self.paging.cr3 & ones(32) & !ones(5);
                self.load(GuestPhysAddr::new(table + 8 * index), EntryKind::Pdpte)?
            }
        };
        if raw & PRESENT == 0 {
            return Err(self.refuse(0));
        }
        // Bits 2:1 and 8:5.
        if raw & (0x1e6 | self.paging.beyond_physical(63) | 1 << 63) != 0 {
            return Err(self.refuse(ERROR_PRESENT | ERROR_RESERVED));
        }
        Ok(raw & ones(52) & !ones(12))
    }

    /// Walks down from a table of `level` with 2^`index_bits` entries.
    fn descend(
        &self,
        mut level: u8,
        index_bits: u32,
        mut table: u64,
        linear: u64,
    ) -> Result<FirstStage, GuestWalkError> {
        let kind = if index_bits == 10 { EntryKind::Short } else { EntryKind::Long };
        let bytes = if index_bits == 10 { 4 } else { 8 };
        let mut marks = [None; 5];
        let (mut writable, mut user, mut no_execute) = (true, true, false);
        loop {
            let shift = 12 + index_bits * u32::from(level);
            let entry = GuestPhysAddr::new(table + (linear >> shift & ones(index_bits)) * bytes);
            let raw = self.load(entry, kind)?;
            if raw & PRESENT == 0 {
                return Err(self.refuse(0));
            }
            let large = bit(raw, LARGE)
                && match self.mode {
                    Mode::TwoLevels(page_size_extensions) => level == 1 && page_size_extensions,
                    _ => level == 1 || level == 2,
                };
            if raw & self.paging.reserved(self.mode, level, large) != 0 {
                return Err(self.refuse(ERROR_PRESENT | ERROR_RESERVED));
            }
            writable &= bit(raw, WRITABLE);
            user &= bit(raw, USER);
            no_execute |= bit(raw, NO_EXECUTE);
            let leaf = level == 0 || large;
            let allowed = self.allowed(writable, user, no_execute);
            if leaf && !allowed.contains(self.access & RIGHTS) {
                return Err(self.refuse(ERROR_PRESENT));
            }
            let dirties = leaf && self.access.contains(MappingFlags::WRITE);
            let marked = raw | ACCESSED | if dirties { DIRTY } else { 0 };
            if let Some(place) = marks.get_mut(usize::from(level)).filter(|_| marked != raw) {
                *place = Some(Mark { entry, old: raw, new: marked, fault: self.all_ones() });
            }
            if leaf {
                let page = match kind {
                    // PSE-36: bits 39:32 stand in 20:13.
                    EntryKind::Short if large => (raw & ones(21) & !ones(13)) << 19 | raw & !ones(22),
                    _ => raw & ones(52) & !ones(shift),
                };
                let gpa = GuestPhysAddr::new(page | linear & ones(shift));
                return Ok(FirstStage { gpa, level, page_size: 1 << shift, allowed, user, kind, marks });
            }
            table = raw & ones(52) & !ones(12);
            level -= 1;
        }
    }

    /// What the entries of all levels together allow in the mode of the access ("Access Rights").
    fn allowed(&self, writable: bool, user: bool, no_execute: bool) -> MappingFlags {
        if self.access.contains(MappingFlags::USER) {
            return rights(user, user && writable, user && !no_execute);
        }
        let write_protect = bit(self.paging.cr0, 16);
        let (smep, smap) = (bit(self.paging.cr4, 20), bit(self.paging.cr4, 21));
        let data = !(user && smap && !self.paging.ac);
        rights(data, data && (writable || !write_protect), !(no_execute || user && smep))
    }

    fn load(&self, entry: GuestPhysAddr, kind: EntryKind) -> Result<u64, GuestWalkError> {
        self.memory.load(entry, kind).map_err(|fault| fault.error(entry, self.gva, self.all_ones()))
    }

    /// The fault of an entry that reads as all ones.
    fn all_ones(&self) -> GuestPageFault {
        self.page_fault(ERROR_PRESENT | ERROR_RESERVED)
    }

    fn refuse(&self, cause: u32) -> GuestWalkError {
        GuestWalkError::Guest(self.page_fault(cause))
    }

    /// "Page-Fault Error Code"; I/D says something only where fetches can be refused for themselves.
    fn page_fault(&self, cause: u32) -> GuestPageFault {
        let when = |flag, error| if self.access.contains(flag) { error } else { 0 };
        let tells_fetches = bit(self.paging.cr4, 20) || bit(self.paging.cr4, 5) && self.paging.no_execute();
        let fetch = if tells_fetches { when(MappingFlags::EXECUTE, ERROR_FETCH) } else { 0 };
        let error_code =
            cause | when(MappingFlags::WRITE, ERROR_WRITE) | when(MappingFlags::USER, ERROR_USER) | fetch;
        GuestPageFault::X86 { error_code, cr2: self.gva }
    }
}
