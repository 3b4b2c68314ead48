//! x86: CPUs outside of their guests, and what they may have when they come back.

use super::intel_amd::{amd, intel};
use super::*;
use crate::mmu::Npt;
use crate::report::{Reach, Report};

const EPTP: u64 = ROOT | 0x1e;

/// Drops everything of the space.
fn flush(isa: &Isa) -> Instruction {
    match isa.mmu {
        Mmu::Ept(_) => Instruction::Invept { kind: 1, eptp: EPTP },
        _ => Instruction::Vmrun { tlb_control: 3 },
    }
}

#[test]
fn what_was_seen_before_is_kept_and_what_comes_and_goes_meanwhile_is_not() {
    for isa in [intel(), amd()] {
        let mut machine = started(&isa, 2);
        machine.pause(0);
        assert!(machine.is_paused(0) && !machine.is_paused(1));
        store(&mut machine, LEVEL_0 + 16, (isa.page)(0xccc_0000));
        store(&mut machine, LEVEL_0 + 16, 0);
        // A whole table, with a page that is replaced.
        store(&mut machine, 0x10_7000, (isa.page)(0xddd_0000));
        store(&mut machine, LEVEL_1 + 16, (isa.table)(0x10_7000));
        store(&mut machine, 0x10_7000, (isa.page)(0xeee_0000));
        store(&mut machine, LEVEL_1 + 16, 0);
        take_out_leaves(&mut machine);
        store(&mut machine, LEVEL_0, (isa.page)(0xfff_0000));
        store(&mut machine, LEVEL_0, 0);
        machine.resume(0);
        for (gpa, hpa) in
            [(0x2000, 0xccc_0000), (0x40_0000, 0xddd_0000), (0x40_0000, 0xeee_0000), (0, 0xfff_0000)]
        {
            assert!(!reads(&machine, 0, gpa, hpa), "{hpa:#x}");
            assert!(reads(&machine, 1, gpa, hpa), "{hpa:#x}");
        }
        assert_eq!((left(&machine, 0), left(&machine, 1)), ([true; 3], [true; 3]));
        // From now on it sees everything again.
        store(&mut machine, LEVEL_0 + 16, (isa.page)(0xccc_0000));
        store(&mut machine, LEVEL_0 + 16, 0);
        assert!(reads(&machine, 0, 0x2000, 0xccc_0000));
    }
}

#[test]
fn a_flush_outside_leaves_nothing_to_be_seen_but_the_tables() {
    for isa in [intel(), amd()] {
        let mut machine = started(&isa, 1);
        machine.pause(0);
        machine.execute(0, flush(&isa));
        take_out_leaves(&mut machine);
        machine.resume(0);
        assert_eq!(left(&machine, 0), [false; 3]);
        // Of something else.
        let mut machine = started(&isa, 1);
        machine.pause(0);
        machine.execute(
            0,
            match isa.mmu {
                Mmu::Ept(_) => Instruction::Invept { kind: 1, eptp: EPTP + 0x1000 },
                _ => Instruction::Invlpga { address: 0, asid: 1 },
            },
        );
        take_out_leaves(&mut machine);
        machine.resume(0);
        assert_eq!(left(&machine, 0), [true; 3]);
        // The tag that was loaded before is another matter than the one that is.
        let mut machine = started(&isa, 1);
        machine.pause(0);
        machine.unload_root(0);
        machine.load_root(0, (isa.root)(1)).unwrap();
        take_out_leaves(&mut machine);
        machine.resume(0);
        assert_eq!(left(&machine, 0), [true; 3], "it had seen them before");
    }
}

#[test]
fn what_hardware_drops_by_itself_is_of_one_tag() {
    for isa in [intel(), amd()] {
        let mut machine = started(&isa, 1);
        take_out_leaves(&mut machine);
        machine.pause(0);
        machine.drop_cached(0);
        assert_eq!(left(&machine, 0), [false; 3]);
    }
    let mut machine = started(&amd(), 1);
    take_out_leaves(&mut machine);
    machine.load_root(0, Root::Npt { ncr3: ROOT, asid: 2 }).unwrap();
    machine.drop_cached(0);
    machine.load_root(0, Root::Npt { ncr3: ROOT, asid: 1 }).unwrap();
    assert_eq!(left(&machine, 0), [true; 3]);
}

#[test]
fn a_root_that_is_loaded_outside_has_not_been_walked() {
    for isa in [intel(), amd()] {
        let mut machine = started(&isa, 1);
        machine.unload_root(0);
        machine.execute(0, flush(&isa));
        machine.pause(0);
        machine.load_root(0, (isa.root)(2)).unwrap();
        take_out_leaves(&mut machine);
        machine.resume(0);
        assert_eq!(left(&machine, 0), [false; 3]);
    }
}

#[test]
fn a_table_that_the_host_overwrites_stays_as_it_was() {
    for isa in [intel(), amd()] {
        for paused in [false, true] {
            let mut machine = started(&isa, 1);
            if paused {
                machine.pause(0);
            }
            for entry in (LEVEL_0..LEVEL_0 + 0x1000).step_by(8) {
                assert!(machine.ram().write(entry, 0));
            }
            machine.host_wrote(LEVEL_0..LEVEL_0 + 0x1000);
            machine.resume(0);
            assert_eq!(left(&machine, 0), [true; 3], "paused: {paused}");
            assert_eq!(machine.stale().len(), 2);
            machine.execute(0, flush(&isa));
            assert_eq!(left(&machine, 0), [false, false, true]);
        }
    }
}

