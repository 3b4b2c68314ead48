use super::*;
use alloc::vec::Vec;
use slat::tlb::{Scope, TableKind, TlbFeatures};
use slat::{GuestPhysAddr, GuestPhysRange, LeafSize};

fn mnemonics(mistake: Mistake, reach: Reach) -> Vec<&'static str> {
    let range = GuestPhysRange::new(GuestPhysAddr::new(0x4000_3000), 4096).expect("a page");
    let scope = Scope::Ranges { ranges: &[range], stride: LeafSize::Size4K };
    let (table, features) = (TableKind::Stage2, TlbFeatures::empty());
    let invalidation = Invalidation { root: 0, scope, reach, table, features };
    steps(&narrowed(invalidation, mistake), mistake)
        .map(Step::mnemonic)
        .filter(|mnemonic| mnemonic.starts_with("tlbi"))
        .collect()
}

#[test]
fn each_mistake_spoils_what_it_names() {
    for (mistake, expected) in [
        (Mistake::None, &["tlbi ipas2e1is", "tlbi vmalle1is"][..]),
        (Mistake::NoTlbi, &[]),
        (Mistake::Ipas2Alone, &["tlbi ipas2e1is"]),
        (Mistake::Vmalle1Alone, &["tlbi vmalle1is"]),
        (Mistake::WrongAddress, &["tlbi ipas2e1is", "tlbi vmalle1is"]),
        (Mistake::El2Instruction, &["tlbi vae2is"]),
        (Mistake::LocalTlbi, &["tlbi ipas2e1", "tlbi vmalle1"]),
    ] {
        assert_eq!(mnemonics(mistake, Reach::AllCpus), expected, "{mistake:?}");
    }
}

#[test]
fn local_sequences_are_spoiled_too() {
    assert_eq!(mnemonics(Mistake::NoTlbi, Reach::ThisCpu), [""; 0]);
    assert_eq!(mnemonics(Mistake::Ipas2Alone, Reach::ThisCpu), ["tlbi ipas2e1"]);
    assert_eq!(mnemonics(Mistake::El2Instruction, Reach::ThisCpu), ["tlbi vae2is"]);
}

#[test]
fn the_wrong_address_is_another_page() {
    let right = Instruction::Ipas2e1is(0x4_0003);
    assert_eq!(spoil(right, Mistake::None), Some(Step::Native(right)));
    assert_ne!(spoil(right, Mistake::WrongAddress), Some(Step::Native(right)));
}

#[test]
fn a_whole_space_is_dropped_locally_too() {
    let (table, features) = (TableKind::Stage2, TlbFeatures::empty());
    let invalidation = Invalidation { root: 0, scope: Scope::Space, reach: Reach::AllCpus, table, features };
    for (mistake, expected) in
        [(Mistake::None, Instruction::Vmalls12e1is), (Mistake::LocalTlbi, Instruction::Vmalls12e1)]
    {
        let narrowed = narrowed(invalidation, mistake);
        assert!(steps(&narrowed, mistake).any(|step| step == Step::Native(expected)), "{mistake:?}");
    }
}
