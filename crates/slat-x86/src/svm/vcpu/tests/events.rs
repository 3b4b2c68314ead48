//! Deliveries that are interrupted, windows, and NMIs behind each other.

use super::*;

#[test]
fn a_delivery_that_faulted_is_made_again() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.bind(0).expect("free");
    // As QEMU says it.
    script.then(|view| {
        view.exit(code::NESTED_PAGE_FAULT);
        view.set(fields::EXIT_INFO_1, 1 << 32 | 6);
        view.set(fields::EXIT_INFO_2, 0x5000);
        view.set(fields::EXIT_INTERRUPT_INFO, 0x8000_0330);
    });
    let Ok(Exit::NestedPageFault(fault)) = vcpu.run(false) else { panic!("a fault") };
    assert_eq!(fault.interrupted, Some(Event::ExternalInterrupt(0x30)));
    assert!(!vcpu.takes_interrupts());
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0030);
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0);
        view.exit(code::HLT);
        view.set(fields::EXIT_INTERRUPT_INFO, 0x8_8000_0b0e);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    // The mistake of a hypervisor that forgets.
    assert_eq!(vcpu.take_interrupted(), Some(Event::page_fault(8)));
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0);
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
}

#[test]
fn bad_events_are_refused() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    let refused = |event| Err(RunError::Event(event));
    assert_eq!(vcpu.inject(Event::ExternalInterrupt(0x30)), refused(BadEvent::Masked));
    // Real mode has no error codes.
    assert_eq!(vcpu.inject(Event::GENERAL_PROTECTION), refused(BadEvent::ErrorCode(13, true)));
    let mut state = CpuState::protected_mode(0x1000);
    state.rflags |= RFLAGS_IF;
    vcpu.set_state(&state).expect("in memory");
    assert!(vcpu.takes_interrupts());
    vcpu.inject(Event::ExternalInterrupt(0x30)).expect("the guest takes it");
    assert!(!vcpu.takes_interrupts());
    assert_eq!(vcpu.inject(Event::ExternalInterrupt(0x31)), refused(BadEvent::Masked));
    vcpu.inject(Event::GENERAL_PROTECTION).expect("good");
    assert!(!vcpu.is_in_interrupt_shadow());
    vcpu.vmcb.set(fields::INTERRUPT_SHADOW, 1);
    assert!(vcpu.is_in_interrupt_shadow());
    vcpu.bind(0).expect("free");
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0b0d);
        assert_eq!(view.get(fields::INTERRUPT_SHADOW), 0);
        assert_eq!(view.get(fields::VIRTUAL_INTERRUPT), V_IRQ | 0xf << 16 | 1 << 20);
        view.set(fields::RFLAGS, 2);
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    // Behind the exception the guest takes none. The window is the vCPU's own, and nobody hears of it.
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0);
        assert_eq!(view.get(fields::INTERCEPT_1) >> 4 & 1, 1);
        view.set(fields::RFLAGS, 2 | RFLAGS_IF);
        view.exit(code::VINTR);
    });
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0030);
        assert_eq!((view.get(fields::INTERCEPT_1) >> 4 & 1, view.get(fields::VIRTUAL_INTERRUPT)), (0, 0));
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
}

const V_IRQ: u64 = 1 << 8;

#[test]
fn the_window_opens_when_it_was_asked_for() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.bind(0).expect("free");
    vcpu.set_interrupt_window(true);
    script.exit(code::VINTR);
    assert_eq!(vcpu.run(false), Ok(Exit::InterruptWindow));
    vcpu.set_interrupt_window(false);
    script.then(|view| {
        assert_eq!(view.get(fields::VIRTUAL_INTERRUPT), 0);
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
}

#[test]
fn external_interrupts_are_masked_by_the_host_where_they_lead_to_exits() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.set_intercepts(Intercepts { external_interrupts: true, ..Intercepts::default() });
    vcpu.bind(0).expect("free");
    script.then(|view| {
        assert_eq!((view.get(fields::INTERCEPT_1) & 1, view.get(fields::VIRTUAL_INTERRUPT)), (1, 1 << 24));
        view.exit(code::INTR);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::ExternalInterrupt(None)));
}

