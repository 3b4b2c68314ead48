//! A vCPU and the CPUs that it is bound to.

use super::stage::{CODE, Vcpu, format_of, stage};
use crate::arch::x86_64::bare::{Vendor as _, Vmx, kick, start_up};
use crate::arch::x86_64::unit::context::{Context, Space};
use crate::arch::x86_64::unit::{Failure, ensure, ensure_eq, failed, guest_code};
use alloc::format;
use core::sync::atomic::{AtomicBool, Ordering};
use slat_x86::isa::common;
use slat_x86::vmx::{Activity, Instructions as _, Processor};
use slat_x86::{BindError, Exit, General, RunError, Vcpu as _};

// Sets what no entry loads and no exit saves; halts; then collects it again: XMM1, DR2, KERNEL_GS_BASE.
guest_code!(
    resident_state,
    "mov rax, cr4",
    "or eax, 0x200",
    "mov cr4, rax",
    "mov rax, 0x1122334455667788",
    "movq xmm1, rax",
    "mov eax, 0x12340",
    "mov dr2, rax",
    "mov ecx, 0xc0000102",
    "mov eax, 0x5678000",
    "xor edx, edx",
    "wrmsr",
    "hlt",
    "movq r8, xmm1",
    "mov r9, dr2",
    "mov ecx, 0xc0000102",
    "rdmsr",
    "mov r10, rax",
    "hlt",
);

guest_code!(stay, "2:", "pause", "jmp 2b");

/// Turns of a loop from one kick to the next.
const KICK_EVERY: u32 = 5_000;
/// Turns of a loop from one start-up IPI to the next.
const SEND_EVERY: u32 = 500;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

fn halt(space: &Space<Vmx>, vcpu: &mut Vcpu) -> Result<(), Failure> {
    ensure_eq!(space.enter(vcpu)?, Exit::Halt, "exit");
    vcpu.advance();
    Ok(())
}

/// Everything of the guest's goes along to another CPU, and nothing of it stays behind.
pub(super) fn moves(context: &Context<Vmx>) -> Result<(), Failure> {
    let (space, state) = stage(context, format_of(context)?, resident_state())?;
    let host = host_registers();
    let mut vcpu = context.vcpu(&space, &state)?;
    halt(&space, &mut vcpu)?;
    ensure_eq!(vcpu.bind(0), Err(BindError::Bound(0)), "a second bind");
    vcpu.unbind();
    ensure_eq!(host_registers(), host, "the host's registers on CPU 0");
    let work = || {
        let before = host_registers();
        vcpu.bind(1).map_err(|error| failed("bind", error))?;
        halt(&space, &mut vcpu)?;
        vcpu.unbind();
        ensure_eq!(host_registers(), before, "the host's registers on CPU 1");
        Ok(())
    };
    context.beside_on(work, || {})?.0?;
    let seen = [General::R8, General::R9, General::R10].map(|register| vcpu.general().get(register));
    ensure_eq!(seen, [0x1122_3344_5566_7788, 0x1_2340, 0x567_8000], "XMM1, DR2, KERNEL_GS_BASE");
    // And back.
    vcpu.bind(0).map_err(|error| failed("bind", error))?;
    ensure_eq!(vcpu.rip(), CODE + resident_state().len() as u64, "RIP");
    Ok(())
}

fn host_registers() -> [u64; 3] {
    // SAFETY: every CPU in 64-bit mode has the register.
    let gs = unsafe { common::rdmsr(KERNEL_GS_BASE) };
    [gs, common::read_dr2(), common::read_cr4()]
}

