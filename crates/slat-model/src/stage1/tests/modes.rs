//! Modes and rights one by one, in guests whose tables are the words of a test.

use super::{GUEST, Guest, LONG, PAE, RISCV, X86_CPU, amd, arm, intel, riscv_guest, started};
use crate::access::Access;
use crate::stage1::{ArmFeatures, GuestSyndrome, Stage1, VirtualFault, X86Features};

/// Host physical address as an offset in the guest's memory, or the guest's fault.
fn walk(
    guest: &Guest,
    words: &[(u64, u64)],
    stage1: &Stage1,
    gva: u64,
    access: Access,
) -> Result<u64, GuestSyndrome> {
    let guest = Guest { mmu: guest.mmu.clone(), words: words.to_vec(), ..*guest };
    match started(&guest).access_virtual(0, gva, access, stage1) {
        Ok(translation) => Ok(translation.hpa - GUEST),
        Err(VirtualFault::Guest { syndrome, .. }) => Err(syndrome),
        Err(VirtualFault::Second(fault)) => panic!("{fault}"),
    }
}

fn x86_fault(error_code: u32, cr2: u64) -> Result<u64, GuestSyndrome> {
    Err(GuestSyndrome::X86 { error_code, cr2 })
}

/// CR0.PG and WP.
const ON: u64 = 1 << 31 | 1 << 16;

#[test]
fn x86_32_bit() {
    // A directory in page 1, a table in page 2; the second half of a word is an entry of its own.
    let words =
        [(0x1000, 0x2067 | 0x2067 << 32), (0x2010, 0x8067 | 0x9021 << 32), (0x1008, 0x83 | 0x40_00e7 << 32)];
    let read = |cr4, gva| walk(&intel(), &words, &Stage1::x86(ON, 0x1fff, cr4, 0, false), gva, Access::READ);
    assert_eq!(read(0, 0x4123), Ok(0x8123));
    assert_eq!(read(0, 0x5123), Ok(0x9123));
    assert_eq!(read(0, 0x40_5123), Ok(0x9123)); // the second entry of the directory
    assert_eq!(read(0, 0x6000), x86_fault(0, 0x6000));
    assert_eq!(read(1 << 4, 0x80_3456), Ok(0x3456)); // PSE
    assert_eq!(read(0, 0x80_3456), x86_fault(0, 0x80_3456)); // bit 7 means nothing: the table in page 0 is empty
    let by_user =
        walk(&intel(), &words, &Stage1::x86(ON, 0x1000, 0, 0, false), 0x5000, Access::WRITE.by_user());
    assert_eq!(by_user, x86_fault(7, 0x5000));
    // 4-byte entries are marked alone.
    let mut machine = started(&Guest { words: words.to_vec(), ..intel() });
    machine.access_virtual(0, 0x5000, Access::READ, &Stage1::x86(ON, 0x1000, 0, 0, false)).unwrap();
    assert_eq!(machine.ram().read(GUEST + 0x2010), Some(0x8067 | 0x9021 << 32));
    machine.access_virtual(0, 0x5000, Access::WRITE, &Stage1::x86(1 << 31, 0x1000, 0, 0, false)).unwrap();
    assert_eq!(machine.ram().read(GUEST + 0x2010), Some(0x8067 | 0x9061 << 32));
}

#[test]
fn x86_4_mib_pages() {
    // With PSE-36, bits 20:13 are bits 39:32 of the address; as many as MAXPHYADDR allows.
    let cpu = |physical_bits, pse36| Stage1::X86 {
        cr0: ON,
        cr3: 0x1000,
        cr4: 1 << 4,
        efer: 0,
        ac: false,
        pdptes: None,
        features: X86Features { physical_bits, pse36, page_1g: true },
    };
    let reserved = |entry: u64, stage1| {
        let words = [(0x1000, entry)];
        let guest = Guest { words: words.to_vec(), ..intel() };
        match started(&guest).access_virtual(0, 0, Access::READ, &stage1) {
            Err(VirtualFault::Guest { syndrome: GuestSyndrome::X86 { error_code: 9, .. }, .. }) => true,
            Err(VirtualFault::Second(fault)) => {
                assert_eq!(fault.gpa, (entry >> 13 & 0xff) << 32);
                false
            }
            other => panic!("{other:x?}"),
        }
    };
    for bit in 13..22 {
        assert!(reserved(0x87 | 1 << bit, cpu(52, false)), "{bit}");
        assert_eq!(reserved(0x87 | 1 << bit, cpu(52, true)), bit == 21, "{bit}");
        assert_eq!(reserved(0x87 | 1 << bit, cpu(36, true)), bit >= 17, "{bit}");
    }
}

