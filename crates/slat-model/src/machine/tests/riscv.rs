//! HFENCE, HINVAL and their barriers; cached invalid entries.

use super::*;
use crate::mmu::Gstage;
use crate::stage1::Stage1;

const fn entry(hpa: u64, bits: u64) -> u64 {
    hpa >> 2 | bits
}

pub(super) fn isa() -> Isa {
    Isa {
        mmu: Mmu::Gstage(Gstage::default()),
        root: |vmid| Root::Gstage { hgatp: 8 << 60 | u64::from(vmid) << 44 | ROOT >> 12 },
        table: |hpa| entry(hpa, 1),
        page: |hpa| entry(hpa, 0xdf),
        large: |hpa| entry(hpa, 0xdf),
        top: 2,
    }
}

const fn gvma(address: Option<u64>, vmid: Option<u64>) -> Instruction {
    Instruction::HfenceGvma { address, vmid }
}

#[test]
fn hfence_gvma_drops_what_its_operands_say() {
    for (instruction, expected) in [
        (gvma(None, None), [false; 3]),
        (gvma(None, Some(1)), [false; 3]),
        (gvma(None, Some(2)), [true; 3]),
        (gvma(Some(0x1000 >> 2), None), [true, false, true]),
        (gvma(Some(0x1000 >> 2), Some(1)), [true, false, true]),
        (gvma(Some(0x1000), Some(1)), [true; 3]), // not shifted
        (gvma(Some(0x2f_f000 >> 2), Some(1)), [true, true, false]), // anywhere in the superpage
        (Instruction::HfenceVvma { address: None, asid: None }, [true; 3]),
    ] {
        let mut machine = started(&isa(), 2);
        take_out_leaves(&mut machine);
        machine.execute(0, instruction);
        assert_eq!(left(&machine, 0), expected, "{instruction:x?}");
        assert_eq!(left(&machine, 1), [true; 3], "{instruction:x?}");
    }
}

#[test]
fn an_address_orders_leaves_only() {
    let mut machine = started(&isa(), 1);
    store(&mut machine, LEVEL_1, 0);
    for gpa in (0..512).map(|page| page << 12) {
        machine.execute(0, gvma(Some(gpa >> 2), None));
    }
    assert!(machine.reaches(LEVEL_0..LEVEL_0 + 0x1000).is_some());
    assert_eq!(left(&machine, 0), [true; 3]); // by the cached pointer
    machine.execute(0, gvma(None, Some(1)));
    assert_eq!(machine.reaches(LEVEL_0..LEVEL_0 + 0x1000), None);
    assert_eq!(left(&machine, 0), [false, false, true]);
}

#[test]
fn invalid_entries_are_cached() {
    let faults =
        |machine: &Machine, gpa| outcomes(machine, 0, gpa).iter().any(|outcome| outcome.result.is_err());
    let mut machine = started(&isa(), 1);
    store(&mut machine, LEVEL_0 + 16, entry(0xccc_0000, 0xdf));
    assert!(faults(&machine, 0x2000));
    assert!(machine.access(0, 0x2000, Access::READ).is_err());
    assert!(machine.access(0, 0x2000, Access::READ).is_err()); // a fault does not heal itself
    machine.execute(0, gvma(Some(0x2000 >> 2), None));
    assert!(!faults(&machine, 0x2000));
    // Above level 0 the address operand may or may not count.
    for skips in [false, true] {
        let hart = Gstage { address_fence_skips_invalid: skips, ..Gstage::default() };
        let mut machine = started(&Isa { mmu: Mmu::Gstage(hart), ..isa() }, 1);
        store(&mut machine, 0x10_7000, entry(0xccc_0000, 0xdf));
        store(&mut machine, LEVEL_1 + 16, entry(0x10_7000, 1));
        machine.execute(0, gvma(Some(0x40_0000 >> 2), None));
        assert_eq!(faults(&machine, 0x40_0000), skips);
        machine.execute(0, gvma(None, None));
        assert!(!faults(&machine, 0x40_0000));
    }
}

