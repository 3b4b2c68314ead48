//! Address spaces on hosts on the heap. A [`HeapHal`] panics when a frame comes back twice or never.

mod age;
mod custom;
mod debts;
mod discard;
mod edges;
mod errors;
mod evict;
mod faults;
mod fork;
mod groups;
mod guest_walk;
mod lifetimes;
mod log;
mod log_naive;
mod marks;
mod naive;
mod operations;
mod paged;
mod pins;
mod private;
mod riscv;
mod shared;
mod traps;

use super::*;
use crate::flags::{LeafSize, MappingFlags};
use crate::format::ept::{self, Ept};
use crate::format::gstage::{self, Gstage};
use crate::format::npt::{self, Npt};
use crate::format::stage2::{Features, Stage2};
use crate::test_util::HeapHal;

type Space<'h, F = Stage2> = AddrSpace<&'h HeapHal, F>;

pub(crate) const KIB4: u64 = 4 << 10;
pub(crate) const MIB2: u64 = 2 << 20;
pub(crate) const GIB1: u64 = 1 << 30;
pub(crate) const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
pub(crate) const RWX: MappingFlags = RW.union(MappingFlags::EXECUTE).union(MappingFlags::USER);

pub(crate) fn gpa(value: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(value)
}

pub(crate) fn hpa(value: u64) -> HostPhysAddr {
    HostPhysAddr::new(value)
}

/// Formats with two, three and four levels, and with a concatenated root.
pub(crate) fn formats() -> [Stage2; 4] {
    let wide = Features { pa_bits: 48, vmid_bits: 16, ..Features::BASELINE };
    [34, 39, 40, 48].map(|gpa_bits| Stage2::new(wide, Some(gpa_bits)).expect("in range"))
}

/// EPT with four and five levels, with and without mode-based execute control and accessed and dirty flags.
pub(crate) fn ept_formats() -> [Ept; 3] {
    let ept_vpid_cap = 1 | 1 << 6 | 1 << 7 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 21;
    [(4, false, false), (5, true, false), (4, true, true)].map(
        |(levels, mode_based_execute, accessed_dirty)| {
            let capabilities =
                ept::Capabilities { ept_vpid_cap, physical_bits: 46, mode_based_execute, accessed_dirty };
            Ept::new(capabilities, levels).expect("offered")
        },
    )
}

/// Nested paging with four and five levels, with and without 1 GiB leaves.
pub(crate) fn npt_formats() -> [Npt; 2] {
    [4, 5].map(|levels| {
        let capabilities = npt::Capabilities {
            physical_bits: 48,
            leaf_1g: levels == 5,
            no_execute: true,
            asids: 64,
            accessed_dirty: false,
        };
        Npt::new(capabilities, levels).expect("in range")
    })
}

/// The three modes of the G-stage, with and without Svpbmt and leaves of 64 KiB; the last two tell what was accessed, by
/// the hart and by faults.
pub(crate) fn gstage_formats() -> [Gstage; 3] {
    use gstage::{Capabilities, Extensions, Mode, Modes};
    [
        (Mode::Sv39x4, Extensions::empty(), false),
        (Mode::Sv48x4, Extensions::SVPBMT | Extensions::SVADU | Extensions::SVNAPOT, true),
        (Mode::Sv57x4, Extensions::SVPBMT | Extensions::SVNAPOT, true),
    ]
    .map(|(mode, extensions, accessed_dirty)| {
        let capabilities = Capabilities {
            modes: Modes::all(),
            vmid_bits: 14,
            extensions,
            accessed_dirty,
            napot_leaves: true,
            ..Capabilities::BASELINE
        };
        Gstage::new(mode, capabilities).expect("offered")
    })
}

/// Calls a function that is generic over the format with each format of each ISA.
macro_rules! on_all_formats {
    ($check:ident) => {
        formats().into_iter().for_each($check);
        ept_formats().into_iter().for_each($check);
        npt_formats().into_iter().for_each($check);
        gstage_formats().into_iter().for_each($check);
    };
}
use on_all_formats;

/// The leaves of a range: first address, frame, flags, level, whether owned.
fn leaves<F: Format, B: CustomBackend>(
    space: &AddrSpace<&HeapHal, F, B>,
    start: u64,
    size: u64,
) -> Vec<(u64, HostPhysAddr, u8)> {
    let range = GuestPhysRange::new(gpa(start), size).expect("valid");
    space.mappings(range).map(|leaf| (leaf.gpa.as_u64(), leaf.hpa, leaf.size.level())).collect()
}

/// A space of 8 GiB from zero on.
fn space(hal: &HeapHal) -> Space<'_> {
    AddrSpace::with_format(hal, Stage2::default(), gpa(0), 8 * GIB1, 5).expect("a root")
}
