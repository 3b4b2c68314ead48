//! The x86 vCPU of the run loop: one of slat-x86's, of either vendor, with the answers that do not need the guest's memory.
//!
//! Everything that a guest can provoke has a case here. What the physical CPU has to do is behind [`Hardware`], so
//! that the rest is tested on every host.

mod local_apic;
mod registers;

use super::apic::{Registers, Signals};
use super::linux;
use super::ports::{self, Action};
use crate::cpus::Cpus;
use crate::debug_port::DebugPort;
use crate::requests;
use crate::vcpu::{BufferAnswer, Event, Exit, Vcpu};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use slat::device::DataAccess;
use slat::{
    GuestPageWalkInfo, GuestPhysAddr, GuestVirtAddr, InstructionBytes, MappingFlags, NestedPageFaultInfo,
};
use slat_hv_protocol::FaultCost;
use slat_x86::answer::{self, Answer};
use slat_x86::cpuid::Policy;
use slat_x86::{
    CpuState, Exit as Cause, General, NestedPageFault, PortAccess, RunError, SegmentName, TableRegister,
};

/// What a vCPU needs of the physical CPU that it runs on.
pub trait Hardware<V>: answer::Machine + Registers {
    /// The CPU is about to enter the guest: whether it has to forget what it remembers of the space.
    fn enter(&self, cpu: usize) -> bool;
    /// It has left the guest.
    fn leave(&self, cpu: usize);
    /// A fault of the guest, for the recording.
    fn faulted(&self, info: &NestedPageFaultInfo);
    /// The bytes of the guest's instruction at `address`, if its memory is there; `user` says that the guest runs in user mode.
    fn instruction(
        &self,
        paging: &GuestPageWalkInfo,
        address: GuestVirtAddr,
        user: bool,
    ) -> Option<InstructionBytes>;
    /// The time-stamp counter.
    fn ticks(&self) -> u64;
    /// Carries out an access to a port; `rax` is what the guest has there, the result what it has afterwards.
    fn pass(&self, access: &PortAccess, rax: u64) -> u64;
    /// Empties the page-modification log; how many entries it had.
    fn drain_log(&self, vcpu: &mut V) -> u64;
    /// Waits for an interrupt.
    fn wait(&self);
}

/// What a vCPU is made of.
pub struct Config<V, H> {
    /// The vendor's, unbound.
    pub vcpu: V,
    /// Where it runs.
    pub hardware: H,
    /// The CPUs of the guest.
    pub cpus: &'static Cpus,
    /// What they have to tell each other.
    pub signals: &'static Signals,
    /// What is hidden from the guest.
    pub policy: Policy,
    /// Whether the guest may ask for changes of its pages.
    pub requests: bool,
    /// A mistake on purpose: an event whose delivery a fault interrupted is forgotten.
    pub no_redelivery: bool,
}

/// Exits by what they are for, in the order of [`kind`].
const KINDS: [&str; 16] = [
    "nested page fault",
    "page-modification log full",
    "CPUID",
    "HLT",
    "hypercall",
    "RDMSR",
    "WRMSR",
    "port",
    "control register",
    "XSETBV",
    "interrupt",
    "NMI",
    "shutdown",
    "refused instruction",
    "other",
    "store to the local APIC",
];

/// A nested page fault, and what it counts as if it is a store to the local APIC.
const FAULT: usize = 0;
const STORE: usize = 15;

fn kind(cause: &Cause) -> usize {
    match cause {
        Cause::NestedPageFault(_) => FAULT,
        Cause::ModificationLogFull => 1,
        Cause::Cpuid => 2,
        Cause::Halt => 3,
        Cause::Hypercall => 4,
        Cause::ReadMsr(_) => 5,
        Cause::WriteMsr { .. } => 6,
        Cause::Port(_) => 7,
        Cause::Control(_) => 8,
        Cause::Xsetbv { .. } => 9,
        Cause::ExternalInterrupt(_) | Cause::InterruptWindow | Cause::NmiWindow => 10,
        Cause::Nmi => 11,
        Cause::Shutdown => 12,
        Cause::Refused => 13,
        Cause::Misconfiguration(_)
        | Cause::Pause
        | Cause::Exception { .. }
        | Cause::Init
        | Cause::StartUp(_)
        | Cause::Other { .. } => 14,
    }
}

/// The privilege level of the CPU, which is that in the descriptor of SS.
fn privilege(state: &CpuState) -> u32 {
    state.segment(SegmentName::Ss).rights >> 5 & 3
}

