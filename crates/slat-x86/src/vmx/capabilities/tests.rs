use super::{Capabilities, RawCapabilities, Unsupported};
use crate::vmx::double::Double;

/// What Bochs 2.7 says of its models; the differences to `TIGERLAKE` are what matters.
pub(crate) const TIGERLAKE: RawCapabilities = RawCapabilities {
    cpuid_1_ecx: 0x7ffa_f3bf,
    cpuid_7_ebx: 0xf1bf_27eb,
    cpuid_extended_edx: 0x2c10_0800,
    physical_bits: 40,
    extended_bytes: 0xac0,
    extended_components: 0x2e7,
    feature_control: 0,
    basic: 0x1d8_1000_0000_0004,
    pin: 0x7f_0000_0016,
    primary: 0xfff9_fffe_0400_6172,
    secondary: 0x0297_7fff_0000_0000,
    exit: 0x107f_ffff_0003_6dfb,
    entry: 0x10_ffff_0000_11fb,
    misc: 0x6004_01e0,
    cr0_fixed0: 0x8000_0021,
    cr0_fixed1: 0xffff_ffff,
    cr4_fixed0: 0x2000,
    cr4_fixed1: 0xf7_2fff,
    ept_vpid_cap: 0xf01_06b3_4141,
};

pub(crate) const SKYLAKE_X: RawCapabilities = RawCapabilities {
    cpuid_7_ebx: 0xd19f_27eb,
    extended_bytes: 0xa80,
    extended_components: 0xe7,
    basic: 0xd8_1000_0000_002b,
    primary: 0xf7f9_fffe_0400_6172,
    secondary: 0x0217_7fff_0000_0000,
    exit: 0x7f_ffff_0003_6dfb,
    entry: 0xffff_0000_11fb,
    cr4_fixed1: 0x37_27ff,
    ept_vpid_cap: 0xf01_0633_4141,
    ..TIGERLAKE
};

pub(crate) const HASWELL: RawCapabilities = RawCapabilities {
    cpuid_7_ebx: 0x27ab,
    extended_bytes: 0x340,
    extended_components: 7,
    secondary: 0x4_7fff_0000_0000,
    misc: 0x2004_01e0,
    cr4_fixed1: 0x17_27ff,
    ..SKYLAKE_X
};

pub(crate) const SANDY_BRIDGE: RawCapabilities = RawCapabilities {
    cpuid_1_ecx: 0x1f9a_e3bf,
    cpuid_7_ebx: 0,
    cpuid_extended_edx: 0x2810_0800,
    secondary: 0xff_0000_0000,
    misc: 0x4_01e0,
    cr4_fixed1: 0x6_27ff,
    ept_vpid_cap: 0xf01_0611_4141,
    ..HASWELL
};

pub(crate) const LYNNFIELD: RawCapabilities = RawCapabilities {
    cpuid_1_ecx: 0x98_e3fd,
    extended_bytes: 0,
    extended_components: 0,
    secondary: 0x7f_0000_0000,
    cr4_fixed1: 0x67ff,
    ..SANDY_BRIDGE
};

/// No secondary control but "virtualize APIC accesses".
pub(crate) const PENRYN: RawCapabilities =
    RawCapabilities { secondary: 0x41_0000_0000, ept_vpid_cap: 0, ..LYNNFIELD };

#[test]
fn each_model_offers_what_it_offers() {
    // Unrestricted guest, accessed and dirty, log, 1 GiB, XSAVE.
    let table = [
        (TIGERLAKE, [true, true, true, true, true]),
        (SKYLAKE_X, [true, true, true, true, true]),
        (HASWELL, [true, true, false, true, true]),
        (SANDY_BRIDGE, [true, false, false, false, true]),
        (LYNNFIELD, [false, false, false, false, false]),
    ];
    for (raw, expected) in table {
        let has = Capabilities::new(&raw).expect("EPT");
        assert_eq!(
            [
                has.unrestricted_guest(),
                has.accessed_dirty(),
                has.modification_log(),
                has.leaves_1g(),
                has.xsave()
            ],
            expected,
            "{raw:x?}"
        );
        assert!(has.vpid() && has.virtual_nmis() && has.execute_only() && has.leaves_2m());
        assert!(
            has.invept_single() && has.invvpid_single() && has.uncacheable_tables() && !has.five_levels()
        );
        assert!(!has.mode_based_execute() && has.halt_state() && has.wait_state() && has.rdtscp());
        assert_eq!(has.revision(), raw.basic as u32);
    }
    // AVX-512 and AVX are for guests; protection keys are not.
    assert_eq!(Capabilities::new(&TIGERLAKE).map(|has| has.extended_components()), Ok(0xe7));
}

