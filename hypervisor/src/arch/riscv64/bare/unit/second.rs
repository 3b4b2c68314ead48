//! A hart that never leaves its guest: a loop that reads or writes a page, while this hart changes the space. What a missing remote
//! fence leaves behind is seen by what the guest reads on, or where it writes to.

use super::bench::{Bench, Fencing, POISON, RAM, Space, ensure, ensure_eq};
use super::code::guest_code;
use super::guest::{CALL, Guest, LOAD, Loaded, STORE, decoded};
use super::harts::beside;
use super::probes::{PAGES, TARGET};
use super::{Failure, UnitGuest, failed};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};
use slat::format::gstage::Trap;
use slat::{GuestPhysAddr, LeafSize, MappingFlags, PAGE_SIZE};

/// Where the code lies, and the page by which it tells how it goes: rounds, something else than the value that it has read, and
/// whether it is to end.
const CODE: u64 = 0x8000_0000;
const RESULT: u64 = 0x8000_1000;
const ROUNDS: u64 = RESULT;
const WRONG: u64 = RESULT + 8;
const END: u64 = RESULT + 16;

/// What is in the page.
const VALUE: u64 = 0x0123_4567_89ab_cdef;
/// What the page allows: not to be executed, for code that moves has other harts fetch anew, by an interrupt after which QEMU remembers
/// nothing.
const DATA: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
const READ_ONLY: MappingFlags = MappingFlags::READ;

/// Looks before something is taken not to happen: seconds on any machine.
const PATIENCE: u64 = 200_000_000;
/// Rounds of the guest in which something would be seen if it could.
const WATCHED: u64 = 20_000;

pub(super) const GUESTS: &[UnitGuest] = &[
    UnitGuest { name: "two-harts", run: two_harts },
    UnitGuest { name: "two-harts-move", run: |bench| moved(bench, Fencing::Right) },
    UnitGuest { name: "two-harts-move-local-fence", run: |bench| moved(bench, Fencing::Local) },
    UnitGuest { name: "two-harts-move-without-fence", run: |bench| moved(bench, Fencing::None) },
    UnitGuest { name: "two-harts-unmap", run: |bench| unmapped(bench, Fencing::Right) },
    UnitGuest { name: "two-harts-unmap-local-fence", run: |bench| unmapped(bench, Fencing::Local) },
    UnitGuest { name: "two-harts-protect", run: |bench| protected(bench, Fencing::Right) },
    UnitGuest { name: "two-harts-protect-local-fence", run: |bench| protected(bench, Fencing::Local) },
    UnitGuest { name: "two-harts-retired-table", run: |bench| retired(bench, Fencing::Right) },
    UnitGuest { name: "two-harts-retired-table-local-fence", run: |bench| retired(bench, Fencing::Local) },
    UnitGuest { name: "two-harts-split-and-collapse", run: split_and_collapse },
];

// a0 is RESULT, a1 the page, a2 the value.
guest_code!(
    read_on,
    "1: ld t0, (a1)",
    "beq t0, a2, 2f",
    "sd t0, 8(a0)",
    "2: ld t1, (a0)",
    "addi t1, t1, 1",
    "sd t1, (a0)",
    "ld t2, 16(a0)",
    "beqz t2, 1b",
    "ecall",
);
guest_code!(
    write_on,
    "1: ld t1, (a0)",
    "addi t1, t1, 1",
    "sd t1, (a1)",
    "sd t1, (a0)",
    "ld t2, 16(a0)",
    "beqz t2, 1b",
    "ecall",
);

fn scene(bench: &Bench, code: &[u8], size: u64, leaf: LeafSize) -> Result<Space, Failure> {
    let mut space = bench.space()?;
    space.map(CODE, 2 * PAGE_SIZE, RAM)?;
    space.load(CODE, code)?;
    space.map_in(TARGET, size, DATA, leaf)?;
    space.set_word(TARGET, VALUE)?;
    Ok(space)
}

