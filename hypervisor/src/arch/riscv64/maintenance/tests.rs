use super::*;
use alloc::vec;
use alloc::vec::Vec;
use slat::tlb::{Scope, TableKind, TlbFeatures};
use slat::{GuestPhysAddr, GuestPhysRange, LeafSize};

const HGATP: u64 = 8 << 60 | 5 << 44 | 0x8_4000;

fn of(scope: Scope<'_>, reach: Reach, mistake: Mistake) -> Vec<Step> {
    let (table, features) = (TableKind::Gstage, TlbFeatures::empty());
    let invalidation = Invalidation { root: HGATP, scope, reach, table, features };
    steps(&invalidation, mistake).collect()
}

fn of_two_pages(reach: Reach, mistake: Mistake) -> Vec<Step> {
    let range = GuestPhysRange::new(GuestPhysAddr::new(0x8000_3000), 0x2000).expect("two pages");
    of(Scope::Ranges { ranges: &[range], stride: LeafSize::Size4K }, reach, mistake)
}

fn here(address: Option<u64>, vmid: Option<u16>) -> Step {
    Step::Here(Instruction::HfenceGvma(Fence { address: address.map(|address| address >> 2), vmid }))
}

fn there(start: u64, size: u64, vmid: Option<u16>) -> Step {
    Step::There(RemoteFence { start, size, vmid })
}

#[test]
fn other_harts_fence_what_this_one_does() {
    let pages = vec![
        here(Some(0x8000_3000), Some(5)),
        here(Some(0x8000_4000), Some(5)),
        there(0x8000_3000, 0x2000, Some(5)),
    ];
    assert_eq!(of_two_pages(Reach::AllCpus, Mistake::None), pages);
    assert_eq!(of_two_pages(Reach::ThisCpu, Mistake::None), pages[..2]);
    let all = |vmid| vec![here(None, vmid), there(0, 0, vmid)];
    assert_eq!(of(Scope::Space, Reach::AllCpus, Mistake::None), all(Some(5)));
    assert_eq!(of(Scope::AllSpaces, Reach::AllCpus, Mistake::None), all(None));
}

#[test]
fn each_mistake_spoils_what_it_names() {
    assert_eq!(of_two_pages(Reach::AllCpus, Mistake::NoTlbi), []);
    assert_eq!(of(Scope::Space, Reach::AllCpus, Mistake::NoTlbi), []);
    let right = of_two_pages(Reach::AllCpus, Mistake::None);
    assert_eq!(of_two_pages(Reach::AllCpus, Mistake::LocalTlbi), right[..2]);
    assert_eq!(of_two_pages(Reach::AllCpus, Mistake::NoKick), right, "which is of x86");
    for (wrong, right) in of_two_pages(Reach::AllCpus, Mistake::WrongAddress).into_iter().zip(right) {
        assert_ne!(wrong, right);
    }
    // There is no address in it.
    let all = [here(None, Some(5)), there(0, 0, Some(5))];
    assert_eq!(of(Scope::Space, Reach::AllCpus, Mistake::WrongAddress), all);
}

#[test]
fn a_completion_is_recorded_when_it_is_done() {
    let fence = Fence { address: Some(0x2000_0c00), vmid: Some(5) };
    let (event, before) = recorded(Instruction::HinvalGvma(fence));
    let kind = FenceKind::HinvalGvma;
    assert_eq!((event, before), (Event::Fence { kind, address: Some(0x2000_0c00), vmid: Some(5) }, true));
    assert!(recorded(Instruction::HfenceGvma(fence)).1);
    assert!(recorded(Instruction::SfenceWInval).1);
    let operation = Operation::SfenceInvalIr;
    let done = (Event::Maintenance { operation, operand: 0 }, false);
    assert_eq!(recorded(Instruction::SfenceInvalIr), done);
}
