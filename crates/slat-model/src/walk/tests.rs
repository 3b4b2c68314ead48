//! Walks of tables made by hand; the expected values are those of the manuals.

use crate::access::{Access, AccessKind, FaultKind, Memory, Permissions, Syndrome};
use crate::mmu::{Ept, Gstage, Mmu, Npt, Root, Stage2};
use crate::ram::Ram;
use crate::{Machine, Policy, Report};

const BASE: u64 = 0x10_0000;

/// A machine whose RAM has these words.
fn machine(mmu: Mmu, root: Root, words: &[(u64, u64)]) -> Machine {
    let ram = Ram::new(BASE, 32 << 12);
    for &(hpa, value) in words {
        assert!(ram.write(hpa, value));
    }
    let mut machine = Machine::new(mmu, ram, 1, Policy::Everything);
    machine.load_root(0, root).unwrap();
    machine
}

fn ept(eptp: u64, words: &[(u64, u64)]) -> Machine {
    machine(Mmu::Ept(Ept::default()), Root::Ept { eptp, vpid: 1 }, words)
}

/// EPT: 4 KiB page at gpa 0x1000 -> 0xabc000 with these low bits of the PTE.
fn ept_page(cpu: Ept, eptp: u64, pte: u64) -> Machine {
    let words = [(0x10_0000, 0x10_1007), (0x10_1000, 0x10_2007), (0x10_2000, 0x10_3007), (0x10_3008, pte)];
    machine(Mmu::Ept(cpu), Root::Ept { eptp, vpid: 1 }, &words)
}

#[track_caller]
fn fault(machine: &mut Machine, gpa: u64, access: Access) -> (FaultKind, Syndrome) {
    let fault = machine.access(0, gpa, access).unwrap_err();
    (fault.kind, fault.syndrome)
}

#[test]
fn ept_pages_of_all_sizes() {
    let words = [
        (0x10_0000, 0x10_1007),
        (0x10_1000, 0x10_2007),
        (0x10_1008, 0x1_8000_00b7), // gpa 1 GiB: 1 GiB page
        (0x10_2000, 0x10_3007),
        (0x10_2008, 0x4020_0087 | 1 << 6), // gpa 2 MiB: UC, ignore PAT
        (0x10_3008, 0xabc_0037),
    ];
    let mut machine = ept(0x10_001e, &words);
    let page = machine.access(0, 0x1234, Access::WRITE).unwrap();
    assert_eq!((page.hpa, page.size, page.permissions), (0xabc_0234, 0x1000, Permissions::ALL));
    assert_eq!(page.memory, Memory::Ept { memory_type: 6, ignore_pat: false });
    let large = machine.access(0, 0x20_1234, Access::EXECUTE).unwrap();
    assert_eq!((large.hpa, large.size), (0x4020_1234, 0x20_0000));
    assert_eq!(large.memory, Memory::Ept { memory_type: 0, ignore_pat: true });
    assert_eq!(machine.access(0, 0x4000_0008, Access::READ).unwrap().hpa, 0x1_8000_0008);
    assert!(machine.access(0, 0x1234 | 1 << 39, Access::READ).is_err());
}

#[test]
fn ept_of_five_levels() {
    let words = [(0x10_4000 + 8, 0x10_0007), (0x10_0000, 0x10_1007), (0x10_1000, 0x4000_00b7)];
    let mut machine = ept(0x10_4026, &words);
    assert_eq!(machine.access(0, 1 << 48 | 0x10, Access::READ).unwrap().hpa, 0x4000_0010);
    assert!(machine.access(0, 0x10, Access::READ).is_err());
}

