//! The contract between `cargo xtask run`, which starts the emulator, and `slat-hv`, which runs in it.
//!
//! **In:** before the machine starts, one [`Params`] block lies in its memory where its [`MemoryMap`] says: a little-endian
//! `u64` length, then that many bytes of JSON. **Out:** lines on the serial port that begin with [`LINE_PREFIX`],
//! the nonce of the run and a space, then one [`Message`] as JSON. The guest shares that port, but it never sees
//! the nonce, so it cannot forge a report.

#![no_std]

extern crate alloc;

pub mod monitor;
pub mod pause;
pub mod recording;
mod report;
pub mod rom;
pub mod snapshot;
pub mod trace;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use monitor::Told;
use pause::{Forked, Moved, Pause};
pub use report::*;
use serde::{Deserialize, Serialize};
use snapshot::Saved;

/// Most bytes that the parameter block takes, its length word included.
pub const PARAMS_MAX: usize = 0x1_0000;

/// Where things lie in the memory of a machine, by ISA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    /// First host physical address of RAM.
    pub ram: u64,
    /// Host physical address of the parameter block.
    pub params: u64,
    /// Host physical address at which the hypervisor is linked.
    pub image: u64,
    /// First host physical address that the hypervisor's image, stacks and heap leave alone: blobs begin here.
    pub blobs: u64,
    /// First host physical address above what the hypervisor maps as memory.
    pub end: u64,
    /// Guest-physical address of the guest's first byte of RAM.
    pub guest_ram: u64,
    /// Most bytes of guest RAM: below the devices, or below the least width of a guest-physical address.
    pub guest_memory_max: u64,
}

impl MemoryMap {
    /// QEMU's `virt` machine, whose own device tree lies where its RAM begins.
    pub const AARCH64: Self = Self {
        ram: 0x4000_0000,
        params: 0x4010_0000,
        image: 0x4020_0000,
        blobs: 0x4200_0000,
        end: 1 << 39,
        guest_ram: 0x4000_0000,
        guest_memory_max: 256 << 30,
    };

    /// A PC, in Bochs and QEMU. The parameters and the blobs are one file, so the ones follow the others at once.
    /// Above 3 GiB both emulators have registers of devices.
    pub const X86_64: Self = Self {
        ram: 0,
        params: 0x0100_0000,
        image: 0x0010_0000,
        blobs: 0x0101_0000,
        end: 0xc000_0000,
        guest_ram: 0,
        guest_memory_max: 3 << 30,
    };

    /// QEMU's `virt` machine with OpenSBI, which lies where RAM begins.
    pub const RISCV64: Self = Self {
        ram: 0x8000_0000,
        params: 0x8200_0000,
        image: 0x8020_0000,
        blobs: 0x8201_0000,
        end: 1 << 38,
        guest_ram: 0x8000_0000,
        guest_memory_max: 256 << 30,
    };
}

/// Most CPUs of a guest, and of the machine.
pub const CPUS_MAX: usize = 2;

/// Most guests at once.
pub const GUESTS_MAX: usize = 8;

/// How a line for `cargo xtask` begins on the serial port; the nonce and a space follow.
pub const LINE_PREFIX: &str = "slat-hv:";

/// A run of bytes in host physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte, a host physical address.
    pub address: u64,
    /// Length in bytes.
    pub size: u64,
}

/// What a fault of guest RAM populates, and in what leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaf {
    /// One page, in a leaf of 4 KiB.
    #[serde(rename = "4k")]
    Size4K,
    /// 2 MiB in one leaf wherever it fits.
    #[serde(rename = "2m")]
    Size2M,
    /// 2 MiB in the leaves that suit the machine. QEMU's software TLB forgets everything as soon as the guest drops
    /// one page of a large leaf, so there it is leaves of 4 KiB.
    #[default]
    #[serde(rename = "auto")]
    Auto,
}

/// What becomes of a guest access that nobody answers (a hole, a missing permission).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultPolicy {
    /// The run ends with one line that names the access.
    #[default]
    Stop,
    /// The guest receives a synchronous external abort and goes on.
    Inject,
}

/// A mistake in the TLB maintenance, made on purpose: the negative controls of the churn test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mistake {
    /// The right sequence.
    #[default]
    None,
    /// No TLB invalidation at all.
    NoTlbi,
    /// IPAS2E1IS without the VMALLE1IS that must follow.
    Ipas2Alone,
    /// VMALLE1IS without the IPAS2E1IS that must precede.
    Vmalle1Alone,
    /// The right instructions on another address.
    WrongAddress,
    /// VAE2IS, which belongs to the hypervisor's own translation regime.
    El2Instruction,
    /// The forms that are not broadcast (IPAS2E1, VMALLE1, VMALLS12E1, DSB NSH): the other CPUs forget nothing. On x86: the
    /// other CPUs are not told.
    LocalTlbi,
    /// On x86: other CPUs are told, but one that is inside its guest is not made to leave it.
    NoKick,
    /// On x86: an event whose delivery a fault interrupted is not delivered again.
    NoRedelivery,
    /// On x86: of the pages that churn moves, one in 50 is not copied.
    SkippedCopies,
    /// With several guests: one page of the first is mapped by the second one, too.
    SharedFrame,
    /// Of the pages that a guest that moves wrote to at last, one is not copied.
    LostDirtyPage,
    /// Of the pages that are paged out, one is not kept.
    LostPageOut,
    /// Of the pages that are paged out, one changes by a bit while it is out.
    DamagedPageOut,
}