#[test]
fn x86_pae() {
    let words =
        [(0x1020, 0x2001), (0x2000, 0x3067), (0x3028, 0x8067), (0x2008, 0xe7), (0x3030, 0x9067 | 1 << 63)];
    let state = |pdptes, efer| Stage1::X86 {
        cr0: ON,
        cr3: 0x1020,
        cr4: PAE,
        efer,
        ac: false,
        pdptes,
        features: X86_CPU,
    };
    for guest in [intel(), amd()] {
        for pdptes in [None, Some([0x2001, 0, 0, 0])] {
            let read = |gva| walk(&guest, &words, &state(pdptes, 1 << 11), gva, Access::READ);
            assert_eq!(read(0x5123), Ok(0x8123));
            assert_eq!(read(0x20_3123), Ok(0x3123)); // 2 MiB
            assert_eq!(read(0x4000_0000), x86_fault(0, 0x4000_0000)); // a PDPTE that is not present
        }
    }
    let fetch = |efer| walk(&intel(), &words, &state(None, efer), 0x6000, Access::EXECUTE);
    assert_eq!(fetch(1 << 11), x86_fault(0x11, 0x6000));
    assert_eq!(fetch(0), x86_fault(9, 0x6000)); // without NXE, XD is reserved, and I/D not told
    for bit in (1..12).chain(52..64) {
        // Free are PWT, PCD and 11:9.
        let refused = !(9..12).contains(&bit) && bit != 3 && bit != 4;
        let found = walk(&intel(), &words, &state(Some([0x2001 | 1 << bit; 4]), 0), 0x5000, Access::READ);
        assert_eq!(found == x86_fault(9, 0x5000), refused, "{bit}");
    }
}

#[test]
fn x86_long_mode() {
    let words = [
        (0x1000, 0x2067),
        (0x2000, 0x3067),
        (0x3000, 0x4067),
        (0x4000, 0x5067),
        (0x5028, 0x8067),
        (0x3008, 0xe7),
    ];
    let read = |cr4, features, gva| {
        let stage1 = Stage1::X86 {
            cr0: ON,
            cr3: 0x1000,
            cr4: cr4 | PAE,
            efer: LONG,
            ac: false,
            pdptes: None,
            features,
        };
        walk(&intel(), &words, &stage1, gva, Access::READ)
    };
    assert_eq!(read(1 << 12, X86_CPU, 0x5123), Ok(0x8123)); // five levels
    assert_eq!(read(1 << 12, X86_CPU, 0x4000_4123), Ok(0x4123)); // 1 GiB
    let without = X86Features { page_1g: false, ..X86_CPU };
    assert_eq!(read(1 << 12, without, 0x4000_4123), x86_fault(9, 0x4000_4123));
    assert_eq!(read(1 << 12, X86_CPU, 1 << 56), Err(GuestSyndrome::X86NonCanonical));
    assert_eq!(read(0, X86_CPU, 1 << 47), Err(GuestSyndrome::X86NonCanonical));
    let narrow = X86Features { physical_bits: 40, ..X86_CPU };
    let wide = [(0x1000, 0x2067 | 1 << 40)];
    let stage1 =
        Stage1::X86 { cr0: ON, cr3: 0x1000, cr4: PAE, efer: LONG, ac: false, pdptes: None, features: narrow };
    assert_eq!(walk(&intel(), &wide, &stage1, 0, Access::READ), x86_fault(9, 0));
}

const TCR: u64 = 25 | 25 << 16 | 2 << 30 | 5 << 32;

#[derive(Clone, Copy)]
struct Arm {
    sctlr: u64,
    tcr: u64,
    pan: bool,
    features: ArmFeatures,
}

