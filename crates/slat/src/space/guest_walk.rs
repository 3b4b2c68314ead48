//! Guest virtual addresses: both stages of translation in software, over the tables that the hardware uses.
//!
//! Nothing is populated: what the hardware would fault on is reported, and the caller answers it as it answers the hardware.

use super::{AddrSpace, Backend, CustomBackend};
use crate::addr::{GuestPhysAddr, GuestVirtAddr, HostPhysAddr};
use crate::fault::{FaultCause, NestedPageFaultInfo};
use crate::flags::{MappingFlags, level_bytes};
use crate::format::{Format, allows};
use crate::guest::{
    EntryKind, FetchError, FirstStage, GuestPageWalkInfo, GuestTranslation, GuestWalkError, InstructionBytes,
    RIGHTS, TableFault, TableMemory,
};
use crate::hal::Hal;
use crate::table::View;
use crate::tlb::TableKind;

/// A byte as second-level translation sees it.
#[derive(Clone, Copy, Debug)]
struct Byte {
    hpa: HostPhysAddr,
    flags: MappingFlags,
}

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// Where `gva` leads for an access of the guest's: through its own tables, which lie in this space, then through the
    /// second level. `info` has the guest's paging registers; `access` is any of `READ`, `WRITE` and `EXECUTE`, with `USER`
    /// if the guest makes it in user mode; without any of the first three, only the presence of a page is asked for.
    ///
    /// Populates nothing, and takes no lock; runs beside faults and beside the guest. Each entry is read once, atomically,
    /// and marked by a compare-exchange if `info` asks for that. At most 5 entries are read for an attempt, and there are at
    /// most 8 attempts.
    ///
    /// The walk's own accesses need what they need on hardware: `READ`, and `WRITE` too where an entry is marked, always on AMD,
    /// and on Intel with accessed and dirty flags (SDM volume 3C, "Accessed and Dirty Flags for EPT").
    ///
    /// ```
    /// use slat::guest::{GuestPageFault, GuestPageWalkInfo, GuestWalkError};
    /// use slat::format::gstage::Gstage;
    /// use slat::{AddrSpace, GuestPhysAddr, GuestVirtAddr, MappingFlags, test_util::HeapHal};
    ///
    /// let mut space: AddrSpace<HeapHal, Gstage> =
    ///     AddrSpace::with_format(HeapHal::new(), Gstage::default(), GuestPhysAddr::new(0), 0x10000, 0)?;
    /// space.map_alloc(GuestPhysAddr::new(0), 0x10000, MappingFlags::READ | MappingFlags::WRITE, true)?;
    /// // A guest with Sv39: its root is in page 1, and maps a GiB of itself at virtual address 0, writable.
    /// space.write_obj(GuestPhysAddr::new(0x1000), 0xc7_u64)?;
    /// let info = GuestPageWalkInfo::riscv(8 << 60 | 1, 0, 0);
    ///
    /// let found = space.translate_virt(&info, GuestVirtAddr::new(0x1008), MappingFlags::WRITE)?;
    /// assert_eq!(found.gpa, GuestPhysAddr::new(0x1008));
    /// assert_eq!(found.page_size, 1 << 30);
    ///
    /// // Its page is not executable: the guest gets an instruction page fault.
    /// let refused = space.translate_virt(&info, GuestVirtAddr::new(0x1008), MappingFlags::EXECUTE);
    /// let fault = GuestPageFault::Riscv { scause: 12, stval: GuestVirtAddr::new(0x1008) };
    /// assert_eq!(refused, Err(GuestWalkError::Guest(fault)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`GuestWalkError`] tells the fault that the guest must get, the nested fault that the caller must answer first (also
    /// for an access to a device behind a trap region), tables in no memory, and paging that is not known.
    pub fn translate_virt(
        &self,
        info: &GuestPageWalkInfo,
        gva: GuestVirtAddr,
        access: MappingFlags,
    ) -> Result<GuestTranslation, GuestWalkError> {
        let found = info.first_stage(self, gva, access)?;
        let FirstStage { gpa, level, page_size, user, .. } = found;
        let access = info.second_access(&found, access);
        let byte = self.second_stage(gpa, access).map_err(|cause| {
            let gva = Some(gva);
            GuestWalkError::Nested(NestedPageFaultInfo { gpa, gva, access, cause, walk: false, width: None })
        })?;
        let mut second = byte.flags & RIGHTS;
        second.set(MappingFlags::EXECUTE, allows(self.format(), byte.flags, MappingFlags::EXECUTE | access));
        let mut flags = found.allowed & second | byte.flags & !MappingFlags::PERMISSIONS;
        flags.set(MappingFlags::USER, user);
        Ok(GuestTranslation { gpa, hpa: byte.hpa, flags, page_size, level })
    }

    /// What an access faulted on of which the hardware tells the virtual address only: `gva`, and what the guest's
    /// instruction did (as in [`translate_virt`](Self::translate_virt)). RISC-V harts may leave htval at 0
    /// ([`Fault::info`](crate::format::gstage::Fault::info)). The answer is for
    /// [`handle_nested_fault`](Self::handle_nested_fault); `width` is not known here.
    ///
    /// Where nothing faults any more, because another CPU has answered the same fault or this one remembers an older
    /// refusal, it is the address that the access leads to: answering that lets this CPU forget.
    ///
    /// ```
    /// use slat::format::gstage::{Gstage, Trap, decode_fault};
    /// use slat::guest::GuestPageWalkInfo;
    /// use slat::{AddrSpace, FaultOutcome, GuestPhysAddr, LeafSize, MappingFlags, test_util::HeapHal};
    ///
    /// let mut space: AddrSpace<HeapHal, Gstage> =
    ///     AddrSpace::with_format(HeapHal::new(), Gstage::default(), GuestPhysAddr::new(0), 0x10000, 0)?;
    /// space.map_alloc(GuestPhysAddr::new(0), 0x10000, MappingFlags::READ | MappingFlags::WRITE, false)?;
    /// // A store to 0x5008, by a guest that has no paging yet, on a hart that reports no address.
    /// let fault = decode_fault(&Trap { scause: 23, stval: 0x5008, ..Trap::default() })?;
    /// let (vsatp, vsstatus, henvcfg, hstatus) = (0, 0, 0, 1 << 8);
    /// let info = match fault.info() {
    ///     Some(info) => info,
    ///     None => {
    ///         let paging = GuestPageWalkInfo::riscv(vsatp, vsstatus, henvcfg);
    ///         space.locate_fault(&paging, fault.gva, fault.virtual_access(hstatus))?
    ///     }
    /// };
    /// assert_eq!(info.gpa, GuestPhysAddr::new(0x5008));
    /// assert_eq!(space.handle_nested_fault(&info)?, FaultOutcome::Populated(LeafSize::Size4K));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`GuestWalkError::Guest`] if the guest's own tables refuse the access by now: they were changed meanwhile, so the guest
    /// is re-entered and gets its fault from the hardware. The others as [`translate_virt`](Self::translate_virt), but for
    /// [`GuestWalkError::Nested`].
    pub fn locate_fault(
        &self,
        info: &GuestPageWalkInfo,
        gva: GuestVirtAddr,
        access: MappingFlags,
    ) -> Result<NestedPageFaultInfo, GuestWalkError> {
        match self.translate_virt(info, gva, access) {
            Err(GuestWalkError::Nested(fault)) => Ok(fault),
            Err(other) => Err(other),
            Ok(GuestTranslation { gpa, .. }) => {
                let (gva, cause) = (Some(gva), FaultCause::NotPresent);
                Ok(NestedPageFaultInfo { gpa, gva, access, cause, walk: false, width: None })
            }
        }
    }

    /// The bytes at the guest's program counter, for emulating the instruction there: up to 15, across a page boundary.
    /// `user` says that the guest runs in user mode. Where the next page faults there are fewer, and what the instruction
    /// may need of it is asked for by another call with its first address, which says why it faults.
    ///
    /// # Errors
    /// [`FetchError::Walk`] if `pc` has no translation for a fetch, as [`translate_virt`](Self::translate_virt);
    /// [`FetchError::NotReadable`].
    pub fn fetch_instruction(
        &self,
        info: &GuestPageWalkInfo,
        pc: GuestVirtAddr,
        user: bool,
    ) -> Result<InstructionBytes, FetchError> {
        let mut access = MappingFlags::EXECUTE;
        access.set(MappingFlags::USER, user);
        let mut bytes = InstructionBytes::new();
        self.fetch_page(info, pc, access, &mut bytes)?;
        if bytes.len() < InstructionBytes::MOST {
            let next = GuestVirtAddr::new(pc.as_u64().wrapping_add(bytes.len() as u64));
            // Whether the instruction goes on there, only a decoder knows.
            let _ = self.fetch_page(info, next, access, &mut bytes);
        }
        Ok(bytes)
    }

    /// Appends the bytes from `pc` on to the end of its page, as many as there is room for.
    fn fetch_page(
        &self,
        info: &GuestPageWalkInfo,
        pc: GuestVirtAddr,
        access: MappingFlags,
        bytes: &mut InstructionBytes,
    ) -> Result<(), FetchError> {
        let found = self.translate_virt(info, pc, access)?;
        bytes
            .append_from_page(pc, |part| self.read(found.gpa, part))
            .map_err(|_| FetchError::NotReadable(found.gpa))
    }

    /// What the hardware finds at `gpa`, or why it faults.
    fn second_stage(&self, gpa: GuestPhysAddr, access: MappingFlags) -> Result<Byte, FaultCause> {
        if !self.format().geometry().translates(gpa) {
            return Err(FaultCause::AddressSize);
        }
        let (slot, entry) = self.table.walk(gpa);
        let View::Leaf(leaf) = self.table.view(slot.level, slot.index, entry) else {
            return Err(FaultCause::NotPresent);
        };
        if !allows(self.format(), leaf.flags, access) {
            return Err(FaultCause::Permission);
        }
        if self.table.lacks_marks(&leaf, access) {
            return Err(FaultCause::AccessFlag);
        }
        let offset = gpa.as_u64() & (level_bytes(slot.level) - 1);
        let hpa = HostPhysAddr::new(leaf.hpa.as_u64() | offset);
        Ok(Byte { hpa, flags: leaf.flags })
    }

    /// Whether the hardware lets the walk have an entry of the guest's tables.
    fn check_entry(&self, gpa: GuestPhysAddr, access: MappingFlags) -> Result<(), TableFault> {
        match self.second_stage(gpa, access) {
            Ok(_) => Ok(()),
            Err(_) if self.is_trap(gpa) => Err(TableFault::NotMemory),
            Err(cause) => Err(TableFault::Nested { access, cause }),
        }
    }

    fn is_trap(&self, gpa: GuestPhysAddr) -> bool {
        self.region(gpa).is_some_and(|region| matches!(region.backend, Backend::Trap { .. }))
    }

    /// Whether the hardware takes each access of a guest's walk for a write.
    fn walks_write(&self) -> bool {
        match F::TABLE {
            TableKind::Npt => true,
            TableKind::Ept => self.format().accessed_bit() != 0,
            TableKind::Stage2 | TableKind::Gstage => false,
        }
    }
}

