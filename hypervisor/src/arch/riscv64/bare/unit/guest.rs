//! The ways in which a unit guest uses a space: probes from HS-mode (HLV, HSV), and guest code that runs until it traps.
//!
//! A probe uses translations of the G-stage just as a guest does, and QEMU remembers them between two probes as it does not between
//! two stays of a guest: so probes show what a missing fence leaves behind. In a recording a probe is an entry and an exit.

#![expect(unsafe_code, reason = "executes the loads and stores of the hypervisor extension")]

use super::super::maintenance::note_hart;
use super::super::recording::record;
use super::super::registers::{SystemRegisters, read_register, write_register};
use super::super::switch::{self, Registers};
use super::super::vcpu::recorded;
use super::bench::{Space, fence};
use super::{Failure, failed};
use crate::arch::riscv64::registers::{HEDELEG, HIDELEG, hstatus, sstatus};
use core::arch::asm;
use slat::NestedPageFaultInfo;
use slat::format::gstage::{Fence, Trap, decode_fault};
use slat_hv_protocol::recording::Event;

/// hstatus.SPVP: HLV and HSV act as VS-mode does, and not as VU-mode.
const SPVP: u64 = 1 << 8;

/// The guest-page faults.
pub(super) const FETCH: u64 = 20;
pub(super) const LOAD: u64 = 21;
pub(super) const STORE: u64 = 23;
/// A call of a guest's.
pub(super) const CALL: u64 = 10;
/// A virtual instruction.
pub(super) const VIRTUAL: u64 = 22;

/// A space in hgatp of this hart, as long as this lives; guests' addresses are physical.
pub(super) struct Loaded;

impl Loaded {
    /// Loads `space`, with the fence that its VMID's new owner needs.
    pub(super) fn new(space: &Space) -> Self {
        Self::of(space.root_register(), space.tag())
    }

    /// Loads `space`, and the hart goes on with what it remembers under its VMID.
    pub(super) fn without_fence(space: &Space) -> Self {
        Self::with_register(space.root_register())
    }

    /// As [`new`](Self::new), of a space with this root register and this VMID.
    pub(super) fn of(root: u64, vmid: u16) -> Self {
        let loaded = Self::with_register(root);
        fence(Fence { address: None, vmid: Some(vmid) });
        loaded
    }

    fn with_register(root: u64) -> Self {
        // Whoever wants the fence executes it; the units are about those that are missing.
        let _ = note_hart(root);
        write_register!("hedeleg", HEDELEG);
        write_register!("hideleg", HIDELEG);
        write_register!("hcounteren", 7);
        write_register!("hstatus", SPVP | hstatus::VSXL_64);
        SystemRegisters::INITIAL.restore();
        write_register!("vsatp", 0);
        record(Event::Load { root });
        write_register!("hgatp", root);
        Self
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        write_register!("hgatp", 0);
        write_register!("vsatp", 0);
        record(Event::Unload);
    }
}

/// A probe: `$instruction` on `$address`, with its `$operand`, until label 2 or the trap.
macro_rules! probe {
    ($instruction:literal, $address:expr, $operand:expr) => {{
        let mut value: u64 = $operand;
        let done: u64;
        record(Event::Enter);
        // SAFETY: the access is a guest's, behind the G-stage, which maps nothing of the hypervisor. Where it traps the hart goes
        // on at label 2, with the vector that the hart had put back; the trap changes scause and its companions and fields of
        // sstatus and hstatus that are made anew before a guest is entered.
        unsafe {
            asm!(
                ".option push",
                ".option arch, +h",
                "la {vector}, 2f",
                "csrrw {vector}, stvec, {vector}",
                "li {done}, 0",
                concat!($instruction, " {value}, ({address})"),
                "li {done}, 1",
                ".balign 4",
                "2:",
                "csrw stvec, {vector}",
                ".option pop",
                vector = out(reg) _,
                done = out(reg) done,
                value = inout(reg) value,
                address = in(reg) $address,
                options(nostack)
            )
        };
        record(Event::Exit);
        if done == 1 { Ok(value) } else { Err(trap()) }
    }};
}

/// Reads 8 bytes of the space that is loaded.
pub(super) fn read(gpa: u64) -> Result<u64, Trap> {
    probe!("hlv.d", gpa, 0)
}

/// Writes 8 bytes.
pub(super) fn write(gpa: u64, value: u64) -> Result<(), Trap> {
    let result: Result<u64, Trap> = probe!("hsv.d", gpa, value);
    result.map(|_| ())
}

fn trap() -> Trap {
    Trap {
        scause: read_register!("scause"),
        stval: read_register!("stval"),
        htval: read_register!("htval"),
        htinst: read_register!("htinst"),
    }
}

/// What the library makes of a guest-page fault.
///
/// # Errors
/// One line if it is none.
pub(super) fn decoded(trap: &Trap) -> Result<NestedPageFaultInfo, Failure> {
    let fault = decode_fault(trap).map_err(|error| failed("the trap", error))?;
    let info = fault.info().ok_or_else(|| alloc::format!("no address in {trap:x?}"))?;
    record(recorded(&info));
    Ok(info)
}

/// A hart of a guest's in VS-mode; the space has to be loaded.
pub(super) struct Guest {
    registers: Registers,
}

// Registers of arguments, by the calling convention.
pub(super) const A0: usize = 10;

impl Guest {
    /// It begins at `pc`, with these arguments in a0 and the registers after that.
    pub(super) fn new(pc: u64, arguments: &[u64]) -> Self {
        let mut registers = Registers {
            sstatus: sstatus::SPP | sstatus::UXL_64,
            hstatus: hstatus::SPV | hstatus::VSXL_64,
            pc,
            ..Registers::default()
        };
        for (register, argument) in registers.x.iter_mut().skip(A0).zip(arguments) {
            *register = *argument;
        }
        Self { registers }
    }

    /// Runs it until a trap that is not its own.
    pub(super) fn run(&mut self) -> Trap {
        record(Event::Enter);
        switch::enter(&mut self.registers);
        record(Event::Exit);
        trap()
    }

    /// Its program counter.
    pub(super) fn pc(&self) -> u64 {
        self.registers.pc
    }

    /// Argument register `number`.
    pub(super) fn argument(&self, number: usize) -> u64 {
        self.registers.x.get(A0 + number).copied().unwrap_or(0)
    }

    /// It goes on behind the instruction of four bytes at which it is.
    pub(super) fn skip(&mut self) {
        self.registers.pc = self.registers.pc.wrapping_add(4);
    }
}
