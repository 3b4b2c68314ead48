//! Events whose delivery faults: each is delivered again, once, as it was.

use super::stage::{CODE, DATA, IDT, NOW, STACK, Vcpu, answer, fault, format_of, gate, map, protect, stage};
use crate::arch::x86_64::bare::Vmx;
use crate::arch::x86_64::unit::context::{Context, RAM, Space};
use crate::arch::x86_64::unit::{Failure, ensure, ensure_eq, failed, guest_code};
use alloc::format;
use slat::MappingFlags;
use slat_x86::{CpuState, Event, Exit, General, Vcpu as _};

// At 0 INT 40H, at 2 INT3, at 3 INT1, at 4 UD2, at 6 a read of what the guest itself has not mapped, at 0x10 the end. At
// 0x20 the handler of what has no error code, at 0x30 that of what has one: both count in RBX and leave the return address in
// RDX, the second one the error code in RCX. They end with HLT and go on with IRET.
guest_code!(
    event_sources,
    "int 0x40",
    "int3",
    ".byte 0xf1",
    "ud2",
    "mov rax, [rdi]",
    ".balign 16",
    "hlt",
    ".balign 32",
    "inc rbx",
    "mov rdx, [rsp]",
    "hlt",
    "iretq",
    ".balign 16",
    "inc rbx",
    "pop rcx",
    "mov rdx, [rsp]",
    "hlt",
    "iretq",
);

guest_code!(event_real_mode, ".code16", "int 0x40", "hlt", ".balign 16", "inc bx", "iret",);

const WITHOUT: u64 = 0x20;
const WITH: u64 = 0x30;
const HALT: u64 = 0x10;
/// The guest itself maps only the first GiB.
const NOT_MAPPED_BY_GUEST: u64 = 0x4000_0000;
const NONE: MappingFlags = MappingFlags::empty();

/// How an event comes about.
#[derive(Clone, Copy)]
struct Case {
    vector: u8,
    /// Where the guest begins.
    rip: u64,
    /// What the hypervisor injects.
    injected: Option<Event>,
    /// What the exit says.
    interrupted: Event,
    /// Where the guest is to go on, relative to the code.
    returns_to: u64,
    error_code: Option<u64>,
}

const CASES: [Case; 8] = [
    Case {
        vector: 0x40,
        rip: 0,
        injected: None,
        interrupted: Event::SoftwareInterrupt { vector: 0x40, length: 2 },
        returns_to: 2,
        error_code: None,
    },
    Case {
        vector: 3,
        rip: 2,
        injected: None,
        interrupted: Event::SoftwareException { vector: 3, length: 1 },
        returns_to: 3,
        error_code: None,
    },
    Case {
        vector: 1,
        rip: 3,
        injected: None,
        interrupted: Event::PrivilegedSoftwareException { length: 1 },
        returns_to: 4,
        error_code: None,
    },
    Case {
        vector: 6,
        rip: 4,
        injected: None,
        interrupted: Event::UNDEFINED,
        returns_to: 4,
        error_code: None,
    },
    Case {
        vector: 14,
        rip: 6,
        injected: None,
        interrupted: Event::page_fault(0),
        returns_to: 6,
        error_code: Some(0),
    },
    Case {
        vector: 0x31,
        rip: HALT,
        injected: Some(Event::ExternalInterrupt(0x31)),
        interrupted: Event::ExternalInterrupt(0x31),
        returns_to: HALT,
        error_code: None,
    },
    Case {
        vector: 2,
        rip: HALT,
        injected: Some(Event::Nmi),
        interrupted: Event::Nmi,
        returns_to: HALT,
        error_code: None,
    },
    Case {
        vector: 13,
        rip: HALT,
        injected: Some(Event::Exception { vector: 13, error_code: Some(0x18) }),
        interrupted: Event::Exception { vector: 13, error_code: Some(0x18) },
        returns_to: HALT,
        error_code: Some(0x18),
    },
];