/// Does `work` while the other hart runs the code in `space`, after a fault again if `again`; what `work` found, and the trap by
/// which the guest left for good.
fn beside_guest<R>(
    bench: &Bench,
    space: &mut Space,
    again: bool,
    work: impl FnOnce(&mut Space) -> Result<R, Failure>,
) -> Result<(R, Trap), Failure> {
    let other = bench.other_hart()?;
    let left = AtomicBool::new(false);
    let (root, vmid) = (space.root_register(), space.tag());
    let there = || {
        let loaded = Loaded::of(root, vmid);
        let mut guest = Guest::new(CODE, &[RESULT, TARGET, VALUE]);
        let trap = loop {
            let trap = guest.run();
            if !again || trap.scause == CALL {
                break trap;
            }
        };
        drop(loaded);
        left.store(true, Ordering::Release);
        trap
    };
    let here = || {
        let begun = waits(|| Ok(space.word(ROUNDS)? > 10 || left.load(Ordering::Acquire)));
        let found = begun.and_then(|begun| {
            ensure!(begun, "the guest on the other hart does not run");
            work(space)
        });
        // Whatever went wrong: it leaves.
        let ended = space.set_word(END, 1);
        found.and_then(|found| ended.map(|()| found))
    };
    let (trap, found) = beside(other, there, here)?;
    Ok((found?, trap))
}

/// Whether something comes true: soon, if the other hart runs at all.
fn waits(mut holds: impl FnMut() -> Result<bool, Failure>) -> Result<bool, Failure> {
    for _ in 0..PATIENCE / 100 {
        if holds()? {
            return Ok(true);
        }
        (0..100).for_each(|_| spin_loop());
    }
    Ok(false)
}

/// Lets the guest go on for a while, or until it has seen something wrong; what that is, or 0.
fn watched(space: &Space) -> Result<u64, Failure> {
    let until = space.word(ROUNDS)? + WATCHED;
    ensure!(
        waits(|| Ok(space.word(ROUNDS)? > until || space.word(WRONG)? != 0))?,
        "the guest on the other hart does not go on"
    );
    space.word(WRONG)
}

fn faulted_at_target(trap: &Trap, scause: u64) -> Result<(), Failure> {
    ensure_eq!(trap.scause, scause, "how the guest left");
    ensure_eq!(decoded(trap)?.gpa.as_u64(), TARGET, "where");
    Ok(())
}

/// The other hart does its work, and stops when it is told to.
fn two_harts(bench: &Bench) -> Result<(), Failure> {
    let mut space = scene(bench, read_on(), PAGE_SIZE, LeafSize::Size4K)?;
    let (wrong, trap) = beside_guest(bench, &mut space, false, |space| watched(space))?;
    ensure_eq!((wrong, trap.scause), (0, CALL), "what it read, and how it left");
    Ok(())
}

/// The page moves, and the other hart sees its contents wherever it is: the old frame is poisoned.
fn moved(bench: &Bench, fencing: Fencing) -> Result<(), Failure> {
    let mut space = scene(bench, read_on(), PAGE_SIZE, LeafSize::Size4K)?;
    let (wrong, trap) = beside_guest(bench, &mut space, true, |space| {
        bench.set_fencing(fencing);
        let times = if fencing == Fencing::Right { 30 } else { 1 };
        let moved = (0..times).try_for_each(|_| {
            (0..1000).for_each(|_| spin_loop());
            space.move_page(TARGET)
        });
        bench.set_fencing(Fencing::Right);
        moved?;
        watched(space)
    })?;
    ensure_eq!(trap.scause, CALL, "how the guest left");
    ensure_eq!(wrong, if fencing == Fencing::Right { 0 } else { POISON }, "what it read");
    Ok(())
}

