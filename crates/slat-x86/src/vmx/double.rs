//! CPUs made of maps: what VMX does with VMCSs, as far as the logic of this module can tell.
//!
//! Like the hardware, and unlike it, it is strict: a VMCS that is active on two CPUs, an instruction outside of VMX
//! operation, an entry with an event that the state does not allow are failures of the test.

#![expect(unsafe_code, reason = "implements the instructions of VMX")]

use super::capabilities::RawCapabilities;
use super::cpu::{CR4_VMXE, NONE_CURRENT};
use super::field;
use super::{Capabilities, HostRegisters, Instructions, InveptType, InvvpidType, VmxError};
use crate::state::GeneralRegisters;
use slat::HostPhysAddr;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

/// What was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Executed {
    Vmxon,
    Vmxoff,
    Invept(InveptType),
    Invvpid(InvvpidType),
    Launch,
    Resume,
    EndNmi,
}

/// An exit that is to come: fields, and the general registers as the guest left them.
pub(crate) type Script = Vec<(u32, u64)>;

#[derive(Default)]
struct Cpu {
    on: bool,
    current: Option<u64>,
    cr0: u64,
    cr4: u64,
    feature_control: u64,
}

#[derive(Default)]
struct State {
    cpus: [Cpu; 2],
    this: usize,
    /// Fields of each VMCS; and on which CPU it is active, and whether it was launched.
    fields: BTreeMap<u64, BTreeMap<u32, u64>>,
    active: BTreeMap<u64, usize>,
    launched: BTreeMap<u64, bool>,
    executed: Vec<Executed>,
    exits: VecDeque<Script>,
    /// What the entries delivered: interruption information.
    delivered: Vec<u32>,
    /// VMXON and VMPTRLD fail with this.
    refuse: Option<VmxError>,
}

/// Two CPUs, of which one is at hand.
pub(crate) struct Double {
    raw: RawCapabilities,
    state: RefCell<State>,
}

impl Double {
    pub(crate) fn new(raw: RawCapabilities) -> Self {
        let state = RefCell::new(State::default());
        for cpu in &mut state.borrow_mut().cpus {
            // PE, NE, PG; PAE.
            cpu.cr0 = 0x8000_0021;
            cpu.cr4 = 0x20;
            cpu.feature_control = raw.feature_control;
        }
        Self { raw, state }
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::new(&self.raw).expect("the CPU is good enough")
    }

    /// The CPU at hand is this one now.
    pub(crate) fn go_to(&self, cpu: usize) {
        self.state.borrow_mut().this = cpu;
    }

    pub(crate) fn this(&self) -> usize {
        self.state.borrow().this
    }

    pub(crate) fn refuse(&self, error: Option<VmxError>) {
        self.state.borrow_mut().refuse = error;
    }

    pub(crate) fn set_feature_control(&self, value: u64) {
        self.with(|cpu| cpu.feature_control = value);
    }

    /// The next entry ends with an exit that sets these fields.
    pub(crate) fn exit(&self, reason: u64, fields: &[(u32, u64)]) {
        let mut script = vec![(field::EXIT_REASON.encoding(), reason), (field::IDT_VECTORING.encoding(), 0)];
        script.extend_from_slice(fields);
        self.state.borrow_mut().exits.push_back(script);
    }

    /// What was executed since this was asked the last time.
    pub(crate) fn executed(&self) -> Vec<Executed> {
        core::mem::take(&mut self.state.borrow_mut().executed)
    }

    /// What entries delivered since this was asked the last time.
    pub(crate) fn delivered(&self) -> Vec<u32> {
        core::mem::take(&mut self.state.borrow_mut().delivered)
    }

    /// A field of the current VMCS.
    pub(crate) fn field(&self, encoding: u32) -> u64 {
        self.vmread(encoding).expect("a current VMCS with the field")
    }

    /// VMCSs that are active on any CPU.
    pub(crate) fn active(&self) -> usize {
        self.state.borrow().active.len()
    }

    pub(crate) fn is_on(&self) -> bool {
        self.with(|cpu| cpu.on)
    }