/// Svvptc says so of entries whose valid bit was clear, and of no others.
#[test]
fn with_svvptc_an_invalid_entry_is_not_kept() {
    let hart = Gstage { svvptc: true, ..Gstage::default() };
    let mut machine = started(&Isa { mmu: Mmu::Gstage(hart), ..isa() }, 1);
    assert!(machine.access(0, 0x2000, Access::READ).is_err());
    store(&mut machine, LEVEL_0 + 16, entry(0xccc_0000, 0xdf));
    assert!(machine.access(0, 0x2000, Access::READ).is_ok());
    // W without R is reserved, and valid.
    store(&mut machine, LEVEL_0 + 24, entry(0xccc_1000, 0xd5));
    assert!(machine.access(0, 0x3000, Access::READ).is_err());
    store(&mut machine, LEVEL_0 + 24, entry(0xccc_1000, 0xdf));
    assert!(machine.access(0, 0x3000, Access::READ).is_err());
    machine.execute(0, gvma(Some(0x3000 >> 2), None));
    assert!(machine.access(0, 0x3000, Access::READ).is_ok());
}

#[test]
fn a_cached_clean_entry_faults_until_the_fence() {
    let mut machine = started(&isa(), 1);
    store(&mut machine, LEVEL_0, entry(PAGE_0, 0x5f));
    machine.execute(0, gvma(None, None));
    assert!(machine.access(0, 0, Access::WRITE).is_err());
    store(&mut machine, LEVEL_0, entry(PAGE_0, 0xdf));
    assert_eq!(machine.possible(0, 0, Access::WRITE).len(), 2);
    machine.execute(0, gvma(Some(0), None));
    assert_eq!(machine.possible(0, 0, Access::WRITE).len(), 1);
    assert!(machine.access(0, 0, Access::WRITE).is_ok());
}

/// Svade: what a load has combined of both stages serves no store that the G-stage's dirty flag refuses.
#[test]
fn a_combined_entry_knows_that_its_page_is_clean() {
    let mut machine = started(&isa(), 1);
    store(&mut machine, LEVEL_0, entry(PAGE_0, 0x5f));
    machine.execute(0, gvma(None, None));
    let bare = Stage1::riscv(0);
    assert!(machine.access_virtual(0, 0, Access::READ, &bare).is_ok());
    let possible = machine.possible_virtual(0, 0, Access::WRITE, &bare);
    assert!(possible.iter().all(Result::is_err), "{possible:x?}");
    assert!(machine.access_virtual(0, 0, Access::WRITE, &bare).is_err());
    store(&mut machine, LEVEL_0, entry(PAGE_0, 0xdf));
    machine.execute(0, gvma(Some(0), None));
    assert!(machine.access_virtual(0, 0, Access::WRITE, &bare).is_ok());
}

#[test]
fn hinval_is_ordered_by_the_fences_around_it() {
    let inval = Instruction::HinvalGvma { address: None, vmid: None };
    let (before, after) = (Instruction::SfenceWInval, Instruction::SfenceInvalIr);
    for (instructions, drops) in [
        (&[before, inval, after][..], true),
        (&[inval, after], false),
        (&[before, inval], false),
        (&[inval, before, after], false),
        (&[before, Instruction::HinvalGvma { address: None, vmid: Some(2) }, after], false),
    ] {
        let mut machine = started(&isa(), 2);
        take_out_leaves(&mut machine);
        run(&mut machine, 0, instructions);
        assert_eq!(left(&machine, 0), [!drops; 3], "{instructions:?}");
        assert_eq!(left(&machine, 1), [true; 3]);
    }
    let one = Instruction::HinvalGvma { address: Some(0), vmid: Some(1) };
    let mut machine = started(&isa(), 1);
    take_out_leaves(&mut machine);
    run(&mut machine, 0, &[before, one, after]);
    assert_eq!(left(&machine, 0), [false, true, true]);
}

#[test]
fn vmids_share_nothing() {
    let mut machine = started(&isa(), 1);
    take_out_leaves(&mut machine);
    machine.load_root(0, (isa().root)(2)).unwrap();
    assert_eq!(left(&machine, 0), [false; 3]);
    machine.load_root(0, (isa().root)(1)).unwrap();
    assert_eq!(left(&machine, 0), [true; 3]);
    machine.execute(0, gvma(None, Some(1 << 14)));
    assert_eq!(machine.reports().len(), 1);
}

/// A hart with another VMID in hgatp is a CPU that is paused.
#[test]
fn a_cpu_that_is_paused_keeps_what_it_saw_and_sees_nothing_new() {
    let mut machine = started(&isa(), 2);
    machine.pause(1);
    store(&mut machine, LEVEL_0 + 16, entry(0xccc_0000, 0xdf));
    store(&mut machine, LEVEL_0 + 16, 0);
    assert!(reads(&machine, 0, 0x2000, 0xccc_0000));
    assert!(!reads(&machine, 1, 0x2000, 0xccc_0000));
    take_out_leaves(&mut machine);
    machine.resume(1);
    assert_eq!(left(&machine, 1), [true; 3]);
    machine.execute(1, gvma(None, Some(1)));
    assert_eq!(left(&machine, 1), [false; 3]);
}

