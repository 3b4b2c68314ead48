//! TLBIs, their level hints and barriers; break-before-make; cleaning.

use super::*;
use crate::instruction::{BarrierAccess, Dc, Domain, Tlbi};
use crate::mmu::Stage2;
use crate::report::Report;

/// 40-bit IPA: starts at lookup level 1, two concatenated tables.
const VTCR: u64 = 1 << 31 | 5 << 16 | 1 << 6 | 24;

pub(super) fn isa() -> Isa {
    Isa {
        mmu: Mmu::Stage2(Stage2::default()),
        root: |vmid| Root::Stage2 { vtcr: VTCR, vttbr: ROOT | u64::from(vmid) << 48 },
        table: |hpa| hpa | 3,
        page: |hpa| hpa | 0x7ff,
        large: |hpa| hpa | 0x7fd,
        top: 2,
    }
}

fn synchronized(cpus: usize) -> Machine {
    let mut machine = started(&isa(), cpus);
    (0..cpus).for_each(|cpu| machine.execute(cpu, Instruction::Isb));
    machine
}

const fn dsb(domain: Domain, access: BarrierAccess) -> Instruction {
    Instruction::Dsb { domain, access }
}

const ISHST: Instruction = dsb(Domain::InnerShareable, BarrierAccess::Stores);
const ISH: Instruction = dsb(Domain::InnerShareable, BarrierAccess::All);
const NSH: Instruction = dsb(Domain::NonShareable, BarrierAccess::All);

const fn is(operation: Tlbi, operand: u64) -> Instruction {
    Instruction::Tlbi { operation, broadcast: true, operand }
}

const fn local(operation: Tlbi, operand: u64) -> Instruction {
    Instruction::Tlbi { operation, broadcast: false, operand }
}

/// Which leaves are left in stage-2-only entries, and which in combined ones, on this CPU.
fn halves(machine: &Machine, cpu: usize) -> [[bool; 3]; 2] {
    let of = |combined| {
        [(0, PAGE_0), (0x1000, PAGE_1), (0x20_0000, LARGE)].map(|(gpa, hpa)| {
            machine.candidates(cpu, gpa, Access::READ, true).iter().any(|candidate| {
                matches!(candidate.outcome.source, Source::Combined(_)) == combined
                    && candidate.outcome.result.is_ok_and(|found| found.hpa == hpa)
            })
        })
    };
    [of(false), of(true)]
}

const ALL: [bool; 3] = [true; 3];
const NONE: [bool; 3] = [false; 3];

#[test]
fn tlbis_drop_what_their_operand_says() {
    let ranged = |base: u64, level: u64, scale: u64, num: u64| {
        base >> 12 | level << 37 | num << 39 | scale << 44 | 1 << 46
    };
    for (instruction, stage2, combined) in [
        (is(Tlbi::Ipas2e1, 0), [false, true, true], ALL),
        (is(Tlbi::Ipas2e1, 1), [true, false, true], ALL),
        (is(Tlbi::Ipas2e1, 0x3ff), [true, true, false], ALL), // anywhere in the block
        (is(Tlbi::Ipas2le1, 1), [true, false, true], ALL),
        (is(Tlbi::Ipas2e1, 1 | 7 << 44), [true, false, true], ALL), // hint: level 3
        (is(Tlbi::Ipas2e1, 0x200 | 6 << 44), [true, true, false], ALL), // level 2
        (is(Tlbi::Ipas2e1, 1 | 6 << 44), ALL, ALL),                 // the wrong level
        (is(Tlbi::Ripas2e1, ranged(0, 0, 0, 0)), [false, false, true], ALL), // two pages
        (is(Tlbi::Ripas2e1, ranged(0, 0, 1, 15)), [false; 3], ALL), // 16 << 6 pages: 4 MiB
        (is(Tlbi::Ripas2le1, ranged(0, 3, 1, 15)), [false, false, true], ALL), // leaves of level 3
        (is(Tlbi::Ripas2le1, ranged(0, 2, 1, 15)), [true, true, false], ALL), // of level 2
        (is(Tlbi::Vmalle1, 0), ALL, NONE),
        (is(Tlbi::Vmalls12e1, 0), NONE, NONE),
        (is(Tlbi::Alle1, 0), NONE, NONE),
        (is(Tlbi::Vae1, 1), ALL, [true, false, true]),
        (is(Tlbi::Vaae1, 1), ALL, [true, false, true]),
        (is(Tlbi::Aside1, 0), ALL, ALL), // with stage 1 off entries are global
    ] {
        let mut machine = synchronized(2);
        take_out_leaves(&mut machine);
        run(&mut machine, 0, &[ISHST, instruction, ISH]);
        for cpu in 0..2 {
            assert_eq!(halves(&machine, cpu), [stage2, combined], "{instruction:x?} on CPU {cpu}");
        }
        assert_eq!(machine.reports(), []);
    }
}

