//! Two CPUs: a vCPU that moves from one to the other, and changes of a table while the other CPU is inside its guest.
//!
//! The emulators' CPUs remember translations each for itself until they leave their guest, so a missing kick shows; that is seen,
//! too: the guests whose names end in `-without-kick` pass only if the mistake is found.

use super::scene::{self, HANDLED, RESULT, TABLES, enter, halt};
use crate::arch::x86_64::bare::{Intercepts, Vendor, end_of_interrupt, interrupt_self, kick, this_cpu};
use crate::arch::x86_64::unit::context::{Context, Entrance, RAM, Space};
use crate::arch::x86_64::unit::{Failure, UnitGuest, ensure, ensure_eq, failed, guest_code, nothing};
use alloc::format;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};
use slat::{AllocOptions, FaultCause, GuestPhysAddr, LeafSize, MappingFlags, NestedPageFaultInfo, PAGE_SIZE};
use slat_x86::isa::common;
use slat_x86::{BindError, Exit, General, Vcpu as _};

pub(super) fn guests<V: Vendor>() -> [UnitGuest<Context<V>>; 10] {
    [
        UnitGuest { name: "external-interrupt", needs: nothing, run: external_interrupt },
        UnitGuest { name: "move-between-cpus", needs: nothing, run: move_between_cpus },
        UnitGuest { name: "dropped-elsewhere", needs: nothing, run: dropped_elsewhere },
        UnitGuest { name: "two-cpus-unmap", needs: nothing, run: |context| unmap(context, true) },
        UnitGuest {
            name: "two-cpus-unmap-without-kick",
            needs: nothing,
            run: |context| unmap(context, false),
        },
        UnitGuest { name: "two-cpus-protect", needs: nothing, run: |context| protect(context, true) },
        UnitGuest {
            name: "two-cpus-protect-without-kick",
            needs: nothing,
            run: |context| protect(context, false),
        },
        UnitGuest { name: "two-cpus-migrate", needs: nothing, run: migrate },
        UnitGuest { name: "two-cpus-split-and-collapse", needs: nothing, run: split_and_collapse },
        UnitGuest { name: "two-cpus-kick", needs: nothing, run: kicked },
    ]
}

const TARGET: u64 = 0x20_0000;
const VALUE: u64 = 0x5151_5151;
const READ_ONLY: MappingFlags = MappingFlags::READ;
/// How long a CPU is watched that has nothing to do any more.
const WATCHED: u32 = 100_000;
/// How long the other CPU may take to get into its guest.
const PATIENCE: u32 = 200_000_000;

// Comes to its end at some time.
guest_code!(open, "sti", "mov ecx, 1000000", "2:", "pause", "dec ecx", "jnz 2b", "cli", "hlt");
guest_code!(take, "sti", "nop", "2:", "pause", "cmp qword ptr [0x60008], 0", "je 2b", "cli", "hlt");

/// An interrupt of the host's ends the run of a guest, which does not get it; where interrupts pass, the next guest does.
fn external_interrupt<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    const VECTOR: u8 = 0x41;
    let space = scene::memory(context, open())?;
    let intercepts = Intercepts { halt: true, interrupts: true, ..Intercepts::default() };
    let mut vcpu = context.vcpu_with(&intercepts, &space, &scene::state())?;
    interrupt_self(VECTOR);
    let exit = enter(&space, &mut vcpu)?;
    ensure_eq!(space.word(HANDLED)?, 0, "how often the handler of the first guest ran");
    vcpu.unbind();
    drop(vcpu);
    match exit {
        // The CPU has taken it.
        Exit::ExternalInterrupt(Some(VECTOR)) => {}
        Exit::ExternalInterrupt(None) => {
            let space = scene::memory(context, take())?;
            let mut vcpu = context.vcpu(&space, &scene::state())?;
            halt(&space, &mut vcpu)?;
            ensure_eq!(space.word(HANDLED)?, 1, "how often the guest's handler ran");
            vcpu.unbind();
        }
        exit => return Err(format!("{exit:x?} instead of the interrupt")),
    }
    end_of_interrupt();
    Ok(())
}

// The third table's third entry maps 4 MiB.
guest_code!(
    wander,
    "mov rax, 0x1122334455667788",
    "movq xmm5, rax",
    "mov r8, rax",
    "mov rcx, [0x400000]",
    "hlt",
    "movq rbx, xmm5",
    "mov qword ptr [0x32010], 0x600087",
    "invlpg [0x400000]",
    "mov rdx, [0x400000]",
    "hlt",
    "movq rbp, xmm5",
    "mov rsi, [0x400000]",
    "hlt",
);