/// Random unmapping, moving and write-protecting of guest pages while the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Churn {
    /// Seed of the random sequence.
    pub seed: u64,
    /// Operations after each exit of the guest.
    pub per_exit: u32,
    /// Operations after which churn stops.
    pub limit: u64,
}

/// What the hypervisor is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Secret of this run, which marks the hypervisor's own lines.
    pub nonce: String,
    /// Host memory from which the hypervisor takes frames; 2 MiB aligned.
    pub pool: Span,
    /// Zeroed memory for the [recording] of the run; empty for none. 4 KiB aligned.
    pub recording: Span,
    /// Zeroed memory for the [trace] of the run; empty for none. 4 KiB aligned.
    #[serde(default)]
    pub trace: Span,
    /// The guest's kernel: an arm64 Linux `Image`; on x86 a Linux bzImage, or what has the header of one (memtest86+); on
    /// RISC-V a Linux `Image`, or a flat binary without its header (U-Boot), for the address 2 MiB above the first of RAM.
    pub kernel: Span,
    /// The guest's initial RAM disk; empty for none.
    pub initrd: Span,
    /// Bytes of guest RAM, a multiple of 2 MiB.
    pub guest_memory: u64,
    /// CPUs of each guest, 1 to [`CPUS_MAX`]; of the machine too, but see [`host_cpus`](Self::host_cpus).
    pub cpus: u32,
    /// Guests at once, 1 to [`GUESTS_MAX`], each with memory and CPUs of its own; above 1 on RISC-V only.
    #[serde(default = "one")]
    pub guests: u32,
    /// CPUs of the machine, 1 to [`CPUS_MAX`], where that is not the number of [`cpus`](Self::cpus); RISC-V only.
    #[serde(default)]
    pub host_cpus: Option<u32>,
    /// Width of a guest-physical address in bits; none for all that the CPU has, on RISC-V for the narrowest that is enough.
    pub gpa_bits: Option<u32>,
    /// The guest's command line.
    pub bootargs: String,
    /// Largest leaf of guest RAM.
    pub leaf: Leaf,
    /// Answer to accesses that are nobody's.
    pub on_fault: FaultPolicy,
    /// Churn, if wanted.
    pub churn: Option<Churn>,
    /// A mistake to make in TLB maintenance.
    pub mistake: Mistake,
    /// Whether the guest may ask, by hypercall, that its pages are moved, write-protected or taken away: for the test
    /// guest. Frames that come back are poisoned then.
    pub page_requests: bool,
    /// Names of unit guests to run instead of a kernel, in this order; `all` stands for all of them. x86 only.
    #[serde(default)]
    pub unit_guests: Vec<String>,
    /// Text on the guest's text screen that ends the run with [`End::ScreenShows`]; for guests that never end. x86 only.
    #[serde(default)]
    pub until_screen: Option<String>,
    /// Text on the guest's console that ends the run with [`End::ConsoleShows`]; for guests that wait for somebody to type.
    /// RISC-V only.
    #[serde(default)]
    pub until_console: Option<String>,
    /// What is done with the guest in the middle of its work, if anything is; there is one, with one CPU, at first. It has a
    /// serial port then. RISC-V only.
    #[serde(default)]
    pub pause: Option<Pause>,
    /// Whether [`ESCAPE`](monitor::ESCAPE) on the console stops the guest and opens the monitor; one guest, which is not stopped for
    /// anything else.
    #[serde(default)]
    pub monitor: bool,
    /// Whether RAM is paged, and where to; the pool may then be smaller than what the guests use. RISC-V only.
    #[serde(default)]
    pub paging: Option<Paging>,
}

/// How the RAM of guests is paged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paging {
    /// Memory of the machine that takes what is paged out; 4 KiB aligned.
    pub store: Span,
    /// For so many scans, above 0, a page has to have been idle that goes out before there is need.
    pub idle_scans: u8,
}

/// The number of guests where nothing else is said.
fn one() -> u32 {
    1
}

