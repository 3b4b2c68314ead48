//! The AArch64 vCPU: HCR_EL2 and its companions, entry and exit, injection.
//!
//! vCPU n lives on physical CPU n from its start to its end. Interrupts and the timers are the guest's: nobody else uses
//! this CPU. What else passes through and what is trapped
//! is decided in [`extensions`](crate::arch::aarch64::extensions).

#![expect(unsafe_code, reason = "address translation and wait instructions, and registers without a wrapper")]

use super::context::{SystemRegisters, read_register, write_register};
use super::recording::record;
use super::switch::{self, Registers};
use crate::arch::aarch64::exception::{self, Before, Exception};
use crate::arch::aarch64::exit::{self, Cause, Vector};
use crate::arch::aarch64::extensions::{Extensions, HCR_HOST, IdRegisters};
use crate::arch::aarch64::psci::{self, Answer};
use crate::cpus::Cpus;
use crate::monitor;
use crate::requests;
use crate::vcpu::{BufferAnswer, Event, Exit, Vcpu};
use aarch64_cpu::registers::{
    CNTHCTL_EL2, CNTVOFF_EL2, CPTR_EL2, ELR_EL1, ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, HCR_EL2, HPFAR_EL2,
    ICC_SRE_EL2, MDCR_EL2, MIDR_EL1, MPIDR_EL1, PAR_EL1, Readable, SCTLR_EL1, SPSR_EL1, VBAR_EL1, VMPIDR_EL2,
    VTCR_EL2, VTTBR_EL2, Writeable,
};
use alloc::format;
use core::arch::asm;
use core::fmt;
use slat::device::DataAccess;
use slat::format::stage2::{Syndrome, decode_fault};
use slat::{GuestPhysAddr, GuestVirtAddr, MappingFlags, NestedPageFaultInfo};
use slat_hv_protocol::recording::{Event as Recorded, Operation};

/// SPSR for EL1h with debug exceptions, SErrors and interrupts masked.
const PSTATE_AT_BOOT: u64 = 0x3c5;

/// Names of the general registers.
const GENERAL: [&str; 31] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
    "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30",
];

/// What a guest's CPU is to be like.
#[derive(Clone, Copy)]
pub(super) struct Config {
    /// Whether waiting for interrupts leads to an exit.
    pub(super) trap_wait: bool,
    /// The guest's CPUs, which it turns on and off through its firmware.
    pub(super) cpus: &'static Cpus,
    /// Whether the guest may ask for changes of its pages.
    pub(super) requests: bool,
}

/// The stage-2 registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Root {
    /// VTTBR_EL2.
    pub(super) vttbr: u64,
    /// VTCR_EL2.
    pub(super) vtcr: u64,
    /// What the format needs in HCR_EL2.
    pub(super) hcr: u64,
}

/// A vCPU.
pub(super) struct Aarch64Vcpu {
    id: usize,
    registers: Registers,
    system: SystemRegisters,
    root: Root,
    config: Config,
    mpidr: u64,
    extensions: Extensions,
    /// ESR_EL2 and FAR_EL2 of the last exit.
    last: Syndrome,
}

impl Vcpu for Aarch64Vcpu {
    type Config = Config;
    type Root = Root;

    fn new(id: usize, config: Config) -> Self {
        Self {
            id,
            registers: Registers { pstate: PSTATE_AT_BOOT, ..Registers::default() },
            system: SystemRegisters::INITIAL,
            root: Root::default(),
            config,
            // The physical CPU's affinity, because the GIC is the physical one; bit 31 is RES1.
            mpidr: MPIDR_EL1.get() | 1 << 31,
            extensions: Extensions::from_id_registers(&extension_registers()),
            last: Syndrome::default(),
        }
    }

    fn set_entry(&mut self, entry: GuestPhysAddr, argument: u64) {
        self.registers.pc = entry.as_u64();
        self.registers.x = [0; 31];
        self.set_register(0, argument);
    }

    fn set_root(&mut self, root: Root) {
        self.root = root;
    }

    fn bind(&mut self) {
        self.set_up_traps();
        record(Recorded::Load { root: self.root.vttbr });
        VTCR_EL2.set(self.root.vtcr);
        VTTBR_EL2.set(self.root.vttbr);
        self.system.restore();
        HCR_EL2.set(self.extensions.hcr(self.config.trap_wait) | self.root.hcr);
        synchronize();
        record(Recorded::Maintenance { operation: Operation::Isb, operand: 0 });
    }

