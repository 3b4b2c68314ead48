//! What is not fair, and how the contenders were made to work: said with the figures.

use crate::contenders::{FLOOR, SLAT};
use crate::work::Work;

/// A footnote: its mark, what it says, and where it belongs.
pub(crate) struct Note {
    pub(crate) mark: char,
    pub(crate) text: &'static str,
    applies: fn(Work, &str) -> bool,
}

/// Works in which frames are populated one by one.
const fn is_fault(work: Work) -> bool {
    matches!(work, Work::Fault | Work::OneThreadFault | Work::TwoThreadsFault)
}

/// Works in which a space has regions to look at or to change.
const fn touches_regions(work: Work) -> bool {
    !matches!(
        work,
        Work::TranslateIndependent | Work::TranslateDependent | Work::ReadObj | Work::RegionsRemoveOne
    )
}

fn is_ours(contender: &str) -> bool {
    contender.starts_with(SLAT)
}

fn has_regions(contender: &str) -> bool {
    is_ours(contender) || contender.starts_with("axaddrspace")
}

const NOTES: [Note; 12] = [
    Note {
        mark: 'a',
        text: "slat always zeroes; here its host says that frames come zeroed, so that it leaves them as they are, \
               like the others in the row.",
        applies: |work, contender| is_fault(work) && is_ours(contender),
    },
    Note {
        mark: 'b',
        text: "A table without regions: it does not know what the guest may have, and keeps no books about it.",
        applies: |work, contender| touches_regions(work) && !has_regions(contender) && contender != FLOOR,
    },
    Note {
        mark: 'c',
        text: "Fills the tables of the range with empty entries; with regions alone nothing would be written.",
        applies: |work, contender| work == Work::LazyDeclare && contender == "axaddrspace-0.3.0",
    },
    Note {
        mark: 'd',
        text: "axaddrspace 0.6.0 brings no table: page-table-generic through our glue, by its fastest calls.",
        applies: |_, contender| contender == "axaddrspace-0.6.0",
    },
    Note {
        mark: 'e',
        text: "Behind a spin lock: the contender's fault needs `&mut`. With one thread the lock is there as well.",
        applies: |work, contender| {
            matches!(work, Work::OneThreadFault | Work::TwoThreadsFault)
                && !is_ours(contender)
                && contender != FLOOR
        },
    },
    Note {
        mark: 'f',
        text: "Not marked active: its checks for break-before-make are skipped, in its favour.",
        applies: |work, contender| {
            contender.starts_with("aarch64-paging")
                && !matches!(work, Work::TranslateIndependent | Work::TranslateDependent)
        },
    },
    Note {
        mark: 'g',
        text: "Split by two calls of their own before the unmap, which would otherwise take the whole leaf.",
        applies: |work, contender| work == Work::Split1g && contender.starts_with("page-table-generic"),
    },
    Note {
        mark: 'h',
        text: "The floor has no regions in this row; for regions-remove-one it has the standard library's tree.",
        applies: |work, contender| {
            contender == FLOOR
                && matches!(work, Work::Growth1g | Work::Growth1t | Work::ProtectEverySecond | Work::Split1g)
        },
    },
    Note {
        mark: 'i',
        text: "Clones all regions at each unmap.",
        applies: |work, contender| work == Work::RegionsRemoveOne && contender == "axaddrspace-0.6.0",
    },
    Note {
        mark: 'j',
        text: "Hands out references to guest memory in a vector, without a look at permissions; the library's `memcpy` \
               then copies.",
        applies: |work, contender| work == Work::Copy1m && contender == "axaddrspace-0.3.0",
    },
    Note {
        mark: 'k',
        text: "A walk for each page and the library's `memcpy`; no permission, no region is looked at.",
        applies: |work, contender| work == Work::Copy1m && contender == FLOOR,
    },
    Note {
        mark: 'l',
        text: "One `memcpy` of the library's, without a walk.",
        applies: |work, contender| work == Work::Copy1mLarge && contender == FLOOR,
    },
];

/// What holds for the whole table.
pub(crate) const GENERAL: [&str; 4] = [
    "Every host is the same arena: a stack of scattered free frames for each thread, host physical = virtual.",
    "No contender flushes a TLB: slat and page_table_multiarch (thus axaddrspace 0.3.0) leave it out on a development \
     host, aarch64-paging off Arm, page-table-generic lets its user do it, and of x86_64 the flush was ignored. No \
     dependency had to be patched.",
    "Entries: EPT for floor, slat, axaddrspace, page-table-generic; Arm stage 2 for slat-stage2, aarch64-paging; \
     ordinary x86-64 for page_table_multiarch, x86_64. 4 KiB leaves come from a host address that is off by a page.",
    "Lazy and populated regions are limited to 4 KiB leaves; slat would use 2 MiB. A `-`: it cannot do that.",
];

/// The notes on one figure.
pub(crate) fn of(work: Work, contender: &str) -> impl Iterator<Item = &'static Note> {
    NOTES.iter().filter(move |note| (note.applies)(work, contender))
}