#[test]
fn local_tlbis_are_local() {
    for operation in [Tlbi::Vmalls12e1, Tlbi::Alle1] {
        let mut machine = synchronized(2);
        take_out_leaves(&mut machine);
        run(&mut machine, 0, &[ISHST, local(operation, 0), ISH]);
        assert_eq!((left(&machine, 0), left(&machine, 1)), (NONE, ALL));
    }
}

#[test]
fn vmids_tell_entries_apart() {
    for (operation, drops) in [(Tlbi::Vmalls12e1, false), (Tlbi::Alle1, true)] {
        let mut machine = synchronized(1);
        take_out_leaves(&mut machine);
        machine.load_root(0, (isa().root)(2)).unwrap();
        run(&mut machine, 0, &[Instruction::Isb, ISHST, is(operation, 0), ISH]);
        machine.load_root(0, (isa().root)(1)).unwrap();
        assert_eq!(left(&machine, 0), [!drops; 3]);
    }
}

#[test]
fn a_new_vmid_counts_after_the_isb() {
    for (synchronize, drops) in [(false, false), (true, true)] {
        let mut machine = synchronized(1);
        take_out_leaves(&mut machine);
        machine.load_root(0, (isa().root)(2)).unwrap();
        machine.execute(0, Instruction::Isb);
        machine.load_root(0, (isa().root)(1)).unwrap();
        if synchronize {
            machine.execute(0, Instruction::Isb);
        }
        let mut entered = synchronized(1);
        entered.load_root(0, (isa().root)(2)).unwrap();
        entered.access(0, 0, Access::READ).unwrap(); // so does the entry to the guest
        store(&mut entered, LEVEL_0, 0);
        run(&mut entered, 0, &[ISHST, is(Tlbi::Vmalls12e1, 0), ISH]);
        assert!(!reads(&entered, 0, 0, PAGE_0));
        run(&mut machine, 0, &[ISHST, is(Tlbi::Vmalls12e1, 0), ISH]);
        assert_eq!(left(&machine, 0), [!drops; 3]);
    }
}

#[test]
fn barriers_order_and_complete() {
    let flush = is(Tlbi::Vmalls12e1, 0);
    let stores = dsb(Domain::NonShareable, BarrierAccess::Stores);
    let loads = dsb(Domain::InnerShareable, BarrierAccess::Loads);
    for (instructions, drops_here, drops_there) in [
        (&[ISHST, flush, ISH][..], true, true),
        (&[flush, ISH], false, false), // the store may be seen after the TLBI
        (&[loads, flush, ISH], false, false), // waits for no store
        (&[stores, flush, ISH], true, false), // orders the store for this CPU alone
        (&[ISHST, flush], false, false), // not complete
        (&[ISHST, flush, ISHST], false, false), // completes stores, no TLBIs
        (&[ISHST, flush, NSH], true, false), // complete here
        (&[ISHST, flush, NSH, ISH], true, true),
        (&[ISHST, local(Tlbi::Vmalls12e1, 0), NSH], true, false),
    ] {
        let mut machine = synchronized(2);
        take_out_leaves(&mut machine);
        run(&mut machine, 0, instructions);
        assert_eq!(left(&machine, 0), [!drops_here; 3], "{instructions:x?}");
        assert_eq!(left(&machine, 1), [!drops_there; 3], "{instructions:x?}");
    }
    // A DSB of another CPU orders no store of this one, and completes nothing.
    let mut machine = synchronized(2);
    take_out_leaves(&mut machine);
    machine.execute(1, ISHST);
    run(&mut machine, 0, &[flush, ISH]);
    assert_eq!(left(&machine, 0), ALL);
    let mut machine = synchronized(2);
    take_out_leaves(&mut machine);
    run(&mut machine, 0, &[ISHST, flush]);
    machine.execute(1, ISH);
    assert_eq!(left(&machine, 1), ALL);
}

