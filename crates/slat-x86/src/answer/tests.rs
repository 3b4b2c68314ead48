//! Answers to a vCPU that only takes them down.

use super::*;
use crate::event::BadEvent;
use crate::state::{CpuState, GeneralRegisters};
use crate::vcpu::{BindError, RunError};
use slat::device::{AccessWidth, Port};
use slat::{GuestPageWalkInfo, InstructionBytes};
use std::vec::Vec;

#[derive(Default)]
struct Double {
    general: GeneralRegisters,
    cr0: u64,
    cr4: u64,
    efer: u64,
    xcr0: u64,
    advanced: usize,
    injected: Vec<Event>,
    refuses: bool,
}

impl Vcpu for Double {
    fn bind(&mut self, _cpu: usize) -> Result<(), BindError> {
        Ok(())
    }
    fn unbind(&mut self) {}
    fn bound_to(&self) -> Option<usize> {
        Some(0)
    }
    fn set_root(&mut self, root: u64) -> Result<(), RunError> {
        Err(RunError::BadRoot(root))
    }
    fn state(&self) -> Result<CpuState, RunError> {
        Err(RunError::NotBound)
    }
    fn set_state(&mut self, _state: &CpuState) -> Result<(), RunError> {
        Ok(())
    }
    fn general(&self) -> &GeneralRegisters {
        &self.general
    }
    fn general_mut(&mut self) -> &mut GeneralRegisters {
        &mut self.general
    }
    fn rip(&self) -> u64 {
        0
    }
    fn set_rip(&mut self, _rip: u64) {}
    fn advance(&mut self) {
        self.advanced += 1;
    }
    fn run(&mut self, _flush: bool) -> Result<Exit, RunError> {
        Err(RunError::NoRoot)
    }
    fn inject(&mut self, event: Event) -> Result<(), RunError> {
        event.check(self.cr0 & 1 != 0).map_err(|error: BadEvent| RunError::Event(error))?;
        self.injected.push(event);
        Ok(())
    }
    fn take_interrupted(&mut self) -> Option<Event> {
        None
    }
    fn is_in_interrupt_shadow(&self) -> bool {
        false
    }
    fn takes_interrupts(&self) -> bool {
        true
    }
    fn set_interrupt_window(&mut self, _wanted: bool) {}
    fn set_nmi_window(&mut self, _wanted: bool) {}
    fn set_control(&mut self, control: Control, value: u64) -> bool {
        if self.refuses {
            return false;
        }
        match control {
            Control::Cr0 => self.cr0 = value,
            Control::Cr3 => {}
            Control::Cr4 => self.cr4 = value,
            Control::Efer => self.efer = value,
        }
        true
    }
    fn control(&self, control: Control) -> u64 {
        match control {
            Control::Cr0 => self.cr0,
            Control::Cr3 => 0x3000,
            Control::Cr4 => self.cr4,
            Control::Efer => self.efer,
        }
    }
    fn xcr0(&self) -> u64 {
        self.xcr0
    }
    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
    }
    fn paging(&self) -> GuestPageWalkInfo {
        GuestPageWalkInfo::x86(self.cr0, 0, self.cr4, self.efer, 2)
    }
    fn instruction_bytes(&self) -> Option<InstructionBytes> {
        None
    }
}

struct Pc;

impl Machine for Pc {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf {
        match leaf {
            1 => Leaf { ecx: 1 << 26 | 1 << 5, ..Leaf::default() },
            0xd if subleaf == 0 => Leaf { eax: 7, ..Leaf::default() },
            0x1234 => Leaf { eax: 1, ebx: 2, ecx: subleaf, edx: 4 },
            _ => Leaf::default(),
        }
    }
    fn read_msr(&self, index: u32) -> Option<u64> {
        (index == 0x1b).then_some(0xfee0_0900)
    }
}

fn protected() -> Double {
    Double { cr0: 0x8000_0011, efer: 0xd01, ..Double::default() }
}

fn ask(vcpu: &mut Double, exit: Exit) -> Answer {
    answer(vcpu, &exit, cpuid::Policy::default(), &Pc)
}

#[test]
fn cpuid_goes_into_four_registers() {
    let mut vcpu = protected();
    vcpu.general.set(General::Rax, 0xffff_ffff_0000_1234);
    vcpu.general.set(General::Rcx, 0xffff_ffff_0000_0003);
    assert_eq!(ask(&mut vcpu, Exit::Cpuid), Answer::Done);
    let values =
        [General::Rax, General::Rbx, General::Rcx, General::Rdx].map(|register| vcpu.general.get(register));
    assert_eq!((values, vcpu.advanced), ([1, 2, 3, 4], 1));
    vcpu.general.set(General::Rax, 1);
    assert_eq!(ask(&mut vcpu, Exit::Cpuid), Answer::Done);
    assert_eq!(vcpu.general.get(General::Rcx), 1 << 26 | 1 << 31, "no VMX");
}

