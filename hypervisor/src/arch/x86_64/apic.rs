//! The local APIC as the guest has it: it reads the machine's own, and what it writes is looked at first.
//!
//! **What must not reach the machine:** INIT, start-up and system management interrupts and NMIs to other CPUs, which would
//! reset or stop the hypervisor on them or pass for its kicks; another ID, by which a CPU could not be kicked any more. INIT
//! and start-up IPIs turn the guest's own CPUs off and on instead, and NMIs are delivered by the hypervisor. All other
//! registers are the guest's, and interrupts with vectors go where it sends them. (Intel SDM vol. 3A, "Advanced Programmable
//! Interrupt Controller".)
//!
//! **Signals.** An INIT or NMI for a vCPU is put down in [`Signals`], then its CPU is kicked. INIT is looked at before each entry,
//! and the kick repeated until the vCPU is off; an NMI after the CPU has said that it is about to enter, so that by the protocol of
//! `slat_x86::SpaceCpus` either it sees the NMI or it is kicked out of the guest.

use super::platform::apic_id;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use slat_hv_protocol::CPUS_MAX;

/// Offset of the lower half of the interrupt command register.
pub const COMMAND_LOW: u64 = 0x300;
/// Offset of its upper half.
pub const COMMAND_HIGH: u64 = 0x310;

const TASK_PRIORITY: u64 = 0x080;
const END_OF_INTERRUPT: u64 = 0x0b0;
const LOGICAL_DESTINATION: u64 = 0x0d0;
const DESTINATION_FORMAT: u64 = 0x0e0;
const SPURIOUS: u64 = 0x0f0;
const ERROR_STATUS: u64 = 0x280;
const LVT_CMCI: u64 = 0x2f0;
const LVT_FIRST: u64 = 0x320;
const LVT_LAST: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;
const DIVIDE: u64 = 0x3e0;

/// Bit of an entry of the local vector table: nothing is delivered.
const MASKED: u32 = 1 << 16;

/// Delivery modes.
mod mode {
    pub(super) const FIXED: u32 = 0;
    pub(super) const LOWEST_PRIORITY: u32 = 1;
    pub(super) const NMI: u32 = 4;
    pub(super) const INIT: u32 = 5;
    pub(super) const START_UP: u32 = 6;
    pub(super) const EXTERNAL: u32 = 7;
}

/// The machine's local APIC of the CPU on which this is called, and what else of the machine a write to it needs.
pub trait Registers {
    /// The register at `offset`, a multiple of 4 below 4096. Reading has no effect.
    fn read(&self, offset: u64) -> u32;
    /// Writes one of the registers that [`write()`] lets pass.
    fn write(&self, offset: u64, value: u32);
    /// Sends a command for an interrupt with a vector.
    fn send(&self, high: u32, low: u32);
    /// Gets CPU `cpu` out of its guest or wakes it up, unless it is on its way between the two.
    fn kick(&self, cpu: usize);
    /// On CPU `this`, outside of the guest: makes sure that every other CPU which is inside has entered later than this was
    /// called.
    fn interrupt_others(&self, this: usize);
}

/// What a write to a register comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// This value goes to the machine's register.
    Pass(u32),
    /// The upper half of a command: it waits for the lower one.
    CommandHigh(u32),
    /// A command.
    Command(u32),
    /// Nothing: the register does not exist, cannot be written, or is not the guest's.
    Ignore,
}

/// What to do about a write of `value` at `offset`.
#[must_use]
pub const fn write(offset: u64, value: u32) -> Write {
    match offset {
        COMMAND_LOW => Write::Command(value),
        COMMAND_HIGH => Write::CommandHigh(value),
        LVT_CMCI | LVT_FIRST..=LVT_LAST if offset % 16 == 0 => {
            let harmless = matches!(value >> 8 & 7, mode::FIXED | mode::NMI | mode::EXTERNAL);
            // What comes by INIT or as a system management interrupt is none of the guest's business.
            Write::Pass(if harmless { value } else { value | MASKED })
        }
        TASK_PRIORITY | END_OF_INTERRUPT | LOGICAL_DESTINATION | DESTINATION_FORMAT | SPURIOUS
        | ERROR_STATUS | INITIAL_COUNT | DIVIDE => Write::Pass(value),
        _ => Write::Ignore,
    }
}

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// An interrupt with a vector: as it is.
    Forward,
    /// The CPUs of the set get an NMI.
    Nmi(Set),
    /// The CPUs of the set go off and wait for their start-up.
    Init(Set),
    /// Those of the set that wait for that begin in real mode at this page.
    StartUp(Set, u8),
    /// Nothing.
    Nothing,
}

