//! vCPUs that are dropped on another CPU than the one that they are bound to: every frame comes back.

use super::*;

/// The host's half of VMSAVE, and two areas for the extended state.
const LEFT: usize = 3;

/// A vCPU bound to CPU 0; CPU 1 is at hand.
fn seen_from_cpu_1<'t, 'h>(
    hal: &'h HeapHal,
    tags: &'t TagPool<&'h HeapHal>,
    script: &'t Script<'h>,
) -> TestVcpu<'t, 'h> {
    script.go_to(0);
    let mut vcpu = vcpu(hal, &rome(), tags, script);
    vcpu.bind(0).expect("free");
    script.exit(code::HLT);
    assert_eq!(vcpu.run(false), Ok(Exit::Halt));
    script.go_to(1);
    vcpu
}

#[test]
fn the_cpu_clears_up_at_the_next_bind_or_when_it_is_asked_to() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 2), Script::new(&hal));
    let before = hal.in_use();
    drop(seen_from_cpu_1(&hal, &tags, &script));
    assert_eq!(hal.in_use(), before + LEFT);
    // Not by the wrong one.
    assert!(!script.reap(1));
    let mut next = vcpu(&hal, &rome(), &tags, &script);
    let own = hal.in_use() - before - LEFT;
    next.bind(1).expect("nothing is in the way here");
    next.unbind();
    assert_eq!(hal.in_use(), before + LEFT + own);
    script.go_to(0);
    next.bind(0).expect("cleared up");
    assert_eq!(hal.in_use(), before + own);
    script.exit(code::HLT);
    assert_eq!(next.run(false), Ok(Exit::Halt));
    drop(next);
    drop(seen_from_cpu_1(&hal, &tags, &script));
    assert!(script.reap(0) && !script.reap(0));
    assert_eq!(hal.in_use(), before);
}

#[test]
fn a_cpu_that_is_turned_off_clears_up_at_the_latest() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 2), Script::new(&hal));
    let before = hal.in_use();
    drop(seen_from_cpu_1(&hal, &tags, &script));
    script.turn_off(0);
    assert_eq!(hal.in_use(), before - 1);
    script.turn_on(0);
    // Turned off, and on again, under the vCPU.
    let mut old = seen_from_cpu_1(&hal, &tags, &script);
    script.turn_off(0);
    script.go_to(0);
    assert_eq!(old.run(false), Err(RunError::NotBound));
    script.turn_on(0);
    assert_eq!((old.run(false), old.bound_to()), (Err(RunError::NotBound), Some(0)));
    let next = seen_from_cpu_1(&hal, &tags, &script);
    drop(old);
    script.go_to(0);
    assert!(next.here().is_some());
    drop(next);
    assert_eq!(hal.in_use(), before);
}
