//! Accesses, and what comes of them.

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An atomic read-modify-write.
    ReadWrite,
    /// An instruction fetch.
    Execute,
}

/// One access to a guest physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// The guest runs in its user mode (x86 CPL 3 or a user page under MBEC, Arm EL0, RISC-V VU).
    pub user: bool,
    /// The access is the guest's page walk (or its accessed or dirty flag), not the final access.
    pub walk: bool,
    /// What the guest's instruction does, which is another thing than `kind` only in a page walk.
    pub original: AccessKind,
}

impl Access {
    /// A load by the guest's kernel.
    pub const READ: Self = Self::new(AccessKind::Read);
    /// A store by the guest's kernel.
    pub const WRITE: Self = Self::new(AccessKind::Write);
    /// An instruction fetch by the guest's kernel.
    pub const EXECUTE: Self = Self::new(AccessKind::Execute);

    /// By the guest's kernel, not of a page walk.
    #[must_use]
    pub const fn new(kind: AccessKind) -> Self {
        Self { kind, user: false, walk: false, original: kind }
    }

    /// The same in the guest's user mode.
    #[must_use]
    pub const fn by_user(self) -> Self {
        Self { user: true, ..self }
    }

    /// An access that the guest's page walk makes on behalf of this one.
    #[must_use]
    pub const fn of_walk(self, kind: AccessKind) -> Self {
        Self { kind, walk: true, ..self }
    }

    pub(crate) fn reads(self) -> bool {
        matches!(self.kind, AccessKind::Read | AccessKind::ReadWrite)
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self.kind, AccessKind::Write | AccessKind::ReadWrite)
    }

    pub(crate) fn executes(self) -> bool {
        self.kind == AccessKind::Execute
    }
}

/// What the entries allow, all levels together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Permissions {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Fetches by the guest's kernel.
    pub execute: bool,
    /// Fetches by the guest's user mode.
    pub execute_user: bool,
}

impl Permissions {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, execute: true, execute_user: true };

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
            execute: self.execute && other.execute,
            execute_user: self.execute_user && other.execute_user,
        }
    }

    /// Whether they allow the access.
    #[must_use]
    pub fn allow(self, access: Access) -> bool {
        (!access.reads() || self.read)
            && (!access.writes() || self.write)
            && (!access.executes() || if access.user { self.execute_user } else { self.execute })
    }
}

/// The memory type that the second level gives, in the fields of its leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Memory {
    /// Intel.
    Ept {
        /// Bits 5:3: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB.
        memory_type: u8,
        /// Bit 6: the guest's PAT does not count.
        ignore_pat: bool,
    },
    /// AMD.
    Npt {
        /// PAT, PCD, PWT: the index into the PAT of the host.
        pat_index: u8,
    },
    /// Arm.
    Stage2 {
        /// MemAttr\[3:0\]; what it means depends on HCR_EL2.FWB.
        attributes: u8,
        /// SH\[1:0\].
        shareability: u8,
    },
    /// RISC-V.
    Gstage {
        /// Bits 62:61: 0 as the physical memory attributes say, 1 NC, 2 IO.
        pbmt: u8,
    },
}

/// A translation as one access saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Translation {
    /// The host physical address of the byte.
    pub hpa: u64,
    /// The size of the page that was used, in bytes.
    pub size: u64,
    /// What the page allows, all levels (and stages) together.
    pub permissions: Permissions,
    /// The second level's memory type.
    pub memory: Memory,
}

/// What went wrong at the second level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An entry is not present (Arm: translation fault).
    NotPresent,
    /// The address is beyond what the root translates.
    AddressRange,
    /// Present, but the access is not allowed.
    Permission,
    /// Arm: the access flag is clear; RISC-V: A, or D for a store, is clear under Svade.
    AccessFlag,
    /// Arm: an output address is beyond the physical address size.
    AddressSize,
    /// A reserved bit or combination (EPT misconfiguration, NPT RSV, RISC-V reserved encodings).
    Reserved,
    /// A table is outside of the RAM: there is no such thing on hardware that software has set up right.
    Bus,
}

/// The registers that hardware would report a fault in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Syndrome {
    /// Intel.
    Ept {
        /// 48 EPT violation, 49 EPT misconfiguration.
        reason: u16,
        /// Exit qualification; 0 for a misconfiguration, which has none.
        qualification: u64,
        /// Guest-physical address.
        gpa: u64,
    },
    /// AMD #NPF.
    Npt {
        /// EXITINFO1.
        exitinfo1: u64,
        /// EXITINFO2, the guest physical address.
        exitinfo2: u64,
    },
    /// Arm.
    Stage2 {
        /// ESR_EL2; ISV and what depends on it are zero.
        esr: u64,
        /// HPFAR_EL2, or `None` where it is UNKNOWN.
        hpfar: Option<u64>,
    },
    /// RISC-V.
    Gstage {
        /// scause: 20 instruction, 21 load, 23 store guest-page fault.
        scause: u64,
        /// htval: the guest physical address shifted right by 2.
        htval: u64,
        /// htinst: the pseudoinstruction of an implicit access, else 0.
        htinst: u64,
    },
}

/// A fault at the second level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// The guest physical address.
    pub gpa: u64,
    /// The level of the entry, counted from the leaf: 0 holds 4 KiB leaves.
    pub level: u8,
    /// The access.
    pub access: Access,
    /// As the hardware reports it.
    pub syndrome: Syndrome,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {:#x}, level {}, {:x?}", self.kind, self.gpa, self.level, self.syndrome)
    }
}

impl std::error::Error for Fault {}

/// Where a result comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A walk of the tables as they are now.
    Walk,
    /// A walk that began at a cached pointer to the table at this host physical address.
    CachedTable(u64),
    /// A cached leaf, or one that may come from a neighbour's entry at any time (RISC-V: Svnapot); the address is that of the
    /// entry that it was read from.
    CachedLeaf(u64),
    /// A cached invalid entry (RISC-V); the address is that of the entry that it was read from.
    CachedInvalid(u64),
    /// A cached combination of both stages; the address is that of the second-level leaf that it was made of.
    Combined(u64),
}

/// One result that the architecture allows at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// The result.
    pub result: Result<Translation, Fault>,
    /// Where it comes from. Of equal results, [`possible`](crate::Machine::possible) gives one.
    pub source: Source,
}