#[test]
fn ept_violation_qualification() {
    // Not present: permissions read as 0; the linear address is valid, the access final.
    let mut machine = ept_page(Ept::default(), 0x10_001e, 0xabc_0035);
    let violation = |qualification, gpa| Syndrome::Ept { reason: 48, qualification, gpa };
    assert_eq!(fault(&mut machine, 0x2000, Access::READ), (FaultKind::NotPresent, violation(0x181, 0x2000)));
    // R and X present, W wanted.
    assert_eq!(
        fault(&mut machine, 0x1008, Access::WRITE),
        (FaultKind::Permission, violation(0x182 | 0x28, 0x1008))
    );
    // By a page walk: not the final access.
    let walk = Access::READ.of_walk(AccessKind::Write);
    assert_eq!(fault(&mut machine, 0x1008, walk).1, violation(0x82 | 0x28, 0x1008));
    // With accessed and dirty flags on, a guest's page walk is a read and a write.
    let mut machine = ept_page(Ept::default(), 0x10_005e, 0xabc_0035);
    let walk = Access::READ.of_walk(AccessKind::Read);
    assert_eq!(fault(&mut machine, 0x1008, walk).1, violation(0x83 | 0x28, 0x1008));
}

#[test]
fn ept_misconfigurations() {
    let all = Ept::default();
    let no_execute_only = Ept { capabilities: all.capabilities & !1, ..all.clone() };
    for (cpu, pte, misconfigured) in [
        (&all, 0xabc_0032, true),                // writable, not readable
        (&all, 0xabc_0034, false),               // execute-only
        (&no_execute_only, 0xabc_0034, true),    // without the capability
        (&all, 0xabc_0017, true),                // memory type 2
        (&all, 0xabc_003f, true),                // memory type 7
        (&all, 0xabc_002f, false),               // memory type 5, WP
        (&all, 0xabc_0037 | 1 << 46, true),      // beyond MAXPHYADDR
        (&all, 0xabc_0037 | 0xfff << 52, false), // ignored
        (&all, 0xabc_0037 | 0xf80, false),       // bits 11:7 of a PTE are ignored
    ] {
        let mut machine = ept_page(cpu.clone(), 0x10_001e, pte);
        let result = machine.access(0, 0x1000, Access::EXECUTE);
        let expected = Syndrome::Ept { reason: 49, qualification: 0, gpa: 0x1000 };
        assert_eq!(
            result.err().map(|fault| fault.syndrome == expected),
            misconfigured.then_some(true),
            "{pte:#x}"
        );
        let reported = Report::Reserved { cpu: 0, entry: 0x10_3008, value: pte, gpa: 0x1000 };
        assert_eq!(machine.reports().contains(&reported), misconfigured, "{pte:#x}");
    }
    // Entries of tables: bits 6:3, and bit 7 above the PDPTE; unaligned large pages; 1 GiB pages without the capability.
    for (entry, value) in [
        (0x10_0000, 0x10_1087),
        (0x10_1000, 0x10_200f),
        (0x10_2000, 0x10_3047),
        (0x10_2000, 0x4000_10b7),
        (0x10_1000, 0x4020_00b7),
    ] {
        let mut words = vec![(0x10_0000, 0x10_1007), (0x10_1000, 0x10_2007), (0x10_2000, 0x10_3007)];
        words.retain(|word| word.0 != entry);
        words.push((entry, value));
        assert_eq!(fault(&mut ept(0x10_001e, &words), 0, Access::READ).0, FaultKind::Reserved, "{value:#x}");
    }
    for (capability, pdpte) in [(17, 0x4000_00b7), (16, 0x10_2007)] {
        let without = Ept { capabilities: all.capabilities & !(1 << capability), ..all.clone() };
        let words = [(0x10_0000, 0x10_1007), (0x10_1000, pdpte), (0x10_2000, 0x4000_00b7)];
        let mut machine = machine(Mmu::Ept(without), Root::Ept { eptp: 0x10_001e, vpid: 1 }, &words);
        assert_eq!(fault(&mut machine, 0, Access::READ).0, FaultKind::Reserved);
    }
}

