use super::{HLT, REASON_CR, with_vcpu, with_vcpu_of};
use crate::exit::{ControlAccess, ControlRegister, Exit};
use crate::state::{CpuState, General};
use crate::vcpu::{Control, Vcpu};
use crate::vmx::capabilities::tests::{LYNNFIELD, TIGERLAKE};
use crate::vmx::double::Executed;
use crate::vmx::{InvvpidType, field};

const CR0: u32 = field::GUEST_CR0.encoding();
const CR4: u32 = field::GUEST_CR4.encoding();
const NE: u64 = 1 << 5;
const VMXE: u64 = 1 << 13;

#[test]
fn what_vmx_needs_is_hidden() {
    with_vcpu(|cpu, vcpu| {
        assert_eq!((cpu.field(CR0) & NE, cpu.field(CR4) & VMXE), (NE, VMXE));
        assert_eq!((vcpu.control(Control::Cr0) & NE, vcpu.control(Control::Cr4) & VMXE), (0, 0));
        assert_eq!(cpu.field(field::CR0_MASK.encoding()), NE);
        let mask = cpu.field(field::CR4_MASK.encoding());
        // PKE, CET, SMXE and VMXE are the host's; SMAP, PCIDE and PAE the guest's.
        assert_eq!(mask & (1 << 22 | 1 << 23 | 1 << 14 | VMXE), 1 << 22 | 1 << 23 | 1 << 14 | VMXE);
        assert_eq!(mask & (1 << 21 | 1 << 17 | 1 << 5), 0);
        // What the guest has changed by itself is seen.
        super::set(cpu, CR0, 0x8001_0031);
        assert_eq!(vcpu.control(Control::Cr0), 0x8001_0011);
    });
}

#[test]
fn a_change_of_ne_goes_through_at_the_second_attempt() {
    let real = CpuState::real_mode(0, 0);
    with_vcpu_of(TIGERLAKE, &real, |cpu, vcpu| {
        vcpu.general_mut().set(General::Rbx, 0x8005_0033);
        // MOV to CR0 from RBX, twice: the second time it would not have exited.
        cpu.exit(REASON_CR, &[(field::EXIT_QUALIFICATION.encoding(), 0x300)]);
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.executed(), [Executed::Launch, Executed::Resume]);
        assert_eq!(cpu.field(field::CR0_SHADOW.encoding()) & NE, NE);
        assert_eq!(vcpu.control(Control::Cr0), 0x30, "the rest is for the CPU to do");
        // If it exits although nothing of the host's changes, somebody else has to decide.
        cpu.exit(REASON_CR, &[(field::EXIT_QUALIFICATION.encoding(), 0x300)]);
        let write = ControlAccess::Write(ControlRegister::Cr0, General::Rbx);
        assert_eq!(vcpu.run(false), Ok(Exit::Control(write)));
    });
}

#[test]
fn without_unrestricted_guests_paging_stays_on() {
    with_vcpu_of(LYNNFIELD, &CpuState::long_mode(0, 0), |cpu, vcpu| {
        for value in [0x11, 0x31, 0x8000_0010] {
            vcpu.general_mut().set(General::Rax, value);
            cpu.exit(REASON_CR, &[(field::EXIT_QUALIFICATION.encoding(), 0)]);
            assert!(matches!(vcpu.run(false), Ok(Exit::Control(_))));
            assert!(!vcpu.set_control(Control::Cr0, value));
        }
        assert!(vcpu.set_control(Control::Cr0, 0x8001_0031));
    });
}

#[test]
fn hostile_values_are_refused_and_change_nothing() {
    with_vcpu(|_, vcpu| {
        let before = vcpu.state();
        let bad = [
            // PG without PE; NW without CD; undefined bits; leaving 64-bit mode by PG.
            (Control::Cr0, 0x8000_0010),
            (Control::Cr0, 0xa000_0011),
            (Control::Cr0, 0x8000_0011 | 1 << 6),
            (Control::Cr0, 0x8000_0011 | 1 << 32),
            (Control::Cr0, 0x11),
            // Wider than the CPU; bit 63 without PCIDs.
            (Control::Cr3, 1 << 40),
            (Control::Cr3, 1 << 63),
            // VMXE, SMXE, CET, undefined; PAE off, LA57 on in 64-bit mode.
            (Control::Cr4, 0x20 | VMXE),
            (Control::Cr4, 0x20 | 1 << 14),
            (Control::Cr4, 0x20 | 1 << 23),
            (Control::Cr4, 0x20 | 1 << 63),
            (Control::Cr4, 0),
            (Control::Cr4, 0x20 | 1 << 12),
            // SVME, undefined; LME off with paging on.
            (Control::Efer, 0x1500),
            (Control::Efer, 0x500 | 1 << 63),
            (Control::Efer, 0x400),
        ];
        for (control, value) in bad {
            assert!(!vcpu.set_control(control, value), "{control:?} {value:#x}");
        }
        assert_eq!(vcpu.state(), before);
    });
}

#[test]
fn values_that_are_fine_are_taken_and_translations_dropped() {
    with_vcpu(|cpu, vcpu| {
        let _ = cpu.executed();
        for (control, value) in [
            (Control::Cr0, 0x8005_0033),
            (Control::Cr3, 0x3000),
            (Control::Cr4, 0x20 | 1 << 17 | 1 << 18),
            (Control::Efer, 0xd01),
        ] {
            assert!(vcpu.set_control(control, value), "{control:?}");
            assert_eq!(vcpu.control(control), value);
            assert_eq!(cpu.executed(), [Executed::Invvpid(InvvpidType::SingleContext(7))]);
        }
        // LMA is the CPU's own.
        assert!(vcpu.set_control(Control::Efer, 0x101));
        assert_eq!(vcpu.control(Control::Efer), 0x501);
        // With PCIDs bit 63 asks for translations to be kept, and is no part of the register.
        assert!(vcpu.set_control(Control::Cr3, 1 << 63 | 0x4001));
        assert_eq!(vcpu.control(Control::Cr3), 0x4001);
    });
}

#[test]
fn paging_makes_a_64_bit_guest_of_one_with_lme() {
    with_vcpu_of(TIGERLAKE, &CpuState::protected_mode(0), |cpu, vcpu| {
        assert!(vcpu.set_control(Control::Efer, 0x100));
        // Without PAE that is a fault.
        assert!(!vcpu.set_control(Control::Cr0, 0x8000_0011));
        assert!(vcpu.set_control(Control::Cr4, 0x20));
        assert!(vcpu.set_control(Control::Cr0, 0x8000_0011));
        assert_eq!(vcpu.control(Control::Efer), 0x500);
        assert_ne!(cpu.field(field::ENTRY_CONTROLS.encoding()) & 1 << 9, 0);
        // Compatibility mode may turn paging off again.
        assert!(vcpu.set_control(Control::Cr0, 0x11));
        assert_eq!(vcpu.control(Control::Efer), 0x100);
        assert_eq!(cpu.field(field::ENTRY_CONTROLS.encoding()) & 1 << 9, 0);
    });
}
