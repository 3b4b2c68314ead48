//! Both stages together: guests' tables by hand, which lie where the second level maps guest physical addresses to.

use super::{ArmFeatures, GuestSyndrome, Stage1, VirtualFault, X86Features};
use crate::access::{Access, AccessKind, FaultKind, Syndrome};
use crate::instruction::{BarrierAccess, Domain, Tlbi};
use crate::mmu::{Ept, Gstage, Mmu, Npt, Root, Stage2};
use crate::ram::Ram;
use crate::{Instruction, Machine, Policy};

mod modes;

/// The second level's tables; guest physical page n is at [`GUEST`] + n pages, for n below 16.
const ROOT: u64 = 0x10_0000;
const LEVEL_0: u64 = 0x10_6000;
const GUEST: u64 = 0x11_0000;

struct Guest {
    mmu: Mmu,
    root: fn(u16) -> Root,
    table: fn(u64) -> u64,
    page: fn(u64) -> u64,
    /// Four levels, or three.
    four: bool,
    /// The guest's tables: (guest physical address, value).
    words: Vec<(u64, u64)>,
}

fn started(guest: &Guest) -> Machine {
    let ram = Ram::new(ROOT, 64 << 12);
    let write = |hpa, value| assert!(ram.write(hpa, value));
    if guest.four {
        write(ROOT, (guest.table)(0x10_4000));
        write(0x10_4000, (guest.table)(0x10_5000));
    } else {
        write(ROOT, (guest.table)(0x10_5000));
    }
    write(0x10_5000, (guest.table)(LEVEL_0));
    for page in 0..16 {
        write(LEVEL_0 + 8 * page, (guest.page)(GUEST + (page << 12)));
    }
    for &(gpa, value) in &guest.words {
        write(GUEST + gpa, value);
    }
    let mut machine = Machine::new(guest.mmu.clone(), ram, 1, Policy::Everything);
    machine.load_root(0, (guest.root)(1)).unwrap();
    if matches!(guest.mmu, Mmu::Stage2(_)) {
        machine.execute(0, Instruction::Isb);
    }
    machine
}

fn store(machine: &mut Machine, hpa: u64, value: u64) {
    assert!(machine.ram().write(hpa, value));
    machine.stored(0, hpa, value);
}

fn can_read(machine: &Machine, gva: u64, stage1: &Stage1) -> bool {
    machine.possible_virtual(0, gva, Access::READ, stage1).iter().any(Result::is_ok)
}

// Guest virtual page 5 is guest physical page 8, global page 6 is 9, in all of the guests below.

/// All features.
const X86_CPU: X86Features = X86Features { physical_bits: 52, page_1g: true, pse36: true };

/// CR0.PG and WP; CR4.PAE, PGE and PCIDE; EFER.LMA and NXE; PCID 1.
const X86: Stage1 = Stage1::X86 {
    cr0: 1 << 31 | 1 << 16,
    cr3: 0x1001,
    cr4: 1 << 17 | 1 << 7 | PAE,
    efer: LONG,
    ac: false,
    pdptes: None,
    features: X86_CPU,
};

/// CR4.PAE.
const PAE: u64 = 1 << 5;
/// EFER.LMA and NXE.
const LONG: u64 = 1 << 10 | 1 << 11;

fn x86(mmu: Mmu, root: fn(u16) -> Root) -> Guest {
    let words = vec![
        (0x1000, 0x2027),
        (0x2000, 0x3027),
        (0x3000, 0x4027),
        (0x4028, 0x8067),
        (0x4030, 0x9167),
        (0x4038, 0xa005 | 1 << 63), // page 7: user, read-only, not marked, not executable
        (0x4040, 0xb063),           // page 8: the kernel's
    ];
    let npt = matches!(mmu, Mmu::Npt(_));
    let table: fn(u64) -> u64 = if npt { |hpa| hpa | 0x27 } else { |hpa| hpa | 7 };
    let page: fn(u64) -> u64 = if npt { |hpa| hpa | 0x67 } else { |hpa| hpa | 0x37 };
    Guest { mmu, root, table, page, four: true, words }
}