/// All registers come along to another CPU and back, and what the first CPU remembered of the guest's own tables is forgotten.
fn move_between_cpus<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    const OLD: u64 = 0x40_0000;
    const NEW: u64 = 0x60_0000;
    const KEPT: u64 = 0x1122_3344_5566_7788;
    let mut space = scene::memory(context, wander())?;
    for (page, content) in [(OLD, 1_u64), (NEW, 2)] {
        map(&mut space, page, PAGE_SIZE, LeafSize::Size4K)?;
        space.load(page, &content.to_le_bytes())?;
    }
    ensure_eq!(TABLES + 2 * PAGE_SIZE + 16, 0x3_2010, "the entry that the code changes");
    let mut state = scene::state();
    // OSFXSR.
    state.cr4 |= 1 << 9;
    let mut vcpu = context.vcpu(&space, &state)?;
    halt(&space, &mut vcpu)?;
    vcpu.unbind();
    ensure_eq!(vcpu.bound_to(), None, "the CPU that the vCPU is bound to");
    let elsewhere = || {
        vcpu.bind(this_cpu()).map_err(|error| failed("bind", error))?;
        let halted = halt(&space, &mut vcpu);
        vcpu.unbind();
        halted.map(|()| this_cpu())
    };
    let (cpu, ()) = context.beside_on(elsewhere, || ())?;
    ensure_eq!(cpu?, 1, "the other CPU");
    vcpu.bind(this_cpu()).map_err(|error| failed("bind", error))?;
    halt(&space, &mut vcpu)?;
    let value = |register| vcpu.general().get(register);
    ensure_eq!([General::Rbx, General::Rbp, General::R8].map(value), [KEPT; 3], "what came along");
    ensure_eq!([General::Rcx, General::Rdx, General::Rsi].map(value), [1, 2, 2], "what the guest read");
    vcpu.unbind();
    Ok(())
}

const LEFT: u64 = 0x1_2340;
// What no exit takes out of the CPU.
guest_code!(leaving, "mov eax, 0x12340", "mov dr2, rax", "hlt", "nop", "hlt");

/// A vCPU that is dropped on another CPU than its own leaves that one clean: the next vCPU can be bound there and does not find
/// its registers, the host has its own back; and all frames go back to the host, also those of the last one, for which no
/// other comes.
fn dropped_elsewhere<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let space = scene::memory(context, leaving())?;
    let before = common::read_dr2();
    ensure!(before != LEFT, "the host's DR2 is {before:#x} already");
    for round in 0..3 {
        let mut vcpu = context.vcpu(&space, &scene::state())?;
        let mut next = context.vendor.vcpu(&Intercepts { halt: true, ..Intercepts::default() })?;
        halt(&space, &mut vcpu)?;
        ensure_eq!(next.bind(0), Err(BindError::Occupied(0)), "bind of another one");
        let elsewhere = move || {
            let before = common::read_dr2();
            drop(vcpu);
            common::read_dr2() == before
        };
        // On a CPU whose own extension is on, and on one where it is off.
        let (same, ()) = if round == 1 {
            context.beside(elsewhere, || ())?
        } else {
            context.beside_on(elsewhere, || ())?
        };
        ensure!(same, "the other CPU's registers have changed");
        ensure_eq!(common::read_dr2(), LEFT, "DR2, until somebody clears up");
        if round == 2 {
            break;
        }
        next.bind(0).map_err(|error| failed("bind", error))?;
        ensure!(common::read_dr2() != LEFT, "the next vCPU finds the registers of the one before");
        next.unbind();
        ensure_eq!(common::read_dr2(), before, "the host's DR2");
    }
    Ok(())
}

// Reads the word at RSI as long as it is RDX.
guest_code!(
    read_on,
    "2:",
    "mov rax, [rsi]",
    "cmp rax, rdx",
    "jne 3f",
    "inc qword ptr [0x61000]",
    "jmp 2b",
    "3:",
    "mov [0x61008], rax",
    "hlt",
);
guest_code!(write_on, "2:", "inc qword ptr [rsi]", "inc qword ptr [0x61000]", "jmp 2b");

/// How the guest's run on the other CPU ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// This CPU had seen enough.
    Stopped,
    /// It met no page, or one that forbids writing.
    Refused(NestedPageFaultInfo),
    /// It read something else.
    OtherValue,
}

/// What both CPUs know.
struct Signals {
    stop: AtomicBool,
    done: AtomicBool,
}

