//! vCPUs that are dropped on another CPU than the one that they are bound to: every frame comes back, and that CPU is clean.

use super::{HLT, TestCpus, TestVcpu, bound, cpus, on, unbound};
use crate::exit::Exit;
use crate::state::CpuState;
use crate::vcpu::{BindError, Vcpu};
use crate::vmx::VmxCpu;
use crate::vmx::capabilities::tests::TIGERLAKE;
use crate::vmx::double::Double;
use slat::test_util::HeapHal;

/// VMCS, the place, two areas for the extended state.
const LEFT: usize = 4;
/// The table, and the VMXON region of each CPU.
const CPUS: usize = 3;

type TestCpu<'a> = VmxCpu<&'a HeapHal, &'a Double>;

/// Both CPUs on; this is CPU 0.
fn both<'a>(hal: &'a HeapHal, cpu: &'a Double, cpus: &TestCpus<'a>) -> [TestCpu<'a>; 2] {
    [0, 1].map(|number| {
        cpu.go_to(number);
        on(hal, cpu, cpus)
    })
}

/// Both off again, each on its CPU.
fn off(cpu: &Double, on: [TestCpu<'_>; 2]) {
    for (number, on) in on.into_iter().enumerate() {
        cpu.go_to(number);
        drop(on);
    }
}

/// A vCPU that is bound to CPU 0 and has run there; CPU 1 is at hand.
fn seen_from_cpu_1<'a>(hal: &'a HeapHal, cpu: &'a Double, cpus: &TestCpus<'a>) -> TestVcpu<'a> {
    cpu.go_to(0);
    let mut vcpu = bound(hal, cpu, cpus, &CpuState::long_mode(0x1000, 0x2000));
    cpu.exit(HLT, &[]);
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    cpu.go_to(1);
    vcpu
}

#[test]
fn the_next_vcpu_clears_up() {
    let (hal, cpu) = (HeapHal::new(), Double::new(TIGERLAKE));
    let cpus = cpus(&hal);
    let on = both(&hal, &cpu, &cpus);
    let vcpu = seen_from_cpu_1(&hal, &cpu, &cpus);
    let before = hal.in_use();
    drop(vcpu);
    assert_eq!(cpu.active(), 1, "CPU 0 may still write there");
    assert_eq!((hal.in_use(), before), (CPUS + LEFT, CPUS + LEFT + 2), "the I/O bitmaps are back");
    // Nothing of it is in the way of CPU 1, and CPU 1 touches nothing of it.
    let mut other = unbound(&hal, &cpu, &cpus);
    other.bind(1).expect("free");
    assert_eq!((cpu.active(), hal.in_use()), (2, CPUS + 2 * LEFT + 2));
    other.unbind();
    cpu.go_to(0);
    other.bind(0).expect("cleared up");
    assert_eq!((cpu.active(), hal.in_use()), (1, CPUS + LEFT + 2));
    drop(other);
    off(&cpu, on);
    drop(cpus);
    assert_eq!((cpu.active(), hal.in_use()), (0, 0));
}

/// Negative control: if nobody clears up, the CPU stays occupied and the host short of the frames.
#[test]
fn without_clearing_up_frames_are_missing() {
    let (hal, cpu) = (HeapHal::new(), Double::new(TIGERLAKE));
    let cpus = cpus(&hal);
    let [first, second] = both(&hal, &cpu, &cpus);
    for round in 0..3 {
        drop(seen_from_cpu_1(&hal, &cpu, &cpus));
        assert_eq!((cpu.active(), hal.in_use()), (1, CPUS + LEFT), "{round}");
        // On the wrong CPU that does nothing.
        assert!(!second.reap());
        assert_eq!((cpu.active(), hal.in_use()), (1, CPUS + LEFT));
        cpu.go_to(0);
        assert!(first.reap() && !first.reap());
        assert_eq!((cpu.active(), hal.in_use()), (0, CPUS));
    }
    off(&cpu, [first, second]);
    drop(cpus);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn a_cpu_that_is_turned_off_clears_up_at_the_latest() {
    let (hal, cpu) = (HeapHal::new(), Double::new(TIGERLAKE));
    let cpus = cpus(&hal);
    let [first, second] = both(&hal, &cpu, &cpus);
    drop(seen_from_cpu_1(&hal, &cpu, &cpus));
    cpu.go_to(0);
    drop(first);
    assert_eq!((cpu.active(), hal.in_use()), (0, CPUS - 1));
    // Turned off under the vCPU, which is dropped after that: at once. And when the CPU is on again, with another vCPU.
    for again in [false, true] {
        cpu.go_to(0);
        let first = on(&hal, &cpu, &cpus);
        let vcpu = seen_from_cpu_1(&hal, &cpu, &cpus);
        cpu.go_to(0);
        drop(first);
        let next = again.then(|| {
            let first = on(&hal, &cpu, &cpus);
            (bound(&hal, &cpu, &cpus, &CpuState::long_mode(0, 0)), first)
        });
        let others = hal.in_use();
        cpu.go_to(1);
        drop(vcpu);
        assert_eq!((cpu.active(), hal.in_use()), (usize::from(again), others - LEFT - 2));
        cpu.go_to(0);
        drop(next);
        assert_eq!((cpu.active(), hal.in_use()), (0, CPUS - 1));
    }
    cpu.go_to(1);
    drop(second);
    drop(cpus);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn two_cpus_each_with_one_left() {
    let (hal, cpu) = (HeapHal::new(), Double::new(TIGERLAKE));
    let cpus = cpus(&hal);
    let on = both(&hal, &cpu, &cpus);
    let on_0 = seen_from_cpu_1(&hal, &cpu, &cpus);
    let mut on_1 = unbound(&hal, &cpu, &cpus);
    on_1.bind(1).expect("free");
    // While CPU 1 is in its own guest.
    drop(on_0);
    assert_eq!(on_1.bound_to(), Some(1));
    let mut next = unbound(&hal, &cpu, &cpus);
    assert_eq!(next.bind(1), Err(BindError::Occupied(1)));
    cpu.go_to(0);
    drop(on_1);
    assert_eq!((cpu.active(), hal.in_use()), (2, CPUS + 3 * LEFT + 2));
    next.bind(0).expect("cleared up");
    assert_eq!((cpu.active(), hal.in_use()), (2, CPUS + 2 * LEFT + 2));
    next.unbind();
    cpu.go_to(1);
    next.bind(1).expect("cleared up");
    assert_eq!((cpu.active(), hal.in_use()), (1, CPUS + LEFT + 2));
    drop(next);
    off(&cpu, on);
    drop(cpus);
    assert_eq!(hal.in_use(), 0);
}