#[test]
fn a_table_with_leaves_needs_more_than_one_address() {
    let stage2_flush = |operand| [ISHST, is(Tlbi::Ipas2e1, operand), ISH, is(Tlbi::Vmalle1, 0), ISH];
    let mut machine = synchronized(1);
    store(&mut machine, LEVEL_1, 0);
    run(&mut machine, 0, &stage2_flush(0));
    assert_eq!(left(&machine, 0), [false, true, true]); // the other page's leaf is cached by itself
    // The pointer itself: last-level TLBIs and those with a hint leave it.
    for (instruction, drops) in [
        (is(Tlbi::Ipas2e1, 0), true),
        (is(Tlbi::Ipas2le1, 0), false),
        (is(Tlbi::Ipas2e1, 7 << 44), false),
        (is(Tlbi::Ipas2e1, 0x1ff), true), // any address that the table translates
        (is(Tlbi::Vmalle1, 0), false),
    ] {
        let mut machine = synchronized(1);
        store(&mut machine, LEVEL_1, 0);
        run(&mut machine, 0, &[ISHST, instruction, ISH]);
        assert_eq!(machine.reaches(LEVEL_0..LEVEL_0 + 0x1000).is_none(), drops, "{instruction:x?}");
    }
}

#[test]
fn operands_that_are_reserved() {
    for operand in [1 | 4 << 44, 1 | 8 << 44] {
        let mut machine = synchronized(1);
        take_out_leaves(&mut machine);
        let instruction = is(Tlbi::Ipas2e1, operand);
        run(&mut machine, 0, &[ISHST, instruction, ISH]);
        assert_eq!(halves(&machine, 0)[0], ALL);
        assert_eq!(machine.reports(), [Report::ReservedOperand { cpu: 0, instruction }]);
    }
    let no_hint = Isa { mmu: Mmu::Stage2(Stage2 { ttl: false, ..Stage2::default() }), ..isa() };
    let mut machine = started(&no_hint, 1);
    run(&mut machine, 0, &[Instruction::Isb, is(Tlbi::Ipas2e1, 7 << 44)]);
    assert_eq!(machine.reports().len(), 1);
}

#[test]
fn ranges_of_another_granule_or_alignment() {
    // TG of 16 KiB; level 2 with a base that is not aligned to 2 MiB.
    for operand in [2 << 46, 1 << 46 | 2 << 37 | 1] {
        let mut machine = synchronized(1);
        take_out_leaves(&mut machine);
        run(&mut machine, 0, &[ISHST, is(Tlbi::Ripas2e1, operand | 1 << 44 | 15 << 39), ISH]);
        assert_eq!(halves(&machine, 0)[0], ALL);
        assert_eq!(machine.reports().len(), 1);
    }
}

#[test]
fn permission_faults_are_cached() {
    let mut machine = synchronized(1);
    store(&mut machine, LEVEL_0, PAGE_0 | 0x77f);
    store(&mut machine, LEVEL_0, PAGE_0 | 0x7ff);
    run(&mut machine, 0, &[ISHST]);
    // A retry alone may fault for ever; a TLBI ends it.
    let refused = |machine: &Machine| {
        machine.possible(0, 0, Access::WRITE).iter().any(|outcome| outcome.result.is_err())
    };
    assert!(refused(&machine));
    run(&mut machine, 0, &[local(Tlbi::Ipas2e1, 0), NSH, local(Tlbi::Vmalle1, 0), NSH]);
    assert!(!refused(&machine));
    assert_eq!(machine.reports(), []); // a change of permissions needs no break
}

