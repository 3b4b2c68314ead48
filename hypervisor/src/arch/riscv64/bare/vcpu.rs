//! The RISC-V vCPU: hgatp and its companions, entry and exit, the firmware that the guest sees, injection.
//!
//! **The order of a switch:** vsatp is 0 while hgatp and henvcfg change, so that no walk mixes two guests ("Virtual Supervisor
//! Address Translation and Protection Register"); vsatp comes last, and goes first. **Floating point:** a guest's
//! registers come into the hart by its first use of one after a switch, which is an illegal instruction until then (FS is
//! off, and illegal instructions are not delegated); they leave it with the guest, if they have changed. Vectors are hidden.

#![expect(unsafe_code, reason = "executes fences")]

mod state;

use super::firmware::{self, SbiError};
use super::float::FloatRegisters;
use super::guest::Shared;
use super::maintenance::{fence_here, note_hart};
use super::recording::record;
use super::registers::{SystemRegisters, read_register, write_register};
use super::switch::{self, Registers};
use super::timer::{self, NEVER};
use super::{code, this_hart};
use crate::arch::riscv64::exception::{self, Before, Exception};
use crate::arch::riscv64::exit::{self, Cause};
use crate::arch::riscv64::registers::{
    self, HCOUNTEREN, HEDELEG, HIDELEG, henvcfg, hstatus, interrupt, sstatus, without_float,
};
use crate::arch::riscv64::sbi::{self, Answer, Call, Harts, Machine};
use crate::monitor;
use crate::requests;
use crate::vcpu::{BufferAnswer, BufferCall, Event, Exit, Vcpu};
use alloc::format;
use core::arch::asm;
use core::fmt;
use slat::device::DataAccess;
use slat::format::gstage::{Fence, Trap, decode_fault, transform, vmid};
use slat::guest::GuestPageWalkInfo;
use slat::{GuestPhysAddr, MappingFlags, NestedPageFaultInfo};
use slat_hv_protocol::recording::Event as Recorded;

// Registers of calls.
const A0: usize = 10;
const A1: usize = 11;
const A6: usize = 16;
const A7: usize = 17;

/// What a guest's CPU is to be like.
#[derive(Clone, Copy)]
pub(super) struct Config {
    /// Whether waiting for interrupts leads to an exit.
    pub(super) trap_wait: bool,
    /// What it shares with the guest's other CPUs.
    pub(super) shared: &'static Shared,
    /// Whether the guest may ask for changes of its pages.
    pub(super) requests: bool,
    /// What its firmware tells of the machine.
    pub(super) machine: Machine,
    /// What the harts have.
    pub(super) features: Features,
}

/// What of the harts the hypervisor uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// Sstc: the guest's timer is a register of its own.
    pub(super) sstc: bool,
    /// Single and double precision.
    pub(super) float: bool,
}

/// A call that the run loop carries out, and whose answer has a form of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// A write to the console.
    Console,
    /// One of the hypervisor's own calls.
    Own,
}

/// A vCPU.
pub(super) struct RiscvVcpu {
    id: usize,
    registers: Registers,
    system: SystemRegisters,
    float: FloatRegisters,
    vsatp: u64,
    /// When the guest's timer fires, in its time.
    timer: u64,
    /// What the guest's time is ahead of the machine's, modulo 2^64.
    offset: u64,
    hgatp: u64,
    config: Config,
    /// The hart on which it was bound last.
    hart: Option<usize>,
    bound: bool,
    asked: Asked,
    /// scause and its companions at the last exit.
    last: Trap,
}

impl Vcpu for RiscvVcpu {
    type Config = Config;
    type Root = u64;
    // htval may be 0.
    const HIDES_ADDRESSES: bool = true;

