//! One adapter for each contender.

#[cfg(feature = "peers")]
mod aarch64_paging;
#[cfg(feature = "peers")]
mod axaddrspace_new;
#[cfg(feature = "peers")]
mod axaddrspace_old;
mod floor;
#[cfg(feature = "peers")]
mod page_table_generic;
#[cfg(feature = "peers")]
mod page_table_multiarch;
mod slat;
#[cfg(feature = "peers")]
mod x86_64;

pub(crate) use floor::Floor;

use crate::contender::Contender;
use crate::measure::{self, Sample};
use crate::memory::{self, Question};
use crate::work::{Sizes, Work};

/// A contender by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) short: &'static str,
    pub(crate) run: fn(Work, &Sizes) -> Option<Sample>,
    pub(crate) bytes: fn(Question) -> Option<f64>,
}

impl Entry {
    const fn of<C: Contender>() -> Self {
        Self { name: C::NAME, short: C::SHORT, run: measure::run::<C>, bytes: memory::bytes::<C> }
    }

    /// Whether this is slat, in whatever format.
    pub(crate) fn is_ours(self) -> bool {
        self.name.starts_with(SLAT)
    }

    /// Whether this is somebody else's crate.
    pub(crate) fn is_peer(self) -> bool {
        self.name != FLOOR && !self.is_ours()
    }
}

/// The name of what the hardware allows.
pub(crate) const FLOOR: &str = "floor";
/// The name of ours.
pub(crate) const SLAT: &str = "slat";

/// All of them, in the order of the table.
pub(crate) const ALL: &[Entry] = &[
    Entry::of::<floor::Floor>(),
    Entry::of::<slat::SlatEpt>(),
    Entry::of::<slat::SlatStage2>(),
    #[cfg(feature = "peers")]
    Entry::of::<axaddrspace_old::Space<false>>(),
    #[cfg(feature = "peers")]
    Entry::of::<axaddrspace_new::Space<false>>(),
    #[cfg(feature = "peers")]
    Entry::of::<page_table_multiarch::Table>(),
    #[cfg(feature = "peers")]
    Entry::of::<page_table_generic::Table>(),
    #[cfg(feature = "peers")]
    Entry::of::<aarch64_paging::Table>(),
    #[cfg(feature = "peers")]
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
            copies: 2,
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
            assert!(
                work.is_sharing() || able.iter().any(|&(name, _)| name == FLOOR),
                "the floor can do everything"
            );
            for (name, sample) in able {
                assert!(sample.units > 0 && sample.per_unit() >= 0.0, "{name} {}", work.name());
            }
        }
        for entry in ALL {
            let frames = |question| (entry.bytes)(question).map(|bytes| bytes / 4096.0);
            let tables = frames(Question::Tables);
            assert_eq!(tables, Some(1.0 + 1.0 + 1.0 + 512.0), "{}: four levels", entry.name);
            if entry.is_ours() {
                assert_eq!(frames(Question::Lazy), Some(0.0), "a region that nobody touched has no table");
                assert_eq!(frames(Question::Region { count: 1, shuffled: false }), Some(1.0));
            }
        }
    }
}
