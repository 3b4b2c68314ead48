//! What the hypervisor reports of a run when it is over.

use crate::pause::OwnFrames;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How the guest's run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum End {
    /// The guest asked for power-off.
    PowerOff,
    /// The guest asked for a reset, which is how Linux ends after a panic with `panic=-1`.
    Reset,
    /// An access that is nobody's, under [`FaultPolicy::Stop`](crate::FaultPolicy::Stop).
    Fault {
        /// One line: PC, GPA, access, region.
        description: String,
    },
    /// The guest's text screen shows [`Params::until_screen`](crate::Params::until_screen).
    ScreenShows,
    /// The guest has printed [`Params::until_console`](crate::Params::until_console).
    ConsoleShows,
    /// The guest was written away, to go on in another run.
    Saved,
    /// The guest has moved, and goes on as another one.
    Moved,
    /// Whoever sat at the console ended the run by the monitor.
    Quit,
    /// The guest did something that the hypervisor does not offer.
    Unsupported {
        /// One line: what, and where.
        description: String,
    },
    /// No frame was left for the guest.
    OutOfMemory {
        /// One line: PC, GPA, access.
        description: String,
    },
}

/// Counts of a whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How the run ended.
    pub end: End,
    /// Stage-2 faults by kind; the sum is the number of stage-2 exits, but for those by which CPUs left at the end, and
    /// for accesses to the emulated UART.
    pub faults: Faults,
    /// Leaves of the stage-2 table at the end of the run, by size.
    pub leaves: Leaves,
    /// Table pages at the end of the run, the root's included.
    pub table_pages: u64,
    /// Frames of 4 KiB by what happened to them, after everything was torn down.
    pub frames: Frames,
    /// Instructions of TLB maintenance executed, by mnemonic.
    pub invalidations: BTreeMap<String, u64>,
    /// Cache maintenance: frames cleaned and invalidated for the guest or after it.
    pub cache_maintenance_frames: u64,
    /// What churn did, if it ran.
    pub churn: Option<ChurnReport>,
    /// Calls of the guest to its firmware: PSCI and SMCCC, or SBI.
    pub firmware_calls: u64,
    /// External aborts given to the guest.
    pub injected_aborts: u64,
    /// Exits of the guest, of every kind.
    pub exits: u64,
    /// The same for each CPU of the guest by itself, CPU 0 first.
    pub exits_by_cpu: Vec<u64>,
    /// What the guest did with the emulated UART.
    pub uart: EmulatedUart,
    /// What it had done with pieces of its memory, by hypercall.
    pub buffer_calls: BufferCalls,
    /// Exits by what they were for.
    #[serde(default)]
    pub exits_by_kind: BTreeMap<String, u64>,
    /// Pages that the guest wrote, where the hardware tells.
    #[serde(default)]
    pub pages_written: Option<PagesWritten>,
    /// What the answers to second-level faults cost, where the machine counts that.
    #[serde(default)]
    pub fault_cost: Option<FaultCost>,
    /// What was paged out and in, if RAM was paged.
    #[serde(default)]
    pub paging: Option<PagingReport>,
    /// What the guest had on its text screen at the end, where it has one.
    #[serde(default)]
    pub screen: Option<String>,
    /// Each of several guests by itself, in the order of their numbers; empty if there was but one. Everything above is
    /// then about all of them together, and [`end`](Self::end) is the first that is no power-off.
    #[serde(default)]
    pub guests: Vec<GuestReport>,
}

/// What came of one of several guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReport {
    /// Its number, from 0 on.
    pub guest: u32,
    /// How it ended.
    pub end: End,
    /// Its second-level faults.
    pub faults: Faults,
    /// Leaves of its table at its end.
    pub leaves: Leaves,
    /// Table pages at its end, the root's included.
    pub table_pages: u64,
    /// Its exits, of every kind.
    pub exits: u64,
    /// Calls to the firmware.
    pub firmware_calls: u64,
    /// Frames that were its alone at its end, those of its tables and those of its memory. What it shared with forks is
    /// nobody's alone.
    #[serde(default)]
    pub own: OwnFrames,
}