/// The page goes, and the other hart reads it no more.
fn unmapped(bench: &Bench, fencing: Fencing) -> Result<(), Failure> {
    let mut space = scene(bench, read_on(), PAGE_SIZE, LeafSize::Size4K)?;
    let (wrong, trap) = beside_guest(bench, &mut space, false, |space| {
        bench.set_fencing(fencing);
        let gone = space.unmap_page(TARGET);
        bench.set_fencing(Fencing::Right);
        gone?;
        if fencing == Fencing::Right { space.word(WRONG) } else { watched(space) }
    })?;
    gone_or_read_on(&space, fencing, wrong, &trap)
}

/// The page goes with the table that maps it.
fn retired(bench: &Bench, fencing: Fencing) -> Result<(), Failure> {
    let mut space = scene(bench, read_on(), PAGES * PAGE_SIZE, LeafSize::Size4K)?;
    let (wrong, trap) = beside_guest(bench, &mut space, false, |space| {
        bench.set_fencing(fencing);
        let gone = space.unmap(GuestPhysAddr::new(TARGET), PAGES * PAGE_SIZE);
        bench.set_fencing(Fencing::Right);
        gone.map_err(|error| failed("unmap", error))?;
        if fencing == Fencing::Right { space.word(WRONG) } else { watched(space) }
    })?;
    gone_or_read_on(&space, fencing, wrong, &trap)
}

fn gone_or_read_on(space: &Space, fencing: Fencing, wrong: u64, trap: &Trap) -> Result<(), Failure> {
    if fencing == Fencing::Right {
        ensure_eq!((wrong, space.word(WRONG)?), (0, 0), "what it read");
        return faulted_at_target(trap, LOAD);
    }
    ensure_eq!(wrong, POISON, "what it read");
    Ok(())
}

/// The page becomes read-only, and the other hart writes there no more.
fn protected(bench: &Bench, fencing: Fencing) -> Result<(), Failure> {
    let mut space = scene(bench, write_on(), PAGE_SIZE, LeafSize::Size4K)?;
    let (written, trap) = beside_guest(bench, &mut space, false, |space| {
        bench.set_fencing(fencing);
        let changed = space.protect_page(TARGET, READ_ONLY);
        bench.set_fencing(Fencing::Right);
        changed?;
        let before = space.word(TARGET)?;
        if fencing == Fencing::Right {
            (0..100_000).for_each(|_| spin_loop());
        } else {
            let until = space.word(ROUNDS)? + WATCHED;
            waits(|| Ok(space.word(ROUNDS)? > until))?;
        }
        Ok(space.word(TARGET)?.wrapping_sub(before))
    })?;
    if fencing == Fencing::Right {
        ensure_eq!(written, 0, "writes to a page that forbids them");
        return faulted_at_target(&trap, STORE);
    }
    ensure!(written > 0, "a hart that was not told does not write any more");
    ensure_eq!(trap.scause, CALL, "how the guest left");
    Ok(())
}

/// A large leaf is split and put together again while the other hart is at work in it.
fn split_and_collapse(bench: &Bench) -> Result<(), Failure> {
    const SIZE: u64 = 2 << 20;
    const FAR: u64 = TARGET + 300 * PAGE_SIZE;
    const TIMES: u64 = 5;
    let mut space = scene(bench, read_on(), SIZE, LeafSize::Size2M)?;
    let ((collapsed, wrong), trap) = beside_guest(bench, &mut space, true, |space| {
        let mut collapsed = 0;
        for _ in 0..TIMES {
            for flags in [READ_ONLY, DATA] {
                space.protect_page(FAR, flags)?;
            }
            let leaves = space.collapse(GuestPhysAddr::new(TARGET), SIZE);
            collapsed += leaves.map_err(|error| failed("collapse", error))?;
        }
        Ok((collapsed, watched(space)?))
    })?;
    ensure_eq!((collapsed, wrong, trap.scause), (TIMES, 0, CALL), "leaves put together, and what it read");
    Ok(())
}