#[test]
fn software_interrupts_return_behind_their_instruction() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let interrupt = Event::SoftwareInterrupt { vector: 0x80, length: 2 };
    let mut with = vcpu(&hal, &rome(), &tags, &script);
    with.bind(0).expect("free");
    with.set_rip(0x100);
    with.inject(interrupt).expect("good");
    let delivered = |rip, next| {
        move |view: &mut View<'_>| {
            assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0480);
            assert_eq!((view.get(fields::RIP), view.get(fields::NEXT_RIP)), (rip, next));
            view.exit(code::NMI);
            view.set(fields::EXIT_INTERRUPT_INFO, 0x8000_0480);
        }
    };
    script.then(delivered(0x100, 0x102));
    assert_eq!(with.run(false), Ok(Exit::Nmi));
    script.then(delivered(0x100, 0x102));
    assert_eq!(with.run(false), Ok(Exit::Nmi));
    drop(with);
    let mut without = vcpu(&hal, &epyc(), &tags, &script);
    without.bind(0).expect("free");
    without.set_rip(0x100);
    without.inject(interrupt).expect("good");
    script.then(|view| view.exit(code::INVALID));
    assert!(without.run(false).is_err());
    script.then(delivered(0x102, 0));
    assert_eq!(without.run(false), Ok(Exit::Nmi));
    script.then(delivered(0x102, 0));
    assert_eq!(without.run(false), Ok(Exit::Nmi), "behind it already");
}

/// An NMI handler that is at its IRET at 0x200, with another NMI waiting.
fn at_iret<'t, 'h>(vcpu: &mut TestVcpu<'t, 'h>, script: &Script<'h>) {
    vcpu.bind(0).expect("free");
    vcpu.inject(Event::Nmi).expect("good");
    script.exit(code::HLT);
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    vcpu.inject(Event::Nmi).expect("good");
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0, "blocked");
        assert_eq!(view.get(fields::INTERCEPT_1) >> 20 & 1, 1);
        view.set(fields::RIP, 0x200);
        view.set(fields::DR6, 0xffff_0ff0);
        view.exit(code::IRET);
    });
}

fn debug_exception(view: &mut View<'_>) {
    assert_eq!(view.get(fields::INTERCEPT_EXCEPTIONS), 2);
    assert_eq!(
        (view.get(fields::INTERCEPT_1) >> 20 & 1, view.get(fields::RFLAGS) & RFLAGS_TF),
        (0, RFLAGS_TF)
    );
    view.set(fields::RIP, 0x50);
    view.set(fields::RFLAGS, 2);
    view.set(fields::DR6, 0xffff_4ff0);
    view.exit(code::EXCEPTION + 1);
}

#[test]
fn the_next_nmi_comes_behind_the_iret() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    at_iret(&mut vcpu, &script);
    script.then(debug_exception);
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0202);
        assert_eq!((view.get(fields::RFLAGS), view.get(fields::DR6)), (2, 0xffff_0ff0), "no trace of it");
        assert_eq!(view.get(fields::INTERCEPT_EXCEPTIONS), 0);
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    assert!(script.steps.borrow().is_empty());
}

/// The end of the handler is noticed although no NMI waits for it: the next one comes at once.
#[test]
fn an_nmi_that_comes_behind_the_handler_of_another_is_not_blocked() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.bind(0).expect("free");
    vcpu.inject(Event::Nmi).expect("good");
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0202);
        assert_eq!(view.get(fields::INTERCEPT_1) >> 20 & 1, 1);
        view.set(fields::RIP, 0x200);
        view.exit(code::IRET);
    });
    script.then(debug_exception);
    script.exit(code::HLT);
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    vcpu.inject(Event::Nmi).expect("good");
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0202);
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
}