#[test]
fn registers_are_read_and_written_by_their_rules() {
    let mut vcpu = protected();
    for (index, value) in [(0xc000_0080, 0xd01), (0x1b, 0xfee0_0900), (0x2ff, 0x806), (0x3a, 1)] {
        assert_eq!(ask(&mut vcpu, Exit::ReadMsr(index)), Answer::Done, "{index:#x}");
        assert_eq!(vcpu.general.edx_eax(), value);
    }
    let write = |index, value| Exit::WriteMsr { index, value };
    for (index, value) in [(0xc000_0080, 0x501), (0x1b, 0xfee0_0900), (0x2ff, 5), (0x8b, 1)] {
        assert_eq!(ask(&mut vcpu, write(index, value)), Answer::Done, "{index:#x}");
    }
    assert_eq!((vcpu.efer, vcpu.advanced, vcpu.injected.len()), (0x501, 8, 0));
}

#[test]
fn what_does_not_exist_is_a_general_protection_exception() {
    let mut vcpu = protected();
    let exits = [
        Exit::ReadMsr(0x1234_5678),
        // Its value cannot be read here.
        Exit::ReadMsr(0x1a0),
        Exit::ReadMsr(0x10),
        Exit::WriteMsr { index: 0x48f, value: 0 },
        Exit::WriteMsr { index: 0x3a, value: 5 },
        Exit::WriteMsr { index: 0x1b, value: 0x1000_0900 },
        Exit::WriteMsr { index: 0x10, value: 0 },
        Exit::Xsetbv { index: 0, value: 0 },
        Exit::Xsetbv { index: 0, value: 0x1f },
        Exit::Xsetbv { index: 7, value: 1 },
        Exit::Control(ControlAccess::Write(ControlRegister::Cr8, General::Rax)),
        Exit::Control(ControlAccess::Read(ControlRegister::Cr8, General::Rax)),
    ];
    let before = vcpu.general;
    for exit in exits {
        assert_eq!(ask(&mut vcpu, exit), Answer::Exception, "{exit:?}");
    }
    vcpu.refuses = true;
    assert_eq!(ask(&mut vcpu, Exit::WriteMsr { index: 0xc000_0080, value: 0xd01 }), Answer::Exception);
    assert_eq!(ask(&mut vcpu, Exit::Control(ControlAccess::ClearTaskSwitched)), Answer::Exception);
    assert_eq!(vcpu.injected, [Event::GENERAL_PROTECTION; 14]);
    assert_eq!((vcpu.advanced, vcpu.xcr0, vcpu.general), (0, 0, before));
}

#[test]
fn real_mode_has_no_error_codes() {
    let mut vcpu = Double::default();
    assert_eq!(ask(&mut vcpu, Exit::ReadMsr(5)), Answer::Exception);
    assert_eq!(ask(&mut vcpu, Exit::Refused), Answer::Exception);
    assert_eq!(vcpu.injected, [Event::Exception { vector: 13, error_code: None }, Event::UNDEFINED]);
}

#[test]
fn xcr0_is_set() {
    let mut vcpu = protected();
    assert_eq!(ask(&mut vcpu, Exit::Xsetbv { index: 0, value: 7 }), Answer::Done);
    assert_eq!((vcpu.xcr0, vcpu.advanced), (7, 1));
}

#[test]
fn control_registers_are_moved() {
    let mut vcpu = protected();
    vcpu.general.set(General::Rbx, 0x8000_0019);
    assert_eq!(
        ask(&mut vcpu, Exit::Control(ControlAccess::Write(ControlRegister::Cr0, General::Rbx))),
        Answer::Done
    );
    assert_eq!(vcpu.cr0, 0x8000_0019);
    assert_eq!(ask(&mut vcpu, Exit::Control(ControlAccess::ClearTaskSwitched)), Answer::Done);
    assert_eq!(vcpu.cr0, 0x8000_0011);
    assert_eq!(ask(&mut vcpu, Exit::Control(ControlAccess::LoadStatusWord(0xfffe))), Answer::Done);
    assert_eq!(vcpu.cr0, 0x8000_001f, "PE stays, and only four bits count");
    assert_eq!(ask(&mut vcpu, Exit::Control(ControlAccess::LoadStatusWord(1))), Answer::Done);
    assert_eq!(vcpu.cr0, 0x8000_0011);
    vcpu.general.set(General::R15, 0x20);
    assert_eq!(
        ask(&mut vcpu, Exit::Control(ControlAccess::Write(ControlRegister::Cr4, General::R15))),
        Answer::Done
    );
    for (register, value) in
        [(ControlRegister::Cr0, 0x8000_0011), (ControlRegister::Cr3, 0x3000), (ControlRegister::Cr4, 0x20)]
    {
        let read = Exit::Control(ControlAccess::Read(register, General::Rsi));
        assert_eq!(ask(&mut vcpu, read), Answer::Done);
        assert_eq!(vcpu.general.get(General::Rsi), value);
    }
}

#[test]
fn the_rest_is_the_callers() {
    let mut vcpu = protected();
    let port = crate::PortAccess {
        port: Port(0x604),
        width: AccessWidth::Word,
        direction: crate::PortDirection::Out,
        string: false,
        repeat: false,
    };
    for exit in
        [Exit::Halt, Exit::Port(port), Exit::Shutdown, Exit::Nmi, Exit::Hypercall, Exit::InterruptWindow]
    {
        assert_eq!(ask(&mut vcpu, exit), Answer::Open);
    }
    assert_eq!((vcpu.advanced, vcpu.injected.len()), (0, 0));
}
