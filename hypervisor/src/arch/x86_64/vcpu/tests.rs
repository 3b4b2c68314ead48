mod local_apic;

use super::*;
use crate::monitor::Command;
use crate::vcpu::{BufferCall, BufferError, Request};
use core::cell::{Cell, RefCell};
use slat::device::{AccessWidth, Port};
use slat::{FaultCause, MappingFlags};
use slat_x86::cpuid::Leaf;
use slat_x86::{BindError, Control, Event as Delivered, GeneralRegisters, PortDirection};
use std::boxed::Box;
use std::vec::Vec;

/// A vCPU whose exits are known in advance.
#[derive(Default)]
struct Double {
    general: GeneralRegisters,
    state: Option<CpuState>,
    bound: Option<usize>,
    refuses: bool,
    root: u64,
    exits: Vec<Cause>,
    flushes: Vec<bool>,
    advanced: u64,
    states_set: u64,
    forgotten: u64,
    injected: Vec<Delivered>,
    needs: bool,
    instruction: Option<InstructionBytes>,
    shadow: bool,
}

impl slat_x86::Vcpu for Double {
    fn bind(&mut self, cpu: usize) -> Result<(), BindError> {
        if self.refuses {
            return Err(BindError::Off(cpu));
        }
        self.bound = Some(cpu);
        Ok(())
    }
    fn unbind(&mut self) {
        self.bound = None;
    }
    fn bound_to(&self) -> Option<usize> {
        self.bound
    }
    fn set_root(&mut self, root: u64) -> Result<(), RunError> {
        self.root = root;
        Ok(())
    }
    fn state(&self) -> Result<CpuState, RunError> {
        self.state.ok_or(RunError::NotBound)
    }
    fn set_state(&mut self, state: &CpuState) -> Result<(), RunError> {
        self.states_set += 1;
        self.state = Some(*state);
        self.general = state.general;
        Ok(())
    }
    fn general(&self) -> &GeneralRegisters {
        &self.general
    }
    fn general_mut(&mut self) -> &mut GeneralRegisters {
        &mut self.general
    }
    fn rip(&self) -> u64 {
        self.state.map_or(0, |state| state.rip)
    }
    fn set_rip(&mut self, rip: u64) {
        if let Some(state) = &mut self.state {
            state.rip = rip;
        }
    }
    fn advance(&mut self) {
        self.advanced += 1;
    }
    fn needs_instruction(&self) -> bool {
        self.needs
    }
    fn set_instruction(&mut self, bytes: InstructionBytes) {
        self.instruction = Some(bytes);
    }
    fn run(&mut self, flush: bool) -> Result<Cause, RunError> {
        assert!(self.bound.is_some());
        self.flushes.push(flush);
        self.exits.pop().ok_or(RunError::NoRoot)
    }
    fn inject(&mut self, event: Delivered) -> Result<(), RunError> {
        event.check(true)?;
        self.injected.push(event);
        Ok(())
    }
    fn take_interrupted(&mut self) -> Option<Delivered> {
        self.forgotten += 1;
        None
    }
    fn takes_interrupts(&self) -> bool {
        true
    }
    fn is_in_interrupt_shadow(&self) -> bool {
        self.shadow
    }
    fn set_interrupt_window(&mut self, _: bool) {}
    fn set_nmi_window(&mut self, _: bool) {}
    fn set_control(&mut self, _: Control, value: u64) -> bool {
        value != 0
    }
    fn control(&self, _: Control) -> u64 {
        1
    }
    fn xcr0(&self) -> u64 {
        1
    }
    fn set_xcr0(&mut self, _: u64) {}
    fn paging(&self) -> GuestPageWalkInfo {
        GuestPageWalkInfo::x86(0, 0, 0, 0, 0)
    }
    fn instruction_bytes(&self) -> Option<InstructionBytes> {
        None
    }
}

/// A CPU on which an exit takes 100 ticks more each time.
#[derive(Default)]
struct Bench {
    flush: Cell<bool>,
    inside: Cell<bool>,
    ticks: Cell<u64>,
    passed: RefCell<Vec<(u16, u64)>>,
    faults: Cell<u64>,
    asked: Cell<Option<(GuestVirtAddr, bool)>>,
    /// What is fetched; CPUID if nothing was put here.
    code: RefCell<Option<Vec<u8>>>,
    apic: local_apic::Log,
}

