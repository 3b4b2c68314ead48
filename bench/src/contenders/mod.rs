//! One adapter for each contender.

mod aarch64_paging;
mod axaddrspace_new;
mod axaddrspace_old;
mod floor;
mod page_table_generic;
mod page_table_multiarch;
mod slat;
mod x86_64;

use crate::contender::Contender;
use crate::measure::{self, Sample};
use crate::work::{Sizes, Work};

/// A contender by name.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) short: &'static str,
    pub(crate) run: fn(Work, &Sizes) -> Option<Sample>,
}

impl Entry {
    const fn of<C: Contender>() -> Self {
        Self { name: C::NAME, short: C::SHORT, run: measure::run::<C> }
    }

    /// Whether this is somebody else's crate.
    pub(crate) fn is_peer(self) -> bool {
        self.name != FLOOR && !self.name.starts_with(SLAT)
    }
}

/// The name of what the hardware allows.
pub(crate) const FLOOR: &str = "floor";
/// The name of ours.
pub(crate) const SLAT: &str = "slat";

/// All of them, in the order of the table.
pub(crate) const ALL: [Entry; 9] = [
    Entry::of::<floor::Floor>(),
    Entry::of::<slat::SlatEpt>(),
    Entry::of::<slat::SlatStage2>(),
    Entry::of::<axaddrspace_old::Space<false>>(),
    Entry::of::<axaddrspace_new::Space<false>>(),
    Entry::of::<page_table_multiarch::Table>(),
    Entry::of::<page_table_generic::Table>(),
    Entry::of::<aarch64_paging::Table>(),
    Entry::of::<x86_64::Table>(),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames;
    use clap::ValueEnum as _;

    /// One test and not many: all contenders share the arena. The works themselves check what the contenders did.
    #[test]
    fn every_contender_does_every_work_that_it_claims() {
        let sizes = Sizes {
            small: 8 << 20,
            large: 4 << 30,
            translations: 1000,
            declarations: 1,
            protects: 100,
            splits: 2,
            removals: 2,
            growth: 100,
            per_thread: 1000,
        };
        frames::init(1 << 17);
        for &work in Work::value_variants() {
            let able =
                ALL.iter().filter_map(|entry| (entry.run)(work, &sizes).map(|sample| (entry.name, sample)));
            let able: Vec<_> = able.collect();
            assert!(able.iter().any(|&(name, _)| name == FLOOR), "the floor can do everything");
            for (name, sample) in able {
                assert!(sample.units > 0 && sample.per_unit() >= 0.0, "{name} {}", work.name());
            }
        }
    }
}
