//! States, instructions, and what a guest sees of its controls.

use super::*;

const RFLAGS_AC: u64 = 1 << 18;

fn states() -> [CpuState; 3] {
    let mut long = CpuState::long_mode(0xffff_8000_0000_1000, 0x3000);
    for (number, register) in General::ALL.into_iter().enumerate() {
        long.general.set(register, 0x1111_1111_1111_1111 * number as u64);
    }
    long.rflags |= RFLAGS_IF;
    long.cr2 = 0xdead;
    [CpuState::real_mode(0xf000, 0xfff0), CpuState::protected_mode(0x10_0000), long]
}

#[test]
fn a_state_comes_back_as_it_was_set() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &rome(), &tags, &script);
    assert_eq!((vcpu.rip(), vcpu.state()), (0, Ok(CpuState::real_mode(0, 0))));
    for state in states() {
        vcpu.inject(Event::Nmi).expect("good");
        vcpu.set_state(&state).expect("in memory");
        assert_eq!(vcpu.state(), Ok(state));
        assert_eq!((vcpu.rip(), vcpu.general()), (state.rip, &state.general));
        assert_eq!(vcpu.pending, Pending::default(), "no event is left");
        assert_eq!(vcpu.control(Control::Efer), state.efer, "without SVME");
        assert_eq!(vcpu.vmcb.get(fields::EFER), state.efer | EFER_SVME);
    }
}

#[test]
fn rax_and_rsp_go_through_the_vmcb() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &rome(), &tags, &script);
    vcpu.bind(0).expect("free");
    vcpu.general_mut().set(General::Rax, 1);
    vcpu.general_mut().set(General::Rsp, 2);
    vcpu.general_mut().set(General::Rbx, 3);
    script.then(|view| {
        assert_eq!((view.get(fields::RAX), view.get(fields::RSP)), (1, 2));
        assert_eq!(view.general.get(General::Rbx), 3);
        view.set(fields::RAX, 4);
        view.set(fields::RSP, 5);
        view.general.set(General::Rbx, 6);
        view.exit(code::CPUID);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Cpuid));
    let general = |register| vcpu.general().get(register);
    assert_eq!([General::Rax, General::Rsp, General::Rbx].map(general), [4, 5, 6]);
}

#[test]
fn the_privilege_level_is_that_of_the_stack() {
    let mut state = CpuState::protected_mode(0);
    assert_eq!(privilege_level(&state), 0);
    state.segments[SegmentName::Ss as usize].rights |= 3 << 5;
    assert_eq!(privilege_level(&state), 3);
    state.segments[SegmentName::Ss as usize].rights &= !(3 << 5);
    state.rflags |= RFLAGS_VM;
    assert_eq!(privilege_level(&state), 3);
    let mut real = CpuState::real_mode(0, 0);
    real.segments[SegmentName::Ss as usize].rights |= 3 << 5;
    assert_eq!(privilege_level(&real), 0);
}

/// The instruction pointer behind an exit with `code` at 0x100.
fn behind(vcpu: &mut TestVcpu<'_, '_>, code: u64, next: u64, bytes: Option<&[u8]>) -> u64 {
    vcpu.set_rip(0x100);
    vcpu.vmcb.set(fields::INTERRUPT_SHADOW, 1);
    vcpu.instructions.then(move |view| {
        view.exit(code);
        view.set(fields::NEXT_RIP, next);
        view.set(fields::EXIT_INFO_2, 0x107);
    });
    vcpu.run(false).expect("entered");
    if let Some(bytes) = bytes {
        assert!(vcpu.needs_instruction());
        vcpu.set_instruction(InstructionBytes::from_slice(bytes).expect("some bytes"));
    }
    assert!(!vcpu.needs_instruction() || bytes.is_none());
    vcpu.advance();
    let once = vcpu.rip();
    vcpu.advance();
    assert_eq!(vcpu.rip(), once, "only once");
    let shadow = vcpu.vmcb.get(fields::INTERRUPT_SHADOW);
    assert_eq!(shadow, u64::from(once == 0x100));
    once
}

