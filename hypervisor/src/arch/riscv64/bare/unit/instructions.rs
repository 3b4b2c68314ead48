//! What a guest may not execute: an exception for itself or an exit that the hypervisor turns into one, and never more.

use super::bench::{Bench, ensure, ensure_eq};
use super::code::guest_code;
use super::faults::scene;
use super::guest::{CALL, Guest, Loaded, VIRTUAL, read};
use super::{Failure, UnitGuest};
use crate::arch::riscv64::exit::{self, Cause};
use slat::PAGE_SIZE;

const CODE: u64 = 0x8000_0000;
const DATA: u64 = CODE + PAGE_SIZE;

pub(super) const GUESTS: &[UnitGuest] = &[
    UnitGuest { name: "virtual-instructions", run: virtual_instructions },
    UnitGuest { name: "illegal-instructions", run: illegal_instructions },
    UnitGuest { name: "guest-fences", run: guest_fences },
];

// What HS-mode alone may do, one after the other; whoever traps goes on behind it.
guest_code!(
    for_hypervisors,
    "hfence.gvma",
    "hfence.vvma",
    "hlv.d a2, (a0)",
    "hsv.d a2, (a0)",
    "csrr a2, hgatp",
    "csrw hgatp, a1",
    "csrr a2, hstatus",
    "csrw hstatus, a1",
    "csrr a2, hedeleg",
    "csrw hideleg, zero",
    "csrw hvip, a1",
    "csrr a2, vsatp",
    "csrw vsatp, a1",
    "csrw vsstatus, a1",
    "ecall",
);
const FOR_HYPERVISORS: u64 = 14;

// What no supervisor may do; a trap is the guest's own, whose vector counts and goes on behind it.
guest_code!(
    for_nobody,
    "la t0, 2f",
    "csrw stvec, t0",
    "li a2, 0",
    "csrr t1, mstatus",
    "csrw satp, zero",
    "csrw mtvec, zero",
    "csrr t1, mhartid",
    "mret",
    ".word 0",
    ".word 0xffffffff",
    "ecall",
    ".balign 4",
    "2: csrr t2, scause",
    "addi t2, t2, -2",
    "bnez t2, 3f",
    "addi a2, a2, 1",
    "csrr t2, sepc",
    "addi t2, t2, 4",
    "csrw sepc, t2",
    "sret",
    "3: li a2, -1",
    "ecall",
);
const FOR_NOBODY: u64 = 6;

// The guest's own fences, which it has to itself.
guest_code!(own_fences, "sfence.vma", "sfence.vma a0", "sfence.vma a0, a1", "fence.i", "ecall");

/// Each is a virtual instruction, which the hypervisor gets, and changes nothing.
fn virtual_instructions(bench: &Bench) -> Result<(), Failure> {
    let space = scene(bench, for_hypervisors())?;
    space.set_word(DATA, 0x5afe)?;
    let loaded = Loaded::new(&space);
    let mut guest = Guest::new(CODE, &[DATA, u64::MAX, 0]);
    for number in 0..FOR_HYPERVISORS {
        let trap = guest.run();
        ensure_eq!((trap.scause, guest.pc()), (VIRTUAL, CODE + 4 * number), "the trap, and where");
        ensure_eq!(exit::decode(trap.scause), Cause::VirtualInstruction, "what the hypervisor makes of it");
        guest.skip();
    }
    ensure_eq!((guest.run().scause, guest.argument(2)), (CALL, 0), "the end, and what was read");
    // hgatp is as it was: the space can still be used.
    ensure_eq!(read(DATA).ok(), Some(0x5afe), "what is in the page");
    drop(loaded);
    Ok(())
}

/// Each is an illegal instruction, which the guest's own kernel gets.
fn illegal_instructions(bench: &Bench) -> Result<(), Failure> {
    let space = scene(bench, for_nobody())?;
    let loaded = Loaded::new(&space);
    let mut guest = Guest::new(CODE, &[0, 0, 0]);
    ensure_eq!(
        (guest.run().scause, guest.argument(2)),
        (CALL, FOR_NOBODY),
        "the end, and how many were refused"
    );
    drop(loaded);
    Ok(())
}

/// A guest fences its own translations without anybody's help.
fn guest_fences(bench: &Bench) -> Result<(), Failure> {
    let space = scene(bench, own_fences())?;
    let loaded = Loaded::new(&space);
    let mut guest = Guest::new(CODE, &[DATA, 1]);
    ensure_eq!(guest.run().scause, CALL, "the end");
    ensure!(space.word(DATA)? == 0, "the page has changed");
    drop(loaded);
    Ok(())
}