    pub(crate) fn feature_control(&self) -> u64 {
        self.with(|cpu| cpu.feature_control)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Cpu) -> T) -> T {
        let mut state = self.state.borrow_mut();
        let this = state.this;
        work(&mut state.cpus[this])
    }

    fn log(&self, executed: Executed) {
        self.state.borrow_mut().executed.push(executed);
    }

    fn assert_on(&self) {
        assert!(self.with(|cpu| cpu.on && cpu.cr4 & CR4_VMXE != 0), "an instruction of VMX while it is off");
    }

    fn check_entry(fields: &BTreeMap<u32, u64>) {
        let get = |encoding: u32| *fields.get(&encoding).expect("a field that was never written");
        let information = get(field::ENTRY_INTERRUPTION.encoding());
        let blocking = get(field::GUEST_INTERRUPTIBILITY.encoding());
        let flags = get(field::GUEST_RFLAGS.encoding());
        assert_eq!(get(field::VMCS_LINK_POINTER.encoding()), u64::MAX);
        assert!(get(field::EPT_POINTER.encoding()) & 0x3f == 0x1e);
        assert!(get(field::GUEST_CR4.encoding()) & CR4_VMXE != 0);
        assert_eq!(
            get(field::GUEST_EFER.encoding()) >> 10 & 1,
            get(field::ENTRY_CONTROLS.encoding()) >> 9 & 1,
            "EFER.LMA and the control"
        );
        assert_ne!(get(field::HOST_TR.encoding()), 0);
        // "Checks on Guest Non-Register State".
        if information >> 31 & 1 == 1 {
            match information >> 8 & 7 {
                0 => assert!(blocking & 3 == 0 && flags & 1 << 9 != 0, "an interrupt while they are blocked"),
                2 => assert!(blocking & 0b1010 == 0, "an NMI while they are blocked"),
                _ => {}
            }
            assert_eq!(get(field::GUEST_ACTIVITY.encoding()), 0, "an event for one that sleeps");
        }
    }
}

// SAFETY: nothing is executed; the maps are what the tests look at.
unsafe impl Instructions for &Double {
    fn rdmsr(&self, index: u32) -> u64 {
        use super::capabilities::msr;
        match index {
            msr::FEATURE_CONTROL => self.feature_control(),
            msr::BASIC => self.raw.basic,
            msr::TRUE_PIN => self.raw.pin,
            msr::TRUE_PRIMARY => self.raw.primary,
            msr::TRUE_EXIT => self.raw.exit,
            msr::TRUE_ENTRY => self.raw.entry,
            msr::MISC => self.raw.misc,
            msr::CR0_FIXED0 => self.raw.cr0_fixed0,
            msr::CR0_FIXED1 => self.raw.cr0_fixed1,
            msr::CR4_FIXED0 => self.raw.cr4_fixed0,
            msr::CR4_FIXED1 => self.raw.cr4_fixed1,
            msr::SECONDARY if self.raw.secondary != 0 => self.raw.secondary,
            msr::EPT_VPID_CAP if self.raw.ept_vpid_cap != 0 => self.raw.ept_vpid_cap,
            _ => panic!("the CPU has no MSR {index:#x}"),
        }
    }

    unsafe fn wrmsr(&self, index: u32, value: u64) {
        assert_eq!(index, super::capabilities::msr::FEATURE_CONTROL);
        self.with(|cpu| {
            assert_eq!(cpu.feature_control & 1, 0, "a write to a register that is locked");
            cpu.feature_control = value;
        });
    }

    fn cpuid(&self, leaf: u32, _subleaf: u32) -> [u32; 4] {
        match leaf {
            0 => [0x16, 0, 0, 0],
            1 => [0, (self.this() as u32) << 24, self.raw.cpuid_1_ecx, 0],
            7 => [0, self.raw.cpuid_7_ebx, 0, 0],
            0xb => [0, 1, 0x100, self.this() as u32],
            0xd => {
                let components = self.raw.extended_components;
                [components as u32, 0, self.raw.extended_bytes, (components >> 32) as u32]
            }
            0x8000_0000 => [0x8000_0008, 0, 0, 0],
            0x8000_0001 => [0, 0, 0, self.raw.cpuid_extended_edx],
            0x8000_0008 => [0x3000 | self.raw.physical_bits, 0, 0, 0],
            _ => panic!("CPUID {leaf:#x}"),
        }
    }

    fn cr0(&self) -> u64 {
        self.with(|cpu| cpu.cr0)
    }

    fn cr4(&self) -> u64 {
        self.with(|cpu| cpu.cr4)
    }

    unsafe fn set_cr0_cr4(&self, cr0: u64, cr4: u64) {
        self.with(|cpu| {
            assert!(!cpu.on || cr4 & CR4_VMXE != 0, "CR4.VMXE is cleared in VMX operation");
            (cpu.cr0, cpu.cr4) = (cr0, cr4);
        });
    }

    fn host_registers(&self) -> HostRegisters {
        let mut host = HostRegisters { cr0: self.cr0(), cr4: self.cr4(), ..HostRegisters::default() };
        host.selectors[6] = 0x20 + 0x10 * self.state.borrow().this as u16;
        host
    }

    unsafe fn vmxon(&self, _region: HostPhysAddr) -> Result<(), VmxError> {
        if let Some(error) = self.state.borrow().refuse {
            return Err(error);
        }
        self.with(|cpu| {
            assert!(cpu.cr4 & CR4_VMXE != 0 && cpu.feature_control & 5 == 5 && !cpu.on);
            cpu.on = true;
        });
        self.log(Executed::Vmxon);
        Ok(())
    }