fn intel() -> Guest {
    x86(Mmu::Ept(Ept::default()), |vpid| Root::Ept { eptp: ROOT | 0x1e, vpid })
}

fn amd() -> Guest {
    x86(Mmu::Npt(Npt::default()), |asid| Root::Npt { ncr3: ROOT, asid: u32::from(asid) })
}

#[test]
fn x86_translates_and_marks() {
    let mut machine = started(&intel());
    assert_eq!(machine.access_virtual(0, 0x5123, Access::WRITE, &X86).unwrap().hpa, GUEST + 0x8123);
    assert_eq!(machine.access_virtual(0, 0x7000, Access::READ.by_user(), &X86).unwrap().hpa, GUEST + 0xa000);
    assert_eq!(machine.ram().read(GUEST + 0x4038), Some(0xa025 | 1 << 63)); // A
    let refused = |machine: &mut Machine, gva, access| {
        matches!(machine.access_virtual(0, gva, access, &X86), Err(VirtualFault::Guest { present: true, .. }))
    };
    assert!(refused(&mut machine, 0x7000, Access::WRITE)); // CR0.WP
    assert!(refused(&mut machine, 0x7000, Access::EXECUTE));
    assert!(refused(&mut machine, 0x8000, Access::READ.by_user()));
    assert!(machine.access_virtual(0, 0x8000, Access::READ, &X86).is_ok());
    let syndrome = GuestSyndrome::X86 { error_code: 0, cr2: 0xf000 };
    let absent = VirtualFault::Guest { gva: 0xf000, level: 0, present: false, syndrome };
    assert_eq!(machine.access_virtual(0, 0xf000, Access::READ, &X86), Err(absent));
    assert!(machine.access_virtual(0, 1 << 47, Access::READ, &X86).is_err()); // not canonical
    // Without WP the kernel may; SMEP and SMAP.
    let with = |cr0, cr4, ac| Stage1::x86(cr0, 0x1001, cr4 | PAE, LONG, ac);
    assert!(machine.access_virtual(0, 0x7000, Access::WRITE, &with(1 << 31, 1 << 17, false)).is_ok());
    assert_eq!(machine.ram().read(GUEST + 0x4038), Some(0xa065 | 1 << 63)); // D
    let fresh = |stage1, access| started(&intel()).access_virtual(0, 0x5000, access, &stage1).is_ok();
    assert!(!fresh(with(1 << 31, 1 << 20, false), Access::EXECUTE));
    assert!(!fresh(with(1 << 31, 1 << 21, false), Access::READ));
    assert!(fresh(with(1 << 31, 1 << 21, true), Access::READ));
    assert!(fresh(with(0, 0, false), Access::EXECUTE)); // no paging
}