#[test]
fn ept_mode_based_execution() {
    let cpu = Ept { mode_based_execute: true, ..Ept::default() };
    // The entries above allow no fetches in user mode (bit 10), until they do.
    let mut machine = ept_page(cpu.clone(), 0x10_001e, 0xabc_0431);
    assert!(machine.access(0, 0x1000, Access::EXECUTE.by_user()).is_err());
    let words =
        [(0x10_0000, 0x10_1407), (0x10_1000, 0x10_2407), (0x10_2000, 0x10_3407), (0x10_3008, 0xabc_0431)];
    let mut machine = self::machine(Mmu::Ept(cpu), Root::Ept { eptp: 0x10_001e, vpid: 1 }, &words);
    assert!(machine.access(0, 0x1000, Access::EXECUTE.by_user()).is_ok());
    let (_, syndrome) = fault(&mut machine, 0x1000, Access::EXECUTE);
    assert_eq!(syndrome, Syndrome::Ept { reason: 48, qualification: 0x180 | 4 | 8 | 0x40, gpa: 0x1000 });
}

#[test]
fn ept_accessed_and_dirty() {
    let mut machine = ept_page(Ept::default(), 0x10_005e, 0xabc_0037);
    machine.access(0, 0x1000, Access::READ).unwrap();
    assert_eq!(machine.ram().read(0x10_0000), Some(0x10_1107)); // A in every entry
    assert_eq!(machine.ram().read(0x10_3008), Some(0xabc_0137));
    machine.access(0, 0x1000, Access::WRITE).unwrap();
    assert_eq!(machine.ram().read(0x10_3008), Some(0xabc_0337)); // and D
    assert_eq!(machine.ram().read(0x10_2000), Some(0x10_3107)); // in the leaf alone
    let mut off = ept_page(Ept::default(), 0x10_001e, 0xabc_0037);
    off.access(0, 0x1000, Access::WRITE).unwrap();
    assert_eq!(off.ram().read(0x10_3008), Some(0xabc_0037));
}

#[test]
fn ept_pointers_that_vm_entry_refuses() {
    let mut machine = Machine::new(Mmu::Ept(Ept::default()), Ram::new(BASE, 0x1000), 1, Policy::Everything);
    for eptp in [0x10_001f, 0x10_0016, 0x10_011e, 0x10_009e, 1 << 46 | 0x1e] {
        assert!(machine.load_root(0, Root::Ept { eptp, vpid: 1 }).is_err(), "{eptp:#x}");
    }
    assert!(machine.load_root(0, Root::Npt { ncr3: BASE, asid: 1 }).is_err());
}

fn npt_page(cpu: Npt, pte: u64) -> Machine {
    let words = [(0x10_0000, 0x10_1027), (0x10_1000, 0x10_2027), (0x10_2000, 0x10_3027), (0x10_3008, pte)];
    machine(Mmu::Npt(cpu), Root::Npt { ncr3: 0x10_0000, asid: 1 }, &words)
}

#[test]
fn npt_translates_and_marks() {
    let mut machine = npt_page(Npt::default(), 0xabc_0087 | 8);
    let page = machine.access(0, 0x1010, Access::WRITE).unwrap();
    assert_eq!((page.hpa, page.memory), (0xabc_0010, Memory::Npt { pat_index: 5 }));
    assert_eq!(machine.ram().read(0x10_3008), Some(0xabc_0087 | 8 | 0x60));
}