    unsafe fn vmxoff(&self) -> Result<(), VmxError> {
        self.assert_on();
        let this = self.state.borrow().this;
        assert!(!self.state.borrow().active.values().any(|cpu| *cpu == this), "a VMCS is still active");
        self.with(|cpu| cpu.on = false);
        self.log(Executed::Vmxoff);
        Ok(())
    }

    unsafe fn vmclear(&self, vmcs: HostPhysAddr) -> Result<(), VmxError> {
        self.assert_on();
        let mut state = self.state.borrow_mut();
        let this = state.this;
        if let Some(cpu) = state.active.remove(&vmcs.as_u64()) {
            assert_eq!(cpu, this, "VMCLEAR of a VMCS that is active elsewhere");
        }
        state.launched.insert(vmcs.as_u64(), false);
        let current = &mut state.cpus[this].current;
        *current = current.filter(|current| *current != vmcs.as_u64());
        Ok(())
    }

    unsafe fn vmptrld(&self, vmcs: HostPhysAddr) -> Result<(), VmxError> {
        self.assert_on();
        let mut state = self.state.borrow_mut();
        if let Some(error) = state.refuse {
            return Err(error);
        }
        let this = state.this;
        let active = *state.active.entry(vmcs.as_u64()).or_insert(this);
        assert_eq!(active, this, "a VMCS on two CPUs");
        state.fields.entry(vmcs.as_u64()).or_default();
        state.cpus[this].current = Some(vmcs.as_u64());
        Ok(())
    }

    fn vmptrst(&self) -> u64 {
        self.assert_on();
        self.with(|cpu| cpu.current.unwrap_or(NONE_CURRENT))
    }

    fn vmread(&self, encoding: u32) -> Result<u64, VmxError> {
        self.assert_on();
        let state = self.state.borrow();
        let current = state.cpus[state.this].current.ok_or(VmxError::Invalid)?;
        let fields = state.fields.get(&current).ok_or(VmxError::Invalid)?;
        Ok(fields.get(&encoding).copied().unwrap_or(0))
    }

    fn vmwrite(&self, encoding: u32, value: u64) -> Result<(), VmxError> {
        self.assert_on();
        let mut state = self.state.borrow_mut();
        let current = state.cpus[state.this].current.ok_or(VmxError::Invalid)?;
        state.fields.entry(current).or_default().insert(encoding, value);
        Ok(())
    }

    fn end_nmi(&self) {
        self.log(Executed::EndNmi);
    }

    fn invept(&self, kind: InveptType) -> Result<(), VmxError> {
        self.assert_on();
        if matches!(kind, InveptType::SingleContext(_)) && self.raw.ept_vpid_cap >> 25 & 1 == 0 {
            return Err(VmxError::Valid(28));
        }
        self.log(Executed::Invept(kind));
        Ok(())
    }

    fn invvpid(&self, kind: InvvpidType) -> Result<(), VmxError> {
        self.assert_on();
        if matches!(kind, InvvpidType::SingleContext(_)) && self.raw.ept_vpid_cap >> 41 & 1 == 0 {
            return Err(VmxError::Valid(28));
        }
        self.log(Executed::Invvpid(kind));
        Ok(())
    }

    unsafe fn enter(
        &self,
        _general: &mut GeneralRegisters,
        _cr2: &mut u64,
        launched: bool,
    ) -> Result<(), VmxError> {
        self.assert_on();
        let mut state = self.state.borrow_mut();
        let current = state.cpus[state.this].current.ok_or(VmxError::Invalid)?;
        let was_launched = state.launched.get(&current).copied().unwrap_or(false);
        if was_launched != launched {
            // VMLAUNCH with non-clear VMCS; VMRESUME with non-launched VMCS.
            return Err(VmxError::Valid(if launched { 5 } else { 4 }));
        }
        state.executed.push(if launched { Executed::Resume } else { Executed::Launch });
        let script = state.exits.pop_front().expect("an exit that was not foreseen");
        let fields = state.fields.entry(current).or_default();
        let failed = script
            .iter()
            .any(|(encoding, value)| *encoding == field::EXIT_REASON.encoding() && value >> 31 & 1 == 1);
        let information = fields.get(&field::ENTRY_INTERRUPTION.encoding()).copied().unwrap_or(0);
        if !failed {
            Double::check_entry(fields);
            fields.insert(field::ENTRY_INTERRUPTION.encoding(), information & !(1 << 31));
        }
        fields.extend(script);
        if !failed {
            state.launched.insert(current, true);
            if information >> 31 & 1 == 1 {
                state.delivered.push(information as u32);
            }
        }
        Ok(())
    }
}
