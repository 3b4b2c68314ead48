//! What of the G-stage a hart offers, and what its hypervisor wants of it: plain facts, from wherever they come.
//!
//! Three sources: the extensions that the device tree (or ACPI) names, [`Extensions`]; what hgatp holds,
//! [`HgatpProbe`](super::HgatpProbe); and which bits of henvcfg can be set, which says what M-mode has turned on in
//! menvcfg (privileged manual, "Hypervisor Environment Configuration Register": STCE, PBMTE and ADUE are read-only zero
//! where they are clear in menvcfg).

use super::hgatp::HgatpProbe;
use bitflags::bitflags;
use thiserror::Error;

/// The mode of hgatp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Three levels, 41-bit guest-physical addresses.
    Sv39x4,
    /// Four levels, 50 bits.
    Sv48x4,
    /// Five levels, 59 bits.
    Sv57x4,
}

impl Mode {
    /// All of them, the narrowest first.
    pub const ALL: [Self; 3] = [Self::Sv39x4, Self::Sv48x4, Self::Sv57x4];

    /// Levels of tables: 3 to 5.
    #[must_use]
    pub const fn levels(self) -> u8 {
        match self {
            Self::Sv39x4 => 3,
            Self::Sv48x4 => 4,
            Self::Sv57x4 => 5,
        }
    }

    /// Width of a guest-physical address in bits: 41, 50 or 59. An access beyond it is a guest-page fault.
    #[must_use]
    pub const fn gpa_bits(self) -> u32 {
        12 + 9 * self.levels() as u32 + 2
    }

    /// The set with this mode alone.
    #[must_use]
    pub const fn only(self) -> Modes {
        match self {
            Self::Sv39x4 => Modes::SV39X4,
            Self::Sv48x4 => Modes::SV48X4,
            Self::Sv57x4 => Modes::SV57X4,
        }
    }
}

bitflags! {
    /// Modes of hgatp that a hart has, beside Bare.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Modes: u8 {
        /// [`Mode::Sv39x4`].
        const SV39X4 = 1 << 0;
        /// [`Mode::Sv48x4`].
        const SV48X4 = 1 << 1;
        /// [`Mode::Sv57x4`].
        const SV57X4 = 1 << 2;
    }
}

bitflags! {
    /// Extensions that matter for guests and their second stage.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Extensions: u16 {
        /// H: there is a G-stage at all.
        const H = 1 << 0;
        /// Svpbmt: a leaf can choose its memory type.
        const SVPBMT = 1 << 1;
        /// Svnapot: leaves of 64 KiB.
        const SVNAPOT = 1 << 2;
        /// Svinval: invalidations that are ordered apart from each other.
        const SVINVAL = 1 << 3;
        /// Svade: the hardware faults where an accessed or dirty flag is missing.
        const SVADE = 1 << 4;
        /// Svadu: the hardware can set accessed and dirty flags by itself.
        const SVADU = 1 << 5;
        /// Svvptc: an entry that became valid is seen in bounded time, without a fence.
        const SVVPTC = 1 << 6;
        /// Sstc: guests have a timer of their own.
        const SSTC = 1 << 7;
    }
}

impl Extensions {
    /// Extensions by their names in lower case.
    const NAMES: [(&'static str, Self); 8] = [
        ("h", Self::H),
        ("svpbmt", Self::SVPBMT),
        ("svnapot", Self::SVNAPOT),
        ("svinval", Self::SVINVAL),
        ("svade", Self::SVADE),
        ("svadu", Self::SVADU),
        ("svvptc", Self::SVVPTC),
        ("sstc", Self::SSTC),
    ];

    /// The extensions of an ISA string, as in the property `riscv,isa` of a device tree: `rv64imafdch_sstc_svinval1p0`.
    /// Upper and lower case are the same, versions and whatever is not known are passed over. (Unprivileged manual, "ISA
    /// Extension Naming Conventions".) What is no ISA string names nothing.
    #[must_use]
    pub fn from_isa_string(isa: &str) -> Self {
        let mut parts = isa.split('_');
        let first = parts.next().unwrap_or_default();
        let bases = ["rv32", "rv64", "rv128"];
        let Some(letters) = bases.iter().find_map(|base| without_prefix(first, base)) else {
            return Self::empty();
        };
        // One letter each, up to the first name of several, which may follow without an underscore.
        let end = letters.find(is_first_of_several).unwrap_or(letters.len());
        let (single, several) = letters.split_at(end);
        let mut found = Self::named(several);
        found.set(Self::H, single.contains(['h', 'H']));
        parts.fold(found, |found, part| found.union(Self::named(part)))
    }

    /// The extensions of a list of names, each with a zero byte behind it, as in the property `riscv,isa-extensions` of a
    /// device tree.
    #[must_use]
    pub fn from_names(list: &[u8]) -> Self {
        let names = list.split(|byte| *byte == 0).filter_map(|name| core::str::from_utf8(name).ok());
        names.fold(Self::empty(), |found, name| found.union(Self::named(name)))
    }

    /// The extension of this name, with or without a version behind it; none if it is not known.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let known = Self::NAMES.iter();
        let found = known.filter(|(known, _)| without_prefix(name, known).is_some_and(is_version));
        found.fold(Self::empty(), |all, (_, extension)| all.union(*extension))
    }
}