#[test]
fn an_iret_that_faults_is_seen_again() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.set_nmi_window(true);
    at_iret(&mut vcpu, &script);
    // Its stack is not mapped, or the host wants something.
    script.exit(code::NMI);
    assert_eq!(vcpu.run(false), Ok(Exit::Nmi));
    assert_eq!(vcpu.vmcb.get(fields::RFLAGS) & RFLAGS_TF, 0);
    script.then(|view| {
        assert_eq!((view.get(fields::INTERCEPT_1) >> 20 & 1, view.get(fields::RFLAGS) & RFLAGS_TF), (1, 0));
        view.exit(code::IRET);
    });
    script.then(debug_exception);
    assert_eq!(vcpu.run(false), Ok(Exit::NmiWindow));
}

#[test]
fn a_guest_that_steps_itself_gets_its_debug_exception() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.vmcb.set(fields::RFLAGS, 2 | RFLAGS_TF);
    at_iret(&mut vcpu, &script);
    script.then(debug_exception);
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0301);
        assert_eq!(view.get(fields::DR6), 0xffff_4ff0);
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
}

#[test]
fn a_debug_exception_that_was_asked_for_is_the_hypervisors() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.set_intercepts(Intercepts { exceptions: 2, ..Intercepts::default() });
    vcpu.bind(0).expect("free");
    script.exit(code::EXCEPTION + 1);
    assert_eq!(vcpu.run(false), Ok(Exit::Exception { vector: 1, error_code: None }));
}

/// Leaves for a fault in the delivery of an event that the CPU names so.
fn interrupts(script: &Script<'_>, expected: u64, info: u64) {
    script.then(move |view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), expected);
        view.exit(code::NESTED_PAGE_FAULT);
        view.set(fields::EXIT_INFO_1, 6);
        view.set(fields::EXIT_INTERRUPT_INFO, info);
    });
}

#[test]
fn faults_in_deliveries_end_in_a_shutdown() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.set_state(&CpuState::protected_mode(0)).expect("in memory");
    vcpu.bind(0).expect("free");
    interrupts(&script, 0, 0x2_8000_0b0e);
    assert!(vcpu.run(false).is_ok());
    vcpu.inject(Event::page_fault(0)).expect("good");
    interrupts(&script, 0x8000_0b08, 0x8000_0b08);
    assert!(vcpu.run(false).is_ok());
    vcpu.inject(Event::GENERAL_PROTECTION).expect("good");
    assert!(!vcpu.takes_interrupts());
    assert_eq!(vcpu.run(false), Ok(Exit::Shutdown), "without an entry: the script has no step for one");
    // Whoever goes on nevertheless finds nothing left.
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0);
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
}

#[test]
fn in_real_mode_a_double_fault_has_no_error_code() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.bind(0).expect("free");
    interrupts(&script, 0, 0x8000_030d);
    assert!(vcpu.run(false).is_ok());
    vcpu.inject(Event::Exception { vector: 13, error_code: None }).expect("good");
    interrupts(&script, 0x8000_0308, 0);
    assert!(vcpu.run(false).is_ok());
}

#[test]
fn an_exception_goes_before_the_interrupt_or_nmi_that_it_interrupted() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    let mut state = CpuState::protected_mode(0);
    state.rflags |= RFLAGS_IF;
    vcpu.set_state(&state).expect("in memory");
    vcpu.bind(0).expect("free");
    vcpu.inject(Event::Nmi).expect("good");
    interrupts(&script, 0x8000_0202, 0x8000_0202);
    assert!(vcpu.run(false).is_ok());
    vcpu.inject(Event::GENERAL_PROTECTION).expect("good");
    // In the handler, whose IRET is the next occasion: the NMI comes before it.
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0b0d);
        assert_eq!(view.get(fields::INTERCEPT_1) & (1 << 20 | 1 << 4), 1 << 20 | 1 << 4);
        view.set(fields::RFLAGS, 2);
        view.exit(code::IRET);
    });
    interrupts(&script, 0x8000_0202, 0);
    assert!(vcpu.run(false).is_ok());
    assert_eq!(vcpu.vmcb.get(fields::RFLAGS) & RFLAGS_TF, 0, "that IRET was not one of an NMI");
    // An interrupt of the machine's own.
    interrupts(&script, 0, 0x8000_0031);
    assert!(vcpu.run(false).is_ok());
    vcpu.inject(Event::GENERAL_PROTECTION).expect("good");
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0b0d);
        view.set(fields::RFLAGS, 2 | RFLAGS_IF);
        view.exit(code::VINTR);
    });
    interrupts(&script, 0x8000_0031, 0);
    assert!(vcpu.run(false).is_ok());
    assert!(script.steps.borrow().is_empty());
}