/// Runs the guest on the other CPU; with `again` it goes on when it meets no page.
fn run_beside<V: Vendor>(
    context: &Context<V>,
    entrance: &Entrance,
    root: u64,
    again: bool,
    signals: &Signals,
) -> Result<Ended, Failure> {
    let mut vcpu = context.vendor.vcpu(&Intercepts { halt: true, ..Intercepts::default() })?;
    vcpu.bind(this_cpu()).map_err(|error| failed("bind", error))?;
    vcpu.set_root(root).map_err(|error| failed("set_root", error))?;
    let mut state = scene::state();
    state.general.set(General::Rsi, TARGET);
    state.general.set(General::Rdx, VALUE);
    vcpu.set_state(&state).map_err(|error| failed("set_state", error))?;
    let ended = loop {
        match entrance.enter::<V>(&mut vcpu)? {
            _ if signals.stop.load(Ordering::Acquire) => break Ended::Stopped,
            Exit::Nmi => {}
            Exit::NestedPageFault(_) if again => {}
            Exit::NestedPageFault(fault) => break Ended::Refused(fault.info),
            Exit::Halt => break Ended::OtherValue,
            exit => return Err(format!("{exit:x?} at {:#x} on the other CPU", vcpu.rip())),
        }
    };
    vcpu.unbind();
    Ok(ended)
}

/// Does `work` while the other CPU runs `code` in `space`; what `work` found, and how the guest ended.
fn beside_guest<V: Vendor, R>(
    context: &Context<V>,
    space: &mut Space<V>,
    again: bool,
    work: impl FnOnce(&mut Space<V>) -> Result<R, Failure>,
) -> Result<(R, Ended), Failure> {
    let signals = Signals { stop: AtomicBool::new(false), done: AtomicBool::new(false) };
    let (entrance, root) = (space.entrance(), space.root_register());
    let there = || {
        let ended = run_beside(context, &entrance, root, again, &signals);
        signals.done.store(true, Ordering::Release);
        ended
    };
    let here = || {
        let found = until_inside(space, &signals).and_then(|()| work(space));
        signals.stop.store(true, Ordering::Release);
        // Whatever went wrong: it leaves.
        while !signals.done.load(Ordering::Acquire) {
            kick(1);
            (0..1000).for_each(|_| spin_loop());
        }
        found
    };
    let (ended, found) = context.beside_on(there, here)?;
    Ok((found?, ended?))
}

/// Waits until the guest counts.
fn until_inside<V: Vendor>(space: &Space<V>, signals: &Signals) -> Result<(), Failure> {
    for _ in 0..PATIENCE {
        if space.word(RESULT)? > 10 {
            return Ok(());
        }
        if signals.done.load(Ordering::Acquire) {
            return Err("the guest on the other CPU ended before it began".into());
        }
        spin_loop();
    }
    Err("the guest on the other CPU does not run".into())
}

fn map<V: Vendor>(space: &mut Space<V>, gpa: u64, size: u64, largest_leaf: LeafSize) -> Result<(), Failure> {
    let options = AllocOptions { populate: true, largest_leaf, fault_around: LeafSize::Size4K };
    space
        .map_alloc_with(GuestPhysAddr::new(gpa), size, RAM, options)
        .map_err(|error| failed("map_alloc", error))
}

fn scene_with_target<V: Vendor>(
    context: &Context<V>,
    code: &[u8],
    size: u64,
    leaf: LeafSize,
) -> Result<Space<V>, Failure> {
    let mut space = scene::memory(context, code)?;
    map(&mut space, TARGET, size, leaf)?;
    space.load(TARGET, &VALUE.to_le_bytes())?;
    Ok(space)
}

/// The mistake: the other CPU counts as one that has left its guest, so nobody kicks it.
fn pretend_it_left<V: Vendor>(space: &Space<V>) -> Result<(), Failure> {
    space.cpus.leave(1).map_err(|error| failed("leave", error))
}

/// Whether a word becomes another one than `before`: soon, if the other CPU runs at all.
fn changes<V: Vendor>(space: &Space<V>, gpa: u64, before: u64) -> Result<bool, Failure> {
    for _ in 0..PATIENCE {
        if space.word(gpa)? != before {
            return Ok(true);
        }
        spin_loop();
    }
    Ok(false)
}

/// By how much a word changes while it is watched.
fn watched<V: Vendor>(space: &Space<V>, gpa: u64) -> Result<u64, Failure> {
    let before = space.word(gpa)?;
    (0..WATCHED).for_each(|_| spin_loop());
    Ok(space.word(gpa)?.wrapping_sub(before))
}