    fn new(id: usize, config: Config) -> Self {
        let wait = if config.trap_wait { hstatus::VTW } else { 0 };
        let registers = Registers {
            sstatus: sstatus::SPP | sstatus::UXL_64,
            hstatus: hstatus::SPV | hstatus::VSXL_64 | wait,
            ..Registers::default()
        };
        Self {
            id,
            registers,
            system: SystemRegisters::INITIAL,
            float: FloatRegisters::INITIAL,
            vsatp: 0,
            timer: NEVER,
            offset: 0,
            hgatp: 0,
            config,
            hart: None,
            bound: false,
            asked: Asked::Own,
            last: Trap::default(),
        }
    }

    /// SBI, "Function: HART start": a0 is the number of the hart, a1 the argument, satp and sstatus.SIE are 0; everything else is
    /// undefined.
    fn set_entry(&mut self, entry: GuestPhysAddr, argument: u64) {
        // Whatever was sent to it before it was started.
        self.config.shared.take_interrupt(self.id);
        self.registers.sstatus = sstatus::SPP | sstatus::UXL_64;
        (self.system, self.vsatp, self.timer) = (SystemRegisters::INITIAL, 0, NEVER);
        self.registers.pc = entry.as_u64();
        self.registers.x = [0; 32];
        self.set_register(A0, self.id as u64);
        self.set_register(A1, argument);
    }

    fn set_root(&mut self, root: u64) {
        self.hgatp = root;
    }

    fn bind(&mut self) {
        write_register!("hedeleg", self.hedeleg());
        write_register!("hideleg", HIDELEG);
        write_register!("hcounteren", HCOUNTEREN);
        // vstimecmp is never: no interrupt comes while the two times change.
        write_register!("htimedelta", self.offset);
        write_register!("vsatp", 0);
        code::load(self.hgatp);
        let is_new = note_hart(self.hgatp);
        record(Recorded::Load { root: self.hgatp });
        write_register!("hgatp", self.hgatp);
        if is_new {
            fence_here(Fence { address: None, vmid: Some(vmid(self.hgatp)) });
        }
        let timer = if self.config.features.sstc { henvcfg::STCE } else { 0 };
        write_register!("henvcfg", henvcfg::CBIE | henvcfg::CBCFE | henvcfg::CBZE | timer);
        self.system.restore();
        write_register!("vsatp", self.vsatp);
        if self.config.features.sstc {
            write_register!("vstimecmp", self.timer);
        }
        let hart = Some(this_hart());
        if !self.config.shared.returns(self.id, self.hart) {
            forget_stage_1();
        }
        self.hart = hart;
        self.bound = true;
    }

    fn unbind(&mut self) {
        if !self.bound {
            return;
        }
        self.bound = false;
        if self.registers.sstatus & sstatus::FS == sstatus::FS_DIRTY {
            self.float.save();
        }
        self.registers.sstatus &= !sstatus::FS;
        if self.config.features.sstc {
            self.timer = read_register!("vstimecmp");
            write_register!("vstimecmp", NEVER);
        }
        self.vsatp = read_register!("vsatp");
        write_register!("vsatp", 0);
        self.system.save();
        write_register!("hvip", 0);
        write_register!("hgatp", 0);
        code::load(0);
        record(Recorded::Unload);
    }