impl Arm {
    fn new() -> Self {
        Self { sctlr: 1, tcr: TCR, pan: false, features: ArmFeatures::default() }
    }

    /// The three tables of page 5, with attributes in the entry of the first and in the leaf.
    fn walk(self, table: u64, leaf: u64, access: Access) -> Result<u64, GuestSyndrome> {
        let words = [(0x1000, 0x2003 | table), (0x2000, 0x3003), (0x3028, 0x8403 | leaf)];
        let Self { sctlr, tcr, pan, features } = self;
        let stage1 = Stage1::Arm { sctlr, tcr, ttbr0: 0x1000, ttbr1: 0x1000, pan, features };
        walk(&arm(), &words, &stage1, 0x5000, access)
    }

    fn allows(self, table: u64, leaf: u64, access: Access) -> bool {
        self.walk(table, leaf, access).is_ok()
    }
}

/// AP\[1\], AP\[2\], PXN, UXN.
const EL0: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;

#[test]
fn arm_permissions() {
    use Access as A;
    let cpu = Arm::new();
    // Arm ARM, the table of "Data access permissions" and "Instruction execution permissions": for each AP and XN what
    // EL1 and EL0 may: read, write, execute.
    for (leaf, el1, el0) in [
        (0, [true, true, true], [false, false, true]), // EL0 executes what it cannot read
        (EL0, [true, true, false], [true, true, true]),
        (READ_ONLY, [true, false, true], [false, false, true]),
        (EL0 | READ_ONLY, [true, false, true], [true, false, true]),
        (PXN, [true, true, false], [false, false, true]),
        (UXN, [true, true, true], [false, false, false]),
        (EL0 | UXN, [true, true, false], [true, true, false]),
    ] {
        for (n, access) in [A::READ, A::WRITE, A::EXECUTE].into_iter().enumerate() {
            assert_eq!(cpu.allows(0, leaf, access), el1[n], "{leaf:#x} {access:?}");
            assert_eq!(cpu.allows(0, leaf, access.by_user()), el0[n], "{leaf:#x} {access:?}");
        }
    }
    // WXN: of each mode what it can write itself.
    let wxn = Arm { sctlr: 1 | 1 << 19, ..cpu };
    assert!(!wxn.allows(0, 0, A::EXECUTE));
    assert!(wxn.allows(0, 0, A::EXECUTE.by_user()));
    assert!(!wxn.allows(0, EL0, A::EXECUTE.by_user()));
    assert!(wxn.allows(0, READ_ONLY, A::EXECUTE));
    // PAN: data of EL0, and with EPAN what it can only execute.
    let pan = Arm { pan: true, ..cpu };
    let epan = Arm { sctlr: 1 | 1 << 57, ..pan };
    assert!(!pan.allows(0, EL0, A::READ) && !pan.allows(0, EL0 | READ_ONLY, A::READ));
    assert!(pan.allows(0, EL0, A::READ.by_user()) && pan.allows(0, 0, A::READ));
    assert!(pan.allows(0, EL0 | READ_ONLY, A::EXECUTE));
    assert!(!epan.allows(0, 0, A::WRITE) && epan.allows(0, UXN, A::WRITE));
    let without = Arm { features: ArmFeatures { pan3: false, ..cpu.features }, ..epan };
    assert!(without.allows(0, 0, A::WRITE));
    // Hierarchical permissions, and HPD0.
    let hpd = Arm { tcr: TCR | 1 << 41, ..cpu };
    let without = Arm { features: ArmFeatures { hpds: false, ..cpu.features }, ..hpd };
    for (table, access) in [
        (1 << 62, A::WRITE),
        (1 << 61, A::READ.by_user()),
        (1 << 60, A::EXECUTE.by_user()),
        (1 << 59, A::EXECUTE),
    ] {
        let leaf = if access == A::EXECUTE { 0 } else { EL0 };
        assert!(!cpu.allows(table, leaf, access) && hpd.allows(table, leaf, access), "{table:#x}");
        assert!(!without.allows(table, leaf, access), "{table:#x}");
    }
}

