//! INVEPT and the EPT violation; TLB_CONTROL, INVLPGA, INVLPGB.

use super::*;
use crate::mmu::{Ept, Npt};
use crate::report::Report;

const EPTP: u64 = ROOT | 0x1e;

pub(super) fn intel() -> Isa {
    Isa {
        mmu: Mmu::Ept(Ept::default()),
        root: |vpid| Root::Ept { eptp: EPTP, vpid },
        table: |hpa| hpa | 7,
        page: |hpa| hpa | 0x37,
        large: |hpa| hpa | 0xb7,
        top: 3,
    }
}

pub(super) fn amd() -> Isa {
    Isa {
        mmu: Mmu::Npt(Npt::default()),
        root: |asid| Root::Npt { ncr3: ROOT, asid: u32::from(asid) },
        table: |hpa| hpa | 0x27,
        page: |hpa| hpa | 0x67,
        large: |hpa| hpa | 0xe7,
        top: 3,
    }
}

#[test]
fn invept_drops_one_context_or_all_of_this_cpu() {
    for (instruction, drops) in [
        (Instruction::Invept { kind: 1, eptp: EPTP }, true),
        (Instruction::Invept { kind: 1, eptp: EPTP | 1 << 6 }, true), // EP4TA is what counts
        (Instruction::Invept { kind: 1, eptp: EPTP + 0x1000 }, false),
        (Instruction::Invept { kind: 2, eptp: 0 }, true),
        // Linear and combined mappings only.
        (Instruction::Invvpid { kind: 0, vpid: 1, linear: 0 }, false),
        (Instruction::Invvpid { kind: 1, vpid: 1, linear: 0 }, false),
        (Instruction::Invvpid { kind: 2, vpid: 0, linear: 0 }, false),
        (Instruction::Invvpid { kind: 3, vpid: 1, linear: 0 }, false),
        (Instruction::VmEntry, false),
        (Instruction::VmExit, false),
    ] {
        let mut machine = started(&intel(), 2);
        take_out_leaves(&mut machine);
        store(&mut machine, LEVEL_1, 0);
        machine.execute(0, instruction);
        assert_eq!(left(&machine, 0), [!drops; 3], "{instruction:?}");
        assert_eq!(left(&machine, 1), [true; 3], "{instruction:?}");
        assert_eq!(machine.reports(), []);
    }
}

#[test]
fn invept_and_invvpid_refuse_what_the_cpu_refuses() {
    let without = Ept { capabilities: Ept::default().capabilities & !(1 << 25), ..Ept::default() };
    for (ept, instruction) in [
        (Ept::default(), Instruction::Invept { kind: 0, eptp: EPTP }),
        (Ept::default(), Instruction::Invept { kind: 1, eptp: ROOT }),
        (without, Instruction::Invept { kind: 1, eptp: EPTP }),
        (Ept::default(), Instruction::Invvpid { kind: 1, vpid: 0, linear: 0 }),
        (Ept::default(), Instruction::Isb),
    ] {
        let mut machine = started(&Isa { mmu: Mmu::Ept(ept), ..intel() }, 1);
        take_out_leaves(&mut machine);
        machine.execute(0, instruction);
        assert_eq!(left(&machine, 0), [true; 3]);
        assert_eq!(machine.reports(), [Report::ReservedOperand { cpu: 0, instruction }]);
    }
}

#[test]
fn an_ept_violation_drops_what_it_used() {
    let mut machine = started(&intel(), 1);
    store(&mut machine, LEVEL_0, PAGE_0 | 0x31); // readable only
    store(&mut machine, LEVEL_0 + 8, PAGE_1 | 0x31);
    machine.execute(0, Instruction::Invept { kind: 1, eptp: EPTP });
    store(&mut machine, LEVEL_0, PAGE_0 | 0x37); // relaxed without INVEPT: the stale entry refuses once
    store(&mut machine, LEVEL_0 + 8, PAGE_1 | 0x37);
    assert_eq!(machine.possible(0, 0, Access::WRITE).len(), 2);
    machine.access(0, 0, Access::WRITE).unwrap_err();
    assert_eq!(machine.possible(0, 0, Access::WRITE).len(), 1);
    assert!(machine.access(0, 0, Access::WRITE).is_ok());
    // That of the other page is still there.
    machine.access(0, 0x1000, Access::WRITE).unwrap_err();
}

#[test]
fn a_cached_dirty_flag_outlives_the_one_in_memory() {
    let marks = Isa { root: |vpid| Root::Ept { eptp: EPTP | 1 << 6, vpid }, ..intel() };
    let mut machine = started(&marks, 1);
    machine.access(0, 0, Access::WRITE).unwrap();
    let clean = machine.ram().read(LEVEL_0).unwrap() & !(1 << 9);
    store(&mut machine, LEVEL_0, clean);
    machine.access(0, 0, Access::WRITE).unwrap();
    assert_eq!(machine.ram().read(LEVEL_0), Some(clean)); // lost: no INVEPT
    machine.execute(0, Instruction::Invept { kind: 1, eptp: EPTP | 1 << 6 });
    machine.access(0, 0, Access::WRITE).unwrap();
    assert_eq!(machine.ram().read(LEVEL_0), Some(clean | 1 << 9));
}

