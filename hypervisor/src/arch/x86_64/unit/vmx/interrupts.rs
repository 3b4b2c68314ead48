//! External interrupts of the machine's: as exits, and passing through to a guest that the CPU itself lets halt.

use super::stage::{CODE, Vcpu, format_of, gate, stage};
use crate::arch::x86_64::bare::{Intercepts, Vmx, end_of_interrupt, interrupt_self};
use crate::arch::x86_64::unit::context::{Context, Space};
use crate::arch::x86_64::unit::{Failure, ensure, ensure_eq, failed, guest_code};
use slat_x86::vmx::Activity;
use slat_x86::{Event, Exit, General, Vcpu as _};

const VECTOR: u8 = 0x61;
/// Where the handler lies in all of these.
const HANDLER: u64 = 0x20;

// A loop without exits; at 8 interrupts are let in, at 10H right before a HLT, so that one that waits ends it. The handler
// counts and goes back.
guest_code!(
    interrupt_loop,
    "2:",
    "pause",
    "jmp 2b",
    ".balign 8",
    "sti",
    "nop",
    "hlt",
    ".balign 16",
    "sti",
    "hlt",
    "mov rcx, rbx",
    "vmcall",
    ".balign 32",
    "inc rbx",
    "iretq",
);
const OPEN: u64 = 8;
const SLEEP: u64 = 0x10;

fn begin(
    context: &Context<Vmx>,
    intercepts: &Intercepts,
    offset: u64,
) -> Result<(Space<Vmx>, Vcpu), Failure> {
    let (space, mut state) = stage(context, format_of(context)?, interrupt_loop())?;
    gate(&space, VECTOR, HANDLER)?;
    state.rip = CODE + offset;
    let vcpu = context.vcpu_with(intercepts, &space, &state)?;
    Ok((space, vcpu))
}

/// An interrupt ends a loop without exits, goes past the guest's own table, and comes with its vector. (It would in a guest that masks
/// interrupts, too; Bochs 2.7 does not look for that at an entry.)
pub(super) fn exits(context: &Context<Vmx>) -> Result<(), Failure> {
    let intercepts = Intercepts { halt: true, interrupts: true, ..Intercepts::default() };
    let (space, mut vcpu) = begin(context, &intercepts, 0)?;
    let mut state = vcpu.state().map_err(|error| failed("state", error))?;
    let masked = state;
    state.rflags |= 1 << 9;
    vcpu.set_state(&state).map_err(|error| failed("set_state", error))?;
    interrupt_self(VECTOR);
    let exit = space.enter(&mut vcpu)?;
    end_of_interrupt();
    ensure_eq!(exit, Exit::ExternalInterrupt(Some(VECTOR)), "exit");
    ensure!((CODE..CODE + 4).contains(&vcpu.rip()), "RIP {:#x}", vcpu.rip());
    ensure_eq!(vcpu.general().get(General::Rbx), 0, "runs of the guest's handler");
    // The hypervisor hands it on as soon as the guest takes it.
    vcpu.set_state(&masked).map_err(|error| failed("set_state", error))?;
    let refused = vcpu.inject(Event::ExternalInterrupt(VECTOR));
    ensure!(refused.is_err() && !vcpu.takes_interrupts(), "the guest masks interrupts");
    vcpu.set_rip(CODE + OPEN);
    vcpu.set_interrupt_window(true);
    ensure_eq!(space.enter(&mut vcpu)?, Exit::InterruptWindow, "exit");
    ensure_eq!(vcpu.rip(), CODE + OPEN + 2, "behind the shadow of STI");
    vcpu.set_interrupt_window(false);
    vcpu.inject(Event::ExternalInterrupt(VECTOR)).map_err(|error| failed("inject", error))?;
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Halt, "exit");
    ensure_eq!(vcpu.general().get(General::Rbx), 1, "runs of the handler");
    Ok(())
}

/// Without exits for HLT and interrupts, the machine's interrupt wakes the guest and goes through its own table.
pub(super) fn pass_through(context: &Context<Vmx>) -> Result<(), Failure> {
    let (space, mut vcpu) = begin(context, &Intercepts::default(), SLEEP)?;
    interrupt_self(VECTOR);
    let exit = space.enter(&mut vcpu)?;
    end_of_interrupt();
    ensure_eq!(exit, Exit::Hypercall, "exit");
    ensure_eq!(vcpu.general().get(General::Rcx), 1, "runs of the handler before the guest went on");
    Ok(())
}

/// A vCPU that halts and is given an interrupt goes on behind its HLT.
pub(super) fn wakes(context: &Context<Vmx>) -> Result<(), Failure> {
    let (space, mut vcpu) = begin(context, &Intercepts::default(), SLEEP)?;
    let set =
        |vcpu: &mut Vcpu, activity| vcpu.set_activity(activity).map_err(|error| failed("activity", error));
    // As if it had executed the HLT, with interrupts on.
    let mut state = vcpu.state().map_err(|error| failed("state", error))?;
    state.rip = CODE + SLEEP + 2;
    state.rflags |= 1 << 9;
    vcpu.set_state(&state).map_err(|error| failed("set_state", error))?;
    ensure!(set(&mut vcpu, Activity::Halted)?, "the CPU offers halting");
    ensure_eq!(vcpu.activity(), Ok(Activity::Halted), "activity");
    vcpu.inject(Event::ExternalInterrupt(VECTOR)).map_err(|error| failed("inject", error))?;
    ensure_eq!(space.enter(&mut vcpu)?, Exit::Hypercall, "exit");
    ensure_eq!(vcpu.general().get(General::Rcx), 1, "runs of the handler");
    Ok(())
}