#[test]
fn npt_exit_information() {
    let info = |exitinfo1, exitinfo2| Syndrome::Npt { exitinfo1, exitinfo2 };
    let mut machine = npt_page(Npt::default(), 0xabc_0025 | 1 << 63);
    assert_eq!(fault(&mut machine, 0x2000, Access::READ), (FaultKind::NotPresent, info(1 << 32 | 4, 0x2000)));
    assert_eq!(
        fault(&mut machine, 0x1000, Access::WRITE),
        (FaultKind::Permission, info(1 << 32 | 7, 0x1000))
    );
    assert_eq!(fault(&mut machine, 0x1000, Access::EXECUTE).1, info(1 << 32 | 0x15, 0x1000));
    let walk = Access::READ.of_walk(AccessKind::Read);
    assert_eq!(fault(&mut machine, 0x1000, walk).1, info(2 << 32 | 7, 0x1000));
    // A supervisor page: nested accesses are a user's.
    let mut machine = npt_page(Npt::default(), 0xabc_0023);
    assert_eq!(fault(&mut machine, 0x1000, Access::READ).1, info(1 << 32 | 5, 0x1000));
    // Reserved: NX without EFER.NXE.
    let mut machine = npt_page(Npt { host_nxe: false, ..Npt::default() }, 0xabc_0027 | 1 << 63);
    assert_eq!(fault(&mut machine, 0x1000, Access::READ), (FaultKind::Reserved, info(1 << 32 | 13, 0x1000)));
}

#[test]
fn npt_guest_mode_execute_trap() {
    let cpu = Npt { gmet: true, ..Npt::default() };
    let mut user = npt_page(cpu.clone(), 0xabc_0027);
    assert!(user.access(0, 0x1000, Access::EXECUTE).is_err());
    assert!(user.access(0, 0x1000, Access::EXECUTE.by_user()).is_ok());
    let mut supervisor = npt_page(cpu, 0xabc_0023);
    assert!(supervisor.access(0, 0x1000, Access::EXECUTE).is_ok());
    assert!(supervisor.access(0, 0x1000, Access::READ).is_ok());
}

#[test]
fn npt_large_pages() {
    let words = |pde| [(0x10_0000, 0x10_1027), (0x10_1000, 0x10_2027), (0x10_2000, pde)];
    let npt = |pde| machine(Mmu::Npt(Npt::default()), Root::Npt { ncr3: 0x10_0000, asid: 1 }, &words(pde));
    let page = npt(0x4020_1087).access(0, 0x1234, Access::READ).unwrap(); // bit 12 is PAT, not address
    assert_eq!((page.hpa, page.size, page.memory), (0x4020_1234, 0x20_0000, Memory::Npt { pat_index: 4 }));
    assert_eq!(fault(&mut npt(0x4020_2087), 0, Access::READ).0, FaultKind::Reserved);
    // Bits 8:7 of a PML4E are reserved.
    for bit in [7, 8] {
        let mut words = words(0x4020_0087);
        words[0].1 |= 1 << bit;
        let root = Root::Npt { ncr3: 0x10_0000, asid: 1 };
        let mut machine = machine(Mmu::Npt(Npt::default()), root, &words);
        assert_eq!(fault(&mut machine, 0, Access::READ).0, FaultKind::Reserved);
    }
}

/// VTCR_EL2: 40-bit IPA, start at lookup level 1 with two concatenated tables, 48-bit PA, inner-shareable write-back.
const VTCR: u64 = 1 << 31 | 5 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | 24;

fn stage2(cpu: Stage2, vtcr: u64, words: &[(u64, u64)]) -> Machine {
    machine(Mmu::Stage2(cpu), Root::Stage2 { vtcr, vttbr: 0x10_0000 | 7 << 48 }, words)
}

fn stage2_page(cpu: Stage2, vtcr: u64, page: u64) -> Machine {
    stage2(cpu, vtcr, &[(0x10_0000, 0x10_2003), (0x10_2000, 0x10_3003), (0x10_3008, page)])
}

fn abort(esr: u64, hpfar: Option<u64>) -> Syndrome {
    Syndrome::Stage2 { esr: 0x9200_0000 | esr, hpfar }
}