/// Whether an exit came before the instruction at which the guest stands, with nothing else to be delivered first.
fn is_before_instruction(cause: &Cause) -> bool {
    match cause {
        Cause::Nmi => true,
        Cause::NestedPageFault(fault) => {
            fault.info.access.contains(MappingFlags::EXECUTE) && fault.interrupted.is_none()
        }
        _ => false,
    }
}

/// The bytes of the instruction at which the guest stands, if its memory is there.
fn current_instruction<V: slat_x86::Vcpu>(vcpu: &V, hardware: &impl Hardware<V>) -> Option<InstructionBytes> {
    let state = vcpu.state().ok()?;
    let address = state.segment(SegmentName::Cs).base.wrapping_add(state.rip);
    hardware.instruction(&vcpu.paging(), GuestVirtAddr::new(address), privilege(&state) == 3)
}

/// A vCPU.
pub struct X86Vcpu<V, H> {
    id: usize,
    config: Config<V, H>,
    root: u64,
    /// The state in which it begins, until it is bound for the first time.
    begin: Option<CpuState>,
    /// Why it cannot run.
    failure: Option<String>,
    debug: DebugPort,
    kinds: [u64; KINDS.len()],
    cost: FaultCost,
    /// When the guest left for a fault, until it is entered again.
    fault_since: Option<u64>,
    begun: Option<u64>,
    logged: u64,
    /// The upper half of the next command of the local APIC.
    command_high: u32,
    /// The last exit came before the instruction at which the guest stands, and not from it.
    kicked: bool,
}

impl<V: slat_x86::Vcpu, H: Hardware<V>> X86Vcpu<V, H> {
    /// Exits until now, by what they were for.
    pub fn exits_by_kind(&self) -> BTreeMap<String, u64> {
        let kinds = KINDS.into_iter().zip(self.kinds);
        kinds.filter(|(_, count)| *count != 0).map(|(name, count)| (name.to_string(), count)).collect()
    }

    /// What faults have cost until now.
    pub fn fault_cost(&self) -> FaultCost {
        let run_ticks = self.begun.map_or(0, |begun| self.config.hardware.ticks().wrapping_sub(begun));
        FaultCost { run_ticks, ..self.cost }
    }

    /// Entries of the page-modification log until now; the vCPU is unbound.
    pub fn logged(&self) -> u64 {
        self.logged
    }

    /// It begins in real mode at this address below 1 MiB, a multiple of 4 KiB, as after a start-up IPI.
    pub fn start_up(&mut self, root: u64, address: u64) {
        self.root = root;
        self.begin = Some(CpuState::real_mode((address >> 4) as u16, 0));
        self.command_high = 0;
        // What came while it was off came for nobody.
        self.config.signals.take_nmi(self.id);
    }

    fn general(&self, register: General) -> u64 {
        self.config.vcpu.general().get(register)
    }

    fn set_general(&mut self, register: General, value: u64) {
        self.config.vcpu.general_mut().set(register, value);
    }

    /// Remembers the first reason for which it cannot run.
    fn must(&mut self, result: Result<(), RunError>) {
        if let Err(error) = result {
            self.failure.get_or_insert_with(|| error.to_string());
        }
    }

    fn enter(&mut self) -> Result<Cause, RunError> {
        let Config { vcpu, hardware, signals, .. } = &mut self.config;
        let flush = hardware.enter(self.id);
        if signals.take_nmi(self.id) {
            vcpu.inject(slat_x86::Event::Nmi)?;
        }
        if let Some(since) = self.fault_since.take() {
            self.cost.ticks += hardware.ticks().wrapping_sub(since);
            self.cost.faults += 1;
        } else if self.begun.is_none() {
            self.begun = Some(hardware.ticks());
        }
        let cause = vcpu.run(flush);
        if matches!(cause, Ok(Cause::NestedPageFault(_))) {
            self.fault_since = Some(hardware.ticks());
        }
        hardware.leave(self.id);
        cause
    }

    /// Where the CPU does not say how long an instruction is, its bytes do. If they cannot be had it counts as one without
    /// prefixes.
    fn fetch(&mut self) {
        let Config { vcpu, hardware, .. } = &mut self.config;
        if !vcpu.needs_instruction() {
            return;
        }
        if let Some(bytes) = current_instruction(vcpu, hardware) {
            vcpu.set_instruction(bytes);
        }
    }

