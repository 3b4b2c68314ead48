use super::*;

const MPIDR: u64 = 0x8000_0000;

fn call(function: u32, argument: u64) -> Answer {
    answer([function.into(), argument, 0, 0], MPIDR)
}

#[test]
fn what_linux_asks_at_boot() {
    assert_eq!(call(function::VERSION, 0), Answer::Return(0x1_0001));
    assert_eq!(call(function::MIGRATE_INFO_TYPE, 0), Answer::Return(2));
    assert_eq!(call(function::FEATURES, function::SMCCC_VERSION.into()), Answer::Return(0));
    assert_eq!(call(function::SMCCC_VERSION, 0), Answer::Return(0x1_0001));
    assert_eq!(call(function::FEATURES, 0xc400_000e), Answer::Return(u64::MAX));
}

#[test]
fn power() {
    assert_eq!(call(function::SYSTEM_OFF, 0), Answer::PowerOff);
    assert_eq!(call(function::SYSTEM_RESET, 0), Answer::Reset);
    assert_eq!(call(function::CPU_SUSPEND_64, 0), Answer::WaitThenReturn(0));
    assert_eq!(call(function::CPU_OFF, 0), Answer::Return(-3i64 as u64));
}

#[test]
fn the_only_cpu_is_on_and_no_other_exists() {
    assert_eq!(call(function::CPU_ON_64, 0), Answer::Return(-4i64 as u64));
    assert_eq!(call(function::CPU_ON_64, 1), Answer::Return(-2i64 as u64));
    assert_eq!(call(function::CPU_ON_64, MPIDR), Answer::Return(-2i64 as u64));
    assert_eq!(call(function::CPU_ON, 0xdead_beef_0000_0000), Answer::Return(-4i64 as u64));
    assert_eq!(call(function::AFFINITY_INFO, 0), Answer::Return(0));
    assert_eq!(call(function::AFFINITY_INFO_64, 1 << 32), Answer::Return(-2i64 as u64));
}

#[test]
fn the_upper_half_of_x0_is_ignored_and_unknown_calls_are_refused() {
    assert_eq!(answer([0xffff_ffff_8400_0000, 0, 0, 0], MPIDR), Answer::Return(0x1_0001));
    for function in [0, 0x8000_0001, 0x8400_0005, 0x8400_00ff, 0xc400_0008, 0xc600_0000, u32::MAX] {
        assert_eq!(call(function, 0), Answer::Return(u64::MAX), "{function:#x}");
    }
}