    fn run(&mut self) -> Exit {
        if self.config.shared.takes_end() {
            return Exit::ConsoleShows;
        }
        if self.config.shared.takes_pause() {
            return Exit::Paused;
        }
        self.raise_timer();
        if self.config.shared.take_interrupt(self.id) {
            self.set_pending(interrupt::VS_SOFTWARE, true);
        }
        record(Recorded::Enter);
        switch::enter(&mut self.registers);
        record(Recorded::Exit);
        self.last = Trap {
            scause: read_register!("scause"),
            stval: read_register!("stval"),
            htval: read_register!("htval"),
            htinst: read_register!("htinst"),
        };
        match exit::decode(self.last.scause) {
            Cause::GuestPageFault => self.guest_page_fault(),
            Cause::Call => {
                // ECALL has no compressed form.
                self.registers.pc = self.registers.pc.wrapping_add(4);
                self.firmware_call()
            }
            Cause::VirtualInstruction if exit::is_wait(self.last.stval, self.is_supervisor()) => {
                self.registers.pc = self.registers.pc.wrapping_add(4);
                if self.has_interrupt() { Exit::Answered } else { Exit::Wait }
            }
            Cause::IllegalInstruction if self.wants_float() => {
                self.float.restore();
                self.registers.sstatus |= sstatus::FS_CLEAN;
                write_register!("hedeleg", self.hedeleg());
                Exit::Answered
            }
            Cause::VirtualInstruction | Cause::IllegalInstruction => {
                self.inject(Event::UndefinedInstruction);
                Exit::Refused
            }
            Cause::ForGuest(code) => {
                self.deliver(Exception { code, value: self.last.stval });
                Exit::Refused
            }
            Cause::Timer if timer::is_slice_over() => Exit::Preempted,
            // The guest's own, which it gets before it goes on.
            Cause::Timer => {
                timer::set_within_slice(NEVER);
                Exit::Answered
            }
            Cause::Software => {
                timer::acknowledge_software();
                Exit::Kicked
            }
            Cause::Unexpected => self.unsupported("unexpected exception"),
        }
    }

    fn program_counter(&self) -> u64 {
        self.registers.pc
    }

    fn register(&self, index: usize) -> Option<u64> {
        self.registers.x.get(index).copied()
    }

    fn set_register(&mut self, index: usize, value: u64) {
        // x0 is 0 whatever is written to it.
        if let Some(register) = self.registers.x.get_mut(index).filter(|_| index != 0) {
            *register = value;
        }
    }

    fn write_registers(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mode = if self.is_supervisor() { "VS" } else { "VU" };
        let Trap { scause, stval, htval, htinst } = self.last;
        let mut system = self.system.clone();
        let mut vsatp = self.vsatp;
        if self.bound {
            system.save();
            vsatp = read_register!("vsatp");
        }
        writeln!(out, "{mode}-mode")?;
        let own = [("pc", self.registers.pc), ("hgatp", self.hgatp), ("vsatp", vsatp)];
        let trap = [("scause", scause), ("stval", stval), ("htval", htval), ("htinst", htinst)];
        let status = [("sstatus", self.registers.sstatus), ("hstatus", self.registers.hstatus)];
        let system = SystemRegisters::NAMES.into_iter().zip(system.to_words());
        let general = registers::GENERAL.into_iter().zip(self.registers.x);
        monitor::write_table(out, own.into_iter().chain(trap).chain(status).chain(system).chain(general))
    }

    fn data_access(&self) -> Option<DataAccess> {
        self.last.data_access()
    }

    fn wants_instruction(&self) -> Option<(GuestPageWalkInfo, bool)> {
        (self.last.htinst == 0).then(|| (paging(), !self.is_supervisor()))
    }

    fn give_instruction(&mut self, bytes: &[u8]) {
        self.last.htinst = transform(bytes).unwrap_or(0);
    }

    fn advance(&mut self) {
        // Whoever carries an instruction out had it from htinst, which tells its length.
        let length = self.last.instruction_length().unwrap_or(4);
        self.registers.pc = self.registers.pc.wrapping_add(length);
    }

    fn wait(&mut self) {
        if !self.has_interrupt() {
            timer::set(self.next_timer().unwrap_or(NEVER));
            firmware::wait_for_interrupt();
            timer::set_within_slice(NEVER);
            timer::acknowledge_software();
        }
    }

    /// A timer whose interrupt the guest has not enabled does not end a wait.
    fn next_timer(&self) -> Option<u64> {
        let (timer, enabled) = match (self.bound, self.config.features.sstc) {
            (true, true) => (read_register!("vstimecmp"), read_register!("vsie")),
            (true, false) => (self.timer, read_register!("vsie")),
            (false, _) => (self.timer, self.system.vsie),
        };
        (timer != NEVER && enabled & interrupt::TIMER != 0).then(|| self.host_time(timer))
    }