const BOTH: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

impl<H: Hal, F: Format, B: CustomBackend> TableMemory for AddrSpace<H, F, B> {
    fn load(&self, gpa: GuestPhysAddr, kind: EntryKind) -> Result<u64, TableFault> {
        // Intel reads PDPTEs when CR3 is loaded, and that is no walk: it needs no more than to read.
        let marks = self.walks_write() && !(kind == EntryKind::Pdpte && F::TABLE == TableKind::Ept);
        self.check_entry(gpa, if marks { BOTH } else { MappingFlags::READ })?;
        // The page is there, and stays while the space is borrowed: nothing is populated.
        let entry = match kind {
            EntryKind::Short => self.memory().atomic_load(gpa).map(|entry| u64::from(u32::from_le(entry))),
            EntryKind::Long | EntryKind::Pdpte => self.memory().atomic_load(gpa).map(u64::from_le),
        };
        entry.map_err(|_| TableFault::NotMemory)
    }

    fn compare_exchange(
        &self,
        gpa: GuestPhysAddr,
        kind: EntryKind,
        old: u64,
        new: u64,
    ) -> Result<bool, TableFault> {
        self.check_entry(gpa, BOTH)?;
        let memory = self.memory();
        let done = if kind == EntryKind::Short {
            let (old, new) = ((old as u32).to_le(), (new as u32).to_le());
            memory.atomic_compare_exchange(gpa, old, new).map(|found| found.is_ok())
        } else {
            memory.atomic_compare_exchange(gpa, old.to_le(), new.to_le()).map(|found| found.is_ok())
        };
        done.map_err(|_| TableFault::NotMemory)
    }
}
