use super::{HLT, INTERRUPTIBILITY, set, with_vcpu, with_vcpu_of};
use crate::event::{BadEvent, Event};
use crate::exit::Exit;
use crate::state::CpuState;
use crate::vcpu::{RunError, Vcpu};
use crate::vmx::capabilities::tests::TIGERLAKE;
use crate::vmx::double::{Double, Executed};
use crate::vmx::field;

const IDT: u32 = field::IDT_VECTORING.encoding();
const RFLAGS: u32 = field::GUEST_RFLAGS.encoding();
const PRIMARY: u32 = field::PRIMARY_CONTROLS.encoding();
const WINDOW: u64 = 1 << 2;
const NMI_WINDOW: u64 = 1 << 22;
const VIOLATION: u64 = 48;

fn interrupted_by(cpu: &Double, information: u64, more: &[(u32, u64)]) {
    let mut fields = vec![(IDT, information), (field::EXIT_QUALIFICATION.encoding(), 0x181)];
    fields.extend_from_slice(more);
    cpu.exit(VIOLATION, &fields);
}

#[test]
fn what_a_fault_interrupted_is_delivered_again() {
    // Interrupt, NMI, page fault with error code, INT n, INT1, INT3.
    for (information, error_code, length) in [
        (0x8000_0031u64, 0, 0),
        (0x8000_0202, 0, 0),
        (0x8000_0b0e, 6, 0),
        (0x8000_0480, 0, 2),
        (0x8000_0501, 0, 1),
        (0x8000_0603, 0, 1),
    ] {
        with_vcpu(|cpu, vcpu| {
            // What is interrupted while the guest takes interrupts is so after the exit, too.
            set(cpu, RFLAGS, 0x202);
            let fields = [
                (field::IDT_VECTORING_ERROR_CODE.encoding(), error_code),
                (field::EXIT_INSTRUCTION_LENGTH.encoding(), length),
            ];
            interrupted_by(cpu, information, &fields);
            let Ok(Exit::NestedPageFault(fault)) = vcpu.run(false) else { panic!("a fault") };
            assert!(fault.interrupted.is_some());
            // Twice: the second delivery faults, too.
            interrupted_by(cpu, information, &fields);
            assert!(vcpu.run(false).is_ok());
            assert_eq!(cpu.field(field::ENTRY_ERROR_CODE.encoding()), error_code);
            assert_eq!(cpu.field(field::ENTRY_INSTRUCTION_LENGTH.encoding()), length);
            cpu.exit(HLT, &[]);
            assert_eq!(vcpu.run(false), Ok(Exit::Halt));
            cpu.exit(HLT, &[]);
            assert_eq!(vcpu.run(false), Ok(Exit::Halt));
            assert_eq!(cpu.delivered(), [information as u32; 2], "no more and no less");
        });
    }
}

#[test]
fn whoever_takes_it_away_loses_it() {
    with_vcpu(|cpu, vcpu| {
        set(cpu, RFLAGS, 0x202);
        assert_eq!(vcpu.take_interrupted(), None);
        interrupted_by(cpu, 0x8000_0031, &[]);
        assert!(vcpu.run(false).is_ok());
        assert_eq!(vcpu.take_interrupted(), Some(Event::ExternalInterrupt(0x31)));
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert!(cpu.delivered().is_empty());
        // What the hypervisor has injected itself is not taken away by that.
        vcpu.inject(Event::UNDEFINED).expect("an exception");
        assert_eq!(vcpu.take_interrupted(), None);
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.delivered(), [0x8000_0306]);
    });
}

#[test]
fn an_exception_goes_before_the_interrupt_that_it_interrupted() {
    with_vcpu(|cpu, vcpu| {
        set(cpu, RFLAGS, 0x202);
        interrupted_by(cpu, 0x8000_0031, &[]);
        assert!(vcpu.run(false).is_ok());
        vcpu.inject(Event::GENERAL_PROTECTION).expect("an exception");
        // In its handler interrupts are off, then they are on.
        cpu.exit(HLT, &[(RFLAGS, 2)]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.delivered(), [0x8000_0b0d]);
        assert_ne!(cpu.field(PRIMARY) & WINDOW, 0, "the vCPU itself asks for the window");
        cpu.exit(7, &[(RFLAGS, 0x202)]);
        cpu.exit(HLT, &[(RFLAGS, 2)]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt), "and does not tell");
        assert_eq!(cpu.delivered(), [0x8000_0031]);
        assert_eq!(cpu.field(PRIMARY) & WINDOW, 0);
    });
}

