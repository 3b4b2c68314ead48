//! Which instructions, and in which order.

use super::*;
use crate::addr::{GuestPhysAddr, GuestPhysRange};
use crate::flags::LeafSize;
use crate::tlb::{Reach, TableKind};
use Instruction::{HfenceGvma, HinvalGvma, SfenceInvalIr, SfenceWInval};
use std::vec::Vec;

fn of(scope: Scope<'_>, features: TlbFeatures) -> Vec<Instruction> {
    let (root, reach, table) = (8 << 60 | 5 << 44, Reach::AllCpus, TableKind::Gstage);
    instructions(&Invalidation { root, scope, reach, table, features }).collect()
}

#[test]
fn with_svinval_several_fences_are_ordered_at_once() {
    let range = |pages: u64| GuestPhysRange::new(GuestPhysAddr::new(0x1000), pages << 12).expect("valid");
    let at = |address: u64| Fence { address: Some(address >> 2), vmid: Some(5) };
    let pages = |pages: u64| [range(pages)];
    let (one, two) = (pages(1), pages(2));
    let scope = |ranges| Scope::Ranges { ranges, stride: LeafSize::Size4K };
    let apart = TlbFeatures::ORDERED_APART;
    assert_eq!(
        of(scope(&two), apart),
        [SfenceWInval, HinvalGvma(at(0x1000)), HinvalGvma(at(0x2000)), SfenceInvalIr]
    );
    assert_eq!(of(scope(&one), apart), [HfenceGvma(at(0x1000))], "one orders itself");
    for features in [TlbFeatures::empty(), TlbFeatures::RANGE | TlbFeatures::SINGLE_CONTEXT] {
        assert_eq!(of(scope(&two), features), [HfenceGvma(at(0x1000)), HfenceGvma(at(0x2000))]);
    }
    let whole = HfenceGvma(Fence { address: None, vmid: Some(5) });
    assert_eq!(of(Scope::Space, apart), [whole]);
    let (most, more) = (pages(64), pages(65));
    assert_eq!(of(scope(&more), apart), [whole], "too many to name");
    assert_eq!(of(scope(&most), apart).len(), 66);
    assert_eq!(of(Scope::AllSpaces, apart), [HfenceGvma(Fence { address: None, vmid: None })]);
}
