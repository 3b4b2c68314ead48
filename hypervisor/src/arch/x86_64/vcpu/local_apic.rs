//! Stores to the local APIC, which the guest may only read by itself.

use super::{FAULT, Hardware, STORE, X86Vcpu, privilege};
use crate::arch::x86_64::apic::{self, Command, Write};
use crate::arch::x86_64::instruction::{self, Mode, Source, Store};
use crate::arch::x86_64::platform::LOCAL_APIC;
use crate::cpus::{Entry, Power};
use crate::vcpu::Exit;
use alloc::format;
use core::hint::spin_loop;
use slat::{FaultCause, GuestVirtAddr, InstructionBytes, MappingFlags, NestedPageFaultInfo};
use slat_x86::{CpuState, NestedPageFault, SegmentName};

/// Looks at another CPU before it is taken for lost: seconds on any machine.
const PATIENCE: u64 = 100_000_000;
/// Looks between two kicks: one can come too early.
const KICK_AGAIN: u64 = 10_000;

/// IA32_EFER.LMA.
const LONG_MODE: u64 = 1 << 10;

/// Whether an instruction of the guest's wanted to write to the local APIC. Its table and its stack are not to lie there.
pub(super) fn is_store(fault: &NestedPageFault) -> bool {
    let NestedPageFaultInfo { gpa, access, cause, walk, .. } = fault.info;
    gpa.as_u64().wrapping_sub(LOCAL_APIC.address) < LOCAL_APIC.size
        && access.contains(MappingFlags::WRITE)
        && cause == FaultCause::Permission
        && !walk
        && fault.interrupted.is_none()
}

impl<V: slat_x86::Vcpu, H: Hardware<V>> X86Vcpu<V, H> {
    /// Carries out the store that led to the last exit.
    pub(super) fn store(&mut self, info: &NestedPageFaultInfo) -> Exit {
        self.kinds[FAULT] -= 1;
        self.kinds[STORE] += 1;
        // No fault that the space would have to answer.
        self.fault_since = None;
        let state = match self.config.vcpu.state() {
            Ok(state) => state,
            Err(error) => return Exit::Unsupported(format!("{error}")),
        };
        let long = state.efer & LONG_MODE != 0;
        let mode = Mode::of(state.segment(SegmentName::Cs).rights, long);
        // The page of the code may be gone by now: executed again, the instruction gets it back.
        let Some(bytes) = self.bytes(&state, mode) else { return Exit::RepeatAccess };
        let Some(Store { source, length }) = instruction::decode(bytes.as_slice(), mode) else {
            return Exit::Unsupported(format!("{info} (local APIC) by {bytes:?}"));
        };
        let offset = info.gpa.as_u64() - LOCAL_APIC.address;
        let value = match source {
            Source::Immediate(value) => value,
            Source::Register(register) | Source::Exchange(register) => self.general(register) as u32,
        };
        if let Source::Exchange(register) = source {
            // Reading has no effect, wherever it is.
            let before = self.config.hardware.read(offset & !3);
            self.set_general(register, before.into());
        }
        let next = state.rip.wrapping_add(length.into());
        self.config.vcpu.set_rip(if mode == Mode::Bits64 { next } else { next & 0xffff_ffff });
        self.write_register(offset, value)
    }

    fn bytes(&self, state: &CpuState, mode: Mode) -> Option<InstructionBytes> {
        let base = if mode == Mode::Bits64 { 0 } else { state.segment(SegmentName::Cs).base };
        let address = base.wrapping_add(state.rip);
        let address = if mode == Mode::Bits64 { address } else { address & 0xffff_ffff };
        let vcpu = &self.config.vcpu;
        vcpu.instruction_bytes().or_else(|| {
            let user = privilege(state) == 3;
            self.config.hardware.instruction(&vcpu.paging(), GuestVirtAddr::new(address), user)
        })
    }

    fn write_register(&mut self, offset: u64, value: u32) -> Exit {
        match apic::write(offset, value) {
            Write::Pass(value) => {
                self.config.signals.note(self.id, offset, value);
                self.config.hardware.write(offset, value);
            }
            Write::CommandHigh(value) => self.command_high = value,
            Write::Command(low) => return self.command(low),
            Write::Ignore => {}
        }
        Exit::Answered
    }

    fn command(&mut self, low: u32) -> Exit {
        let (cpus, signals, hardware) = (self.config.cpus, self.config.signals, &self.config.hardware);
        let is_on = |cpu: &usize| cpus.power(*cpu) == Some(Power::On);
        match signals.command(self.id, self.command_high, low, cpus.count()) {
            Command::Forward => hardware.send(self.command_high, low),
            Command::Nmi(set) => {
                set.cpus().filter(is_on).for_each(|cpu| signals.put_nmi(cpu));
                hardware.interrupt_others(self.id);
            }
            Command::Init(set) => {
                for cpu in set.cpus() {
                    // The first one would begin with the firmware, as after a reset.
                    if cpu == 0 {
                        return Exit::Reset;
                    }
                    if cpu == self.id {
                        return if cpus.stop(cpu) { Exit::CpuOff } else { Exit::Reset };
                    }
                    if cpus.power(cpu) != Some(Power::Off) {
                        signals.put_init(cpu);
                        self.kick_until(cpu, || cpus.power(cpu) == Some(Power::Off));
                    }
                }
            }
            Command::StartUp(set, page) => {
                for cpu in set.cpus() {
                    // One that is on does not care.
                    let entry = Entry { address: u64::from(page) << 12, argument: 0 };
                    if cpus.start(cpu, entry).is_ok() {
                        self.kick_until(cpu, || cpus.power(cpu) != Some(Power::Pending));
                    }
                }
            }
            Command::Nothing => {}
        }
        Exit::Answered
    }

    /// Kicks `cpu` until it has got where it is to be, or the run ends. It needs nothing of this one for that.
    fn kick_until(&self, cpu: usize, is_there: impl Fn() -> bool) {
        for look in 0..PATIENCE {
            if is_there() || self.config.cpus.is_ending() {
                return;
            }
            if look % KICK_AGAIN == 0 {
                self.config.hardware.kick(cpu);
            }
            spin_loop();
        }
    }
}