#[test]
fn arm_addresses_and_syndromes() {
    let cpu = Arm::new();
    let fault = |esr, far| Err(GuestSyndrome::Arm { esr, far });
    let esr = |class: u64, iss: u64| class << 26 | 1 << 25 | iss;
    assert_eq!(cpu.walk(0, READ_ONLY, Access::WRITE), fault(esr(0x25, 0x4f), 0x5000));
    assert_eq!(cpu.walk(0, 0, Access::READ.by_user()), fault(esr(0x24, 0x0f), 0x5000));
    assert_eq!(cpu.walk(0, UXN, Access::EXECUTE.by_user()), fault(esr(0x20, 0x0f), 0x5000));
    assert_eq!(cpu.walk(0, PXN, Access::EXECUTE), fault(esr(0x21, 0x0f), 0x5000));
    // IPS of 32 bits; an address of 33 in the first table, and in the leaf.
    let narrow = Arm { tcr: TCR & !(7 << 32), ..cpu };
    assert_eq!(narrow.walk(1 << 32, 0, Access::READ), fault(esr(0x25, 0x01), 0x5000));
    assert_eq!(narrow.walk(0, 1 << 32, Access::READ), fault(esr(0x25, 0x03), 0x5000));
    let words = [(0x1000, 0x2003), (0x2000, 0x3003), (0x3028, 0x8403)];
    let read = |tcr, gva, access| {
        let features = ArmFeatures::default();
        let stage1 = Stage1::Arm { sctlr: 1, tcr, ttbr0: 0x1000, ttbr1: 0x1000, pan: false, features };
        walk(&arm(), &words, &stage1, gva, access)
    };
    // The top byte: not looked at with TBI, except in fetches with TBID.
    let tagged = 0xa500_0000_0000_5000;
    assert_eq!(read(TCR, tagged, Access::READ), fault(esr(0x25, 0x04), tagged));
    assert_eq!(read(TCR | 1 << 37, tagged, Access::READ), Ok(0x8000));
    assert_eq!(read(TCR | 1 << 37, tagged, Access::EXECUTE), Ok(0x8000));
    assert!(read(TCR | 1 << 37 | 1 << 51, tagged, Access::EXECUTE).is_err());
    assert!(read(TCR | 1 << 37 | 1 << 51, tagged, Access::READ).is_ok());
    assert_eq!(read(TCR | 1 << 38, 0x5aff_ff80_0000_5000, Access::READ), Ok(0x8000));
    // A single table for 21 bits, which needs FEAT_TTST.
    let words = [(0x1028, 0x8403)];
    for (ttst, found) in [(true, Ok(0x8000)), (false, fault(esr(0x25, 0x04), 0x5000))] {
        let features = ArmFeatures { ttst, ..ArmFeatures::default() };
        let tcr = TCR & !0x3f | 43;
        let stage1 = Stage1::Arm { sctlr: 1, tcr, ttbr0: 0x1000, ttbr1: 0, pan: false, features };
        assert_eq!(walk(&arm(), &words, &stage1, 0x5000, Access::READ), found);
    }
}

#[test]
fn riscv_extensions() {
    let Stage1::Riscv { vsatp, .. } = RISCV else { unreachable!() };
    let read = |leaf: u64, pbmte, svnapot| {
        let words = [(0x1000, 0x3000 >> 2 | 1), (0x3000, 0x4000 >> 2 | 1), (0x4028, leaf | 0xcf)];
        let stage1 = Stage1::Riscv { vsatp, sum: false, mxr: false, adue: false, pbmte, svnapot };
        walk(&riscv_guest(), &words, &stage1, 0x5123, Access::READ)
    };
    let fault = Err(GuestSyndrome::Riscv { scause: 13, stval: 0x5123 });
    let page = 0x8000 >> 2;
    assert_eq!(read(page, false, false), Ok(0x8123));
    assert_eq!([read(page | 1 << 61, true, false), read(page | 1 << 61, false, false)], [Ok(0x8123), fault]);
    assert_eq!(read(page | 3 << 61, true, false), fault);
    // 64 KiB at 0: page 5 of them.
    assert_eq!([read(page | 1 << 63, false, true), read(page | 1 << 63, false, false)], [Ok(0x5123), fault]);
    assert_eq!(read(0xc000 >> 2 | 1 << 63, false, true), fault);
}