#[test]
fn stage2_starts_where_sl0_says() {
    let block = 0x4000_07fd; // AF, inner shareable, RW, write-back
    let vtcr = |t0sz: u64, sl0: u64| 1 << 31 | 5 << 16 | sl0 << 6 | t0sz;
    for (t0sz, sl0, table, entry, gpa, hpa) in [
        (24, 1, 0x10_0000, 1023, (1023 << 30) | 5, 0x4000_0005), // L1, two concatenated tables, the last entry
        (32, 0, 0x10_0000, 2047, (2047 << 21) | 5, 0x4000_0005), // L2, four concatenated tables
        (25, 1, 0x10_0000, 511, (511 << 30) | 5, 0x4000_0005),   // L1, a single table
        (33, 1, 0x10_0000, 1, (1 << 30) | 5, 0x4000_0005),       // L1, two entries
    ] {
        let mut machine = stage2(Stage2::default(), vtcr(t0sz, sl0), &[(table + 8 * entry, block)]);
        assert_eq!(machine.access(0, gpa, Access::READ).unwrap().hpa, hpa, "T0SZ {t0sz}");
        // One beyond the input size: translation fault at level 0.
        let beyond = 1 << (64 - t0sz);
        let expected = abort(4, Some(beyond >> 12 << 4));
        assert_eq!(fault(&mut machine, beyond, Access::READ).1, expected, "T0SZ {t0sz}");
    }
    let mut four = stage2(Stage2::default(), vtcr(16, 2), &[(0x10_0000, 0x10_2003), (0x10_2000, block)]);
    assert_eq!(four.access(0, 5, Access::READ).unwrap().hpa, 0x4000_0005);
    // Level 3, FEAT_TTST.
    let mut small = stage2(Stage2::default(), vtcr(44, 3), &[(0x10_0008, 0x4000_07ff)]);
    assert_eq!(small.access(0, 0x1005, Access::READ).unwrap().hpa, 0x4000_0005);
    // T0SZ and SL0 that do not fit together: translation fault at level 0, whatever the table says.
    for (t0sz, sl0) in [(40, 1), (34, 1), (16, 0), (20, 0), (16, 1)] {
        let mut machine = stage2(Stage2::default(), vtcr(t0sz, sl0), &[(0x10_0000, block)]);
        assert_eq!(fault(&mut machine, 0, Access::READ).1, abort(4, Some(0)), "T0SZ {t0sz} SL0 {sl0}");
    }
    // A concatenated root that is not aligned to its size.
    let root = Root::Stage2 { vtcr: VTCR, vttbr: 0x10_1000 };
    let mut machine =
        Machine::new(Mmu::Stage2(Stage2::default()), Ram::new(BASE, 0x1000), 1, Policy::Everything);
    assert!(machine.load_root(0, root).is_err());
}

#[test]
fn stage2_syndromes() {
    let cpu = Stage2::default();
    let mut machine = stage2_page(cpu.clone(), VTCR, 0xabc_077f); // read-only
    assert_eq!(machine.access(0, 0x1010, Access::READ).unwrap().hpa, 0xabc_0010);
    assert_eq!(fault(&mut machine, 0x2000, Access::WRITE), (FaultKind::NotPresent, abort(0x47, Some(0x20))));
    assert_eq!(fault(&mut machine, 0x20_0000, Access::READ).1, abort(0x06, Some(0x2000)));
    assert_eq!(
        fault(&mut machine, 1 << 30, Access::EXECUTE).1,
        Syndrome::Stage2 { esr: 0x8200_0005, hpfar: Some(0x40_0000) }
    );
    // HPFAR_EL2 is UNKNOWN for a permission fault, unless it is of a stage 1 walk.
    assert_eq!(fault(&mut machine, 0x1010, Access::WRITE), (FaultKind::Permission, abort(0x4f, None)));
    let walk = Access::READ.of_walk(AccessKind::Write);
    assert_eq!(fault(&mut machine, 0x1010, walk).1, abort(0xcf, Some(0x10)));
    // An atomic: WnR is 0 where a read would have faulted as well.
    let atomic = Access::new(AccessKind::ReadWrite);
    assert_eq!(fault(&mut machine, 0x1010, atomic).1, abort(0x4f, None));
    assert_eq!(fault(&mut machine, 0x2010, atomic).1, abort(0x07, Some(0x20)));
    // Access flag; output address beyond VTCR_EL2.PS.
    let mut machine = stage2_page(cpu.clone(), VTCR, 0xabc_03ff);
    assert_eq!(fault(&mut machine, 0x1000, Access::READ), (FaultKind::AccessFlag, abort(0x0b, Some(0x10))));
    let narrow = VTCR & !(7 << 16) | 2 << 16;
    let mut machine = stage2_page(cpu, narrow, 1 << 40 | 0x7ff);
    assert_eq!(fault(&mut machine, 0x1000, Access::READ), (FaultKind::AddressSize, abort(0x03, Some(0x10))));
}