    fn write_console(&mut self, text: &[u8]) {
        self.config.shared.print(text);
    }

    fn answer_request(&mut self, done: bool) {
        self.set_register(A0, requests::answer(done));
        self.set_register(A1, 0);
    }

    fn answer_buffer_call(&mut self, answer: BufferAnswer) {
        let (a0, a1) = match self.asked {
            Asked::Console => sbi::printed(answer),
            Asked::Own => (requests::status(answer.status), answer.done),
        };
        self.set_register(A0, a0);
        self.set_register(A1, a1);
    }

    fn inject(&mut self, event: Event) {
        self.deliver(match event {
            Event::UndefinedInstruction => Exception::illegal_instruction(self.last.stval),
            Event::AccessFailed => Exception::access_fault(self.last.scause, self.last.stval),
        });
    }
}

impl RiscvVcpu {
    /// Whether the guest was in VS-mode at its last exit.
    fn is_supervisor(&self) -> bool {
        self.registers.sstatus & sstatus::SPP != 0
    }

    /// Whether the guest's floating-point registers are not in the hart, although there are such.
    fn wants_float(&self) -> bool {
        self.config.features.float && self.registers.sstatus & sstatus::FS == 0
    }

    fn hedeleg(&self) -> u64 {
        if self.wants_float() { without_float(HEDELEG) } else { HEDELEG }
    }

    /// Without a timer of the guest's own: tells it that its time has come.
    fn raise_timer(&mut self) {
        if self.config.features.sstc || self.timer == NEVER {
            return;
        }
        if self.guest_time(timer::now()) >= self.timer {
            self.timer = NEVER;
            self.set_pending(interrupt::VS_TIMER, true);
        } else {
            timer::set_within_slice(self.host_time(self.timer));
        }
    }

    /// Makes an interrupt of the bound guest pending, or no more.
    fn set_pending(&mut self, which: u64, pending: bool) {
        let others = read_register!("hvip") & !which;
        write_register!("hvip", others | if pending { which } else { 0 });
    }

    fn set_timer(&mut self, time: u64) {
        if self.config.features.sstc {
            write_register!("vstimecmp", time);
        } else {
            self.timer = time;
            self.set_pending(interrupt::VS_TIMER, false);
        }
    }

    /// Whether an interrupt is pending that the guest has enabled.
    fn has_interrupt(&self) -> bool {
        let (pending, enabled, timer) = if self.bound {
            // vsip and vsie are these, moved by one place.
            (read_register!("hip"), read_register!("hie"), NEVER)
        } else {
            (self.system.hvip, self.system.vsie << 1, self.timer)
        };
        let due = if timer <= self.guest_time(timer::now()) { interrupt::VS_TIMER } else { 0 };
        let sent = if self.config.shared.is_interrupted(self.id) { interrupt::VS_SOFTWARE } else { 0 };
        (pending | due | sent) & enabled & HIDELEG != 0
    }

    fn guest_page_fault(&mut self) -> Exit {
        match decode_fault(&self.last) {
            Ok(fault) => match fault.info() {
                Some(info) => {
                    record(recorded(&info));
                    Exit::NestedPageFault(info)
                }
                None => {
                    let access = fault.virtual_access(self.registers.hstatus);
                    Exit::UnlocatedFault(paging(), fault.gva, access)
                }
            },
            Err(reason) => self.unsupported(&format!("{reason}")),
        }
    }

