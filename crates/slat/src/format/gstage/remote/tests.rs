//! Calls as the SBI specification has them.

use super::*;
use crate::addr::{GuestPhysAddr, GuestPhysRange};
use crate::flags::LeafSize;
use crate::tlb::{Reach, TableKind, TlbFeatures};
use std::vec::Vec;

fn calls(scope: Scope<'_>) -> Vec<RemoteFence> {
    // Sv39x4, VMID 0x2abc.
    let root = 8 << 60 | 0x2abc << 44 | 0x8_0004;
    let (reach, table, features) = (Reach::AllCpus, TableKind::Gstage, TlbFeatures::all());
    remote_fences(&Invalidation { root, scope, reach, table, features }).collect()
}

fn range(start: u64, size: u64) -> GuestPhysRange {
    GuestPhysRange::new(GuestPhysAddr::new(start), size).expect("valid")
}

#[test]
fn addresses_are_not_shifted_and_sizes_are_bytes() {
    let vmid = Some(0x2abc);
    let ranges = [range(0x8000_0000, 0x2000), range(0, 0x20_0000)];
    // However large the leaves are and however many: a call is a range.
    for stride in LeafSize::ALL {
        let wanted = [
            RemoteFence { start: 0x8000_0000, size: 0x2000, vmid },
            RemoteFence { start: 0, size: 0x20_0000, vmid },
        ];
        assert_eq!(calls(Scope::Ranges { ranges: &ranges, stride }), wanted);
    }
}

#[test]
fn a_whole_space_is_one_call() {
    assert_eq!(calls(Scope::Space), [RemoteFence { start: 0, size: 0, vmid: Some(0x2abc) }]);
    assert_eq!(calls(Scope::AllSpaces), [RemoteFence { start: 0, size: 0, vmid: None }]);
}

#[test]
fn arguments_are_in_the_order_of_the_registers() {
    let harts = HartMask { mask: 0b1010, base: 64 };
    let one = RemoteFence { start: 0x8000_0000, size: 0x2000, vmid: Some(7) };
    assert_eq!((one.function(), one.arguments(harts)), (3, [0b1010, 64, 0x8000_0000, 0x2000, 7]));
    let all = RemoteFence { start: 0, size: 0, vmid: None };
    assert_eq!((all.function(), all.arguments(HartMask::ALL)), (4, [0, u64::MAX, 0, 0, 0]));
    assert_eq!(RFENCE, u64::from(u32::from_be_bytes(*b"RFNC")));
}