impl answer::Machine for &Bench {
    fn cpuid(&self, leaf: u32, _: u32) -> Leaf {
        Leaf { eax: leaf ^ 0xff, ..Leaf::default() }
    }
    fn read_msr(&self, _: u32) -> Option<u64> {
        None
    }
}

impl Hardware<Double> for &Bench {
    fn enter(&self, cpu: usize) -> bool {
        assert!(cpu == 0 && !self.inside.replace(true));
        self.flush.take()
    }
    fn leave(&self, _: usize) {
        assert!(self.inside.replace(false));
    }
    fn faulted(&self, _: &NestedPageFaultInfo) {
        self.faults.set(self.faults.get() + 1);
    }
    fn instruction(
        &self,
        _: &GuestPageWalkInfo,
        address: GuestVirtAddr,
        user: bool,
    ) -> Option<InstructionBytes> {
        self.asked.set(Some((address, user)));
        InstructionBytes::from_slice(self.code.borrow().as_deref().unwrap_or(&[0x0f, 0xa2]))
    }
    fn ticks(&self) -> u64 {
        self.ticks.set(self.ticks.get() + 100);
        self.ticks.get()
    }
    fn pass(&self, access: &PortAccess, rax: u64) -> u64 {
        self.passed.borrow_mut().push((access.port.0, rax));
        0x77
    }
    fn drain_log(&self, vcpu: &mut Double) -> u64 {
        assert!(vcpu.bound.is_some());
        10
    }
    fn wait(&self) {}
}

type Tested<'b> = X86Vcpu<Double, &'b Bench>;

fn config(bench: &Bench) -> Config<Double, &Bench> {
    let cpus = Box::leak(Box::new(Cpus::new(2, 0..16 << 20, |_| true)));
    Config {
        vcpu: Double::default(),
        hardware: bench,
        cpus,
        signals: Box::leak(Box::default()),
        policy: Policy::default(),
        requests: false,
        no_redelivery: false,
    }
}

/// A bound vCPU with these exits before it.
fn vcpu(bench: &Bench, exits: impl IntoIterator<Item = Cause>) -> Tested<'_> {
    let mut vcpu = Tested::new(0, config(bench));
    vcpu.config.vcpu.exits = exits.into_iter().collect();
    vcpu.config.vcpu.exits.reverse();
    vcpu.setup(0x5000, GuestPhysAddr::new(0x10_0000), 0x7000);
    vcpu.bind();
    vcpu
}

fn fault(interrupted: Option<Delivered>) -> Cause {
    let info = NestedPageFaultInfo {
        gpa: GuestPhysAddr::new(0x1234_5000),
        gva: None,
        access: MappingFlags::WRITE,
        cause: FaultCause::NotPresent,
        walk: false,
        width: None,
    };
    Cause::NestedPageFault(NestedPageFault {
        info,
        granted: MappingFlags::empty(),
        read_and_write: false,
        nmi_unblocked: false,
        interrupted,
    })
}

fn port(port: u16, direction: PortDirection) -> Cause {
    let width = AccessWidth::Byte;
    Cause::Port(PortAccess { port: Port(port), width, direction, string: false, repeat: false })
}

#[test]
fn it_begins_as_the_boot_protocol_has_it() {
    let bench = Bench::default();
    let vcpu = vcpu(&bench, []);
    let Double { state: Some(state), root, bound, .. } = &vcpu.config.vcpu else { panic!("no state") };
    assert_eq!((*root, *bound, state.rip, state.cr0 & 0x8000_0001), (0x5000, Some(0), 0x10_0000, 1));
    assert_eq!(state.general.get(General::Rsi), 0x7000);
    assert_eq!((state.gdtr.base, state.gdtr.limit), (linux::GDT, 31));
    assert_eq!(
        (state.segment(SegmentName::Cs).selector, state.segment(SegmentName::Ds).selector),
        (0x10, 0x18)
    );
}