/// A vCPU that is bound to one CPU cannot be used on another, and is not harmed by the attempt.
pub(super) fn elsewhere(context: &Context<Vmx>) -> Result<(), Failure> {
    let (space, state) = stage(context, format_of(context)?, resident_state())?;
    let mut vcpu = context.vcpu(&space, &state)?;
    let work = || {
        ensure_eq!(vcpu.run(false), Err(RunError::NotBound), "run");
        ensure_eq!(vcpu.state(), Err(RunError::NotBound), "state");
        ensure_eq!(vcpu.bind(1), Err(BindError::Bound(0)), "bind");
        vcpu.unbind();
        ensure_eq!(vcpu.bound_to(), Some(0), "bound");
        Ok(())
    };
    context.beside_on(work, || {})?.0?;
    halt(&space, &mut vcpu)
}

/// Dropping a bound vCPU leaves the CPU clean: the next one can be bound, and turning VMX off finds nothing.
pub(super) fn drops(context: &Context<Vmx>) -> Result<(), Failure> {
    let (space, state) = stage(context, format_of(context)?, resident_state())?;
    for round in 0..3 {
        let mut vcpu = context.vcpu(&space, &state)?;
        let mut other = context.vendor.vcpu(&crate::arch::x86_64::bare::Intercepts::default())?;
        ensure_eq!(other.bind(0), Err(BindError::Occupied(0)), format!("bind of another one, {round}"));
        halt(&space, &mut vcpu)?;
        if round == 1 {
            // On CPU 1, which is not the one that it was bound to before.
            vcpu.unbind();
            let work = || {
                vcpu.bind(1).map_err(|error| failed("bind", error))?;
                drop(vcpu);
                Ok::<(), Failure>(())
            };
            context.beside_on(work, || {})?.0?;
        } else {
            drop(vcpu);
        }
        other.bind(0).map_err(|error| failed("bind", error))?;
    }
    Ok(())
}

/// A start-up IPI for a vCPU that waits for one.
pub(super) fn start_up_ipi(context: &Context<Vmx>) -> Result<(), Failure> {
    let (space, state) = stage(context, format_of(context)?, stay())?;
    let (waits, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let wait = || {
        let mut vcpu = context.vcpu(&space, &state)?;
        let set = vcpu.set_activity(Activity::WaitForStartUp).map_err(|error| failed("activity", error))?;
        ensure!(set, "the CPU offers waiting");
        waits.store(true, Ordering::Release);
        let exit = space.enter(&mut vcpu);
        // A CPU that waits for a start-up IPI takes no NMIs; Bochs 2.7 forgets at the exit that this is over.
        Processor.end_nmi();
        ensure_eq!(exit?, Exit::StartUp(0x9f), "exit");
        ensure_eq!(vcpu.rip(), CODE, "RIP");
        Ok(())
    };
    let work = || {
        let waited = wait();
        done.store(true, Ordering::Release);
        waited
    };
    // One that comes before the entry is lost, and Bochs writes a line about each.
    let here = || {
        while !done.load(Ordering::Acquire) {
            if waits.load(Ordering::Acquire) {
                start_up(1, 0x9f);
            }
            (0..SEND_EVERY).for_each(|_| core::hint::spin_loop());
        }
    };
    context.beside_on(work, here)?.0
}

/// NMIs of another CPU get a guest out of a loop without exits, one after the other, and none of them reaches the guest.
pub(super) fn kicks(context: &Context<Vmx>) -> Result<(), Failure> {
    let (space, state) = stage(context, format_of(context)?, stay())?;
    let done = AtomicBool::new(false);
    let work = || {
        let mut vcpu = context.vcpu(&space, &state)?;
        let mut exits = 0;
        let result = (0..16).try_for_each(|_| {
            let exit = space.enter(&mut vcpu)?;
            ensure_eq!(exit, Exit::Nmi, "exit");
            exits += 1;
            Ok(())
        });
        done.store(true, Ordering::Release);
        result.map(|()| exits)
    };
    let here = || {
        while !done.load(Ordering::Acquire) {
            kick(1);
            // The other CPU does nothing else while it is kicked outside of its guest.
            (0..KICK_EVERY).for_each(|_| core::hint::spin_loop());
        }
    };
    let exits = context.beside_on(work, here)?.0?;
    ensure_eq!(exits, 16, "exits");
    Ok(())
}
