//! Real CPUs, and such as lack something.

use super::{Capabilities, Facts, Unsupported};
use slat::format::npt;

/// QEMU 7.2 `-cpu EPYC`, as it answers.
pub(crate) fn epyc_facts() -> Facts {
    Facts {
        leaf_1: [0x0080_0f12, 0, 0xfed8_3203, 0x178b_fbff],
        leaf_7: [0, 0x209c_01a9, 0, 0],
        leaf_d: [7, 0x340, 0x340, 0],
        extended_1: [0x0080_0f12, 0, 0x0040_01f7, 0x2fd3_fbff],
        extended_8: [0x3028, 0, 0, 0],
        svm: [1, 16, 0, 1 | 1 << 16 | 1 << 28],
        vm_cr: 0,
        efer: 0xd01 | 1 << 11,
        cr4: 0x620,
    }
}

pub(crate) fn epyc() -> Capabilities {
    Capabilities::from_facts(&epyc_facts()).expect("it has SVM")
}