#[test]
fn bound_again_it_goes_on_where_it_was() {
    let bench = Bench::default();
    let mut vcpu = vcpu(&bench, [Cause::Nmi, Cause::Nmi]);
    assert!(matches!(vcpu.run(), Exit::Kicked));
    vcpu.unbind();
    vcpu.unbind();
    vcpu.bind();
    assert!(matches!(vcpu.run(), Exit::Kicked));
    assert_eq!((vcpu.config.vcpu.states_set, vcpu.logged()), (1, 10));
}

#[test]
fn each_exit_has_its_answer_and_its_count() {
    let bench = Bench::default();
    let gpa = GuestPhysAddr::new(0x3000);
    let (code, information) = (77, 5);
    let exits = [
        fault(None),
        Cause::Cpuid,
        Cause::Halt,
        Cause::Nmi,
        Cause::ModificationLogFull,
        Cause::ReadMsr(0x1234_5678),
        Cause::Refused,
        Cause::Misconfiguration(gpa),
        Cause::Init,
        Cause::Other { code, information },
        Cause::Shutdown,
    ];
    let mut vcpu = vcpu(&bench, exits);
    let answers: Vec<_> = exits.iter().map(|_| std::format!("{:?}", vcpu.run())).collect();
    assert!(answers[0].contains("0x12345000") || answers[0].contains("NestedPageFault"), "{answers:?}");
    assert_eq!(answers[1..7], ["Answered", "Wait", "Kicked", "Answered", "Refused", "Refused"]);
    assert_eq!(answers[7], "Unsupported(\"EPT misconfiguration of GPA 0x3000\")");
    assert_eq!(answers[9], "Unsupported(\"exit 0x4d (information 0x5)\")");
    assert_eq!(answers[10], "Reset");
    assert_eq!(vcpu.config.vcpu.injected, [Delivered::GENERAL_PROTECTION, Delivered::UNDEFINED]);
    assert_eq!((vcpu.config.vcpu.advanced, bench.faults.get(), vcpu.logged()), (2, 1, 10));
    let kinds = vcpu.exits_by_kind();
    assert_eq!((kinds["other"], kinds["CPUID"], kinds["RDMSR"], kinds.get("port")), (3, 1, 1, None));
    assert_eq!(kinds.values().sum::<u64>(), exits.len() as u64);
    // What cannot be entered is said, and said again.
    assert!(matches!(vcpu.run(), Exit::Unsupported(_)));
}

#[test]
fn every_kind_has_a_name_of_its_own() {
    let access = PortAccess {
        port: Port(0),
        width: AccessWidth::Byte,
        direction: PortDirection::In,
        string: false,
        repeat: false,
    };
    let causes = [
        fault(None),
        Cause::ModificationLogFull,
        Cause::Cpuid,
        Cause::Halt,
        Cause::Hypercall,
        Cause::ReadMsr(0),
        Cause::WriteMsr { index: 0, value: 0 },
        Cause::Port(access),
        Cause::Control(slat_x86::ControlAccess::ClearTaskSwitched),
        Cause::Xsetbv { index: 0, value: 0 },
        Cause::ExternalInterrupt(None),
        Cause::Nmi,
        Cause::Shutdown,
        Cause::Refused,
        Cause::Pause,
    ];
    assert_eq!(causes.map(|cause| kind(&cause)), core::array::from_fn::<_, 15, _>(|index| index));
}

#[test]
fn a_vcpu_that_cannot_be_bound_says_why() {
    let bench = Bench::default();
    let mut vcpu = Tested::new(0, config(&bench));
    vcpu.config.vcpu.refuses = true;
    vcpu.bind();
    let Exit::Unsupported(what) = vcpu.run() else { panic!("it runs") };
    assert_eq!(what, "CPU 0 has not turned virtualization on");
    vcpu.unbind();
    assert_eq!(vcpu.logged(), 0);
}

