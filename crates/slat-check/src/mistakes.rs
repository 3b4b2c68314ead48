//! Mistakes that are made on purpose, so that the check is seen to fail.
//!
//! Some stand between slat and the CPUs (an invalidation too few, too small, too late), some in the host (a frame
//! handed out twice), some in the format (a wrong bit), some in the operations themselves (a page too many).

use crate::host::Moment;
use crate::platform::Platform;
use crate::specification::{Architecture, Rules};
use slat::format::{CacheEvent, Format, Geometry, Kind};
use slat::{
    CacheActions, GuestPhysAddr, GuestPhysRange, HostPhysAddr, Invalidation, LeafSize, MappingFlags,
    NestedPageFaultInfo, Reach, Scope, TableKind, TlbFeatures, UnsupportedFlags,
};
use slat_model::{Instruction, Mmu, Root, Syndrome, Tlbi};

macro_rules! mistakes {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mistake {
            $($(#[$doc])* $name,)*
        }

        impl Mistake {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

mistakes! {
    /// No invalidation at all.
    InvalidationMissing,
    /// Only the CPU that asks is invalidated.
    InvalidationLocal,
    /// The last CPU is left out.
    LastCpuForgotten,
    /// Only the first of several ranges is invalidated.
    FirstRangeOnly,
    /// Only the first page of each range is invalidated.
    FirstPageOnly,
    /// By address with too large a stride.
    StrideTooLarge,
    /// Another space's tag or root.
    WrongSpace,
    /// Frames go back first, the invalidation comes afterwards.
    FreedBeforeInvalidation,
    /// What the spurious fault of one CPU needs is left out.
    LocalInvalidationMissing,
    /// Arm: what combines both stages stays (no VMALLE1).
    CombinedEntriesForgotten,
    /// Arm: the TLBI is not waited for.
    DsbAfterMissing,
    /// Arm: the stores to the table are not waited for.
    DsbBeforeMissing,
    /// Arm: the address is not shifted.
    TlbiAddressUnshifted,
    /// Arm: only the last level is invalidated (IPAS2LE1).
    TlbiLastLevelOnly,
    /// Arm: stage 1 of the guest instead of stage 2.
    TlbiOfStageOne,
    /// RISC-V: the address is not shifted.
    FenceAddressUnshifted,
    /// RISC-V: HFENCE.VVMA instead of HFENCE.GVMA.
    FenceOfTheGuest,
    /// RISC-V: an address where none may be.
    FenceByAddress,
    /// RISC-V: the format says that fences by address reach tables.
    FenceByAddressForTables,
    /// RISC-V: what slat asks of other harts by the SBI has a shifted address.
    RemoteAddressShifted,
    /// RISC-V: HINVAL.GVMA without the SFENCE.W.INVAL before it.
    StoresUnordered,
    /// RISC-V: HINVAL.GVMA without the SFENCE.INVAL.IR behind it.
    InvalidationsUnordered,
    /// RISC-V: nobody sets the marks that the hart faults for.
    MarksLeftToTheHart,
    /// RISC-V: the hart that faulted is not told that the entry is valid, where that is wanted.
    NewEntryUnfenced,
    /// Intel: INVVPID instead of INVEPT.
    InvvpidInstead,
    /// AMD: INVLPGA instead of a flush by TLB_CONTROL.
    InvlpgaInstead,
    /// AMD: TLB_CONTROL stays 0.
    TlbControlZero,
    /// A run of frames is not aligned.
    AlignmentIgnored,
    /// A frame never comes back.
    FrameLeaked,
    /// Frames are not zeroed.
    NotZeroed,
    /// Arm: caches are not cleaned.
    CachesNotCleaned,
    /// Present entries are replaced without a break.
    BreakMissing,
    /// RISC-V, AMD: U is missing in leaves.
    UserBitMissing,
    /// Arm: the access flag is missing.
    AccessFlagMissing,
    /// Every page is executable.
    AlwaysExecutable,
    /// Every page that can be read can be written.
    AlwaysWritable,
    /// Every page is write-back.
    AlwaysWriteBack,
    /// A table entry lacks the write permission.
    TableReadOnly,
    /// Leaves map the frame behind theirs.
    LeafShifted,
    /// The root register names one level too few.
    LevelMissing,
    /// The root register names the frame behind the root.
    RootShifted,
    /// Flags that are a misconfiguration are taken.
    FlagsUnchecked,
    /// The dirty flag is not looked at.
    DirtyIgnored,
    /// Large leaves do not say that they are leaves.
    LargeBitMissing,
    /// RISC-V: one of sixteen entries that map 64 KiB together is changed as if it stood for itself.
    GroupChangedInPart,
    /// RISC-V: the address in one of sixteen entries is taken for that of its page.
    GroupAddressAsIs,
    /// A second fault replaces the frame.
    FaultReplaces,
    /// `unmap` forgets the last page.
    UnmapTooShort,
    /// `unmap` takes a page more.
    UnmapTooLong,
    /// `protect` forgets the last page.
    ProtectTooShort,
    /// Moving a page loses its contents.
    MoveLosesContents,
    /// A mapping that fails leaves its first page behind.
    FailureLeavesHalf,
    /// Pages are mapped at once where they should wait for the first access.
    PopulatedTooEarly,
    /// An address of a guest that is too wide is taken for a narrower one.
    WideAddressAliases,
    /// The caller maps the root of the space as if it were memory of its own.
    TableMapped,
    /// The caller maps a frame that the space owns as if it were memory of its own.
    OwnedFrameMapped,
    /// Now and then the host has no counters.
    CountMissing,
    /// What is pinned is unpinned by whoever unmaps or discards it.
    PinIgnored,
    /// What is discarded stays.
    DiscardKeeps,
    /// Each space gets memory of its own instead of the shared one.
    SharedNotShared,
    /// A private mapping is one of the memory itself.
    PrivateNotPrivate,
    /// A private page does not start as what the memory holds.
    PrivateCopyEmpty,
    /// A custom backend gives the next page.
    BackendPageMixedUp,
    /// Pages are paged out without an invalidation.
    PageOutUninvalidated,
    /// The contents of a page are saved before it is out of reach.
    SavedTooEarly,
    /// A page that was written to is dropped as if it had not been.
    WrittenDropped,
    /// A trap region names another device.
    DeviceMixedUp,
    /// The host does not say which memory is its own.
    ProtectionMissing,
    /// The host writes where the guest may only read.
    HostWritesReadOnly,
    /// What the host writes is not marked as dirty.
    HostForgetsDirty,
    /// An access of the host that stops says that it did one byte more.
    HostMiscounts,
    /// The host takes the frame behind the first one for the next page's.
    HostReadsPastPage,
    /// What the host populates is not empty.
    HostPopulatesRubbish,
    /// The host writes one byte more than it should.
    HostWritesTooMuch,
    /// A compare-exchange of the host does not compare.
    HostExchangesAlways,
    /// A fork invalidates nothing.
    ForkUninvalidated,
    /// A fork invalidates the CPU that asks and no other one.
    ForkInvalidationLocal,
    /// A page that is copied for a write is not invalidated.
    CopyUninvalidated,
    /// A page that is copied for a write loses its contents.
    CopyLosesContents,
    /// What is written goes to the frame that is shared with a fork.
    WriteReachesSibling,
    /// x86: a table that is shared with a fork is taken for the space's own.
    SharedTableChanged,
    /// Who drops a space gives a frame back that another one has.
    SharedFrameFreed,
    /// What was written since the snapshot is still there after going back to it.
    ResetKeepsWrites,
    /// A snapshot has what was to be left out of it.
    ChildrenGetAll,
    /// A collection of the dirty log invalidates nothing.
    LogUninvalidated,
    /// A collection writes a leaf back as it was read, without what the hardware marked since.
    CleanedByPlainStore,
    /// A change of flags makes what it changes clean.
    ProtectLosesMark,
    /// The split of a large leaf makes its pieces clean.
    SplitLosesMark,
    /// Where the hardware tells nothing, a fresh page is clean, and can be written to all the same.
    FreshIsClean,
    /// A scan for idle pages invalidates nothing.
    ScanUninvalidated,
}

/// What becomes of ranges and stride.
type ChangeRanges<'a> = &'a dyn Fn(&[GuestPhysRange], LeafSize) -> (Vec<GuestPhysRange>, LeafSize);

impl Mistake {
    /// The mistake that this one is at a moment.
    pub(crate) fn at(self, moment: Moment) -> Self {
        match (self, moment) {
            (Self::ForkUninvalidated, Moment::Fork)
            | (Self::CopyUninvalidated, Moment::Fault)
            | (Self::LogUninvalidated, Moment::Log)
            | (Self::ScanUninvalidated, Moment::Scan) => Self::InvalidationMissing,
            (Self::ForkInvalidationLocal, Moment::Fork) => Self::InvalidationLocal,
            (other, _) => other,
        }
    }

    /// What is executed instead of the correct `plan`.
    #[must_use]
    pub fn distort<P: Platform>(
        self,
        platform: &P,
        invalidation: &Invalidation<'_>,
        here: usize,
        cpus: usize,
        plan: Vec<(usize, Instruction)>,
    ) -> Vec<(usize, Instruction)> {
        let all = invalidation.reach == Reach::AllCpus;
        let instead = |invalidation: &Invalidation<'_>| {
            let targets = if all && !platform.broadcasts() { 0..cpus } else { here..here + 1 };
            let instructions = platform.maintenance(invalidation);
            targets.flat_map(|cpu| instructions.iter().map(move |one| (cpu, *one))).collect::<Vec<_>>()
        };
        let ranged = |change: ChangeRanges| {
            let Scope::Ranges { ranges, stride } = invalidation.scope else { return plan.clone() };
            let (ranges, stride) = change(ranges, stride);
            instead(&Invalidation { scope: Scope::Ranges { ranges: &ranges, stride }, ..*invalidation })
        };
        match self {
            Self::InvalidationMissing if all => vec![],
            Self::LocalInvalidationMissing if !all => vec![],
            Self::InvalidationLocal if all && platform.broadcasts() => {
                instead(&Invalidation { reach: Reach::ThisCpu, ..*invalidation })
            }
            Self::InvalidationLocal if all => plan.into_iter().filter(|(cpu, _)| *cpu == here).collect(),
            Self::LastCpuForgotten if all => plan.into_iter().filter(|(cpu, _)| cpu + 1 != cpus).collect(),
            Self::FirstRangeOnly => ranged(&|ranges, stride| (ranges[..1].to_vec(), stride)),
            Self::FirstPageOnly => ranged(&|ranges, stride| {
                let first = |range: &GuestPhysRange| GuestPhysRange::new(range.start(), 4096).ok();
                (ranges.iter().filter_map(first).collect(), stride)
            }),
            Self::StrideTooLarge => ranged(&|ranges, _| (ranges.to_vec(), LeafSize::Size2M)),
            Self::WrongSpace => {
                let root = match P::TABLE {
                    TableKind::Stage2 => invalidation.root ^ 3 << 48,
                    TableKind::Gstage => invalidation.root ^ 3 << 44,
                    TableKind::Ept => invalidation.root ^ 0x1000,
                    TableKind::Npt => return vec![],
                };
                instead(&Invalidation { root, ..*invalidation })
            }
            Self::RemoteAddressShifted => {
                let shifted = |(cpu, one)| match one {
                    Instruction::HfenceGvma { address: Some(address), vmid } if cpu != here => {
                        (cpu, Instruction::HfenceGvma { address: Some(address >> 2), vmid })
                    }
                    one => (cpu, one),
                };
                plan.into_iter().map(shifted).collect()
            }
            _ => plan.into_iter().filter_map(|(cpu, one)| Some((cpu, self.distort_one(one, all)?))).collect(),
        }
    }

    fn distort_one(self, one: Instruction, all: bool) -> Option<Instruction> {
        use slat_model::BarrierAccess::{All, Stores};
        let first_page = Some(0x4000_0000 >> 2);
        match (self, one) {
            (Self::CombinedEntriesForgotten, Instruction::Tlbi { operation: Tlbi::Vmalle1, .. })
            | (Self::DsbAfterMissing, Instruction::Dsb { access: All, .. })
            | (Self::DsbBeforeMissing, Instruction::Dsb { access: Stores, .. })
            | (Self::StoresUnordered, Instruction::SfenceWInval)
            | (Self::InvalidationsUnordered, Instruction::SfenceInvalIr) => None,
            (
                Self::TlbiAddressUnshifted,
                Instruction::Tlbi { operation: operation @ Tlbi::Ipas2e1, broadcast, operand },
            ) => Some(Instruction::Tlbi { operation, broadcast, operand: (operand << 12) & ((1 << 36) - 1) }),
            (Self::TlbiLastLevelOnly, Instruction::Tlbi { operation: Tlbi::Ipas2e1, broadcast, operand }) => {
                Some(Instruction::Tlbi { operation: Tlbi::Ipas2le1, broadcast, operand })
            }
            (Self::TlbiOfStageOne, Instruction::Tlbi { operation: Tlbi::Ipas2e1, broadcast, operand }) => {
                Some(Instruction::Tlbi { operation: Tlbi::Vaae1, broadcast, operand })
            }
            (Self::FenceAddressUnshifted, Instruction::HfenceGvma { address: Some(address), vmid }) => {
                Some(Instruction::HfenceGvma { address: Some(address << 2), vmid })
            }
            (Self::FenceOfTheGuest, Instruction::HfenceGvma { address, .. }) => {
                Some(Instruction::HfenceVvma { address: address.map(|address| address << 2), asid: None })
            }
            (Self::FenceByAddress, Instruction::HfenceGvma { address: None, vmid }) => {
                Some(Instruction::HfenceGvma { address: first_page, vmid })
            }
            (Self::InvvpidInstead, Instruction::Invept { .. }) => {
                Some(Instruction::Invvpid { kind: 2, vpid: 1, linear: 0 })
            }
            (Self::InvlpgaInstead, Instruction::Vmrun { .. }) if all => {
                Some(Instruction::Invlpga { address: 0x4000_0000, asid: 1 })
            }
            (Self::TlbControlZero, Instruction::Vmrun { .. }) => Some(Instruction::Vmrun { tlb_control: 0 }),
            _ => Some(one),
        }
    }
}

/// A format with a mistake.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mistaken<F> {
    /// The format without it.
    pub inner: F,
    /// The mistake.
    pub mistake: Mistake,
}

impl<F: Platform> Mistaken<F> {
    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }

    fn architecture(&self) -> Architecture {
        self.inner.rules().architecture
    }
}

impl<F: Platform> Format for Mistaken<F> {
    const OWNED: u64 = F::OWNED;
    const ADDRESS: u64 = F::ADDRESS;
    const WRITE: u64 = F::WRITE;
    const TABLES_HAVE_PERMISSIONS: bool = F::TABLES_HAVE_PERMISSIONS;
    const ADDRESS_SHIFT: u32 = F::ADDRESS_SHIFT;
    const TABLE: TableKind = F::TABLE;

    fn log_bit(&self) -> u64 {
        self.inner.log_bit()
    }

    fn log_bit_of_clean(&self) -> u64 {
        self.inner.log_bit_of_clean()
    }

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn hpa_bits(&self) -> u32 {
        self.inner.hpa_bits()
    }

    fn largest_leaf(&self) -> LeafSize {
        self.inner.largest_leaf()
    }

    fn tag_bits(&self) -> u32 {
        self.inner.tag_bits()
    }

    fn check_flags(&self, flags: MappingFlags) -> Result<(), UnsupportedFlags> {
        if self.makes(Mistake::FlagsUnchecked) { Ok(()) } else { self.inner.check_flags(flags) }
    }

    fn leaf(&self, level: u8, hpa: HostPhysAddr, flags: MappingFlags) -> u64 {
        let shifted = HostPhysAddr::new(hpa.as_u64() + 0x1000);
        let hpa = if self.makes(Mistake::LeafShifted) && level == 0 { shifted } else { hpa };
        let mut flags = flags;
        flags.set(MappingFlags::WRITE, {
            let write = self.makes(Mistake::AlwaysWritable) && flags.contains(MappingFlags::READ);
            write || flags.contains(MappingFlags::WRITE)
        });
        if self.makes(Mistake::AlwaysExecutable) && flags.contains(MappingFlags::READ) {
            flags |= MappingFlags::EXECUTE | MappingFlags::USER;
        }
        if self.makes(Mistake::AlwaysWriteBack) {
            flags = flags.permissions();
        }
        let mut entry = self.inner.leaf(level, hpa, flags);
        if self.makes(Mistake::FreshIsClean) && self.inner.dirty_bit() == 0 {
            entry = entry & !self.log_bit() | self.log_bit_of_clean();
        }
        match (self.mistake, self.architecture()) {
            (Mistake::UserBitMissing, Architecture::Gstage) => entry & !(1 << 4),
            (Mistake::UserBitMissing, Architecture::Npt) => entry & !(1 << 2),
            (Mistake::AccessFlagMissing, Architecture::Stage2) => entry & !(1 << 10),
            (Mistake::LargeBitMissing, Architecture::Ept | Architecture::Npt) => entry & !(1 << 7),
            (Mistake::LargeBitMissing, Architecture::Stage2) => entry | 2,
            _ => entry,
        }
    }

    fn table(&self, hpa: HostPhysAddr) -> u64 {
        let entry = self.inner.table(hpa);
        if self.makes(Mistake::TableReadOnly) && self.architecture() != Architecture::Stage2 {
            entry & !2
        } else {
            entry
        }
    }

    fn kind(&self, level: u8, entry: u64) -> Kind {
        self.inner.kind(level, entry)
    }

    fn next_table(&self, entry: u64) -> Option<HostPhysAddr> {
        if self.makes(Mistake::TableReadOnly) {
            // What it makes itself.
            return self.inner.next_table(entry | 2).filter(|_| entry & 2 == 0);
        }
        let read_only = self.makes(Mistake::SharedTableChanged) && F::TABLES_HAVE_PERMISSIONS;
        self.inner.next_table(if read_only { entry | F::WRITE } else { entry })
    }

    fn accessed_bit(&self) -> u64 {
        self.inner.accessed_bit()
    }

    fn dirty_bit(&self) -> u64 {
        match self.architecture() {
            _ if !self.makes(Mistake::DirtyIgnored) => self.inner.dirty_bit(),
            // G, which the G-stage ignores.
            Architecture::Gstage => 1 << 5,
            _ => 1 << 61,
        }
    }

    fn marks_by_fault(&self) -> bool {
        !self.makes(Mistake::MarksLeftToTheHart) && self.inner.marks_by_fault()
    }

    fn fences_new_entries(&self) -> bool {
        !self.makes(Mistake::NewEntryUnfenced) && self.inner.fences_new_entries()
    }

    fn group_bit(&self) -> u64 {
        if self.makes(Mistake::GroupChangedInPart) { 0 } else { self.inner.group_bit() }
    }

    fn grouped(&self, entry: u64) -> Option<u64> {
        self.inner.grouped(entry)
    }

    fn single(&self, index: usize, entry: u64) -> u64 {
        if self.makes(Mistake::GroupAddressAsIs) { entry } else { self.inner.single(index, entry) }
    }

    fn address(&self, entry: u64) -> HostPhysAddr {
        self.inner.address(entry)
    }

    fn flags(&self, entry: u64) -> MappingFlags {
        self.inner.flags(entry)
    }

    fn needs_break(&self, level: u8, old: u64, new: u64) -> bool {
        !self.makes(Mistake::BreakMissing) && self.inner.needs_break(level, old, new)
    }

    fn root_register(&self, root: HostPhysAddr, tag: u16) -> u64 {
        let root = match self.mistake {
            Mistake::RootShifted => HostPhysAddr::new(root.as_u64() + 0x1000),
            _ => root,
        };
        let register = self.inner.root_register(root, tag);
        match (self.mistake, self.architecture()) {
            (Mistake::LevelMissing, Architecture::Ept) => register - 8,
            (Mistake::LevelMissing, Architecture::Gstage) => register - (1 << 60),
            _ => register,
        }
    }

    fn cache_actions(&self, event: CacheEvent) -> CacheActions {
        self.inner.cache_actions(event)
    }

    fn separates_user_execute(&self) -> bool {
        self.inner.separates_user_execute()
    }

    fn tlb_features(&self) -> TlbFeatures {
        self.inner.tlb_features()
    }

    fn invalidation_by_address_reaches_tables(&self) -> bool {
        self.makes(Mistake::FenceByAddressForTables) || self.inner.invalidation_by_address_reaches_tables()
    }
}

impl<F: Platform> Platform for Mistaken<F> {
    fn mmu(&self) -> Mmu {
        self.inner.mmu()
    }

    fn root(&self, register: u64, tag: u16) -> Root {
        match self.inner.root(register, tag) {
            // VTCR_EL2.SL0 one less.
            Root::Stage2 { vtcr, vttbr } if self.makes(Mistake::LevelMissing) => {
                Root::Stage2 { vtcr: vtcr - (1 << 6), vttbr }
            }
            root => root,
        }
    }

    fn rules(&self) -> Rules {
        self.inner.rules()
    }

    fn maintenance(&self, invalidation: &Invalidation<'_>) -> Vec<Instruction> {
        self.inner.maintenance(invalidation)
    }

    fn remote_maintenance(&self, invalidation: &Invalidation<'_>) -> Vec<Instruction> {
        self.inner.remote_maintenance(invalidation)
    }

    fn decode_fault(&self, syndrome: &Syndrome, gva: u64) -> Option<NestedPageFaultInfo> {
        self.inner.decode_fault(syndrome, gva)
    }

    fn broadcasts(&self) -> bool {
        self.inner.broadcasts()
    }

    fn publication(&self) -> &'static [Instruction] {
        self.inner.publication()
    }
}

/// What a mistaken `unmap` or `protect` does to the range that it is given.
#[must_use]
pub fn distort_range(
    mistake: Option<Mistake>,
    unmap: bool,
    gpa: GuestPhysAddr,
    size: u64,
) -> (GuestPhysAddr, u64) {
    match (mistake, unmap) {
        (Some(Mistake::UnmapTooShort), true) | (Some(Mistake::ProtectTooShort), false) if size > 4096 => {
            (gpa, size - 4096)
        }
        (Some(Mistake::UnmapTooLong), true) => (gpa, size + 4096),
        _ => (gpa, size),
    }
}
