//! Address spaces on hosts on the heap. A [`HeapHal`] panics when a frame comes back twice or never.

mod errors;
mod faults;
mod lifetimes;
mod naive;
mod operations;

use super::*;
use crate::flags::{LeafSize, MappingFlags};
use crate::format::stage2::{Features, Stage2};
use crate::test_util::HeapHal;

type Space<'h> = AddrSpace<&'h HeapHal, Stage2>;

const KIB4: u64 = 4 << 10;
const MIB2: u64 = 2 << 20;
const GIB1: u64 = 1 << 30;
const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
const RWX: MappingFlags = RW.union(MappingFlags::EXECUTE).union(MappingFlags::USER);

fn gpa(value: u64) -> GuestPhysAddr {
    GuestPhysAddr::new(value)
}

fn hpa(value: u64) -> HostPhysAddr {
    HostPhysAddr::new(value)
}

/// Formats with two, three and four levels, and with a concatenated root.
fn formats() -> [Stage2; 4] {
    let wide = Features { pa_bits: 48, vmid_bits: 16, ..Features::BASELINE };
    [34, 39, 40, 48].map(|gpa_bits| Stage2::new(wide, Some(gpa_bits)).expect("in range"))
}

/// A space of 8 GiB from zero on.
fn space(hal: &HeapHal) -> Space<'_> {
    AddrSpace::with_format(hal, Stage2::default(), gpa(0), 8 * GIB1, 5).expect("a root")
}
