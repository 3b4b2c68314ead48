//! The protocol, step by step; `loom` and the model go through its interleavings.

use super::*;
use std::vec::Vec;

#[test]
fn a_cpu_flushes_what_it_must_and_no_more() {
    let cpus = SpaceCpus::<2>::new();
    assert_eq!(cpus.enter(0), Ok(Entry { flush: true }), "the root may have been another space's");
    cpus.leave(0).expect("exists");
    assert_eq!(cpus.enter(0), Ok(Entry { flush: false }));
    cpus.leave(0).expect("exists");
    cpus.invalidate(0, |_| panic!("nobody is inside")).expect("exists");
    assert_eq!(cpus.invalidations(), 1);
    assert_eq!(cpus.is_current(0), Ok(false));
    assert_eq!(cpus.enter(0), Ok(Entry { flush: true }));
    assert_eq!(cpus.is_current(0), Ok(true));
    assert_eq!(cpus.enter(1), Ok(Entry { flush: true }), "each CPU for itself");
}

#[test]
fn who_is_inside_is_kicked_once_and_waited_for() {
    let cpus = SpaceCpus::<3>::new();
    let _ = cpus.enter(1).expect("exists");
    let mut kicked = Vec::new();
    let kick = |cpu| {
        kicked.push(cpu);
        // The kick arrives at once.
        cpus.leave(cpu).expect("exists");
    };
    cpus.invalidate(0, kick).expect("exists");
    assert_eq!(kicked, [1]);
    // One that entered again since, and flushed, is left alone.
    let _ = cpus.enter(1).expect("exists");
    let mut count = 0;
    cpus.invalidate(1, |_| count += 1).expect("exists");
    assert_eq!(count, 0, "the CPU at hand is not kicked");
    // A kick that the host took between the entry's preparation and the entry.
    let _ = cpus.enter(2).expect("exists");
    let mut kicks = 0;
    let late = |cpu| {
        kicks += 1;
        if kicks == 3 {
            cpus.leave(cpu).expect("exists");
        }
    };
    cpus.leave(1).expect("exists");
    cpus.invalidate(0, late).expect("exists");
    assert_eq!(kicks, 3);
}

#[test]
fn no_other_cpus_exist() {
    let cpus = SpaceCpus::<2>::new();
    let error = NoSuchCpu { cpu: 2, cpus: 2 };
    assert_eq!(cpus.enter(2), Err(error));
    assert_eq!(cpus.leave(2), Err(error));
    assert_eq!(cpus.is_current(2), Err(error));
    assert_eq!(cpus.invalidate(2, |_| ()), Err(error));
    assert_eq!(cpus.invalidations(), 0);
    assert_eq!(error.to_string(), "CPU 2 of a space for 2");
}