#[test]
fn stage2_permissions_and_types() {
    let user = Access::EXECUTE.by_user();
    for (xn, kernel_runs, user_runs) in
        [(0, true, true), (1, false, true), (2, false, false), (3, true, false)]
    {
        let mut machine = stage2_page(Stage2::default(), VTCR, 0xabc_07ff | xn << 53);
        assert_eq!(machine.access(0, 0x1000, Access::EXECUTE).is_ok(), kernel_runs, "XN {xn}");
        assert_eq!(machine.access(0, 0x1000, user).is_ok(), user_runs, "XN {xn}");
    }
    let no_xnx = Stage2 { xnx: false, ..Stage2::default() };
    let mut machine = stage2_page(no_xnx, VTCR, 0xabc_07ff | 1 << 53);
    assert_eq!(fault(&mut machine, 0x1000, Access::READ).0, FaultKind::Reserved);
    // S2AP: write-only is legal.
    let mut machine = stage2_page(Stage2::default(), VTCR, 0xabc_07bf);
    assert!(machine.access(0, 0x1000, Access::WRITE).is_ok());
    assert!(machine.access(0, 0x1000, Access::READ).is_err());
    let fwb = Stage2 { fwb: true, ..Stage2::default() };
    for (cpu, attributes, legal) in [
        (Stage2::default(), 0b1111, true),
        (Stage2::default(), 0b0101, true),
        (Stage2::default(), 0b0100, false),
        (Stage2::default(), 0b1100, false),
        (fwb.clone(), 0b0110, true),
        (fwb.clone(), 0b0111, true),
        (fwb, 0b1111, false),
    ] {
        let mut machine = stage2_page(cpu, VTCR, 0xabc_0703 | 0xc0 | attributes << 2);
        let result = machine.access(0, 0x1000, Access::READ);
        let expected = Memory::Stage2 { attributes: attributes as u8, shareability: 3 };
        assert_eq!(result.ok().map(|page| page.memory), legal.then_some(expected), "{attributes:#b}");
    }
    // 0b01 at the last level is not a page; a block at level 0 does not exist without FEAT_LPA2.
    assert_eq!(
        fault(&mut stage2_page(Stage2::default(), VTCR, 0xabc_07fd), 0x1000, Access::READ).0,
        FaultKind::NotPresent
    );
}

#[test]
fn stage2_hardware_marks() {
    let page = 0xabc_037f | 1 << 51; // AF clear, DBM, not writable
    let hardware = VTCR | 1 << 21 | 1 << 22;
    let mut machine = stage2_page(Stage2::default(), hardware, page);
    machine.access(0, 0x1000, Access::READ).unwrap();
    assert_eq!(machine.ram().read(0x10_3008), Some(page | 0x400));
    machine.access(0, 0x1000, Access::WRITE).unwrap();
    assert_eq!(machine.ram().read(0x10_3008), Some(page | 0x480));
    // HA alone; a CPU that has neither.
    let mut machine = stage2_page(Stage2::default(), VTCR | 1 << 21, page);
    assert_eq!(fault(&mut machine, 0x1000, Access::WRITE).0, FaultKind::Permission);
    let none = Stage2 { hafdbs: 0, ..Stage2::default() };
    assert_eq!(fault(&mut stage2_page(none, hardware, page), 0x1000, Access::READ).0, FaultKind::AccessFlag);
}

