use super::{HLT, bound, cpus, on, pointer, set, unbound, with_vcpu};
use crate::exit::Exit;
use crate::state::{CpuState, General};
use crate::vcpu::{BindError, RunError, Vcpu};
use crate::vmx::capabilities::tests::{LYNNFIELD, TIGERLAKE};
use crate::vmx::double::{Double, Executed};
use crate::vmx::{InveptType, InvvpidType, NewError, SetupError, VmxError, VmxVcpu, field};
use slat::test_util::HeapHal;

#[test]
fn the_first_entry_launches_and_the_next_resume() {
    with_vcpu(|cpu, vcpu| {
        for expected in [Executed::Launch, Executed::Resume, Executed::Resume] {
            cpu.exit(HLT, &[]);
            assert_eq!(vcpu.run(false), Ok(Exit::Halt));
            assert_eq!(cpu.executed(), [expected]);
        }
        // Cleared in between, it has to be launched again.
        vcpu.unbind();
        assert_eq!((vcpu.bound_to(), cpu.active()), (None, 0));
        vcpu.bind(0).expect("bind");
        assert!(cpu.executed().is_empty(), "on the same CPU nothing is dropped");
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.executed(), [Executed::Launch]);
    });
}

#[test]
fn a_cpu_that_it_comes_to_drops_what_it_remembers() {
    let (hal, cpu) = (HeapHal::new(), Double::new(TIGERLAKE));
    let cpus = cpus(&hal);
    let first = on(&hal, &cpu, &cpus);
    cpu.go_to(1);
    let second = on(&hal, &cpu, &cpus);
    cpu.go_to(0);
    let mut vcpu = bound(&hal, &cpu, &cpus, &CpuState::long_mode(0x1000, 0x2000));
    cpu.exit(HLT, &[]);
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    assert_eq!(vcpu.bind(0), Err(BindError::Bound(0)));
    // On the other CPU it can neither be used nor taken along.
    cpu.go_to(1);
    assert_eq!(vcpu.run(false), Err(RunError::NotBound));
    assert_eq!(vcpu.state(), Err(RunError::NotBound));
    assert_eq!(vcpu.set_ept_root(pointer(&cpu, 0xa000)), Err(RunError::NotBound));
    assert_eq!(vcpu.bind(1), Err(BindError::Bound(0)));
    vcpu.unbind();
    assert_eq!(vcpu.bound_to(), Some(0));
    cpu.go_to(0);
    let state = vcpu.state().expect("here");
    vcpu.unbind();
    cpu.go_to(1);
    assert_eq!(vcpu.run(true), Err(RunError::NotBound));
    let _ = cpu.executed();
    vcpu.bind(1).expect("bind");
    assert_eq!(cpu.executed(), [Executed::Invvpid(InvvpidType::SingleContext(7))]);
    assert_eq!(vcpu.state(), Ok(state));
    assert_eq!(cpu.field(field::HOST_TR.encoding()), 0x30, "the host's state is that of this CPU");
    cpu.exit(HLT, &[]);
    // What was asked for in vain is owed.
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    let eptp = pointer(&cpu, 0x9000).raw();
    assert_eq!(cpu.executed(), [Executed::Invept(InveptType::SingleContext(eptp)), Executed::Launch]);
    drop(vcpu);
    assert_eq!((cpu.active(), hal.in_use()), (0, 3));
    drop(second);
    cpu.go_to(0);
    drop(first);
    drop(cpus);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn binding_needs_a_cpu_that_is_on_and_free() {
    let (hal, cpu) = (HeapHal::new(), Double::new(TIGERLAKE));
    let cpus = cpus(&hal);
    let mut vcpu = unbound(&hal, &cpu, &cpus);
    assert_eq!(vcpu.bind(0), Err(BindError::Off(0)));
    assert_eq!(vcpu.run(false), Err(RunError::NotBound));
    let vmx = on(&hal, &cpu, &cpus);
    // A CPU of another number, or of none; one that somebody else has turned on.
    cpu.go_to(1);
    let second = on(&hal, &cpu, &cpus);
    assert_eq!(vcpu.bind(0), Err(BindError::Elsewhere(0)));
    assert_eq!(vcpu.bind(2), Err(BindError::Elsewhere(2)));
    drop(second);
    let others = super::cpus(&hal);
    let second = on(&hal, &cpu, &others);
    assert_eq!(vcpu.bind(1), Err(BindError::Off(1)));
    drop((second, others));
    cpu.go_to(0);
    cpu.refuse(Some(VmxError::Valid(11)));
    assert_eq!(vcpu.bind(0), Err(BindError::Refused(11)));
    cpu.refuse(None);
    vcpu.bind(0).expect("bind");
    let mut other = unbound(&hal, &cpu, &cpus);
    assert_eq!(other.bind(0), Err(BindError::Occupied(0)));
    assert_eq!(vcpu.run(false), Err(RunError::NoRoot));
    // VMX goes off under a bound vCPU: the CPU is clean, and the vCPU of no use any more.
    drop(vmx);
    assert_eq!(cpu.active(), 0);
    assert_eq!(vcpu.run(false), Err(RunError::NotBound));
    // On again, with another one.
    let vmx = on(&hal, &cpu, &cpus);
    other.bind(0).expect("bind");
    assert_eq!((vcpu.run(false), vcpu.bind(0)), (Err(RunError::NotBound), Err(BindError::Bound(0))));
    drop(vcpu);
    assert_eq!((other.bound_to(), cpu.active()), (Some(0), 1));
    drop(other);
    drop(vmx);
    drop(cpus);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn every_frame_comes_back_when_one_is_lacking() {
    let cpu = Double::new(TIGERLAKE);
    for successes in 0..16 {
        let hal = HeapHal::new();
        let cpus = cpus(&hal);
        hal.fail_after(Some(successes));
        let capabilities = cpu.capabilities();
        let format = slat::format::ept::Ept::new(capabilities.ept(true), 4).expect("four levels");
        match VmxVcpu::new(&&hal, &cpu, &cpus, capabilities, format, Default::default()) {
            Ok(vcpu) => {
                assert!(successes >= 5);
                drop(vcpu);
            }
            Err(error) => assert_eq!((error, successes < 5), (NewError::OutOfMemory, true)),
        }
        drop(cpus);
        assert_eq!(hal.in_use(), 0);
    }
}

#[test]
fn a_state_goes_in_and_comes_out() {
    let mut state = CpuState::long_mode(0x1234_5678_9abc, 0xabc000);
    for (number, register) in (1u64..).zip(General::ALL) {
        state.general.set(register, number << 40 | number);
    }
    state.cr2 = 0x77;
    state.gdtr.base = 0xffff_8000_0000_0000;
    state.idtr.limit = 0xfff;
    state.pat = 0x0606;
    super::with_vcpu_of(TIGERLAKE, &state, |cpu, vcpu| {
        assert_eq!(vcpu.state(), Ok(state));
        assert_eq!(cpu.field(field::GUEST_RSP.encoding()), state.general.get(General::Rsp));
        let real = CpuState::real_mode(0xf000, 0xfff0);
        vcpu.set_state(&real).expect("real mode");
        assert_eq!(vcpu.state(), Ok(real));
        assert_eq!(cpu.field(field::GUEST_CR0.encoding()), 0x30, "NE is set, whatever the guest sees");
        assert_eq!(vcpu.rip(), 0xfff0);
        // Linear translations of the state before are gone.
        assert!(cpu.executed().contains(&Executed::Invvpid(InvvpidType::SingleContext(7))));
    });
}

#[test]
fn without_unrestricted_guests_a_guest_has_paging() {
    let (hal, cpu) = (HeapHal::new(), Double::new(LYNNFIELD));
    let cpus = cpus(&hal);
    let mut vcpu = unbound(&hal, &cpu, &cpus);
    let root = pointer(&cpu, 0x9000);
    for state in [CpuState::real_mode(0, 0), CpuState::protected_mode(0)] {
        assert_eq!(vcpu.setup(root, &state), Err(SetupError::NoUnrestrictedGuest));
        assert!(matches!(vcpu.set_state(&state), Err(RunError::InvalidState { .. })));
    }
    assert_eq!(vcpu.ept_root(), None, "nothing has changed");
    vcpu.setup(root, &CpuState::long_mode(0, 0)).expect("64-bit mode");
}

#[test]
fn a_root_is_checked_and_dropped() {
    with_vcpu(|cpu, vcpu| {
        assert_eq!(vcpu.set_root(0x1801), Err(RunError::BadRoot(0x1801)));
        vcpu.set_root(0xa05e).expect("a root");
        assert_eq!(cpu.field(field::EPT_POINTER.encoding()), 0xa05e);
        assert_eq!(cpu.executed(), [Executed::Invept(InveptType::SingleContext(0xa05e))]);
    });
    // A CPU that cannot drop one drops all.
    let mut raw = TIGERLAKE;
    raw.ept_vpid_cap &= !(1 << 25 | 1 << 41);
    super::with_vcpu_of(raw, &CpuState::long_mode(0, 0), |cpu, vcpu| {
        vcpu.set_root(0xa05e).expect("a root");
        vcpu.set_state(&CpuState::long_mode(0, 0)).expect("a state");
        let all = [Executed::Invept(InveptType::AllContexts), Executed::Invvpid(InvvpidType::AllContexts)];
        assert_eq!(cpu.executed(), all);
    });
}

#[test]
fn a_failed_entry_is_an_error_and_nothing_is_lost() {
    with_vcpu(|cpu, vcpu| {
        vcpu.inject(crate::Event::UNDEFINED).expect("an exception");
        cpu.exit(1 << 31 | 33, &[(field::EXIT_QUALIFICATION.encoding(), 4)]);
        let error = RunError::InvalidState { reason: 1 << 31 | 33, qualification: 4 };
        assert_eq!(vcpu.run(false), Err(error));
        assert!(cpu.delivered().is_empty());
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.delivered(), [0x8000_0306]);
        assert_eq!(cpu.executed(), [Executed::Launch, Executed::Launch]);
        // With another state it is forgotten, in the VMCS too.
        vcpu.inject(crate::Event::UNDEFINED).expect("an exception");
        cpu.exit(1 << 31 | 33, &[]);
        assert!(vcpu.run(false).is_err());
        vcpu.set_state(&CpuState::long_mode(0, 0)).expect("a state");
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert!(cpu.delivered().is_empty());
    });
}

#[test]
fn a_sleeping_vcpu_is_what_the_cpu_offers() {
    use crate::vmx::Activity;
    with_vcpu(|cpu, vcpu| {
        assert_eq!(vcpu.activity(), Ok(Activity::Active));
        for activity in [Activity::Halted, Activity::ShutDown, Activity::WaitForStartUp] {
            assert_eq!(vcpu.set_activity(activity), Ok(true));
            assert_eq!(vcpu.activity(), Ok(activity));
        }
        set(cpu, field::GUEST_ACTIVITY.encoding(), 1);
        vcpu.inject(crate::Event::Nmi).expect("an NMI");
        cpu.exit(HLT, &[]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(cpu.delivered(), [0x8000_0202]);
        // But not for one that waits for a start-up IPI.
        set(cpu, field::GUEST_RFLAGS.encoding(), 0x202);
        assert_eq!(vcpu.set_activity(Activity::WaitForStartUp), Ok(true));
        assert!(!vcpu.takes_interrupts());
        vcpu.inject(crate::Event::Nmi).expect("an NMI");
        cpu.exit(4, &[(field::EXIT_QUALIFICATION.encoding(), 0x9f), (field::GUEST_ACTIVITY.encoding(), 0)]);
        assert_eq!(vcpu.run(false), Ok(Exit::StartUp(0x9f)));
        assert!(cpu.delivered().is_empty());
    });
    let mut raw = TIGERLAKE;
    raw.misc &= !(1 << 6);
    super::with_vcpu_of(raw, &CpuState::long_mode(0, 0), |_, vcpu| {
        assert_eq!(vcpu.set_activity(Activity::Halted), Ok(false));
        assert_eq!(vcpu.activity(), Ok(Activity::Active));
    });
}
