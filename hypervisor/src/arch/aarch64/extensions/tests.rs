use super::*;

#[test]
fn a_cpu_of_armv8_0_traps_everything_newer() {
    // Cortex-A72: EL0 to EL3 in both widths, GIC registers, PMUv3.
    let ids = IdRegisters { pfr0: 0x0100_2222, dfr0: 0x1030_5106, mmfr0: 0x1124, ..IdRegisters::default() };
    let extensions = Extensions::from_id_registers(&ids);
    let expected = Extensions { pmu: true, gic_registers: true, ..Extensions::default() };
    assert_eq!(extensions, expected);
    assert_eq!(extensions.cptr(), 0x33ff);
    assert_eq!(extensions.hcr(false), 0x8038_0022);
    assert_eq!(extensions.hcr(true), 0x8038_2022);
    assert_eq!(extensions.register_traps(), 0);
}

#[test]
fn extensions_that_the_guest_can_see_are_not_trapped() {
    let ids = IdRegisters {
        pfr0: 1 << 32,
        pfr1: 1 << 24 | 2 << 8 | 1 << 4,
        isar1: 1 << 4,
        ..IdRegisters::default()
    };
    let extensions = Extensions::from_id_registers(&ids);
    assert_eq!(extensions.cptr(), 0x22ff);
    assert_eq!(extensions.hcr(false) >> 40, 0x1_0003);
    assert_eq!(extensions.register_traps(), 0b11 << 54);
    assert_eq!(extensions.pstate(), PstateFeatures { pan: false, ssbs: true, mte: true });
}

#[test]
fn each_algorithm_of_pointer_authentication_counts() {
    for (isar1, isar2) in [(1 << 4, 0), (1 << 8, 0), (0, 1 << 12)] {
        let ids = IdRegisters { isar1, isar2, ..IdRegisters::default() };
        assert!(Extensions::from_id_registers(&ids).pointer_authentication, "{isar1:#x} {isar2:#x}");
    }
}

#[test]
fn a_foreign_pmu_and_instruction_only_tags_do_not_count() {
    let ids = IdRegisters { dfr0: 0xf << 8, pfr1: 1 << 8, ..IdRegisters::default() };
    assert_eq!(Extensions::from_id_registers(&ids), Extensions::default());
}