    /// A guest that was kicked out between STI and HLT goes on behind the HLT, as if it had been woken up there: not every CPU
    /// keeps interrupts away once more ([`is_in_interrupt_shadow`](slat_x86::Vcpu::is_in_interrupt_shadow)), and one that comes
    /// before the HLT may be the last for which the guest would wake up.
    fn leave_halt(&mut self) {
        const HALT: u8 = 0xf4;
        let Config { vcpu, hardware, .. } = &mut self.config;
        if !core::mem::take(&mut self.kicked) || !vcpu.is_in_interrupt_shadow() {
            return;
        }
        let bytes = current_instruction(vcpu, hardware);
        if bytes.is_some_and(|bytes| bytes.as_slice().first() == Some(&HALT)) {
            vcpu.set_rip(vcpu.rip().wrapping_add(1));
        }
    }

    fn fault(&mut self, fault: &NestedPageFault) -> Exit {
        self.config.hardware.faulted(&fault.info);
        if local_apic::is_store(fault) {
            return self.store(&fault.info);
        }
        if self.config.no_redelivery && fault.interrupted.is_some() {
            self.config.vcpu.take_interrupted();
        }
        Exit::NestedPageFault(fault.info)
    }

    fn hypercall(&mut self) -> Exit {
        match self.config.vcpu.state() {
            Ok(state) if privilege(&state) == 0 => {}
            // A program of the guest's has no business with its physical addresses.
            Ok(_) => {
                self.inject(Event::UndefinedInstruction);
                return Exit::Refused;
            }
            Err(error) => return Exit::Unsupported(error.to_string()),
        }
        self.config.vcpu.advance();
        let rax = self.general(General::Rax);
        let [rbx, rcx] = [General::Rbx, General::Rcx].map(|register| self.general(register));
        if let Some(request) = requests::decode(rax).filter(|_| self.config.requests) {
            return Exit::Request(request, GuestPhysAddr::new(rbx));
        }
        if let Some(call) = requests::decode_buffer(rax) {
            return Exit::Buffer(call, GuestPhysAddr::new(rbx), rcx);
        }
        self.set_general(General::Rax, requests::UNKNOWN);
        Exit::Answered
    }

    fn port(&mut self, access: &PortAccess) -> Exit {
        let rax = self.general(General::Rax);
        let action = ports::action(access, rax);
        if action == Action::String {
            return Exit::Unsupported(format!("a string instruction at port {:#x}", access.port.0));
        }
        self.config.vcpu.advance();
        match action {
            Action::PowerOff => return Exit::PowerOff,
            Action::Reset => return Exit::Reset,
            Action::DebugWrite(byte) => {
                if let Some(command) = self.debug.write(byte) {
                    return Exit::Debug(command);
                }
            }
            Action::DebugRead => {
                let byte = self.debug.read();
                self.set_general(General::Rax, ports::merged(access, rax, byte.into()));
            }
            Action::Ignore => self.set_general(General::Rax, ports::merged(access, rax, u64::MAX)),
            Action::Pass => {
                let rax = self.config.hardware.pass(access, rax);
                self.set_general(General::Rax, rax);
            }
            Action::String => {}
        }
        Exit::Answered
    }

    /// What [`answer`](answer::answer) has left open.
    fn open(&mut self, cause: &Cause) -> Exit {
        match cause {
            Cause::NestedPageFault(fault) => self.fault(fault),
            Cause::ModificationLogFull => {
                self.logged += self.config.hardware.drain_log(&mut self.config.vcpu);
                Exit::Answered
            }
            Cause::Halt => {
                self.config.vcpu.advance();
                Exit::Wait
            }
            Cause::Hypercall => self.hypercall(),
            Cause::Port(access) => self.port(access),
            // That it has left is all that was wanted.
            Cause::Nmi => Exit::Kicked,
            Cause::ExternalInterrupt(_) | Cause::InterruptWindow | Cause::NmiWindow | Cause::Pause => {
                Exit::Answered
            }
            // Without an answer to its exceptions a PC resets itself.
            Cause::Shutdown => Exit::Reset,
            Cause::Misconfiguration(gpa) => {
                Exit::Unsupported(format!("EPT misconfiguration of GPA {gpa:#x}"))
            }
            Cause::Exception { vector, .. } => Exit::Unsupported(format!("exception {vector}")),
            Cause::Init => Exit::Unsupported("INIT of the guest's own CPU".to_string()),
            Cause::StartUp(vector) => Exit::Unsupported(format!("start-up IPI {vector:#x}")),
            Cause::Other { code, information } => {
                Exit::Unsupported(format!("exit {code:#x} (information {information:#x})"))
            }
            Cause::Cpuid
            | Cause::ReadMsr(_)
            | Cause::WriteMsr { .. }
            | Cause::Control(_)
            | Cause::Xsetbv { .. }
            | Cause::Refused => Exit::Refused,
        }
    }
}

