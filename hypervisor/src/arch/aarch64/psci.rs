//! The firmware that the guest sees: PSCI 1.1 and SMCCC 1.1.
//!
//! Reference: Arm DEN 0022 (PSCI) and DEN 0028 (SMCCC). Any call that is not offered is answered NOT_SUPPORTED.

use super::platform::affinity;
use crate::cpus::{Cpus, Entry, Power, StartError};

const NOT_SUPPORTED: u64 = (-1i64) as u64;
const INVALID_PARAMETERS: u64 = (-2i64) as u64;
const DENIED: u64 = (-3i64) as u64;
const ALREADY_ON: u64 = (-4i64) as u64;
const ON_PENDING: u64 = (-5i64) as u64;
const INTERNAL_FAILURE: u64 = (-6i64) as u64;
const INVALID_ADDRESS: u64 = (-9i64) as u64;
const SUCCESS: u64 = 0;

/// Major 1, minor 1: of both specifications.
const VERSION_1_1: u64 = 1 << 16 | 1;
/// MIGRATE_INFO_TYPE: no trusted OS that would have to migrate.
const NO_TRUSTED_OS: u64 = 2;

/// Function identifiers. Bit 30 tells the 64-bit convention from the 32-bit one.
pub mod function {
    /// SMCCC_VERSION.
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
    /// PSCI_VERSION.
    pub const VERSION: u32 = 0x8400_0000;
    /// CPU_SUSPEND.
    pub const CPU_SUSPEND: u32 = 0x8400_0001;
    /// CPU_OFF.
    pub const CPU_OFF: u32 = 0x8400_0002;
    /// CPU_ON.
    pub const CPU_ON: u32 = 0x8400_0003;
    /// AFFINITY_INFO.
    pub const AFFINITY_INFO: u32 = 0x8400_0004;
    /// MIGRATE_INFO_TYPE.
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    /// SYSTEM_OFF.
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    /// SYSTEM_RESET.
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    /// PSCI_FEATURES.
    pub const FEATURES: u32 = 0x8400_000a;
    /// The 64-bit convention of [`CPU_SUSPEND`].
    pub const CPU_SUSPEND_64: u32 = 0xc400_0001;
    /// The 64-bit convention of [`CPU_ON`].
    pub const CPU_ON_64: u32 = 0xc400_0003;
    /// The 64-bit convention of [`AFFINITY_INFO`].
    pub const AFFINITY_INFO_64: u32 = 0xc400_0004;
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The guest goes on with this value in x0.
    Return(u64),
    /// The guest waits for an interrupt, then goes on with this value in x0.
    WaitThenReturn(u64),
    /// This CPU of the guest goes off.
    CpuOff,
    /// The guest's machine goes off.
    PowerOff,
    /// The guest's machine starts over.
    Reset,
}

/// Answers a call with `registers` x0 to x3, made by CPU `caller` of `cpus`. A CPU that it asks for has been started.
#[must_use]
pub fn answer(registers: [u64; 4], caller: usize, cpus: &Cpus) -> Answer {
    // SMCCC: the identifier is w0; arguments of the 32-bit convention are w registers too.
    let function = registers[0] as u32;
    let wide = function & 1 << 30 != 0;
    let [_, argument, argument2, argument3] =
        registers.map(|value| if wide { value } else { value & 0xffff_ffff });
    Answer::Return(match function {
        function::SMCCC_VERSION | function::VERSION => VERSION_1_1,
        // Every state is entered as a standby state, which the specification allows: the context is kept.
        function::CPU_SUSPEND | function::CPU_SUSPEND_64 => return Answer::WaitThenReturn(SUCCESS),
        function::CPU_OFF if cpus.stop(caller) => return Answer::CpuOff,
        // Nobody could turn the last CPU on again.
        function::CPU_OFF => DENIED,
        function::CPU_ON | function::CPU_ON_64 => {
            let entry = Entry { address: argument2, argument: argument3 };
            let started = with_affinity(argument, cpus).ok_or(StartError::NoSuchCpu);
            match started.and_then(|cpu| cpus.start(cpu, entry)) {
                Ok(()) => SUCCESS,
                Err(StartError::NoSuchCpu) => INVALID_PARAMETERS,
                Err(StartError::AlreadyOn) => ALREADY_ON,
                Err(StartError::Pending) => ON_PENDING,
                Err(StartError::BadAddress) => INVALID_ADDRESS,
                Err(StartError::Failed) => INTERNAL_FAILURE,
            }
        }
        // Level 0: one CPU. Groups of CPUs have no power state of their own here.
        function::AFFINITY_INFO | function::AFFINITY_INFO_64 => {
            let cpu = with_affinity(argument, cpus).filter(|_| argument2 == 0);
            match cpu.and_then(|cpu| cpus.power(cpu)) {
                Some(Power::On) => 0,
                Some(Power::Off) => 1,
                Some(Power::Pending) => 2,
                None => INVALID_PARAMETERS,
            }
        }
        function::MIGRATE_INFO_TYPE => NO_TRUSTED_OS,
        function::SYSTEM_OFF => return Answer::PowerOff,
        function::SYSTEM_RESET => return Answer::Reset,
        function::FEATURES if is_offered(argument as u32) => SUCCESS,
        _ => NOT_SUPPORTED,
    })
}

/// The CPU that the argument `target` of a call means: the affinity fields, and zero elsewhere.
fn with_affinity(target: u64, cpus: &Cpus) -> Option<usize> {
    (0..cpus.count()).find(|&cpu| affinity(cpu) == target)
}

/// The answer to a call by an HVC or SMC whose immediate is not 0: SMCCC reserves those.
pub const OTHER_IMMEDIATE: Answer = Answer::Return(NOT_SUPPORTED);

fn is_offered(function: u32) -> bool {
    matches!(
        function,
        function::SMCCC_VERSION
            | function::VERSION
            | function::CPU_SUSPEND
            | function::CPU_SUSPEND_64
            | function::CPU_OFF
            | function::CPU_ON
            | function::CPU_ON_64
            | function::AFFINITY_INFO
            | function::AFFINITY_INFO_64
            | function::MIGRATE_INFO_TYPE
            | function::SYSTEM_OFF
            | function::SYSTEM_RESET
            | function::FEATURES
    )
}

#[cfg(test)]
mod tests;
