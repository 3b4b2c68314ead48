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