    fn firmware_call(&mut self) -> Exit {
        let x = &self.registers.x;
        let call = Call {
            extension: x[A7],
            function: x[A6],
            arguments: [x[A0], x[A1], x[A1 + 1], x[A1 + 2], x[A1 + 3]],
        };
        let answer = sbi::answer(&call, self.id, self.config.shared.cpus, &self.config.machine);
        let (mut error, mut value) = (0, 0);
        let exit = match answer {
            Answer::Return { error: code, value: more } => {
                (error, value) = (code, more);
                Exit::FirmwareCall
            }
            Answer::ReturnLegacy(result) => {
                self.set_register(A0, result);
                return Exit::FirmwareCall;
            }
            Answer::SetTimer(time) => {
                self.set_timer(time);
                Exit::FirmwareCall
            }
            Answer::SendInterrupts(harts) => {
                self.config.shared.interrupt(harts, self.id);
                Exit::FirmwareCall
            }
            Answer::Fence(harts, fence) => {
                // A CPU of the guest may have left translations on any hart, this one included.
                forget_stage_1();
                let others = Harts(harts.0 & !(1 << self.id));
                let done =
                    if others == Harts(0) { Ok(()) } else { self.config.shared.fence_elsewhere(fence) };
                if let Err(SbiError(code)) = done {
                    error = code as u64;
                }
                Exit::FirmwareCall
            }
            Answer::Print { character, legacy } => {
                self.config.shared.print(&[character]);
                if legacy {
                    value = self.registers.x[A1];
                }
                Exit::FirmwareCall
            }
            Answer::PrintBuffer(address, length) => {
                self.asked = Asked::Console;
                return Exit::Buffer(BufferCall::Console, GuestPhysAddr::new(address), length);
            }
            Answer::Buffer(call, address, length) => {
                self.asked = Asked::Own;
                return Exit::Buffer(call, GuestPhysAddr::new(address), length);
            }
            Answer::Request(request, page) if self.config.requests => {
                return Exit::Request(request, GuestPhysAddr::new(page));
            }
            Answer::Request(..) => {
                error = requests::UNKNOWN;
                Exit::FirmwareCall
            }
            Answer::Wait if self.has_interrupt() => Exit::FirmwareCall,
            Answer::Wait => Exit::Suspend,
            Answer::CpuOff => Exit::CpuOff,
            Answer::PowerOff => Exit::PowerOff,
            Answer::Reset => Exit::Reset,
        };
        self.set_register(A0, error);
        self.set_register(A1, value);
        exit
    }

    fn deliver(&mut self, exception: Exception) {
        let before = Before {
            pc: self.registers.pc,
            sstatus: self.registers.sstatus,
            vsstatus: read_register!("vsstatus"),
            vstvec: read_register!("vstvec"),
        };
        let entry = exception::enter(before, exception);
        self.registers.pc = entry.pc;
        self.registers.sstatus = entry.sstatus;
        write_register!("vsstatus", entry.vsstatus);
        write_register!("vsepc", entry.vsepc);
        write_register!("vscause", entry.vscause);
        write_register!("vstval", entry.vstval);
    }

    fn unsupported(&self, what: &str) -> Exit {
        let Trap { scause, stval, htval, .. } = self.last;
        Exit::Unsupported(format!("{what} (scause {scause:#x}, stval {stval:#x}, htval {htval:#x})"))
    }
}

/// The bound guest's own translation.
fn paging() -> GuestPageWalkInfo {
    GuestPageWalkInfo::riscv(read_register!("vsatp"), read_register!("vsstatus"), read_register!("henvcfg"))
}

/// This hart forgets what it derived from the bound guest's own tables, and what it fetched.
fn forget_stage_1() {
    // SAFETY: fences; forgetting is always allowed.
    unsafe {
        asm!(
            ".option push",
            ".option arch, +h",
            "hfence.vvma x0, x0",
            "fence.i",
            ".option pop",
            options(nostack)
        );
    }
}

/// The event of a fault.
pub(super) fn recorded(info: &NestedPageFaultInfo) -> Recorded {
    let kinds = [(MappingFlags::READ, 1), (MappingFlags::WRITE, 2), (MappingFlags::EXECUTE, 4)];
    let access =
        kinds.iter().filter(|(kind, _)| info.access.contains(*kind)).map(|(_, bit)| bit).sum::<u64>();
    Recorded::Fault { gpa: info.gpa.as_u64(), access: access | u64::from(info.walk) << 8 }
}