#[test]
fn other_tags_are_not_reached_now() {
    for isa in [intel(), amd()] {
        let mut machine = started(&isa, 1);
        take_out_leaves(&mut machine);
        assert!(matches!(machine.reaches_now(0, PAGE_0..PAGE_0 + 1), Some(Reach::CachedLeaf { .. })));
        assert_eq!(machine.cached_now(0, PAGE_0..PAGE_0 + 1), machine.reaches_now(0, PAGE_0..PAGE_0 + 1));
        assert!(matches!(machine.reaches_now(0, LEVEL_0..LEVEL_0 + 1), Some(Reach::Walk { .. })));
        assert_eq!(machine.cached_now(0, LEVEL_0..LEVEL_0 + 1), None);
        // An empty root.
        let elsewhere = match (isa.root)(2) {
            Root::Ept { vpid, .. } => Root::Ept { eptp: EPTP + 0xf000, vpid },
            _ => Root::Npt { ncr3: ROOT + 0xf000, asid: 2 },
        };
        machine.load_root(0, elsewhere).unwrap();
        for hpa in [PAGE_0, LEVEL_0, ROOT] {
            assert_eq!(machine.reaches_now(0, hpa..hpa + 1), None);
        }
        assert!(machine.reaches(PAGE_0..PAGE_0 + 1).is_some());
        machine.unload_root(0);
        assert_eq!(machine.reaches_now(0, PAGE_0..PAGE_0 + 1), None);
    }
}

#[test]
fn combined_entries_of_another_vpid_are_not_reached_now() {
    let isa = intel();
    let mut machine = started(&isa, 1);
    let stage1 = crate::Stage1::x86(0, 0, 0, 0, false);
    machine.access_virtual(0, 0, Access::READ, &stage1).unwrap();
    let whole = crate::tlb::Effect { tag: None, second: Some(crate::tlb::Second::ALL), first: None };
    store(&mut machine, LEVEL_0, 0);
    machine.forget(0, &whole);
    assert!(matches!(machine.reaches_now(0, PAGE_0..PAGE_0 + 1), Some(Reach::Combined { .. })));
    machine.load_root(0, (isa.root)(2)).unwrap();
    assert_eq!(machine.reaches_now(0, PAGE_0..PAGE_0 + 1), None);
}

#[test]
fn a_pointer_dangles_once_its_table_is_gone() {
    for isa in [intel(), amd()] {
        let mut machine = started(&isa, 1);
        assert_eq!(machine.dangling(0, LEVEL_0..LEVEL_0 + 0x1000), None, "the tables lead there");
        let entry = machine.ram().read(LEVEL_1).unwrap();
        store(&mut machine, LEVEL_1, 0);
        let dangling = Some(Reach::CachedTable { gpa: 0, entry: LEVEL_1 });
        assert_eq!(machine.dangling(0, LEVEL_0..LEVEL_0 + 0x1000), dangling);
        assert_eq!(machine.dangling(0, LEVEL_1..LEVEL_1 + 0x1000), None);
        // Back as it was.
        store(&mut machine, LEVEL_1, entry);
        assert_eq!(machine.dangling(0, LEVEL_0..LEVEL_0 + 0x1000), None);
        // For another address.
        store(&mut machine, LEVEL_1, 0);
        store(&mut machine, LEVEL_1 + 16, entry);
        assert_eq!(machine.dangling(0, LEVEL_0..LEVEL_0 + 0x1000), dangling);
        machine.execute(0, flush(&isa));
        assert_eq!(machine.dangling(0, LEVEL_0..LEVEL_0 + 0x1000), None);
    }
}

#[test]
fn a_reserved_entry_is_seen_outside_too() {
    for isa in [intel(), amd()] {
        let mut machine = started(&isa, 1);
        machine.pause(0);
        store(&mut machine, LEVEL_0 + 16, (isa.page)(1 << 50));
        assert!(matches!(machine.reports(), [Report::Reserved { gpa: 0x2000, .. }]));
        // But not by a pointer that it may drop before it walks again.
        let mut machine = started(&isa, 1);
        store(&mut machine, LEVEL_1, 0);
        machine.pause(0);
        store(&mut machine, LEVEL_0 + 16, (isa.page)(1 << 50));
        assert_eq!(machine.reports(), []);
    }
}

#[test]
fn without_flushes_by_asid_their_values_are_reserved() {
    for (tlb_control, flushes) in [(1, true), (3, false), (7, false)] {
        let npt = Npt { flush_by_asid: false, ..Npt::default() };
        let mut machine = started(&Isa { mmu: Mmu::Npt(npt), ..amd() }, 1);
        take_out_leaves(&mut machine);
        machine.execute(0, Instruction::Vmrun { tlb_control });
        assert_eq!(left(&machine, 0), [!flushes; 3]);
        assert_eq!(machine.reports().is_empty(), flushes);
    }
}