#[test]
fn no_interrupt_is_taken_while_another_one_waits() {
    with_vcpu(|cpu, vcpu| {
        set(cpu, RFLAGS, 0x202);
        interrupted_by(cpu, 0x8000_0031, &[]);
        assert!(vcpu.run(false).is_ok());
        vcpu.inject(Event::GENERAL_PROTECTION).expect("an exception");
        cpu.exit(HLT, &[(RFLAGS, 0x202), (INTERRUPTIBILITY, 1)]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        set(cpu, INTERRUPTIBILITY, 0);
        assert!(!vcpu.takes_interrupts());
        let masked = Err(RunError::Event(BadEvent::Masked));
        assert_eq!(vcpu.inject(Event::ExternalInterrupt(0x40)), masked);
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert!(vcpu.takes_interrupts());
        assert_eq!(cpu.delivered(), [0x8000_0b0d, 0x8000_0031]);
    });
}

#[test]
fn faults_in_deliveries_end_in_a_shutdown() {
    with_vcpu(|cpu, vcpu| {
        interrupted_by(cpu, 0x8000_0b0e, &[]);
        assert!(vcpu.run(false).is_ok());
        vcpu.inject(Event::page_fault(0)).expect("an exception");
        interrupted_by(cpu, 0x8000_0b08, &[]);
        assert!(vcpu.run(false).is_ok());
        assert_eq!(cpu.delivered(), [0x8000_0b08]);
        vcpu.inject(Event::GENERAL_PROTECTION).expect("an exception");
        let _ = cpu.executed();
        assert_eq!(vcpu.run(false), Ok(Exit::Shutdown));
        assert!(cpu.executed().is_empty(), "the guest is not entered");
    });
}

#[test]
fn interrupts_are_taken_when_the_guest_takes_them() {
    with_vcpu(|cpu, vcpu| {
        let event = Event::ExternalInterrupt(0x20);
        let masked = Err(RunError::Event(BadEvent::Masked));
        assert_eq!(vcpu.inject(event), masked);
        set(cpu, RFLAGS, 0x202);
        for blocked in [1, 2] {
            set(cpu, INTERRUPTIBILITY, blocked);
            assert!(!vcpu.takes_interrupts() && vcpu.is_in_interrupt_shadow());
            assert_eq!(vcpu.inject(event), masked);
        }
        set(cpu, INTERRUPTIBILITY, 0);
        assert!(!vcpu.is_in_interrupt_shadow());
        assert!(vcpu.takes_interrupts());
        assert_eq!(vcpu.inject(event), Ok(()));
        // One at a time.
        assert_eq!(vcpu.inject(event), masked);
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.delivered(), [0x8000_0020]);
        vcpu.set_interrupt_window(true);
        cpu.exit(7, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::InterruptWindow));
        assert_ne!(cpu.field(PRIMARY) & WINDOW, 0);
        vcpu.set_interrupt_window(false);
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.field(PRIMARY) & WINDOW, 0);
    });
}

#[test]
fn nmis_wait_while_they_are_blocked() {
    with_vcpu(|cpu, vcpu| {
        set(cpu, INTERRUPTIBILITY, 8);
        vcpu.inject(Event::Nmi).expect("an NMI");
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert!(cpu.delivered().is_empty());
        assert_ne!(cpu.field(PRIMARY) & NMI_WINDOW, 0);
        cpu.exit(8, &[(INTERRUPTIBILITY, 0)]);
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.delivered(), [0x8000_0202]);
        vcpu.set_nmi_window(true);
        cpu.exit(8, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::NmiWindow));
    });
    // An NMI whose delivery was interrupted: blocked already, and delivered again.
    with_vcpu(|cpu, vcpu| {
        interrupted_by(cpu, 0x8000_0202, &[(INTERRUPTIBILITY, 8)]);
        assert!(vcpu.run(false).is_ok());
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.delivered(), [0x8000_0202]);
    });
    // An exception goes first: its handler blocks no NMIs, and the NMI comes as soon as the guest takes it.
    with_vcpu(|cpu, vcpu| {
        interrupted_by(cpu, 0x8000_0202, &[(INTERRUPTIBILITY, 8)]);
        assert!(vcpu.run(false).is_ok());
        vcpu.inject(Event::GENERAL_PROTECTION).expect("an exception");
        cpu.exit(8, &[]);
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.delivered(), [0x8000_0b0d, 0x8000_0202]);
    });
    // Without virtual NMIs nobody knows, so it comes at once.
    let mut raw = TIGERLAKE;
    raw.primary &= !(1 << 54);
    with_vcpu_of(raw, &CpuState::long_mode(0, 0), |cpu, vcpu| {
        vcpu.inject(Event::Nmi).expect("an NMI");
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.delivered(), [0x8000_0202]);
    });
}

#[test]
fn an_iret_that_faulted_blocks_nmis_again() {
    for (reason, encoding, information) in [
        (VIOLATION, field::EXIT_QUALIFICATION.encoding(), 0x1181),
        (62, field::EXIT_QUALIFICATION.encoding(), 0x1000),
        (0, field::EXIT_INTERRUPTION.encoding(), 0x8000_1b0e),
    ] {
        with_vcpu(|cpu, vcpu| {
            cpu.exit(reason, &[(encoding, information)]);
            assert!(vcpu.run(false).is_ok());
            assert_eq!(cpu.field(INTERRUPTIBILITY), 8, "{reason}");
        });
        // Undefined if an event was interrupted, or for double faults.
        with_vcpu(|cpu, vcpu| {
            cpu.exit(reason, &[(encoding, information), (IDT, 0x8000_0b0d)]);
            assert!(vcpu.run(false).is_ok());
            assert_eq!(cpu.field(INTERRUPTIBILITY), 0, "{reason}");
        });
    }
    with_vcpu(|cpu, vcpu| {
        cpu.exit(0, &[(field::EXIT_INTERRUPTION.encoding(), 0x8000_1b08)]);
        assert!(vcpu.run(false).is_ok());
        assert_eq!(cpu.field(INTERRUPTIBILITY), 0);
    });
}

#[test]
fn after_an_nmi_of_the_hosts_nmis_are_taken_again() {
    with_vcpu(|cpu, vcpu| {
        cpu.exit(0, &[(field::EXIT_INTERRUPTION.encoding(), 0x8000_0202)]);
        assert_eq!(vcpu.run(false), Ok(Exit::Nmi));
        assert_eq!(cpu.executed(), [Executed::Launch, Executed::EndNmi]);
    });
}

#[test]
fn events_that_do_not_exist_are_refused() {
    with_vcpu(|cpu, vcpu| {
        let bad = Event::Exception { vector: 13, error_code: None };
        assert!(matches!(vcpu.inject(bad), Err(RunError::Event(BadEvent::ErrorCode(13, false)))));
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert!(cpu.delivered().is_empty());
    });
}