/// The rest of `text` behind `prefix`, whatever the case of its letters.
fn without_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Standard extensions of supervisor level, of several letters, and those of vendors.
fn is_first_of_several(letter: char) -> bool {
    matches!(letter.to_ascii_lowercase(), 's' | 'z' | 'x')
}

/// Nothing, or a version: `2`, `2p1`.
fn is_version(text: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once(['p', 'P']) {
        Some((major, minor)) => number(major) && number(minor),
        None => text.is_empty() || number(text),
    }
}

/// henvcfg.ADUE, henvcfg.PBMTE and henvcfg.STCE.
const ADUE: u64 = 1 << 61;
const PBMTE: u64 = 1 << 62;
const STCE: u64 = 1 << 63;

/// What of the G-stage a hart offers, and the choices of its hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The modes that hgatp holds.
    pub modes: Modes,
    /// VMIDLEN: bits of hgatp.VMID that hold what is written, 0 to 14.
    pub vmid_bits: u32,
    /// Width of a host physical address in bits, 32 to 56. Entries that wait to be freed hold 52, so that no more are used.
    pub physical_bits: u32,
    /// The extensions **in effect**: Svpbmt only with menvcfg.PBMTE set, Svadu only with menvcfg.ADUE set,
    /// Sstc only with menvcfg.STCE set.
    pub extensions: Extensions,
    /// Whether what a guest has used and written is to be told apart: accessed and dirty are then clear in a new leaf. With
    /// Svadu the hart sets them. Without it an access that finds them clear faults, and
    /// [`handle_page_fault`](crate::AddrSpace::handle_page_fault) sets them: one more fault for each leaf that was mapped
    /// beforehand, and for the first write to each leaf that was read first. If not, both are set in every leaf, and
    /// no access ever waits for them, whatever the hart does.
    pub accessed_dirty: bool,
    /// Whether the hart that answers a fault forgets the invalid entry at once, by a fence of its own (of the page, or of
    /// the VMID if an upper table has a new entry), instead of at a second fault on a page that is there by then. To be set for harts
    /// that keep invalid entries; without effect where Svvptc says that none is kept. Either way only this hart and what
    /// this fault made valid are concerned: a hart that knows another entry from before it became valid faults, and
    /// drops the VMID in the answer to that. (Supervisor chapter, "Supervisor Memory-Management Fence Instruction", on
    /// invalid entries.)
    pub fence_new_entries: bool,
    /// Whether memory of the caller is mapped in leaves of 64 KiB where both addresses and the size allow it and no larger leaf
    /// fits; without effect without Svnapot. They are 16 entries each, which queries list one by one. A change of a part of
    /// one makes 16 ordinary leaves of it, and what was accessed and written is known of all 64 KiB together.
    /// [`AddrSpace::collapse`](crate::AddrSpace::collapse) makes none.
    pub napot_leaves: bool,
}

impl Capabilities {
    /// Sv39x4, which every hart with a G-stage has, without VMIDs and extensions; accessed and dirty are set in advance.
    pub const BASELINE: Self = Self {
        modes: Modes::SV39X4,
        vmid_bits: 0,
        physical_bits: 56,
        extensions: Extensions::H,
        accessed_dirty: false,
        fence_new_entries: false,
        napot_leaves: false,
    };

    /// What a hart offers whose hgatp was probed, which names the extensions `named`, and in whose henvcfg the bits of
    /// `henvcfg` can be set ([`probe_henvcfg`](super::probe_henvcfg)). Nothing is tracked, fences wait for the second fault,
    /// and no leaf has 64 KiB.
    #[must_use]
    pub const fn new(hgatp: HgatpProbe, named: Extensions, henvcfg: u64) -> Self {
        let mut off = Extensions::empty();
        if henvcfg & PBMTE == 0 {
            off = off.union(Extensions::SVPBMT);
        }
        if henvcfg & ADUE == 0 {
            off = off.union(Extensions::SVADU);
        }
        if henvcfg & STCE == 0 {
            off = off.union(Extensions::SSTC);
        }
        Self {
            modes: hgatp.modes,
            vmid_bits: hgatp.vmid_bits,
            extensions: named.difference(off),
            ..Self::BASELINE
        }
    }

    /// Whether these extensions are all in effect.
    #[must_use]
    pub const fn has(&self, extensions: Extensions) -> bool {
        self.extensions.contains(extensions)
    }
}

/// Why the G-stage cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The hart does not have the mode.
    #[error("the hart does not offer {0:?}")]
    ModeNotOffered(Mode),
    /// The hart has no mode at all, or none that is wide enough.
    #[error("the hart offers no mode for guest-physical addresses of {0} bits")]
    NoModeFor(u32),
    /// VMIDLEN is not between 0 and 14.
    #[error("VMIDs of {0} bits: hgatp has room for 14")]
    VmidBits(u32),
    /// The physical address width is not between 32 and 56.
    #[error("a physical address width of {0} bits is outside of 32..=56")]
    PhysicalBits(u32),
}

#[cfg(all(test, not(loom)))]
mod tests;