/// A guest with handlers for `case`, whose IDT or stack is not there.
fn begin(context: &Context<Vmx>, case: Case, hidden: u64) -> Result<(Space<Vmx>, Vcpu), Failure> {
    let (mut space, mut state) = stage(context, format_of(context)?, event_sources())?;
    let handler = if case.error_code.is_some() { WITH } else { WITHOUT };
    gate(&space, case.vector, handler)?;
    state.rip = CODE + case.rip;
    state.rflags |= 1 << 9;
    state.general.set(General::Rdi, NOT_MAPPED_BY_GUEST);
    protect(&mut space, hidden, NONE)?;
    let mut vcpu = context.vcpu(&space, &state)?;
    if let Some(event) = case.injected {
        vcpu.inject(event).map_err(|error| failed("inject", error))?;
    }
    Ok((space, vcpu))
}

/// Every kind of event, through an IDT and through a stack that is not there.
pub(super) fn redelivery(context: &Context<Vmx>) -> Result<(), Failure> {
    for (number, case) in CASES.into_iter().enumerate() {
        for hidden in [IDT, STACK - 0x1000] {
            check(context, case, hidden)
                .map_err(|failure| format!("case {number}, {hidden:#x}: {failure}"))?;
        }
    }
    Ok(())
}

fn check(context: &Context<Vmx>, case: Case, hidden: u64) -> Result<(), Failure> {
    let (mut space, mut vcpu) = begin(context, case, hidden)?;
    let found = fault(space.enter(&mut vcpu)?)?;
    ensure_eq!(found.interrupted, Some(case.interrupted), "interrupted");
    ensure_eq!(found.info.gpa.as_u64() & !0xfff, hidden, "GPA");
    ensure_eq!(vcpu.rip(), CODE + case.rip, "RIP at the exit");
    protect(&mut space, hidden, RAM)?;
    // The handler runs once.
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "exit");
    ensure_eq!(vcpu.general().get(General::Rbx), 1, "runs of the handler");
    ensure_eq!(vcpu.general().get(General::Rdx), CODE + case.returns_to, "return address");
    if let Some(error_code) = case.error_code {
        ensure_eq!(vcpu.general().get(General::Rcx), error_code, "error code");
    }
    if case.vector == 14 {
        let state = vcpu.state().map_err(|error| failed("state", error))?;
        ensure_eq!(state.cr2, NOT_MAPPED_BY_GUEST, "CR2");
    }
    Ok(())
}

/// Negative control: an event that the hypervisor drops never reaches the guest.
pub(super) fn lost_event(context: &Context<Vmx>) -> Result<(), Failure> {
    let case = CASES[5];
    for lost in [false, true] {
        let (mut space, mut vcpu) = begin(context, case, IDT)?;
        fault(space.enter(&mut vcpu)?)?;
        protect(&mut space, IDT, RAM)?;
        if lost {
            ensure_eq!(vcpu.take_pending_event(), Some(case.interrupted), "taken");
        }
        ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "exit");
        ensure_eq!(vcpu.general().get(General::Rbx), u64::from(!lost), "runs of the handler");
    }
    Ok(())
}

/// Exceptions in the delivery of exceptions, made one by the hypervisor that raises the second.
pub(super) fn double_fault(context: &Context<Vmx>) -> Result<(), Failure> {
    two_are_a_double_fault(context)?;
    three_are_the_end(context)
}

fn two_are_a_double_fault(context: &Context<Vmx>) -> Result<(), Failure> {
    let (mut space, mut vcpu) = begin(context, CASES[4], IDT)?;
    fault(space.enter(&mut vcpu)?)?;
    protect(&mut space, IDT, RAM)?;
    gate(&space, 8, WITH)?;
    vcpu.inject(Event::GENERAL_PROTECTION).map_err(|error| failed("inject", error))?;
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "exit");
    ensure_eq!(vcpu.general().get(General::Rbx), 1, "runs of the handler");
    ensure_eq!(vcpu.general().get(General::Rcx), 0, "error code");
    Ok(())
}

fn three_are_the_end(context: &Context<Vmx>) -> Result<(), Failure> {
    let double = Event::Exception { vector: 8, error_code: Some(0) };
    let case = Case { rip: HALT, injected: Some(double), ..CASES[4] };
    let (mut space, mut vcpu) = begin(context, case, IDT)?;
    let found = fault(space.enter(&mut vcpu)?)?;
    ensure_eq!(found.interrupted, Some(double), "interrupted");
    protect(&mut space, IDT, RAM)?;
    vcpu.inject(Event::page_fault(0)).map_err(|error| failed("inject", error))?;
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Shutdown, "exit");
    Ok(())
}