    fn unbind(&mut self) {
        self.system.save();
        HCR_EL2.set(HCR_HOST);
        VTTBR_EL2.set(0);
        synchronize();
        record(Recorded::Unload);
    }

    fn run(&mut self) -> Exit {
        record(Recorded::Enter);
        let vector = Vector::from_index(switch::enter(&mut self.registers));
        self.last = Syndrome {
            esr: ESR_EL2.get(),
            far: FAR_EL2.get(),
            hpfar: HPFAR_EL2.get(),
            spsr: self.registers.pstate,
        };
        match exit::decode(vector, self.last.esr) {
            Cause::Abort => self.abort(),
            Cause::Hvc(immediate) => self.firmware_call(immediate),
            Cause::Smc(immediate) => {
                self.skip_instruction();
                self.firmware_call(immediate)
            }
            Cause::Wait => {
                self.skip_instruction();
                Exit::Wait
            }
            Cause::Trapped => {
                self.inject(Event::UndefinedInstruction);
                Exit::Refused
            }
            Cause::SystemError => self.unsupported("SError"),
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
        if let Some(register) = self.registers.x.get_mut(index) {
            *register = value;
        }
    }

    fn write_registers(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        // While it runs the CPU has them.
        let mut system = self.system.clone();
        system.save();
        let Syndrome { esr, far, hpfar, .. } = self.last;
        let own =
            [("pc", self.registers.pc), ("pstate", self.registers.pstate), ("vttbr_el2", self.root.vttbr)];
        let exit = [("esr_el2", esr), ("far_el2", far), ("hpfar_el2", hpfar)];
        let general = GENERAL.into_iter().zip(self.registers.x);
        monitor::write_table(out, own.into_iter().chain(exit).chain(general).chain(system.named()))
    }

    fn data_access(&self) -> Option<DataAccess> {
        self.last.data_access()
    }

    fn advance(&mut self) {
        self.skip_instruction();
    }

    fn wait(&mut self) {
        // SAFETY: waits until an interrupt is pending, which the masks of EL2 do not prevent; changes nothing.
        unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
    }

    fn answer_request(&mut self, done: bool) {
        self.set_register(0, requests::answer(done));
    }

    fn answer_buffer_call(&mut self, answer: BufferAnswer) {
        self.set_register(0, requests::status(answer.status));
        self.set_register(1, answer.done);
    }

    fn inject(&mut self, event: Event) {
        let exception = match event {
            Event::UndefinedInstruction => Exception::Undefined,
            Event::AccessFailed => Exception::external_abort(&self.last),
        };
        let before = Before {
            pc: self.registers.pc,
            pstate: self.registers.pstate,
            vbar: VBAR_EL1.get(),
            sctlr: SCTLR_EL1.get(),
        };
        let entry = exception::enter(before, self.extensions.pstate(), exception);
        self.registers.pc = entry.pc;
        self.registers.pstate = entry.pstate;
        ELR_EL1.set(entry.elr);
        SPSR_EL1.set(entry.spsr);
        ESR_EL1.set(entry.esr);
        if let Some(far) = entry.far {
            FAR_EL1.set(far);
        }
    }
}

impl Aarch64Vcpu {
    fn set_up_traps(&self) {
        let Extensions { sve, sme, fine_grained_traps, extended_hcr, pmu, gic_registers, .. } =
            self.extensions;
        CPTR_EL2.set(self.extensions.cptr());
        synchronize();
        if sve {
            // ZCR_EL2: every vector length.
            write_register!("s3_4_c1_c2_0", 0xf);
        }
        if sme {
            // SMCR_EL2: every vector length, and FA64, which is ignored where it does not exist.
            write_register!("s3_4_c1_c2_6", 1 << 31 | 0xf);
        }
        if fine_grained_traps {
            // HFGRTR_EL2, HFGWTR_EL2; then HFGITR_EL2, HDFGRTR_EL2, HDFGWTR_EL2.
            write_register!("s3_4_c1_c1_4", self.extensions.register_traps());
            write_register!("s3_4_c1_c1_5", self.extensions.register_traps());
            write_register!("s3_4_c1_c1_6", 0);
            write_register!("s3_4_c3_c1_4", 0);
            write_register!("s3_4_c3_c1_5", 0);
        }
        if extended_hcr {
            // HCRX_EL2.
            write_register!("s3_4_c1_c2_2", 0);
        }
        // All counters of the PMU belong to EL1, if there is one; no debug register is trapped.
        MDCR_EL2.set(if pmu { read_register!("pmcr_el0") >> 11 & 0x1f } else { 0 });
        // Physical counter and timer are not trapped; the virtual one runs without offset.
        CNTHCTL_EL2.set(3);
        CNTVOFF_EL2.set(0);
        if gic_registers {
            // The GIC's CPU interface by system registers, for EL1 as well.
            ICC_SRE_EL2.set(0xf);
        }
        VMPIDR_EL2.set(self.mpidr);
        // What the guest reads as MIDR_EL1: the CPU's own.
        write_register!("vpidr_el2", MIDR_EL1.get());
        // No AArch32 coprocessor register is trapped.
        write_register!("hstr_el2", 0);
    }