/// One line from the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "message")]
pub enum Message {
    /// The guest is about to run for the first time.
    Started(Started),
    /// The guest was forked; it and its forks go on.
    Forked(Forked),
    /// The guest was written away, into [`Pause::image`].
    Saved(Saved),
    /// The guest has moved.
    Moved(Moved),
    /// One of several guests has ended and its memory was given back; the others go on.
    GuestEnded(Box<GuestReport>),
    /// What the monitor says.
    Monitor(Told),
    /// The run is over and everything was given back (or was not: see the counts).
    Ended(Box<Report>),
    /// A unit guest has been run, or could not be.
    Unit(UnitOutcome),
    /// All unit guests have been run.
    UnitsEnded,
    /// The hypervisor itself failed: a refused parameter, a host exception, a panic.
    Failed {
        /// Why, in one line.
        reason: String,
    },
}

/// What came of one unit guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitOutcome {
    /// Its name.
    pub name: String,
    /// What was wrong, if anything was.
    pub failure: Option<String>,
    /// What the CPU lacks to run it, if it does.
    pub lacking: Option<String>,
    /// Frames taken and not returned.
    pub frames_lost: u64,
}

/// The kinds of second-level tables that a run can use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// Arm stage 2.
    #[default]
    Stage2,
    /// Intel EPT.
    Ept,
    /// AMD nested page tables.
    Npt,
    /// RISC-V G-stage.
    Gstage,
}

/// What the hypervisor found and chose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Width of a guest-physical address in bits.
    pub gpa_bits: u32,
    /// Levels of the stage-2 table.
    pub levels: u32,
    /// Tables that stand side by side as the root.
    pub root_tables: u32,
    /// The kind of table.
    #[serde(default)]
    pub mechanism: Mechanism,
    /// VTCR_EL2 as written, on Arm.
    pub vtcr: u64,
    /// MAXPHYADDR, on x86.
    #[serde(default)]
    pub physical_bits: u32,
    /// hgatp of the first guest, on RISC-V.
    #[serde(default)]
    pub hgatp: u64,
    /// Bits of a VMID, on RISC-V; 0 where the hart has none.
    #[serde(default)]
    pub vmid_bits: u32,
    /// IA32_VMX_EPT_VPID_CAP, on Intel.
    #[serde(default)]
    pub ept_vpid_cap: u64,
    /// Whether the CPU keeps accessed and dirty flags in the table.
    #[serde(default)]
    pub accessed_dirty: bool,
    /// Counts in a second of the clock of the [trace]; 0 where the machine does not tell.
    #[serde(default)]
    pub ticks_per_second: u64,
    /// Optional features of the CPU that stage 2 uses, by their architectural names.
    pub features: Vec<String>,
}

/// Encodes the parameter block as it lies in memory.
///
/// # Errors
/// The reason, when the block would not fit into [`PARAMS_MAX`] bytes.
pub fn encode_params(params: &Params) -> Result<Vec<u8>, &'static str> {
    let json = serde_json::to_vec(params).map_err(|_| "the parameters cannot be encoded")?;
    if json.len() + 8 > PARAMS_MAX {
        return Err("the parameters (command line included) do not fit into 64 KiB");
    }
    let mut block = (json.len() as u64).to_le_bytes().to_vec();
    block.extend_from_slice(&json);
    Ok(block)
}

/// Decodes a parameter block.
///
/// # Errors
/// The reason, when `block` holds no valid parameters.
pub fn decode_params(block: &[u8]) -> Result<Params, &'static str> {
    let (length, rest) = block.split_first_chunk::<8>().ok_or("the parameter block is too short")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| "the parameter length is wrong")?;
    let json = rest.get(..length).ok_or("the parameter length is wrong")?;
    serde_json::from_slice(json).map_err(|_| "the parameters are not the expected JSON")
}

/// One message as the text of a line, without the line end.
#[must_use]
pub fn encode_message(nonce: &str, message: &Message) -> String {
    let json = serde_json::to_string(message).unwrap_or_default();
    alloc::format!("{LINE_PREFIX}{nonce} {json}")
}

/// Writes the line of a [`Message::Failed`] to `out`, without the line end and without a heap: what failed may be the
/// heap. Control characters of `reason` become blanks.
///
/// # Errors
/// Those of `out`.
pub fn write_failure(out: &mut impl fmt::Write, nonce: &str, reason: fmt::Arguments<'_>) -> fmt::Result {
    write!(out, "{LINE_PREFIX}{nonce} {{\"message\":\"failed\",\"reason\":\"")?;
    JsonString(out).write_fmt(reason)?;
    out.write_str("\"}")
}

/// The inside of a JSON string.
struct JsonString<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for JsonString<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| match character {
            '"' | '\\' => write!(self.0, "\\{character}"),
            control if control.is_control() => self.0.write_char(' '),
            other => self.0.write_char(other),
        })
    }
}

/// The message that `line` carries, if it is one of the hypervisor's lines of the run with this nonce.
#[must_use]
pub fn decode_message(nonce: &str, line: &str) -> Option<Message> {
    let json = line.trim_end().strip_prefix(LINE_PREFIX)?.strip_prefix(nonce)?.strip_prefix(' ')?;
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests;