#[test]
fn a_flush_that_is_owed_is_asked_for_once() {
    let bench = Bench::default();
    bench.flush.set(true);
    let mut vcpu = vcpu(&bench, [Cause::Nmi, Cause::Nmi]);
    vcpu.run();
    vcpu.run();
    assert_eq!(vcpu.config.vcpu.flushes, [true, false]);
}

#[test]
fn only_faults_cost_and_only_from_exit_to_entry() {
    let bench = Bench::default();
    let mut vcpu = vcpu(&bench, [Cause::Nmi, fault(None), Cause::Nmi, fault(None), fault(None)]);
    assert_eq!(vcpu.fault_cost(), FaultCost::default());
    (0..5).for_each(|_| drop(vcpu.run()));
    // Begun at 100; faults at 200, 400 and 600, each entered again a tick later, but for the last one.
    assert_eq!(vcpu.fault_cost(), FaultCost { faults: 2, ticks: 200, run_ticks: 600 });
}

#[test]
fn what_a_fault_interrupted_is_forgotten_only_on_purpose() {
    for no_redelivery in [false, true] {
        let bench = Bench::default();
        let mut vcpu = vcpu(&bench, [fault(None), fault(Some(Delivered::ExternalInterrupt(0x30)))]);
        vcpu.config.no_redelivery = no_redelivery;
        assert!(matches!(vcpu.run(), Exit::NestedPageFault(_)));
        assert!(matches!(vcpu.run(), Exit::NestedPageFault(_)));
        assert_eq!(vcpu.config.vcpu.forgotten, u64::from(no_redelivery));
    }
}

#[test]
fn ports_are_passed_answered_or_the_end() {
    use PortDirection::{In, Out};
    let bench = Bench::default();
    let exits =
        [port(0x64, In), port(0xe9, Out), port(0xe9, In), port(0xf4, In), port(0x64, Out), port(0x92, Out)];
    let mut vcpu = vcpu(&bench, exits);
    vcpu.set_general(General::Rax, 0x1_0000_1100);
    assert!(matches!(vcpu.run(), Exit::Answered));
    assert_eq!((bench.passed.take(), vcpu.general(General::Rax)), (std::vec![(0x64, 0x1_0000_1100)], 0x77));
    vcpu.set_general(General::Rax, b'\n'.into());
    assert!(matches!(vcpu.run(), Exit::Debug(Command::Unknown)));
    vcpu.answer_debug("x".to_string());
    assert!(matches!(vcpu.run(), Exit::Answered));
    assert_eq!(vcpu.general(General::Rax), u64::from(b'x'));
    assert!(matches!(vcpu.run(), Exit::Answered));
    assert_eq!(vcpu.general(General::Rax), 0xff);
    vcpu.set_general(General::Rax, 0xfe);
    assert!(matches!(vcpu.run(), Exit::Reset));
    vcpu.set_general(General::Rax, 0x2);
    assert!(matches!(vcpu.run(), Exit::Answered));
    assert_eq!((bench.passed.take().len(), vcpu.config.vcpu.advanced), (1, 6));
}

#[test]
fn a_string_instruction_at_such_a_port_ends_the_run() {
    let bench = Bench::default();
    let Cause::Port(access) = port(0x64, PortDirection::Out) else { panic!("a port") };
    let mut vcpu = vcpu(&bench, [Cause::Port(PortAccess { string: true, ..access })]);
    assert!(matches!(vcpu.run(), Exit::Unsupported(what) if what.contains("0x64")));
    assert_eq!(vcpu.config.vcpu.advanced, 0);
}

