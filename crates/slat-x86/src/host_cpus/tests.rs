//! The table in frames, what goes through it, and that every frame comes back.

use super::{HostCpus, NoTable, Remains};
use crate::frame::Frames;
use crate::resident::Resident;
use crate::vcpu::BindError;
use slat::test_util::HeapHal;

/// Four frames.
fn remains(hal: &HeapHal) -> Remains<&HeapHal> {
    let frame = || Frames::zeroed(hal, 1).expect("a frame");
    let resident = Resident::new(&hal, 7, 0x340, &[]).expect("frames");
    Remains { vmcs: Some(frame()), resident, place: frame() }
}

#[test]
fn the_table_is_there_as_long_as_a_handle() {
    let hal = HeapHal::new();
    let cpus = HostCpus::new(&hal, 3).expect("a frame");
    assert_eq!((hal.in_use(), cpus.cpus()), (1, 3));
    let other = cpus.clone();
    drop(cpus);
    assert_eq!((hal.in_use(), other.cpus()), (1, 3));
    drop(other);
    assert_eq!(hal.in_use(), 0);
    let many = HostCpus::new(&hal, 1000).expect("frames");
    assert!(hal.in_use() > 1);
    assert!(many.turn_on(999, 0).is_some() && many.turn_on(1000, 0).is_none());
    drop(many);
    assert_eq!(HostCpus::new(&hal, usize::MAX).err(), Some(NoTable(usize::MAX)));
    hal.fail_after(Some(0));
    assert_eq!(HostCpus::new(&hal, 1).err(), Some(NoTable(1)));
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn what_is_left_is_taken_away_by_the_cpu_or_at_the_end() {
    let hal = HeapHal::new();
    let cpus = HostCpus::new(&hal, 2).expect("a frame");
    assert_eq!(cpus.check(0, 5), Err(BindError::Off(0)));
    let on = cpus.turn_on(0, 5).expect("it was off");
    assert_eq!(cpus.check(0, 5), Ok(()));
    assert_eq!(cpus.check(0, 6), Err(BindError::Elsewhere(0)));
    assert_eq!(cpus.check(2, 5), Err(BindError::Elsewhere(2)));
    let binding = cpus.take(0).expect("free");
    assert!(cpus.is_bound_here(binding, 5) && !cpus.is_bound_here(binding, 6));
    cpus.leave(binding, remains(&hal));
    assert_eq!((hal.in_use(), cpus.take(0)), (5, Err(BindError::Occupied(0))));
    let found = cpus.reap(0).expect("something was left");
    assert_eq!((found.vmcs.is_some(), hal.in_use()), (true, 5));
    drop(found);
    assert_eq!((hal.in_use(), cpus.reap(0).is_none()), (1, true));
    let binding = cpus.take(0).expect("free");
    cpus.leave(binding, remains(&hal));
    drop(cpus.turn_off(on));
    assert_eq!(hal.in_use(), 1);
    // The CPU is off: at once.
    cpus.leave(binding, remains(&hal));
    assert_eq!(hal.in_use(), 1);
    // And on again, with another vCPU.
    let again = cpus.turn_on(0, 5).expect("it was off");
    let other = cpus.take(0).expect("free");
    cpus.leave(binding, remains(&hal));
    assert!(hal.in_use() == 1 && cpus.is_bound_here(other, 5));
    cpus.free(binding);
    assert!(cpus.is_bound_here(other, 5));
    cpus.free(other);
    assert!(cpus.turn_off(again).is_none());
    drop(cpus);
    assert_eq!(hal.in_use(), 0);
}