impl<V: slat_x86::Vcpu, H: Hardware<V>> Vcpu for X86Vcpu<V, H> {
    type Config = Config<V, H>;
    /// The root register.
    type Root = u64;

    fn new(id: usize, config: Self::Config) -> Self {
        Self {
            id,
            config,
            root: 0,
            begin: None,
            failure: None,
            debug: DebugPort::default(),
            kinds: [0; KINDS.len()],
            cost: FaultCost::default(),
            fault_since: None,
            begun: None,
            logged: 0,
            command_high: 0,
            kicked: false,
        }
    }

    /// As Linux' 32-bit boot protocol has it: protected mode without paging, `argument` in RSI.
    fn set_entry(&mut self, entry: GuestPhysAddr, argument: u64) {
        // An entry beyond 4 GiB is in no guest's RAM.
        let mut state = CpuState::protected_mode(u32::try_from(entry.as_u64()).unwrap_or(u32::MAX));
        state.gdtr = TableRegister { base: linux::GDT, limit: size_of_val(&linux::SEGMENTS) as u16 - 1 };
        state.general.set(General::Rsi, argument);
        self.begin = Some(state);
    }

    fn set_root(&mut self, root: u64) {
        self.root = root;
    }

    fn bind(&mut self) {
        if let Err(error) = self.config.vcpu.bind(self.id) {
            self.failure.get_or_insert_with(|| error.to_string());
            return;
        }
        let rooted = self.config.vcpu.set_root(self.root);
        self.must(rooted);
        if let Some(state) = self.begin.take() {
            let set = self.config.vcpu.set_state(&state);
            self.must(set);
        }
    }

    fn unbind(&mut self) {
        if self.config.vcpu.bound_to().is_some() {
            self.logged += self.config.hardware.drain_log(&mut self.config.vcpu);
        }
        self.config.vcpu.unbind();
    }

    fn run(&mut self) -> Exit {
        if let Some(failure) = &self.failure {
            return Exit::Unsupported(failure.clone());
        }
        if self.config.signals.take_init(self.id) && self.config.cpus.stop(self.id) {
            return Exit::CpuOff;
        }
        // Before it counts as inside: whoever waits for it to leave may hold the space.
        self.leave_halt();
        let cause = match self.enter() {
            Ok(cause) => cause,
            Err(error) => return Exit::Unsupported(error.to_string()),
        };
        self.kinds[kind(&cause)] += 1;
        self.kicked = is_before_instruction(&cause);
        self.fetch();
        let Config { vcpu, hardware, policy, .. } = &mut self.config;
        match answer::answer(vcpu, &cause, *policy, hardware) {
            Answer::Done => Exit::Answered,
            Answer::Exception => Exit::Refused,
            Answer::Open => self.open(&cause),
        }
    }

    fn program_counter(&self) -> u64 {
        self.config.vcpu.rip()
    }

    fn register(&self, index: usize) -> Option<u64> {
        General::ALL.get(index).map(|register| self.general(*register))
    }

    fn set_register(&mut self, index: usize, value: u64) {
        if let Some(register) = General::ALL.get(index) {
            self.set_general(*register, value);
        }
    }

    fn write_registers(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        match self.config.vcpu.state() {
            Ok(state) => registers::write(&state, self.root, out),
            Err(error) => writeln!(out, "{error}"),
        }
    }

    /// No x86 CPU decodes the instruction.
    fn data_access(&self) -> Option<DataAccess> {
        None
    }

    fn advance(&mut self) {
        self.config.vcpu.advance();
    }

    fn wait(&mut self) {
        self.config.hardware.wait();
    }

    fn answer_request(&mut self, done: bool) {
        self.set_general(General::Rax, requests::answer(done));
    }

    fn answer_buffer_call(&mut self, answer: BufferAnswer) {
        self.set_general(General::Rax, requests::status(answer.status));
        self.set_general(General::Rbx, answer.done);
    }

    fn answer_debug(&mut self, text: String) {
        self.debug.answer(text);
    }

    /// An access that nobody answers is a general protection exception: x86 has no bus error of its own.
    fn inject(&mut self, event: Event) {
        let event = match event {
            Event::AccessFailed => slat_x86::Event::GENERAL_PROTECTION,
            Event::UndefinedInstruction => slat_x86::Event::UNDEFINED,
        };
        let injected = self.config.vcpu.inject(event);
        self.must(injected);
    }
}

#[cfg(test)]
mod tests;