#[test]
fn a_guests_walk_faults_at_the_second_level() {
    let walk = |guest: &Guest, stage1: &Stage1| {
        let mut machine = started(guest);
        store(&mut machine, LEVEL_0 + 8 * 4, 0); // the guest's last table
        match guest.mmu {
            Mmu::Ept(_) => machine.execute(0, Instruction::Invept { kind: 2, eptp: 0 }),
            Mmu::Npt(_) => machine.execute(0, Instruction::Vmrun { tlb_control: 1 }),
            _ => machine.execute(0, Instruction::HfenceGvma { address: None, vmid: None }),
        }
        match machine.access_virtual(0, 0x5000, Access::EXECUTE, stage1) {
            Err(VirtualFault::Second(fault)) => {
                assert_eq!((fault.kind, fault.access.kind), (FaultKind::NotPresent, AccessKind::Read));
                fault.syndrome
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(walk(&intel(), &X86), Syndrome::Ept { reason: 48, qualification: 0x81, gpa: 0x4028 });
    assert_eq!(walk(&amd(), &X86), Syndrome::Npt { exitinfo1: 2 << 32 | 6, exitinfo2: 0x4028 });
    let riscv = Syndrome::Gstage { scause: 20, htval: 0x4028 >> 2, htinst: 0x3000 };
    assert_eq!(walk(&riscv_guest(), &RISCV), riscv);
}

/// Makes combined entries of pages 5 and 6, takes both pages out at the second level and what is cached there by itself, executes
/// what comes `before` and must not matter, then the instructions: which of the two can still be read.
fn combined_left(
    guest: &Guest,
    stage1: &Stage1,
    before: &[Instruction],
    instructions: &[Instruction],
) -> [bool; 2] {
    let mut machine = started(guest);
    for gva in [0x5000, 0x6000] {
        machine.access_virtual(0, gva, Access::READ, stage1).unwrap();
    }
    store(&mut machine, LEVEL_0 + 8 * 8, 0);
    store(&mut machine, LEVEL_0 + 8 * 9, 0);
    before.iter().for_each(|&instruction| machine.execute(0, instruction));
    // Only combined entries are to be left: second-level ones would hide them.
    let all = crate::tlb::Effect { tag: None, second: Some(crate::tlb::Second::ALL), first: None };
    machine.forget(0, &all);
    assert!(can_read(&machine, 0x5000, stage1) && can_read(&machine, 0x6000, stage1));
    instructions.iter().for_each(|&instruction| machine.execute(0, instruction));
    [0x5000, 0x6000].map(|gva| can_read(&machine, gva, stage1))
}

#[test]
fn invvpid_drops_combined_entries() {
    let invvpid = |kind, vpid, linear| Instruction::Invvpid { kind, vpid, linear };
    for (instruction, expected) in [
        (invvpid(0, 1, 0x5000), [false, true]),
        (invvpid(0, 1, 0x6000), [true, false]), // global ones too
        (invvpid(0, 2, 0x5000), [true, true]),
        (invvpid(1, 1, 0), [false, false]),
        (invvpid(1, 2, 0), [true, true]),
        (invvpid(2, 0, 0), [false, false]),
        (invvpid(3, 1, 0), [false, true]),
        (Instruction::Invept { kind: 1, eptp: ROOT | 0x1e }, [false, false]),
        (Instruction::Invept { kind: 1, eptp: 0x10_101e }, [true, true]),
        (Instruction::VmExit, [true, true]),
    ] {
        assert_eq!(combined_left(&intel(), &X86, &[], &[instruction]), expected, "{instruction:?}");
    }
    // Without VPIDs, transitions drop them; INVVPID's all-context need not.
    let without = Guest { root: |_| Root::Ept { eptp: ROOT | 0x1e, vpid: 0 }, ..intel() };
    for (instruction, left) in
        [(Instruction::VmEntry, false), (Instruction::VmExit, false), (invvpid(2, 0, 0), true)]
    {
        assert_eq!(combined_left(&without, &X86, &[], &[instruction]), [left; 2], "{instruction:?}");
    }
}

#[test]
fn amd_drops_combined_entries() {
    let invlpga = |address, asid| Instruction::Invlpga { address, asid };
    let invlpgb = |rax, edx| [Instruction::Invlpgb { rax, edx, ecx: 0 }, Instruction::Tlbsync];
    for (instructions, expected) in [
        (vec![invlpga(0x5000, 1)], [false, true]),
        (vec![invlpga(0x8000, 1)], [true, true]), // a guest physical address does nothing
        (vec![invlpga(0x5000, 2)], [true, true]),
        (vec![Instruction::Vmrun { tlb_control: 3 }], [false, false]),
        (vec![Instruction::Vmrun { tlb_control: 7 }], [false, true]), // the global one stays
        (invlpgb(0x5000 | 0x0d, 1).to_vec(), [false, true]),
        (invlpgb(0x24, 1).to_vec(), [false, true]),
        (invlpgb(0x2c, 1).to_vec(), [false, false]),
        (invlpgb(0x0e, 1 | 2 << 16).to_vec(), [true, false]), // another PCID: the global one only
    ] {
        assert_eq!(combined_left(&amd(), &X86, &[], &instructions), expected, "{instructions:x?}");
    }
}

#[test]
fn pcids_and_vpids_tell_combined_entries_apart() {
    let mut machine = started(&intel());
    machine.access_virtual(0, 0x5000, Access::READ, &X86).unwrap();
    machine.access_virtual(0, 0x6000, Access::READ, &X86).unwrap();
    let other = Stage1::x86(1 << 31, 0xf002, 1 << 17 | 1 << 7 | PAE, LONG, false); // an empty table
    assert!(!can_read(&machine, 0x5000, &other));
    assert!(can_read(&machine, 0x6000, &other)); // global
    machine.load_root(0, Root::Ept { eptp: ROOT | 0x1e, vpid: 2 }).unwrap();
    assert!(!can_read(&machine, 0x6000, &other));
    // Without CR4.PGE no entry is global.
    let without = |cr3| Stage1::x86(1 << 31, cr3, 1 << 17 | PAE, LONG, false);
    machine.access_virtual(0, 0x6000, Access::READ, &without(0x1001)).unwrap();
    assert!(!can_read(&machine, 0x6000, &without(0xf002)));
}

#[test]
fn a_clean_combined_entry_does_not_serve_stores() {
    let mut machine = started(&intel());
    assert!(machine.ram().write(GUEST + 0x4028, 0x8027)); // D clear
    machine.access_virtual(0, 0x5000, Access::READ, &X86).unwrap();
    machine.access_virtual(0, 0x5000, Access::WRITE, &X86).unwrap();
    assert_eq!(machine.ram().read(GUEST + 0x4028), Some(0x8067));
}

#[test]
fn mode_based_execution_looks_at_the_page() {
    let cpu = Ept { mode_based_execute: true, ..Ept::default() };
    let mut guest = Guest { mmu: Mmu::Ept(cpu), table: |hpa| hpa | 0x407, page: |hpa| hpa | 0x37, ..intel() };
    // The kernel's fetch from a user page needs bit 10, from a page of its own bit 2.
    let fetch = |guest: &Guest, gva| started(guest).access_virtual(0, gva, Access::EXECUTE, &X86).is_ok();
    assert_eq!([fetch(&guest, 0x5000), fetch(&guest, 0x8000)], [false, true]);
    guest.page = |hpa| hpa | 0x433;
    assert_eq!([fetch(&guest, 0x5000), fetch(&guest, 0x8000)], [true, false]);
}

/// SCTLR_EL1.M; 39-bit ranges, 16-bit ASIDs; ASID 1.
const ARM: Stage1 = Stage1::Arm {
    sctlr: 1,
    tcr: 25 | 25 << 16 | 2 << 30 | 1 << 36,
    ttbr0: 0x1000 | 1 << 48,
    ttbr1: 0x1000 | 2 << 48,
    pan: false,
    features: ArmFeatures { physical_bits: 48, hafdbs: 2, hpds: true, pan3: true, ttst: true },
};

fn arm() -> Guest {
    Guest {
        mmu: Mmu::Stage2(Stage2::default()),
        root: |vmid| Root::Stage2 {
            vtcr: 1 << 31 | 5 << 16 | 1 << 6 | 24,
            vttbr: ROOT | u64::from(vmid) << 48,
        },
        table: |hpa| hpa | 3,
        page: |hpa| hpa | 0x7ff,
        four: false,
        words: vec![
            (0x1000, 0x2003),
            (0x2000, 0x3003),
            (0x3028, 0x8f43),          // AF, EL0, nG
            (0x3030, 0x9743),          // global
            (0x3038, 0xaf03 | 1 << 7), // page 7: EL1, read-only
            (0x3040, 0xbb43),          // page 8: AF clear
        ],
    }
}

#[test]
fn arm_translates() {
    let mut machine = started(&arm());
    for base in [0, 0xffff_ff80_0000_0000] {
        assert_eq!(machine.access_virtual(0, base | 0x5123, Access::READ, &ARM).unwrap().hpa, GUEST + 0x8123);
    }
    assert!(machine.access_virtual(0, 1 << 39, Access::READ, &ARM).is_err());
    assert!(machine.access_virtual(0, 0x7000, Access::READ, &ARM).is_ok());
    assert!(machine.access_virtual(0, 0x7000, Access::READ.by_user(), &ARM).is_err());
    assert!(machine.access_virtual(0, 0x7000, Access::WRITE, &ARM).is_err());
    assert!(machine.access_virtual(0, 0x8000, Access::READ, &ARM).is_err()); // access flag
    let Stage1::Arm { sctlr, tcr, ttbr0, ttbr1, .. } = ARM else { unreachable!() };
    let marking = Stage1::arm(sctlr, tcr | 1 << 39, ttbr0, ttbr1);
    assert!(machine.access_virtual(0, 0x8000, Access::READ, &marking).is_ok());
    assert_eq!(machine.ram().read(GUEST + 0x3040), Some(0xbf43));
    // Hardware's dirty state clears AP[2].
    let dirty = Stage1::arm(sctlr, tcr | 3 << 39, ttbr0, ttbr1);
    store(&mut machine, GUEST + 0x3038, 0xaf83 | 1 << 51);
    machine.access_virtual(0, 0x7000, Access::WRITE, &dirty).unwrap();
    assert_eq!(machine.ram().read(GUEST + 0x3038), Some(0xaf03 | 1 << 51));
    // APTable: not for EL0; read-only.
    for (hierarchical, access) in [(1 << 61, Access::READ.by_user()), (1 << 62, Access::WRITE)] {
        let mut guest = arm();
        assert!(started(&guest).access_virtual(0, 0x5000, access, &ARM).is_ok());
        guest.words.push((0x2000, 0x3003 | hierarchical));
        assert!(started(&guest).access_virtual(0, 0x5000, access, &ARM).is_err());
    }
    // What EL0 can write, EL1 does not execute.
    assert!(machine.access_virtual(0, 0x5000, Access::EXECUTE, &ARM).is_err());
    assert!(machine.access_virtual(0, 0x5000, Access::EXECUTE.by_user(), &ARM).is_ok());
    let off = Stage1::arm(0, tcr, ttbr0, ttbr1);
    assert_eq!(machine.access_virtual(0, 0x8004, Access::READ, &off).unwrap().hpa, GUEST + 0x8004);
}

#[test]
fn arm_drops_combined_entries() {
    let tlbi = |operation, operand| Instruction::Tlbi { operation, broadcast: true, operand };
    let dsb = |access| Instruction::Dsb { domain: Domain::InnerShareable, access };
    let (stores, all) = (dsb(BarrierAccess::Stores), dsb(BarrierAccess::All));
    for (operation, operand, expected) in [
        (Tlbi::Ipas2e1, 8, [true, true]), // stage 2 alone
        (Tlbi::Vmalle1, 0, [false, false]),
        (Tlbi::Vmalls12e1, 0, [false, false]),
        (Tlbi::Alle1, 0, [false, false]),
        (Tlbi::Vae1, 5 | 1 << 48, [false, true]),
        (Tlbi::Vae1, 5 | 2 << 48, [true, true]),
        (Tlbi::Vae1, 6 | 2 << 48, [true, false]), // global: any ASID
        (Tlbi::Vaae1, 5, [false, true]),
        (Tlbi::Aside1, 1 << 48, [false, true]), // not the global one
        (Tlbi::Aside1, 2 << 48, [true, true]),
    ] {
        let left = combined_left(&arm(), &ARM, &[stores], &[tlbi(operation, operand), all]);
        assert_eq!(left, expected, "{operation:?} {operand:#x}");
    }
}

/// Sv39, ASID 1.
const RISCV: Stage1 = Stage1::Riscv {
    vsatp: 8 << 60 | 1 << 44 | 1,
    sum: false,
    mxr: false,
    adue: false,
    pbmte: false,
    svnapot: false,
};

fn riscv_guest() -> Guest {
    Guest {
        mmu: Mmu::Gstage(Gstage::default()),
        root: |vmid| Root::Gstage { hgatp: 8 << 60 | u64::from(vmid) << 44 | ROOT >> 12 },
        table: |hpa| hpa >> 2 | 1,
        page: |hpa| hpa >> 2 | 0xdf,
        four: false,
        words: vec![
            (0x1000, 0x3000 >> 2 | 1),
            (0x3000, 0x4000 >> 2 | 1),
            (0x4028, 0x8000 >> 2 | 0xcf),
            (0x4030, 0x9000 >> 2 | 0xef), // global
            (0x4038, 0xa000 >> 2 | 0xdf), // page 7: user
            (0x4040, 0xb000 >> 2 | 0x0f), // page 8: A and D clear
        ],
    }
}

#[test]
fn riscv_translates() {
    let mut machine = started(&riscv_guest());
    assert_eq!(machine.access_virtual(0, 0x5123, Access::WRITE, &RISCV).unwrap().hpa, GUEST + 0x8123);
    assert!(machine.access_virtual(0, 0x5000, Access::READ.by_user(), &RISCV).is_err());
    assert!(machine.access_virtual(0, 0x7000, Access::READ.by_user(), &RISCV).is_ok());
    assert!(machine.access_virtual(0, 0x7000, Access::READ, &RISCV).is_err());
    let vsatp = 8 << 60 | 1 << 44 | 1;
    let sum = Stage1::Riscv { vsatp, sum: true, mxr: false, adue: false, pbmte: false, svnapot: false };
    assert!(machine.access_virtual(0, 0x7000, Access::READ, &sum).is_ok());
    assert!(machine.access_virtual(0, 0x7000, Access::EXECUTE, &sum).is_err()); // never
    assert!(machine.access_virtual(0, 0x8000, Access::READ, &RISCV).is_err()); // Svade
    let adue = Stage1::Riscv { vsatp, sum: false, mxr: false, adue: true, pbmte: false, svnapot: false };
    assert!(machine.access_virtual(0, 0x8000, Access::WRITE, &adue).is_ok());
    assert_eq!(machine.ram().read(GUEST + 0x4040), Some(0xb000 >> 2 | 0xcf));
    assert!(machine.access_virtual(0, 1 << 38, Access::READ, &RISCV).is_err()); // not sign-extended
    // G in a pointer: all below is global.
    let mut guest = riscv_guest();
    guest.words.push((0x3000, 0x4000 >> 2 | 0x21));
    let mut machine = started(&guest);
    machine.access_virtual(0, 0x5000, Access::READ, &RISCV).unwrap();
    let other = Stage1::riscv(8 << 60 | 2 << 44 | 0xf);
    assert!(can_read(&machine, 0x5000, &other));
}

#[test]
fn hfences_drop_combined_entries() {
    let gvma = |address, vmid| Instruction::HfenceGvma { address, vmid };
    let vvma = |address, asid| Instruction::HfenceVvma { address, asid };
    for (instructions, expected) in [
        (vec![gvma(None, None)], [false, false]),
        (vec![gvma(None, Some(2))], [true, true]),
        (vec![gvma(Some(0x8000 >> 2), Some(1))], [false, true]), // by guest physical address
        (vec![gvma(Some(0x5000 >> 2), Some(1))], [true, true]),
        (vec![vvma(None, None)], [false, false]),
        (vec![vvma(Some(0x5000), None)], [false, true]),
        (vec![vvma(Some(0x6000), Some(1))], [true, true]), // with an ASID: not the global one
        (vec![vvma(None, Some(1))], [false, true]),
        (vec![vvma(None, Some(2))], [true, true]),
        (
            vec![
                Instruction::SfenceWInval,
                Instruction::HinvalVvma { address: Some(0x5000), asid: Some(1) },
                Instruction::SfenceInvalIr,
            ],
            [false, true],
        ),
    ] {
        assert_eq!(combined_left(&riscv_guest(), &RISCV, &[], &instructions), expected, "{instructions:x?}");
    }
}

#[test]
fn combined_entries_reach_frames() {
    for (guest, stage1) in [(intel(), &X86), (arm(), &ARM), (riscv_guest(), &RISCV)] {
        let mut machine = started(&guest);
        machine.access_virtual(0, 0x5000, Access::READ, stage1).unwrap();
        store(&mut machine, LEVEL_0 + 8 * 8, 0);
        let all = crate::tlb::Effect { tag: None, second: Some(crate::tlb::Second::ALL), first: None };
        machine.forget(0, &all);
        assert!(machine.reaches(GUEST + 0x8000..GUEST + 0x9000).is_some());
        assert!(machine.possible(0, 0x8000, Access::READ).iter().any(|outcome| outcome.result.is_err()));
    }
}