#[test]
fn hypercalls_are_the_kernels_only() {
    let bench = Bench::default();
    let mut vcpu = vcpu(&bench, [Cause::Hypercall; 5]);
    let call = |vcpu: &mut Tested<'_>, rax: u32| {
        vcpu.set_general(General::Rax, rax.into());
        vcpu.set_general(General::Rbx, 0x8000);
        vcpu.set_general(General::Rcx, 12);
        vcpu.run()
    };
    let gpa = GuestPhysAddr::new(0x8000);
    let exit = call(&mut vcpu, requests::PRINT);
    assert!(matches!(exit, Exit::Buffer(BufferCall::Print, address, 12) if address == gpa));
    vcpu.answer_buffer_call(BufferAnswer { done: 5, status: Err(BufferError::Denied) });
    assert_eq!([General::Rax, General::Rbx].map(|register| vcpu.general(register) as i64), [-3, 5]);
    // Not offered, then offered.
    assert!(matches!(call(&mut vcpu, requests::MOVE), Exit::Answered));
    assert_eq!(vcpu.general(General::Rax), requests::UNKNOWN);
    vcpu.config.requests = true;
    let exit = call(&mut vcpu, requests::MOVE);
    assert!(matches!(exit, Exit::Request(Request::Move, address) if address == gpa));
    vcpu.answer_request(true);
    assert_eq!(vcpu.general(General::Rax), 0);
    assert!(matches!(call(&mut vcpu, 0), Exit::Answered));
    assert_eq!(vcpu.config.vcpu.advanced, 4);
    // A program of the guest's.
    if let Some(state) = &mut vcpu.config.vcpu.state {
        state.segments[SegmentName::Ss as usize].rights |= 3 << 5;
    }
    assert!(matches!(call(&mut vcpu, requests::PRINT), Exit::Refused));
    assert_eq!((vcpu.config.vcpu.advanced, &*vcpu.config.vcpu.injected), (4, &[Delivered::UNDEFINED][..]));
}

#[test]
fn an_instruction_is_fetched_where_its_length_is_not_known() {
    let bench = Bench::default();
    let mut vcpu = vcpu(&bench, [Cause::Cpuid, Cause::Cpuid]);
    vcpu.run();
    assert_eq!(bench.asked.take(), None);
    vcpu.config.vcpu.needs = true;
    if let Some(state) = &mut vcpu.config.vcpu.state {
        state.segments[SegmentName::Cs as usize].base = 0x1_0000;
        state.segments[SegmentName::Ss as usize].rights |= 3 << 5;
    }
    vcpu.run();
    assert_eq!(bench.asked.take(), Some((GuestVirtAddr::new(0x11_0000), true)));
    assert!(vcpu.config.vcpu.instruction.is_some());
}

/// Between STI and HLT: the interrupt for which it wakes up must not come before the HLT.
#[test]
fn a_halt_that_a_kick_came_before_is_over() {
    let fetch = |interrupted| {
        let Cause::NestedPageFault(mut fault) = fault(interrupted) else { panic!("a fault") };
        fault.info.access = MappingFlags::EXECUTE;
        Cause::NestedPageFault(fault)
    };
    let pending = Some(Delivered::ExternalInterrupt(0x30));
    let cases = [
        (Cause::Nmi, true, 0xf4, true),
        (fetch(None), true, 0xf4, true),
        (Cause::Nmi, true, 0x90, false),
        (Cause::Nmi, false, 0xf4, false),
        // It comes from the instruction, or another event comes first.
        (Cause::Halt, true, 0xf4, false),
        (fault(None), true, 0xf4, false),
        (fetch(pending), true, 0xf4, false),
    ];
    for (number, (cause, shadow, opcode, skipped)) in cases.into_iter().enumerate() {
        let bench = Bench { code: RefCell::new(Some(std::vec![opcode])), ..Bench::default() };
        let mut vcpu = vcpu(&bench, [cause, Cause::Nmi]);
        vcpu.run();
        vcpu.config.vcpu.shadow = shadow;
        let rip = vcpu.program_counter();
        vcpu.run();
        assert_eq!(vcpu.program_counter() - rip, u64::from(skipped), "case {number}");
    }
}

#[test]
fn what_nobody_answers_is_an_exception() {
    let bench = Bench::default();
    let mut vcpu = vcpu(&bench, []);
    vcpu.inject(Event::AccessFailed);
    vcpu.inject(Event::UndefinedInstruction);
    assert_eq!(vcpu.config.vcpu.injected, [Delivered::GENERAL_PROTECTION, Delivered::UNDEFINED]);
    assert_eq!((vcpu.data_access(), vcpu.register(16)), (None, None));
    vcpu.set_register(16, 1);
    vcpu.set_register(3, 9);
    assert_eq!(vcpu.register(3), Some(9));
}