/// An IRET from the handler of an NMI that faults: NMIs stay blocked, and the next one comes behind the IRET.
pub(super) fn nmi_unblocking(context: &Context<Vmx>) -> Result<(), Failure> {
    let case = CASES[6];
    let (mut space, mut state) = stage(context, format_of(context)?, event_sources())?;
    gate(&space, 2, WITHOUT)?;
    map(&mut space, DATA, 0x1000, RAM, NOW)?;
    state.rip = CODE + HALT;
    state.general.set(General::Rsp, DATA + 0x1000);
    let mut vcpu = context.vcpu(&space, &state)?;
    vcpu.inject(Event::Nmi).map_err(|error| failed("inject", error))?;
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "the handler");
    ensure_eq!(vcpu.general().get(General::Rdx), CODE + case.returns_to, "return address");
    protect(&mut space, DATA, NONE)?;
    vcpu.advance();
    let found = fault(space.enter(&mut vcpu)?)?;
    ensure!(found.nmi_unblocked, "IRET had ended the blocking");
    // Another one, which has to wait for the end of the IRET.
    vcpu.inject(Event::Nmi).map_err(|error| failed("inject", error))?;
    protect(&mut space, DATA, RAM)?;
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "the second handler");
    ensure_eq!(vcpu.general().get(General::Rbx), 2, "runs of the handler");
    ensure_eq!(vcpu.general().get(General::Rdx), CODE + HALT, "return address of the second");
    ensure_eq!(vcpu.general().get(General::Rsp), DATA + 0x1000 - 40, "depth of the stack");
    vcpu.advance();
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "behind both");
    ensure_eq!((vcpu.rip(), vcpu.general().get(General::Rbx)), (CODE + HALT, 2), "the end");
    Ok(())
}

/// The same NMI twice while one is being handled is one more, behind the handler.
pub(super) fn nmis_wait(context: &Context<Vmx>) -> Result<(), Failure> {
    let (space, mut state) = stage(context, format_of(context)?, event_sources())?;
    gate(&space, 2, WITHOUT)?;
    state.rip = CODE + HALT;
    let mut vcpu = context.vcpu(&space, &state)?;
    let inject = |vcpu: &mut Vcpu| vcpu.inject(Event::Nmi).map_err(|error| failed("inject", error));
    inject(&mut vcpu)?;
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "the handler");
    inject(&mut vcpu)?;
    inject(&mut vcpu)?;
    vcpu.advance();
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "the second handler");
    ensure_eq!(vcpu.general().get(General::Rbx), 2, "runs of the handler");
    vcpu.advance();
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "the end");
    ensure_eq!((vcpu.rip(), vcpu.general().get(General::Rbx)), (CODE + HALT, 2), "the end");
    Ok(())
}

/// In real mode events go through the table at 0, and have no error codes.
pub(super) fn real_mode(context: &Context<Vmx>) -> Result<(), Failure> {
    let (mut space, _) = stage(context, format_of(context)?, event_real_mode())?;
    // Vector 40H: 1000H:0010H.
    space.load(0x100, &0x1000_0010_u32.to_le_bytes())?;
    let mut state = CpuState::real_mode(0x1000, 0);
    state.general.set(General::Rsp, 0x8000);
    protect(&mut space, 0, NONE)?;
    let mut vcpu = context.vcpu(&space, &state)?;
    let found = fault(space.enter(&mut vcpu)?)?;
    ensure_eq!(found.interrupted, Some(Event::SoftwareInterrupt { vector: 0x40, length: 2 }), "interrupted");
    ensure!(answer(&space, &found).is_err(), "the region allows nothing");
    protect(&mut space, 0, RAM)?;
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "exit");
    ensure_eq!(vcpu.general().get(General::Rbx), 1, "runs of the handler");
    ensure_eq!(vcpu.rip(), 2, "RIP");
    Ok(())
}
