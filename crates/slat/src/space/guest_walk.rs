//! Guest virtual addresses: both stages of translation in software, over the tables that the hardware uses.
//!
//! Nothing is populated: what the hardware would fault on is reported, and the caller answers it as it answers the hardware.

#![expect(unsafe_code, reason = "reads and marks the guest's table entries through the host's pointers")]

use super::{AddrSpace, Backend, CustomBackend};
use crate::addr::{GuestPhysAddr, GuestVirtAddr, HostPhysAddr, PAGE_SIZE};
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
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// A byte as second-level translation sees it.
#[derive(Clone, Copy, Debug)]
struct Byte {
    hpa: HostPhysAddr,
    flags: MappingFlags,
    /// Its frame belongs to the space, so that the host's pointers reach it.
    owned: bool,
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
    ///     AddrSpace::with_format(HeapHal::new(), Gstage::default(), GuestPhysAddr::new(0), 0x10000, 1)?;
    /// space.map_alloc(GuestPhysAddr::new(0), 0x10000, MappingFlags::READ | MappingFlags::WRITE, true)?;
    /// // A guest with Sv39: its root is in page 1, and maps a GiB of itself at virtual address 0, writable.
    /// let root = space.translate(GuestPhysAddr::new(0x1000)).ok_or("populated")?;
    /// space.hal().write(root, &0xc7_u64.to_le_bytes());
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
        self.both_stages(info, gva, access).map(|(translation, _)| translation)
    }

    /// The bytes at the guest's program counter, for emulating the instruction there: up to 15, across a page boundary.
    /// `user` says that the guest runs in user mode. Where the next page faults there are fewer, and what the instruction
    /// may need of it is asked for by another call with its first address, which says why it faults.
    ///
    /// # Errors
    /// [`FetchError::Walk`] if `pc` has no translation for a fetch, as [`translate_virt`](Self::translate_virt);
    /// [`FetchError::NotMemory`].
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
        let (found, owned) = self.both_stages(info, pc, access)?;
        if !owned {
            return Err(FetchError::NotMemory(found.gpa));
        }
        let room = (InstructionBytes::MOST - bytes.len()) as u64;
        for offset in 0..room.min(PAGE_SIZE - pc.page_offset()) {
            let pointer = self.hal().phys_to_virt(found.hpa).wrapping_add(offset as usize);
            // SAFETY: the byte is in the page of `hpa`, in a frame that the space has taken from the host and gives back
            // only by `&mut self`; what the guest does to it meanwhile is atomic.
            let byte = unsafe { &*pointer.cast::<AtomicU8>() };
            bytes.push(byte.load(Ordering::Relaxed));
        }
        Ok(())
    }

    /// The translation, and whether the host's pointers reach the byte.
    fn both_stages(
        &self,
        info: &GuestPageWalkInfo,
        gva: GuestVirtAddr,
        access: MappingFlags,
    ) -> Result<(GuestTranslation, bool), GuestWalkError> {
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
        Ok((GuestTranslation { gpa, hpa: byte.hpa, flags, page_size, level }, byte.owned))
    }

    /// What the hardware finds at `gpa`, or why it faults.
    fn second_stage(&self, gpa: GuestPhysAddr, access: MappingFlags) -> Result<Byte, FaultCause> {
        if !self.format().geometry().translates(gpa) {
            return Err(FaultCause::AddressSize);
        }
        let (slot, entry) = self.table.walk(gpa);
        let View::Leaf(leaf) = self.table.view(slot.level, entry) else { return Err(FaultCause::NotPresent) };
        if !allows(self.format(), leaf.flags, access) {
            return Err(FaultCause::Permission);
        }
        let offset = gpa.as_u64() & (level_bytes(slot.level) - 1);
        let hpa = HostPhysAddr::new(leaf.hpa.as_u64() | offset);
        Ok(Byte { hpa, flags: leaf.flags, owned: leaf.owned })
    }

    /// The pointer to an entry of the guest's tables, for an access of the walk.
    fn entry_pointer(&self, gpa: GuestPhysAddr, access: MappingFlags) -> Result<*mut u8, TableFault> {
        match self.second_stage(gpa, access) {
            Ok(byte) if byte.owned => Ok(self.hal().phys_to_virt(byte.hpa)),
            Ok(_) => Err(TableFault::NotMemory),
            Err(_) if self.is_trap(gpa) => Err(TableFault::NotMemory),
            Err(cause) => Err(TableFault::Nested { access, cause }),
        }
    }

    /// The page of `gpa` is about to be written: where the hardware would mark its leaf, so does the host.
    fn mark_written(&self, gpa: GuestPhysAddr) {
        let marks = self.format().accessed_bit() | self.format().dirty_bit();
        let (slot, entry) = self.table.walk(gpa);
        // While the space is borrowed, a leaf that is there stays.
        if entry & marks != marks {
            slot.entries.set_bits(self.hal(), slot.index, marks);
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
        let pointer = self.entry_pointer(gpa, if marks { BOTH } else { MappingFlags::READ })?;
        Ok(match kind {
            EntryKind::Short => {
                // SAFETY: the entry is aligned to its size and so inside of one frame, which the space has taken from the
                // host and gives back only by `&mut self`; everybody's accesses to it are atomic.
                let entry = unsafe { &*pointer.cast::<AtomicU32>() };
                u64::from(u32::from_le(entry.load(Ordering::Acquire)))
            }
            EntryKind::Long | EntryKind::Pdpte => {
                // SAFETY: as above.
                let entry = unsafe { &*pointer.cast::<AtomicU64>() };
                u64::from_le(entry.load(Ordering::Acquire))
            }
        })
    }

    fn compare_exchange(
        &self,
        gpa: GuestPhysAddr,
        kind: EntryKind,
        old: u64,
        new: u64,
    ) -> Result<bool, TableFault> {
        let pointer = self.entry_pointer(gpa, BOTH)?;
        self.mark_written(gpa);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        Ok(if kind == EntryKind::Short {
            // SAFETY: as in `load`.
            let entry = unsafe { &*pointer.cast::<AtomicU32>() };
            entry.compare_exchange((old as u32).to_le(), (new as u32).to_le(), success, failure).is_ok()
        } else {
            // SAFETY: as in `load`.
            let entry = unsafe { &*pointer.cast::<AtomicU64>() };
            entry.compare_exchange(old.to_le(), new.to_le(), success, failure).is_ok()
        })
    }
}