#[test]
fn a_table_that_the_host_overwrites_stays_cached() {
    let mut machine = started(&isa(), 1);
    for word in (LEVEL_0..LEVEL_0 + 0x1000).step_by(8) {
        assert!(machine.ram().write(word, 0));
    }
    machine.host_wrote(LEVEL_0..LEVEL_0 + 0x1000);
    assert_eq!(left(&machine, 0), [true; 3]);
    machine.execute(0, gvma(None, None));
    assert_eq!(left(&machine, 0), [false, false, true]);
}

/// Page 0 to 15 by sixteen entries of Svnapot.
fn with_napot() -> Machine {
    let mut machine = started(&isa(), 1);
    for index in 0..16 {
        store(&mut machine, LEVEL_0 + 8 * index, entry(PAGE_0 + 0x8000, 0xdf) | 1 << 63);
    }
    machine.execute(0, gvma(None, None));
    machine
}

#[test]
fn one_of_sixteen_entries_serves_the_pages_of_all() {
    let mut machine = with_napot();
    for page in 0..16 {
        assert!(reads(&machine, 0, page << 12, PAGE_0 + (page << 12)), "{page}");
    }
    // One that is taken out by itself stays in reach, whatever is invalidated.
    store(&mut machine, LEVEL_0 + 8 * 3, 0);
    machine.execute(0, gvma(None, None));
    assert!(reads(&machine, 0, 3 << 12, PAGE_0 + (3 << 12)));
    let walks = |machine: &Machine| {
        let outcomes = outcomes(machine, 0, 3 << 12);
        outcomes.iter().any(|found| found.source == Source::Walk && found.result.is_ok())
    };
    assert!(!walks(&machine), "its own entry is gone");
    // Those of other groups do not serve it.
    for index in (0..16).filter(|index| *index != 3) {
        store(&mut machine, LEVEL_0 + 8 * index, entry(PAGE_0 + (index << 12), 0xdf));
    }
    store(&mut machine, LEVEL_0 + 8 * 16, entry(PAGE_0 + 0x8000, 0xdf) | 1 << 63);
    assert!(reads(&machine, 0, 3 << 12, PAGE_0 + (3 << 12)), "until the fence");
    machine.execute(0, gvma(Some(9 << 12 >> 2), Some(1)));
    assert!(!reads(&machine, 0, 3 << 12, PAGE_0 + (3 << 12)), "a fence anywhere drops all of it");
}

#[test]
fn entries_of_sixteen_that_disagree_may_all_be_used() {
    let mut machine = with_napot();
    store(&mut machine, LEVEL_0 + 8 * 5, entry(PAGE_1 + 0x8000, 0xdf) | 1 << 63);
    machine.execute(0, gvma(None, None));
    for page in [0, 5, 15] {
        for there in [PAGE_0, PAGE_1] {
            assert!(reads(&machine, 0, page << 12, there + (page << 12)), "{page}");
        }
    }
    // Without the accessed flag nothing may be kept, and nobody is served.
    let adue = Mmu::Gstage(Gstage { adue: true, ..Gstage::default() });
    let mut machine = started(&Isa { mmu: adue, ..isa() }, 1);
    store(&mut machine, LEVEL_0 + 8 * 5, entry(PAGE_0 + 0x8000, 0x1f) | 1 << 63);
    machine.execute(0, gvma(None, None));
    assert!(!reads(&machine, 0, 3 << 12, PAGE_0 + (3 << 12)));
    store(&mut machine, LEVEL_0 + 8 * 5, entry(PAGE_0 + 0x8000, 0x5f) | 1 << 63);
    assert!(reads(&machine, 0, 3 << 12, PAGE_0 + (3 << 12)));
    let writes = machine.possible(0, 3 << 12, Access::WRITE);
    assert!(writes.iter().all(|found| found.result.is_err()), "its dirty flag is clear");
    // Where there is no Svnapot the bit is reserved.
    let without = Mmu::Gstage(Gstage { svnapot: false, ..Gstage::default() });
    let mut machine = started(&Isa { mmu: without, ..isa() }, 1);
    store(&mut machine, LEVEL_0 + 8 * 5, entry(PAGE_0 + 0x8000, 0xdf) | 1 << 63);
    assert!(!reads(&machine, 0, 3 << 12, PAGE_0 + (3 << 12)));
}