#[test]
fn nothing_is_kept_whose_accessed_flag_is_clear() {
    let marks = Isa { root: |vpid| Root::Ept { eptp: EPTP | 1 << 6, vpid }, ..intel() };
    let mut machine = started(&marks, 1);
    store(&mut machine, LEVEL_0, 0);
    assert_eq!(left(&machine, 0), [false, true, true]);
    machine.prefetch(0, 0x1000); // sets A on the way, and in the leaf
    assert_eq!(machine.ram().read(LEVEL_0 + 8), Some(PAGE_1 | 0x137));
    store(&mut machine, LEVEL_0 + 8, 0);
    assert_eq!(left(&machine, 0), [false, true, true]);
    // The flag on the way counts as well.
    let mut machine = started(&marks, 1);
    assert!(machine.ram().write(LEVEL_0, PAGE_0 | 0x137));
    machine.load_root(0, (marks.root)(2)).unwrap();
    store(&mut machine, LEVEL_0, 0);
    assert_eq!(left(&machine, 0), [false, true, true]);
}

#[test]
fn what_hardware_marked_is_what_a_store_replaces() {
    let marks = Isa { root: |vpid| Root::Ept { eptp: EPTP | 1 << 6, vpid }, ..intel() };
    let mut machine = started(&marks, 1);
    machine.prefetch(0, 0);
    machine.cpus[0].tlb = crate::tlb::Tlb::default(); // hardware may drop at any time, and fetch again
    store(&mut machine, LEVEL_0, 0);
    assert!(reads(&machine, 0, 0, PAGE_0));
}

#[test]
fn nothing_is_kept_of_what_was_not_present() {
    for isa in [intel(), amd(), arm::isa()] {
        let mut machine = started(&isa, 1);
        store(&mut machine, LEVEL_0, 0);
        assert_eq!(machine.access(0, 0x2000, Access::READ).map_err(|fault| fault.gpa), Err(0x2000));
        store(&mut machine, LEVEL_0 + 16, (isa.page)(0xccc_0000));
        assert_eq!(machine.possible(0, 0x2000, Access::READ).len(), 1);
        assert!(machine.access(0, 0x2000, Access::READ).is_ok());
    }
}

#[test]
fn tlb_control_drops_by_asid() {
    for (tlb_control, other, drops) in [
        (0, false, false),
        (1, false, true),
        (1, true, true),
        (3, false, true),
        (3, true, false),
        (7, false, true),
        (7, true, false),
    ] {
        let mut machine = started(&amd(), 2);
        take_out_leaves(&mut machine);
        store(&mut machine, LEVEL_1, 0);
        if other {
            machine.load_root(0, Root::Npt { ncr3: ROOT, asid: 2 }).unwrap();
            assert_eq!(left(&machine, 0), [false; 3]); // another ASID's entries are not used
        }
        machine.execute(0, Instruction::Vmrun { tlb_control });
        machine.load_root(0, Root::Npt { ncr3: ROOT, asid: 1 }).unwrap();
        assert_eq!(left(&machine, 0), [!drops; 3], "TLB_CONTROL {tlb_control}, of another ASID: {other}");
        assert_eq!(left(&machine, 1), [true; 3]);
    }
    let mut machine = started(&amd(), 1);
    machine.execute(0, Instruction::Vmrun { tlb_control: 2 });
    assert_eq!(machine.reports().len(), 1);
}

#[test]
fn invlpga_takes_no_guest_physical_address() {
    let mut machine = started(&amd(), 1);
    take_out_leaves(&mut machine);
    machine.execute(0, Instruction::Invlpga { address: 0, asid: 1 });
    assert_eq!(left(&machine, 0), [true; 3]);
}

#[test]
fn invlpgb_drops_everywhere_once_synchronized() {
    let broadcast = |rax, asid| Instruction::Invlpgb { rax, edx: asid, ecx: 0 };
    for (instruction, drops) in [
        (broadcast(0x24, 1), true),  // this ASID, with its nested translations
        (broadcast(0x20, 0), true),  // all ASIDs
        (broadcast(0x24, 2), false), // another ASID
        (broadcast(0x0c, 1), false), // no nested translations
        (broadcast(0x25, 1), false), // by guest virtual address
    ] {
        let mut machine = started(&amd(), 2);
        take_out_leaves(&mut machine);
        store(&mut machine, LEVEL_1, 0);
        machine.execute(0, instruction);
        assert_eq!((left(&machine, 0), left(&machine, 1)), ([true; 3], [true; 3]), "{instruction:x?}");
        machine.execute(1, Instruction::Tlbsync); // of another CPU: waits for nothing of this one's
        assert_eq!(left(&machine, 1), [true; 3]);
        machine.execute(0, Instruction::Tlbsync);
        assert_eq!((left(&machine, 0), left(&machine, 1)), ([!drops; 3], [!drops; 3]), "{instruction:x?}");
    }
    // A store after it is not covered.
    let mut machine = started(&amd(), 1);
    machine.execute(0, broadcast(0x24, 1));
    take_out_leaves(&mut machine);
    machine.execute(0, Instruction::Tlbsync);
    assert_eq!(left(&machine, 0), [true; 3]);
}
