use super::*;

const RAM: core::ops::Range<u64> = 0x4000_0000..0x4100_0000;

fn cpus(count: usize) -> Cpus {
    Cpus::new(count, RAM, |_| true)
}

fn call(function: u32, argument: u64) -> Answer {
    answer([function.into(), argument, 0, 0], 0, &cpus(1))
}

fn error(code: i64) -> Answer {
    Answer::Return(code as u64)
}

#[test]
fn what_linux_asks_at_boot() {
    assert_eq!(call(function::VERSION, 0), Answer::Return(0x1_0001));
    assert_eq!(call(function::MIGRATE_INFO_TYPE, 0), Answer::Return(2));
    assert_eq!(call(function::FEATURES, function::SMCCC_VERSION.into()), Answer::Return(0));
    assert_eq!(call(function::FEATURES, function::CPU_ON_64.into()), Answer::Return(0));
    assert_eq!(call(function::SMCCC_VERSION, 0), Answer::Return(0x1_0001));
    assert_eq!(call(function::FEATURES, 0xc400_000e), error(-1));
}

#[test]
fn power() {
    assert_eq!(call(function::SYSTEM_OFF, 0), Answer::PowerOff);
    assert_eq!(call(function::SYSTEM_RESET, 0), Answer::Reset);
    assert_eq!(call(function::CPU_SUSPEND_64, 0), Answer::WaitThenReturn(0));
    assert_eq!(call(function::CPU_OFF, 0), error(-3));
}

#[test]
fn the_only_cpu_is_on_and_no_other_exists() {
    assert_eq!(call(function::CPU_ON_64, 0), error(-4));
    assert_eq!(call(function::CPU_ON_64, 1), error(-2));
    assert_eq!(call(function::CPU_ON_64, 0x8000_0000), error(-2));
    assert_eq!(call(function::CPU_ON, 0xdead_beef_0000_0000), error(-4));
    assert_eq!(call(function::AFFINITY_INFO, 0), Answer::Return(0));
    assert_eq!(call(function::AFFINITY_INFO_64, 1 << 32), error(-2));
}

#[test]
fn a_second_cpu_goes_on_and_off() {
    let cpus = cpus(2);
    let call = |function: u32, a: u64, b: u64, c: u64| answer([function.into(), a, b, c], 0, &cpus);
    assert_eq!(call(function::AFFINITY_INFO_64, 1, 0, 0), Answer::Return(1));
    assert_eq!(call(function::AFFINITY_INFO_64, 1, 1, 0), error(-2));
    for outside in [0, RAM.start - 4, RAM.end, u64::MAX, RAM.start + 2] {
        assert_eq!(call(function::CPU_ON_64, 1, outside, 0), error(-9), "{outside:#x}");
    }
    assert_eq!(call(function::CPU_ON_64, 2, RAM.start, 0), error(-2));
    assert_eq!(call(function::CPU_ON_64, 1 << 8, RAM.start, 0), error(-2));
    assert_eq!(call(function::CPU_ON_64, 1, RAM.start, u64::MAX), Answer::Return(0));
    assert_eq!(call(function::AFFINITY_INFO_64, 1, 0, 0), Answer::Return(2));
    assert_eq!(call(function::CPU_ON_64, 1, RAM.start, 0), error(-5));
    assert_eq!(cpus.begin(1), Some(Entry { address: RAM.start, argument: u64::MAX }));
    assert_eq!(call(function::AFFINITY_INFO_64, 1, 0, 0), Answer::Return(0));
    assert_eq!(call(function::CPU_ON_64, 1, RAM.start, 0), error(-4));
    assert_eq!(answer([function::CPU_OFF.into(), 0, 0, 0], 1, &cpus), Answer::CpuOff);
    assert_eq!(call(function::CPU_OFF, 0, 0, 0), error(-3));
    cpus.leave(1);
    assert_eq!(call(function::AFFINITY_INFO_64, 1, 0, 0), Answer::Return(1));
}

#[test]
fn the_32_bit_convention_passes_half_of_each_number() {
    let cpus = cpus(2);
    let upper = 0xffff_ffff_0000_0000;
    let registers = [upper | u64::from(function::CPU_ON), upper | 1, upper | RAM.start, upper | 7];
    assert_eq!(answer(registers, 0, &cpus), Answer::Return(0));
    assert_eq!(cpus.begin(1), Some(Entry { address: RAM.start, argument: 7 }));
}

#[test]
fn a_machine_that_does_not_start_the_cpu_is_an_internal_failure() {
    let cpus = Cpus::new(2, RAM, |_| false);
    let registers = [function::CPU_ON_64.into(), 1, RAM.start, 0];
    assert_eq!(answer(registers, 0, &cpus), error(-6));
    assert_eq!(answer([function::AFFINITY_INFO_64.into(), 1, 0, 0], 0, &cpus), Answer::Return(1));
}

#[test]
fn the_upper_half_of_x0_is_ignored_and_unknown_calls_are_refused() {
    assert_eq!(answer([0xffff_ffff_8400_0000, 0, 0, 0], 0, &cpus(1)), Answer::Return(0x1_0001));
    for function in [0, 0x8000_0001, 0x8400_0005, 0x8400_00ff, 0xc400_0008, 0xc600_0000, u32::MAX] {
        assert_eq!(call(function, 0), Answer::Return(u64::MAX), "{function:#x}");
    }
}