/// An exception that goes before an injected `INT n` makes the guest execute that: RIP is on it, not behind it.
#[test]
fn an_injected_software_interrupt_gives_way_to_an_exception() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    for (capabilities, event, info, behind) in [
        (epyc(), Event::SoftwareInterrupt { vector: 0x80, length: 2 }, 0x8000_0480, 0x102),
        (rome(), Event::SoftwareInterrupt { vector: 0x80, length: 2 }, 0x8000_0480, 0x100),
        (rome(), Event::PrivilegedSoftwareException { length: 1 }, 0x8000_0301, 0x101),
    ] {
        let mut vcpu = vcpu(&hal, &capabilities, &tags, &script);
        vcpu.set_state(&CpuState::protected_mode(0x100)).expect("in memory");
        vcpu.bind(0).expect("free");
        vcpu.inject(event).expect("good");
        script.then(move |view| {
            assert_eq!((view.get(fields::EVENT_INJECTION), view.get(fields::RIP)), (info, behind));
            view.exit(code::NESTED_PAGE_FAULT);
            view.set(fields::EXIT_INTERRUPT_INFO, info);
        });
        let Ok(Exit::NestedPageFault(fault)) = vcpu.run(false) else { panic!("a fault") };
        assert_eq!((fault.interrupted, vcpu.rip()), (Some(event), 0x100));
        vcpu.inject(Event::GENERAL_PROTECTION).expect("good");
        script.then(|view| {
            assert_eq!((view.get(fields::EVENT_INJECTION), view.get(fields::RIP)), (0x8000_0b0d, 0x100));
            view.exit(code::HLT);
        });
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    }
}

#[test]
fn a_guest_that_steps_over_what_is_answered_gets_its_debug_exception() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.vmcb.set(fields::RFLAGS, 2 | RFLAGS_TF);
    vcpu.bind(0).expect("free");
    script.exit(code::CPUID);
    assert_eq!(vcpu.run(false), Ok(Exit::Cpuid));
    vcpu.advance();
    vcpu.advance();
    script.then(|view| {
        assert_eq!((view.get(fields::EVENT_INJECTION), view.get(fields::RIP)), (0x8000_0301, 2));
        assert_eq!(view.get(fields::DR6), 0xffff_4ff0);
        view.set(fields::RFLAGS, 2);
        view.exit(code::CPUID);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Cpuid));
    vcpu.advance();
    script.then(|view| {
        assert_eq!(view.get(fields::EVENT_INJECTION), 0);
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
}

#[test]
fn a_window_for_nmis_that_is_open_is_told_at_once() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.bind(0).expect("free");
    vcpu.set_nmi_window(true);
    assert_eq!(vcpu.run(false), Ok(Exit::NmiWindow), "without an entry");
    // Behind what goes before it, and not in a shadow.
    vcpu.inject(Event::UNDEFINED).expect("good");
    script.exit(code::HLT);
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    assert_eq!(vcpu.run(false), Ok(Exit::NmiWindow));
    vcpu.vmcb.set(fields::INTERRUPT_SHADOW, 1);
    script.exit(code::HLT);
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    vcpu.advance();
    assert_eq!(vcpu.run(false), Ok(Exit::NmiWindow));
    vcpu.set_nmi_window(false);
    script.exit(code::HLT);
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
}