    fn abort(&mut self) -> Exit {
        match decode_fault(&self.last) {
            Ok(fault) => match fault.info().or_else(|| fault.with_par(translate_stage_1(fault.gva))) {
                Some(info) => {
                    record(recorded(&info));
                    Exit::NestedPageFault(info)
                }
                None => Exit::RepeatAccess,
            },
            Err(reason) => self.unsupported(&format!("{reason}")),
        }
    }

    fn firmware_call(&mut self, immediate: u16) -> Exit {
        let [x0, x1, x2, x3, ..] = self.registers.x;
        let answer = match immediate {
            0 => {
                if let Some(request) = requests::decode(x0).filter(|_| self.config.requests) {
                    return Exit::Request(request, GuestPhysAddr::new(x1));
                }
                if let Some(call) = requests::decode_buffer(x0) {
                    return Exit::Buffer(call, GuestPhysAddr::new(x1), x2);
                }
                psci::answer([x0, x1, x2, x3], self.id, self.config.cpus)
            }
            _ => psci::OTHER_IMMEDIATE,
        };
        match answer {
            Answer::CpuOff => Exit::CpuOff,
            Answer::PowerOff => Exit::PowerOff,
            Answer::Reset => Exit::Reset,
            Answer::WaitThenReturn(value) => {
                self.set_register(0, value);
                Exit::Suspend
            }
            Answer::Return(value) => {
                self.set_register(0, value);
                Exit::FirmwareCall
            }
        }
    }

    fn skip_instruction(&mut self) {
        let Registers { pc, pstate, .. } = &mut self.registers;
        (*pc, *pstate) = exception::skip(*pc, *pstate, self.last.esr);
    }

    fn unsupported(&self, what: &str) -> Exit {
        let Syndrome { esr, far, .. } = self.last;
        Exit::Unsupported(format!("{what} (ESR_EL2 {esr:#x}, FAR_EL2 {far:#x})"))
    }
}

fn recorded(info: &NestedPageFaultInfo) -> Recorded {
    let kinds = [(MappingFlags::READ, 1), (MappingFlags::WRITE, 2), (MappingFlags::EXECUTE, 4)];
    let access =
        kinds.iter().filter(|(kind, _)| info.access.contains(*kind)).map(|(_, bit)| bit).sum::<u64>();
    Recorded::Fault { gpa: info.gpa.as_u64(), access: access | u64::from(info.walk) << 8 }
}

fn extension_registers() -> IdRegisters {
    IdRegisters {
        pfr0: read_register!("id_aa64pfr0_el1"),
        pfr1: read_register!("id_aa64pfr1_el1"),
        isar1: read_register!("id_aa64isar1_el1"),
        // ID_AA64ISAR2_EL1, whose name older assemblers do not know.
        isar2: read_register!("s3_0_c0_c6_2"),
        mmfr0: read_register!("id_aa64mmfr0_el1"),
        mmfr1: read_register!("id_aa64mmfr1_el1"),
        dfr0: read_register!("id_aa64dfr0_el1"),
    }
}

/// PAR_EL1 as the bound guest's own translation of `address` leaves it; the guest's PAR_EL1 is kept.
fn translate_stage_1(address: GuestVirtAddr) -> u64 {
    let guests = PAR_EL1.get();
    // SAFETY: translates by the guest's tables, behind stage 2, and writes nothing but PAR_EL1.
    unsafe { asm!("at s1e1r, {}", "isb", in(reg) address.as_u64(), options(nostack, preserves_flags)) };
    let par = PAR_EL1.get();
    PAR_EL1.set(guests);
    par
}

/// Makes the writes to system registers before it effective.
fn synchronize() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}