/// Pages of 4 KiB that the guest wrote, by what the hardware tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagesWritten {
    /// In leaves whose dirty flag was set at the end, or when they were taken away.
    pub dirty: u64,
    /// Entries of the page-modification log, where the CPU keeps one.
    pub logged: Option<u64>,
}

/// Time-stamp counts between an exit for a second-level fault and the entry after it, all CPUs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCost {
    /// Faults that were measured.
    pub faults: u64,
    /// Counts in them.
    pub ticks: u64,
    /// Counts of the whole run.
    pub run_ticks: u64,
}

/// Exits for the serial port that the hypervisor emulates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmulatedUart {
    /// Accesses that were answered.
    pub accesses: u64,
    /// Accesses that were refused, each by an external abort: that the hardware did not decode, or that are to no register.
    pub refused: u64,
    /// Bytes that were sent.
    pub bytes: u64,
    /// The first of them, as text.
    pub text: String,
}

/// Hypercalls about buffers in the guest's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferCalls {
    /// Calls that were carried out to the last byte.
    pub done: u64,
    /// Calls that were answered by an error.
    pub refused: u64,
    /// Bytes that were printed, those of calls that came to an error half way included.
    pub bytes: u64,
    /// The first of them, as text.
    pub text: String,
}

/// Stage-2 faults by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// All of them.
    pub total: u64,
    /// A leaf was populated.
    pub populated: u64,
    /// The page was already mapped with the permission asked for.
    pub spurious: u64,
    /// A page that was shared with a fork was copied, for a write to it.
    #[serde(default)]
    pub copied: u64,
    /// A page was there, and lacked a mark or the permission to write that its region has.
    #[serde(default)]
    pub upgraded: u64,
    /// A page that churn had unmapped or write-protected was given back.
    pub restored: u64,
    /// Nobody's: answered by policy.
    pub unanswered: u64,
    /// The address could not be determined and the guest was re-entered.
    pub retried: u64,
}

/// Leaves by size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaves {
    /// Leaves of 4 KiB.
    #[serde(rename = "4k")]
    pub size_4k: u64,
    /// Leaves of 2 MiB.
    #[serde(rename = "2m")]
    pub size_2m: u64,
    /// Leaves of 1 GiB.
    #[serde(rename = "1g")]
    pub size_1g: u64,
}

/// Frames of 4 KiB that went through the hypervisor's pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Taken from the pool.
    pub taken: u64,
    /// Zeroed before the guest could see them.
    pub zeroed: u64,
    /// Given back to the pool.
    pub returned: u64,
    /// Most in use at one time.
    pub peak: u64,
}

/// What churn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChurnReport {
    /// Pages unmapped.
    pub unmapped: u64,
    /// Pages moved to another frame, the old one poisoned.
    pub moved: u64,
    /// Pages write-protected.
    pub write_protected: u64,
}

/// Pages of 4 KiB that went out of guests' memory and came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagingReport {
    /// Frames of the pool.
    pub pool: u64,
    /// Scans for idle pages.
    pub scans: u64,
    /// Pages that went out because they had been idle for long enough, while the pool was getting low.
    pub idle: u64,
    /// Times that a frame was wanted and none was left.
    pub evictions: u64,
    /// Pages that went out for that.
    pub evicted: u64,
    /// Of all that went out, those that had to be copied to the store: it did not have them yet, or the guest had written to them.
    pub stored: u64,
    /// Of those, how many consist of one word, and take no room there.
    pub same: u64,
    /// Pages that came back from the store.
    pub paged_in: u64,
    /// Pages that the store did not take.
    pub refused: u64,
    /// Pages that the store has room for.
    pub store: u64,
    /// Most of those in use at one time.
    pub store_peak: u64,
}
