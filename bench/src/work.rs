//! What is measured.

use clap::ValueEnum;

/// One thing that a hypervisor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Work {
    /// Map 1 GiB linearly in 4 KiB leaves, with one call; per leaf.
    #[value(name = "map-4k")]
    Map4k,
    /// Map 64 GiB linearly in 2 MiB leaves, with one call; per leaf.
    #[value(name = "map-2m")]
    Map2m,
    /// Translate random addresses in 1 GiB of 4 KiB leaves, one independent of the other.
    TranslateIndependent,
    /// The same, each address computed from the last result.
    TranslateDependent,
    /// Read objects of 8 bytes at random aligned addresses in 1 GiB of populated 4 KiB leaves.
    ReadObj,
    /// Copy 1 MiB of populated memory, 4 KiB leaves of scattered frames, into a buffer of the host; per copy.
    #[value(name = "copy-1m")]
    Copy1m,
    /// The same, all of it in leaves of 2 MiB: beside one `memcpy`.
    #[value(name = "copy-1m-large")]
    Copy1mLarge,
    /// Declare 1 GiB to be populated on demand; per 4 KiB page.
    LazyDeclare,
    /// Answer faults in order, a 4 KiB frame each; contenders that let the host skip zeroing do.
    Fault,
    /// Answer faults in order, a zeroed 4 KiB frame each, cold in the cache.
    FaultZeroed,
    /// Populate 1 GiB at once with zeroed 4 KiB frames, cold in the cache; per page.
    PopulateZeroed,
    /// Make 1 GiB of 4 KiB leaves read-only, with one call; per leaf.
    #[value(name = "protect-4k")]
    Protect4k,
    /// The same where the hardware sets accessed and dirty bits meanwhile, none of which may be lost.
    #[value(name = "protect-4k-atomic")]
    Protect4kAtomic,
    /// Make every second 4 KiB page read-only, one call each; per call.
    ProtectEverySecond,
    /// Unmap 1 GiB of linear 4 KiB leaves, with one call; per leaf.
    UnmapLinear,
    /// Unmap 1 GiB of populated 4 KiB leaves and give the frames back; per leaf.
    UnmapFrames,
    /// Unmap one 4 KiB page in a 1 GiB leaf; per page.
    #[value(name = "split-1g")]
    Split1g,
    /// Remove one of 100,000 regions of one page.
    RegionsRemoveOne,
    /// Map, later unmap, one 4 KiB page per call behind 1 GiB that is mapped; per page.
    #[value(name = "growth-1g")]
    Growth1g,
    /// The same behind 1 TiB that is mapped.
    #[value(name = "growth-1t")]
    Growth1t,
    /// One thread populates its 4 KiB pages; wall time per page.
    OneThreadFault,
    /// Two threads populate theirs in the same space; wall time per page.
    TwoThreadsFault,
    /// Fork a guest of 4 KiB leaves; timed by --sharing.
    Fork,
    /// First writes to pages of a fork whose leaf table is its own; per page, timed by --sharing.
    WriteAfterFork,
    /// First writes of forks that share all tables; per page, timed by --sharing.
    WriteAfterForkCold,
    /// Collect the dirty log where nothing was written to; per 4 KiB leaf, timed by --sharing.
    CollectClean,
}

impl Work {
    /// Whether --sharing times it, and the other table does not.
    pub(crate) const fn is_sharing(self) -> bool {
        matches!(self, Self::Fork | Self::WriteAfterFork | Self::WriteAfterForkCold | Self::CollectClean)
    }

    /// The name on the command line and in the results.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Bytes mapped in 4 KiB leaves.
    pub(crate) small: u64,
    /// Bytes mapped in 2 MiB leaves.
    pub(crate) large: u64,
    /// Addresses translated.
    pub(crate) translations: u64,
    /// Copies of 1 MiB.
    pub(crate) copies: u64,
    /// Regions of 1 GiB declared.
    pub(crate) declarations: u64,
    /// Calls of protect for every second page.
    pub(crate) protects: u64,
    /// Leaves of 1 GiB that are split.
    pub(crate) splits: u64,
    /// Regions removed, of 100,000.
    pub(crate) removals: u64,
    /// Pages mapped and unmapped one by one.
    pub(crate) growth: u64,
    /// Pages that each thread populates.
    pub(crate) per_thread: u64,
}

impl Sizes {
    /// The real ones.
    pub(crate) const FULL: Self = Self {
        small: 1 << 30,
        large: 64 << 30,
        translations: 1 << 20,
        copies: 1024,
        declarations: 16,
        protects: 32_768,
        splits: 64,
        removals: 64,
        growth: 16_384,
        per_thread: 131_072,
    };

    /// Enough to see that everything runs, and roughly how fast.
    pub(crate) const QUICK: Self = Self {
        small: 256 << 20,
        large: 16 << 30,
        translations: 1 << 18,
        copies: 64,
        declarations: 4,
        protects: 8_192,
        splits: 16,
        removals: 8,
        growth: 4_096,
        per_thread: 32_768,
    };

    /// Frames that the arena must have: what the hungriest work takes, in three shares.
    pub(crate) const fn frames(&self) -> usize {
        (self.small / 4096) as usize * 7 / 4
    }
}