#[test]
fn what_is_lacking_is_named() {
    let without = |change: fn(&mut RawCapabilities)| {
        let mut raw = TIGERLAKE;
        change(&mut raw);
        Capabilities::new(&raw).expect_err("something is lacking")
    };
    assert_eq!(without(|raw| raw.cpuid_1_ecx &= !(1 << 5)), Unsupported::NoVmx);
    assert_eq!(without(|raw| raw.feature_control = 1), Unsupported::LockedOff(1));
    assert_eq!(Capabilities::new(&PENRYN).err(), Some(Unsupported::NoEpt));
    assert_eq!(Unsupported::NoEpt.to_string(), "the CPU has no EPT");
    assert_eq!(without(|raw| raw.primary &= !(1 << 63)), Unsupported::NoEpt);
    assert_eq!(without(|raw| raw.basic &= !(1 << 55)), Unsupported::NoTrueControls);
    assert_eq!(without(|raw| raw.primary |= 1 << 15), Unsupported::NoTrueControls);
    assert_eq!(without(|raw| raw.basic &= !(0xf << 50)), Unsupported::MemoryType(0));
    for bit in [6, 14, 20, 26] {
        let mut raw = TIGERLAKE;
        raw.ept_vpid_cap &= !(1 << bit);
        assert_eq!(Capabilities::new(&raw), Err(Unsupported::IncompleteEpt(raw.ept_vpid_cap)), "{bit}");
    }
    // NMI exiting; MSR bitmaps; saving EFER; loading PAT; 64-bit guests; interrupt windows.
    assert!(matches!(without(|raw| raw.pin &= !(1 << 35)), Unsupported::Control(_)));
    assert!(matches!(without(|raw| raw.primary &= !(1 << 60)), Unsupported::Control(_)));
    assert!(matches!(without(|raw| raw.exit &= !(1 << 52)), Unsupported::Control(_)));
    assert!(matches!(without(|raw| raw.entry &= !(1 << 46)), Unsupported::Control(_)));
    assert!(matches!(without(|raw| raw.entry &= !(1 << 41)), Unsupported::Control(_)));
    assert!(matches!(without(|raw| raw.primary &= !(1 << 34)), Unsupported::Control(_)));
}

#[test]
fn fallbacks_are_taken() {
    let with = |change: fn(&mut RawCapabilities)| {
        let mut raw = TIGERLAKE;
        change(&mut raw);
        Capabilities::new(&raw).expect("good enough")
    };
    // No INVVPID, no VPID: else a number could never be given to another vCPU.
    assert!(!with(|raw| raw.ept_vpid_cap &= !(1 << 32)).vpid());
    assert!(!with(|raw| raw.ept_vpid_cap &= !(3 << 41)).vpid());
    assert!(with(|raw| raw.ept_vpid_cap &= !(1 << 41)).vpid());
    // Unrestricted guests only where the CPU follows them into 64-bit mode.
    assert!(!with(|raw| raw.misc &= !(1 << 5)).unrestricted_guest());
    assert!(!with(|raw| raw.primary &= !(1 << 54)).virtual_nmis());
    assert!(!with(|raw| raw.ept_vpid_cap &= !(1 << 21)).modification_log());
    // RDTSCP and INVPCID are on where CPUID has them.
    assert_eq!(with(|raw| raw.cpuid_extended_edx = 0).controls().secondary & 1 << 3, 0);
    assert_eq!(with(|raw| raw.cpuid_7_ebx = 0).controls().secondary & 1 << 12, 0);
    assert_ne!(with(|_| {}).controls().secondary & 1 << 12, 0);
}

#[test]
fn every_control_is_one_that_the_cpu_lets_be() {
    for raw in [TIGERLAKE, SKYLAKE_X, HASWELL, SANDY_BRIDGE, LYNNFIELD] {
        let controls = *Capabilities::new(&raw).expect("EPT").controls();
        let pairs = [
            (controls.pin, raw.pin),
            (controls.primary, raw.primary),
            (controls.secondary, raw.secondary),
            (controls.exit, raw.exit),
            (controls.entry, raw.entry),
        ];
        for (control, msr) in pairs {
            assert_eq!(control & msr as u32, msr as u32, "a bit that must be 1 is 0");
            assert_eq!(control & !(msr >> 32) as u32, 0, "a bit that must be 0 is 1");
        }
    }
}

#[test]
fn the_numbers_come_from_the_registers_that_exist() {
    for raw in [TIGERLAKE, HASWELL, LYNNFIELD] {
        assert_eq!(RawCapabilities::read(&&Double::new(raw)), raw);
    }
    // A CPU without VMX has none of the MSRs, and one without EPT not the last one: the double would panic.
    let bare = RawCapabilities { cpuid_1_ecx: 0, ..LYNNFIELD };
    assert_eq!(RawCapabilities::read(&&Double::new(bare)).basic, 0);
    assert_eq!(RawCapabilities::read(&&Double::new(PENRYN)).ept_vpid_cap, 0);
}

#[test]
fn slat_is_told_the_same() {
    let has = Capabilities::new(&HASWELL).expect("EPT");
    let ept = has.ept(true);
    assert_eq!((ept.ept_vpid_cap, ept.physical_bits), (HASWELL.ept_vpid_cap, 40));
    assert!(ept.accessed_dirty && !ept.mode_based_execute && !has.ept(false).accessed_dirty);
    let has = Capabilities::new(&LYNNFIELD).expect("EPT");
    assert!(!has.ept(true).accessed_dirty);
}