#[test]
fn the_next_instruction_is_where_the_cpu_says() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &rome(), &tags, &script);
    vcpu.bind(0).expect("free");
    assert_eq!(behind(&mut vcpu, code::CPUID, 0x103, None), 0x103);
    assert_eq!(behind(&mut vcpu, code::IOIO, 0, None), 0x107);
    assert_eq!(behind(&mut vcpu, code::NESTED_PAGE_FAULT, 0, None), 0x100, "no instruction");
}

#[test]
fn without_nrip_it_is_found_in_the_bytes() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.bind(0).expect("free");
    assert!(!vcpu.needs_instruction());
    // What stands there is not NRIP.
    assert_eq!(behind(&mut vcpu, code::CPUID, 0x999, None), 0x102);
    assert_eq!(behind(&mut vcpu, code::CPUID, 0x999, Some(&[0x66, 0xf3, 0x0f, 0xa2, 0x90])), 0x104);
    // Other code than the CPU has executed: another CPU was quicker.
    assert_eq!(behind(&mut vcpu, code::CPUID, 0, Some(&[0x90, 0x90, 0x90])), 0x102);
    assert_eq!(behind(&mut vcpu, code::MSR, 0, Some(&[0x66, 0x0f, 0x32])), 0x103);
    assert_eq!(behind(&mut vcpu, code::IOIO, 0, None), 0x107);
    assert_eq!(behind(&mut vcpu, code::SHUTDOWN, 0, None), 0x100);
    // 32-bit code ends at 4 GiB.
    vcpu.set_state(&CpuState::protected_mode(0xffff_ffff)).expect("in memory");
    script.exit(code::HLT);
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    vcpu.advance();
    assert_eq!(vcpu.rip(), 0);
}

#[test]
fn invd_is_left_out() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.bind(0).expect("free");
    script.exit(code::INVD);
    script.then(|view| {
        assert_eq!(view.get(fields::RIP), 2);
        view.exit(code::HLT);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
}

#[test]
fn controls_are_checked_and_then_made_so() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &rome(), &tags, &script);
    vcpu.set_state(&CpuState::protected_mode(0)).expect("in memory");
    for (control, value) in
        [(Control::Cr4, 0x20), (Control::Cr3, 0x7000), (Control::Efer, 0x100), (Control::Cr0, 0x8000_0011)]
    {
        assert!(vcpu.set_control(control, value));
        assert_eq!(vcpu.control(control), value);
    }
    assert_eq!((vcpu.control(Control::Efer), vcpu.vmcb.get(fields::EFER)), (0x500, 0x1500));
    let before = vcpu.state();
    assert!(!vcpu.set_control(Control::Efer, 0x1500), "no SVM for the guest");
    assert!(!vcpu.set_control(Control::Cr0, 0x8000_0000));
    assert_eq!(vcpu.state(), before);
}

#[test]
fn paging_is_that_of_the_guest() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    let mut state = CpuState::long_mode(0x1000, 0x3000);
    state.rflags |= RFLAGS_AC;
    vcpu.set_state(&state).expect("in memory");
    let GuestPaging::X86(paging) = vcpu.paging().paging else { panic!("x86") };
    let expected = X86Paging {
        physical_bits: 40,
        ..X86Paging::new(state.cr0, state.cr3, state.cr4, state.efer, state.rflags)
    };
    assert_eq!(paging, expected);
}

#[test]
fn bytes_of_the_instruction_come_with_decode_assists() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    for (capabilities, expected) in [(rome(), Some(2)), (epyc(), None)] {
        let mut vcpu = vcpu(&hal, &capabilities, &tags, &script);
        vcpu.bind(0).expect("free");
        script.then(|view| {
            view.exit(code::NESTED_PAGE_FAULT);
            view.set(fields::FETCHED_COUNT, 2);
        });
        assert!(matches!(vcpu.run(false), Ok(Exit::NestedPageFault(_))));
        assert_eq!(vcpu.instruction_bytes().map(|bytes| bytes.len()), expected);
        script.exit(code::HLT);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(vcpu.instruction_bytes(), None);
    }
}