/// Some CPUs, by bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(u32);

impl Set {
    /// The CPUs in it.
    pub fn cpus(self) -> impl Iterator<Item = usize> {
        (0..CPUS_MAX).filter(move |cpu| self.0 >> cpu & 1 != 0)
    }
}

/// What the CPUs of one guest have to tell each other.
#[derive(Debug)]
pub struct Signals {
    cpus: [Signal; CPUS_MAX],
}

#[derive(Debug)]
struct Signal {
    init: AtomicBool,
    nmi: AtomicBool,
    /// Logical destination and destination format, as the guest has written them.
    logical: AtomicU32,
    format: AtomicU32,
}

impl Signal {
    const fn none() -> Self {
        Self {
            init: AtomicBool::new(false),
            nmi: AtomicBool::new(false),
            logical: AtomicU32::new(0),
            format: AtomicU32::new(u32::MAX),
        }
    }
}

impl Signals {
    /// Nothing is to be told.
    #[must_use]
    pub const fn new() -> Self {
        Self { cpus: [const { Signal::none() }; CPUS_MAX] }
    }

    /// Takes note of a value that CPU `cpu` writes to its register at `offset`: some say by which names it is called.
    pub fn note(&self, cpu: usize, offset: u64, value: u32) {
        let Some(signal) = self.cpus.get(cpu) else { return };
        match offset {
            LOGICAL_DESTINATION => signal.logical.store(value, Ordering::Relaxed),
            DESTINATION_FORMAT => signal.format.store(value, Ordering::Relaxed),
            _ => {}
        }
    }

    /// CPU `cpu` is to go off.
    pub fn put_init(&self, cpu: usize) {
        self.cpus.get(cpu).inspect(|signal| signal.init.store(true, Ordering::Release));
    }

    /// CPU `cpu` is to get an NMI.
    pub fn put_nmi(&self, cpu: usize) {
        self.cpus.get(cpu).inspect(|signal| signal.nmi.store(true, Ordering::Release));
    }

    /// Whether this CPU, `cpu`, is to go off; asking ends that.
    pub fn take_init(&self, cpu: usize) -> bool {
        self.cpus.get(cpu).is_some_and(|signal| take(&signal.init))
    }

    /// Whether this CPU, `cpu`, is to get an NMI; asking ends that.
    pub fn take_nmi(&self, cpu: usize) -> bool {
        self.cpus.get(cpu).is_some_and(|signal| take(&signal.nmi))
    }

    /// What the command `high`:`low` of CPU `this` asks for, where the guest has `count` CPUs.
    #[must_use]
    pub fn command(&self, this: usize, high: u32, low: u32, count: usize) -> Command {
        // Only interrupts with vectors are sent to the sender itself.
        let set = |this_too| self.destination(this, high, low, count, this_too);
        // An INIT with this level ends one that is none any more on CPUs of today: "INIT Level De-assert".
        let de_assert = low >> 14 & 3 == 2;
        match low >> 8 & 7 {
            mode::FIXED | mode::LOWEST_PRIORITY => Command::Forward,
            mode::NMI => Command::Nmi(set(true)),
            mode::INIT if !de_assert => Command::Init(set(true)),
            mode::START_UP => Command::StartUp(set(false), low as u8),
            _ => Command::Nothing,
        }
    }

    /// Whom a command is for. By a shorthand that names the sender nothing but interrupts with vectors can be sent.
    fn destination(&self, this: usize, high: u32, low: u32, count: usize, this_too: bool) -> Set {
        let name = high >> 24;
        let logical = low >> 11 & 1 != 0;
        let is_meant = |cpu: usize, signal: &Signal| match low >> 18 & 3 {
            // By name.
            0 if logical => {
                let flat = signal.format.load(Ordering::Relaxed) >> 28 == 0xf;
                flat && signal.logical.load(Ordering::Relaxed) >> 24 & name != 0
            }
            0 => name == 0xff || apic_id(cpu) == name,
            // All but the sender.
            3 => cpu != this,
            _ => false,
        };
        let cpus = self.cpus.iter().enumerate().take(count);
        let meant = cpus.filter(|(cpu, signal)| (this_too || *cpu != this) && is_meant(*cpu, signal));
        Set(meant.fold(0, |set, (cpu, _)| set | 1 << cpu))
    }
}

impl Default for Signals {
    fn default() -> Self {
        Self::new()
    }
}

/// Most of the time there is nothing, and no write is needed to see that.
fn take(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Acquire) && flag.swap(false, Ordering::AcqRel)
}

#[cfg(test)]
mod tests;