/// hgatp of a root at 0x10_0000 with VMID 3.
fn hgatp(mode: u64) -> Root {
    Root::Gstage { hgatp: mode << 60 | 3 << 44 | 0x100 }
}

const fn pte(hpa: u64, bits: u64) -> u64 {
    hpa >> 2 | bits
}

fn gstage_page(hart: Gstage, entry: u64) -> Machine {
    let words = [(0x10_0000, pte(0x10_4000, 1)), (0x10_4000, pte(0x10_5000, 1)), (0x10_5008, entry)];
    machine(Mmu::Gstage(hart), hgatp(8), &words)
}

#[test]
fn gstage_roots_are_wide() {
    let leaf = pte(0x4000_0000, 0xdf);
    // The last entry of the 16 KiB root: the two extra bits of the guest physical address.
    let mut machine = machine(Mmu::Gstage(Gstage::default()), hgatp(8), &[(0x10_3ff8, leaf)]);
    assert_eq!(machine.access(0, (2047 << 30) | 5, Access::WRITE).unwrap().hpa, 0x4000_0005);
    assert_eq!(fault(&mut machine, 1 << 41, Access::READ).0, FaultKind::AddressRange);
    for (mode, bits) in [(9, 50), (10, 59)] {
        let words = [
            (0x10_0000, pte(0x10_4000, 1)),
            (0x10_4000, if mode == 9 { leaf } else { pte(0x10_5000, 1) }),
            (0x10_5000, leaf),
        ];
        let mut machine = self::machine(Mmu::Gstage(Gstage::default()), hgatp(mode), &words);
        assert_eq!(machine.access(0, 5, Access::READ).unwrap().hpa, 0x4000_0005, "mode {mode}");
        assert_eq!(fault(&mut machine, 1 << bits, Access::READ).0, FaultKind::AddressRange, "mode {mode}");
    }
    let mut bare = self::machine(Mmu::Gstage(Gstage::default()), Root::Gstage { hgatp: 0 }, &[]);
    assert_eq!(bare.access(0, 0x1234, Access::WRITE).unwrap().hpa, 0x1234);
    for hgatp in [1, 7 << 60, 11 << 60, 8 << 60 | 0x101, 8 << 60 | 1 << 58] {
        assert!(bare.load_root(0, Root::Gstage { hgatp }).is_err(), "{hgatp:#x}");
    }
}