/// Once the page is gone the other CPU reads it no more. What it has read by then it may still count.
fn unmap<V: Vendor>(context: &Context<V>, with_kick: bool) -> Result<(), Failure> {
    let mut space = scene_with_target(context, read_on(), PAGE_SIZE, LeafSize::Size4K)?;
    let (counted, ended) = beside_guest(context, &mut space, false, |space| {
        if !with_kick {
            pretend_it_left(space)?;
        }
        space.unmap(GuestPhysAddr::new(TARGET), PAGE_SIZE).map_err(|error| failed("unmap", error))?;
        if with_kick { watched(space, RESULT) } else { changes(space, RESULT + 8, 0).map(u64::from) }
    })?;
    if !with_kick {
        // The frame was given back, and poisoned.
        // It may have been stopped between its note of what it read and its own end.
        let read_on = matches!(ended, Ended::OtherValue | Ended::Stopped);
        ensure!(read_on, "{ended:?}: the guest that nobody kicked did not read on");
        ensure_eq!(space.word(RESULT + 8)?, 0xa5a5_a5a5_a5a5_a5a5, "what it read");
        return Ok(());
    }
    ensure!(counted <= 1, "{counted} reads of a page that is not there");
    let Ended::Refused(info) = ended else { return Err(format!("{ended:?} instead of a fault")) };
    ensure_eq!((info.gpa.as_u64(), info.cause), (TARGET, FaultCause::NotPresent), "the fault");
    Ok(())
}

/// Once the page forbids writing the other CPU does not write there.
fn protect<V: Vendor>(context: &Context<V>, with_kick: bool) -> Result<(), Failure> {
    let mut space = scene_with_target(context, write_on(), PAGE_SIZE, LeafSize::Size4K)?;
    let (written, ended) = beside_guest(context, &mut space, false, |space| {
        if !with_kick {
            pretend_it_left(space)?;
        }
        let changed = space.protect(GuestPhysAddr::new(TARGET), PAGE_SIZE, READ_ONLY);
        changed.map_err(|error| failed("protect", error))?;
        let before = space.word(TARGET)?;
        if with_kick { watched(space, TARGET) } else { changes(space, TARGET, before).map(u64::from) }
    })?;
    if !with_kick {
        ensure!(written > 0, "a CPU that nobody kicked does not write any more");
        return Ok(());
    }
    ensure_eq!(written, 0, "writes to a page that forbids them");
    let Ended::Refused(info) = ended else { return Err(format!("{ended:?} instead of a fault")) };
    ensure_eq!((info.gpa.as_u64(), info.cause), (TARGET, FaultCause::Permission), "the fault");
    ensure!(info.access.contains(MappingFlags::WRITE), "the access is {:?}", info.access);
    Ok(())
}

/// The page moves, and the other CPU sees its contents wherever it is: the old frame is poisoned.
fn migrate<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    const TIMES: u64 = 50;
    let mut space = scene_with_target(context, read_on(), PAGE_SIZE, LeafSize::Size4K)?;
    let (moved, ended) = beside_guest(context, &mut space, true, |space| {
        (0..TIMES).try_fold(0, |moved, _| {
            let pages = space.migrate(GuestPhysAddr::new(TARGET), PAGE_SIZE);
            (0..100).for_each(|_| spin_loop());
            Ok(moved + pages.map_err(|error| failed("migrate", error))?)
        })
    })?;
    ensure_eq!((moved, ended), (TIMES, Ended::Stopped), "pages moved, and how the guest ended");
    Ok(())
}

/// A large leaf is split and put together again while the other CPU is at work in it.
fn split_and_collapse<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    const SIZE: u64 = 2 << 20;
    const FAR: u64 = TARGET + 300 * PAGE_SIZE;
    const TIMES: u64 = 5;
    let mut space = scene_with_target(context, read_on(), SIZE, LeafSize::Size2M)?;
    let (collapsed, ended) = beside_guest(context, &mut space, true, |space| {
        (0..TIMES).try_fold(0, |collapsed, _| {
            for flags in [READ_ONLY, RAM] {
                let changed = space.protect(GuestPhysAddr::new(FAR), PAGE_SIZE, flags);
                changed.map_err(|error| failed("protect", error))?;
            }
            let leaves = space.collapse(GuestPhysAddr::new(TARGET), SIZE);
            Ok(collapsed + leaves.map_err(|error| failed("collapse", error))?)
        })
    })?;
    ensure_eq!((collapsed, ended), (TIMES, Ended::Stopped), "leaves put together, and how the guest ended");
    Ok(())
}

/// A kick gets a CPU out of its guest each time, whatever that masked.
fn kicked<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let mut space = scene_with_target(context, read_on(), PAGE_SIZE, LeafSize::Size4K)?;
    let (rounds, ended) = beside_guest(context, &mut space, true, |space| {
        (0..20).try_fold(0, |rounds, _| {
            // Returns when the other CPU has left; its guest goes on afterwards.
            space.cpus.invalidate(this_cpu(), kick).map_err(|error| failed("invalidate", error))?;
            let before = space.word(RESULT)?;
            ensure!(changes(space, RESULT, before)?, "the guest does not go on");
            Ok(rounds + 1)
        })
    })?;
    ensure_eq!((rounds, ended), (20, Ended::Stopped), "kicks, and how the guest ended");
    Ok(())
}