#[test]
fn break_before_make() {
    let whole = [ISHST, is(Tlbi::Vmalls12e1, 0), ISH];
    let leaf = PAGE_0 | 0x7ff;
    for (entry, new, violation) in [
        (LEVEL_0, PAGE_1 | 0x7ff, true),                      // output address
        (LEVEL_0, leaf & !0x3c | 0x14, true),                 // memory type
        (LEVEL_0, leaf & !0x300 | 0x200, true),               // shareability
        (LEVEL_0, leaf | 1 << 52, true),                      // Contiguous
        (LEVEL_0, leaf & !0x80, false),                       // permissions
        (LEVEL_0, leaf | 2 << 53 | 1 << 51 | 1 << 55, false), // XN, DBM, software bits
        (LEVEL_1, LARGE | 0x7fd, true),                       // table to block
        (LEVEL_1 + 8, 0x10_7003, true),                       // block to table
        (LEVEL_1, 0x10_7003, true),                           // another table
    ] {
        let mut direct = synchronized(2);
        let old = direct.ram().read(entry).unwrap();
        store(&mut direct, entry, new);
        let reports: Vec<Report> =
            (0..2).map(|cpu| Report::BreakBeforeMake { cpu, entry, old, new }).collect();
        assert_eq!(direct.reports(), if violation { reports.clone() } else { vec![] }, "{new:#x}");
        // An invalid entry between is not enough; with the TLBI it is.
        let mut broken = synchronized(2);
        store(&mut broken, entry, 0);
        store(&mut broken, entry, new);
        assert_eq!(broken.reports(), if violation { reports } else { vec![] }, "{new:#x}");
        let mut correct = synchronized(2);
        store(&mut correct, entry, 0);
        run(&mut correct, 0, &whole);
        store(&mut correct, entry, new);
        assert_eq!(correct.reports(), []);
    }
    // FEAT_BBM level 2: sizes may change freely, addresses may not.
    let mut free = started(&Isa { mmu: Mmu::Stage2(Stage2 { bbm: 2, ..Stage2::default() }), ..isa() }, 1);
    store(&mut free, LEVEL_1 + 8, 0x10_7003);
    assert_eq!(free.reports(), []);
    store(&mut free, LEVEL_0, PAGE_1 | 0x7ff);
    assert_eq!(free.reports().len(), 1);
}

#[test]
fn what_is_left_under_another_vmid_needs_no_break() {
    // CPU 1 remembers the table under VMID 1 and has left it; CPU 0 walks it under this VMID now.
    let changed = |vmid: u16, invalidated: bool| {
        let mut machine = synchronized(2);
        machine.unload_root(1);
        machine.load_root(0, (isa().root)(vmid)).unwrap();
        machine.execute(0, Instruction::Isb);
        store(&mut machine, LEVEL_0, 0);
        if invalidated {
            run(&mut machine, 0, &[ISHST, is(Tlbi::Vmalls12e1, 0), ISH]);
        }
        store(&mut machine, LEVEL_0, PAGE_1 | 0x7ff);
        machine.reports().len()
    };
    assert_eq!(changed(2, true), 0);
    assert_eq!(changed(2, false), 1); // what CPU 0 itself may remember
    assert_eq!(changed(1, true), 0);
    assert_eq!(changed(1, false), 2);
    // While nobody walks the table everything counts.
    let mut machine = synchronized(2);
    (0..2).for_each(|cpu| machine.unload_root(cpu));
    store(&mut machine, LEVEL_0, PAGE_1 | 0x7ff);
    assert_eq!(machine.reports().len(), 2);
}

#[test]
fn what_the_host_wrote_is_cleaned_before_a_guest_reads_it() {
    let clean = |hpa| Instruction::Dc { operation: Dc::Civac, hpa };
    let page = 0xccc_0000..0xccc_1000;
    let lines = || page.clone().step_by(64);
    let missing = Report::NotCleaned { entry: LEVEL_0 + 16, line: 0xccc_0fc0 };
    for (lines, instruction, barrier, report) in [
        (lines().collect(), clean as fn(u64) -> Instruction, true, None),
        (lines().take(63).collect::<Vec<u64>>(), clean, true, Some(missing)),
        (lines().collect(), clean, false, Some(Report::NotCleaned { entry: LEVEL_0 + 16, line: 0xccc_0000 })),
        (
            lines().collect(),
            |hpa| Instruction::Dc { operation: Dc::Ivac, hpa },
            true,
            Some(Report::NotCleaned { entry: LEVEL_0 + 16, line: 0xccc_0000 }),
        ),
    ] {
        let mut machine = synchronized(1);
        machine.host_wrote(page.clone());
        lines.iter().for_each(|&line| machine.execute(0, instruction(line)));
        if barrier {
            machine.execute(0, ISH);
        }
        store(&mut machine, LEVEL_0 + 16, 0xccc_07ff);
        assert_eq!(machine.reports(), report.as_slice());
    }
    let fwb =
        Isa { mmu: Mmu::Stage2(Stage2 { fwb: true, ..Stage2::default() }), page: |hpa| hpa | 0x7db, ..isa() };
    let mut machine = started(&fwb, 1);
    machine.host_wrote(page);
    store(&mut machine, LEVEL_0 + 16, 0xccc_07db);
    assert_eq!(machine.reports(), []);
}