#[test]
fn gstage_faults() {
    let hart = Gstage::default;
    let guest = |scause, htval, htinst| Syndrome::Gstage { scause, htval, htinst };
    let mut machine = gstage_page(hart(), pte(0xabc_0000, 0xd3)); // read-only
    assert_eq!(machine.access(0, 0x1010, Access::READ).unwrap().hpa, 0xabc_0010);
    assert_eq!(fault(&mut machine, 0x1010, Access::WRITE), (FaultKind::Permission, guest(23, 0x404, 0)));
    assert_eq!(fault(&mut machine, 0x1010, Access::EXECUTE).1, guest(20, 0x404, 0));
    assert_eq!(fault(&mut machine, 0x2000, Access::READ).1, guest(21, 0x800, 0));
    // A walk reports the original access, and the pseudoinstruction of its own.
    assert_eq!(
        fault(&mut machine, 0x2000, Access::EXECUTE.of_walk(AccessKind::Read)).1,
        guest(20, 0x800, 0x3000)
    );
    assert_eq!(
        fault(&mut machine, 0x1000, Access::READ.of_walk(AccessKind::Write)).1,
        guest(21, 0x400, 0x3020)
    );
    for (entry, kind) in [
        (pte(0xabc_0000, 0xcf), FaultKind::Permission), // U clear
        (pte(0xabc_0000, 0xd5), FaultKind::Reserved),   // writable, not readable
        (pte(0xabc_0000, 0x9f), FaultKind::AccessFlag), // A clear, Svade
        (pte(0xabc_0000, 0xdf) | 3 << 61, FaultKind::Reserved), // PBMT 3
        (pte(0xabc_0000, 0xdf) | 1 << 54, FaultKind::Reserved),
        (pte(0xabc_0000, 0xdf) | 1 << 63, FaultKind::Reserved), // N, but ppn[3:0] is not 1000
        (pte(0xabc_0000, 0x01), FaultKind::Reserved),           // a pointer at level 0
    ] {
        assert_eq!(fault(&mut gstage_page(hart(), entry), 0x1000, Access::READ).0, kind, "{entry:#x}");
    }
    let clean = pte(0xabc_0000, 0x5f);
    assert!(gstage_page(hart(), clean).access(0, 0x1000, Access::READ).is_ok());
    assert_eq!(fault(&mut gstage_page(hart(), clean), 0x1000, Access::WRITE).0, FaultKind::AccessFlag);
    // Pointers with A, D or U; a misaligned superpage; PBMT without PBMTE; MXR.
    for pointer in
        [pte(0x10_5000, 0x41), pte(0x10_5000, 0x11), pte(0x10_5000, 1) | 1 << 61, pte(0x10_5000, 0xdf)]
    {
        let words = [(0x10_0000, pte(0x10_4000, 1)), (0x10_4000, pointer)];
        let mut machine = self::machine(Mmu::Gstage(hart()), hgatp(8), &words);
        assert_eq!(fault(&mut machine, 0x1000, Access::READ).0, FaultKind::Reserved, "{pointer:#x}");
    }
    let without = Gstage { pbmte: false, ..hart() };
    assert!(gstage_page(without, pte(0xabc_0000, 0xdf) | 1 << 61).access(0, 0x1000, Access::READ).is_err());
    assert!(gstage_page(hart(), pte(0xabc_0000, 0xd9)).access(0, 0x1000, Access::READ).is_err());
    let mxr = Gstage { mxr: true, ..hart() };
    assert!(gstage_page(mxr, pte(0xabc_0000, 0xd9)).access(0, 0x1000, Access::READ).is_ok());
}

#[test]
fn gstage_marks_and_naturally_aligned_powers_of_two() {
    let adue = Gstage { adue: true, ..Gstage::default() };
    let mut machine = gstage_page(adue, pte(0xabc_0000, 0x1f));
    machine.access(0, 0x1000, Access::READ).unwrap();
    assert_eq!(machine.ram().read(0x10_5008), Some(pte(0xabc_0000, 0x5f)));
    machine.access(0, 0x1000, Access::WRITE).unwrap();
    assert_eq!(machine.ram().read(0x10_5008), Some(pte(0xabc_0000, 0xdf)));
    let mut napot = gstage_page(Gstage::default(), pte(0xab8_8000, 0xdf) | 1 << 63);
    let page = napot.access(0, 0x1010, Access::READ).unwrap();
    assert_eq!((page.hpa, page.size), (0xab8_1010, 0x1_0000));
}

#[test]
fn tables_outside_of_the_ram() {
    let mut machine = ept(0x10_001e, &[(0x10_0000, 0x90_0007)]);
    assert_eq!(fault(&mut machine, 0, Access::READ).0, FaultKind::Bus);
    assert_eq!(machine.take_reports(), [Report::TableOutsideRam { cpu: 0, hpa: 0x90_0000, gpa: 0 }]);
    assert!(machine.reports().is_empty());
}
