use super::*;
use std::thread;

const RAM: Range<u64> = 0x4000_0000..0x4100_0000;
const ENTRY: Entry = Entry { address: 0x4000_1000, argument: 7 };

fn two() -> Cpus {
    Cpus::new(2, RAM, |_| true)
}

#[test]
fn a_cpu_begins_once_where_it_was_told_to() {
    let cpus = two();
    assert_eq!(cpus.begin(1), None);
    assert_eq!(cpus.start(1, ENTRY), Ok(()));
    assert_eq!(cpus.start(1, ENTRY), Err(StartError::Pending));
    assert_eq!((cpus.begin(1), cpus.begin(1)), (Some(ENTRY), None));
    assert_eq!(cpus.start(1, ENTRY), Err(StartError::AlreadyOn));
}

#[test]
fn numbers_of_the_guest_are_checked() {
    let cpus = two();
    assert_eq!(cpus.start(2, ENTRY), Err(StartError::NoSuchCpu));
    assert_eq!(cpus.start(usize::MAX, ENTRY), Err(StartError::NoSuchCpu));
    for address in [0, RAM.start - 1, RAM.start + 1, RAM.end, u64::MAX] {
        assert_eq!(cpus.start(1, Entry { address, ..ENTRY }), Err(StartError::BadAddress), "{address:#x}");
    }
    assert_eq!(cpus.power(1), Some(Power::Off));
    assert_eq!(Cpus::new(1, RAM, |_| true).power(1), None);
}

#[test]
fn the_last_cpu_stays_on_even_if_it_is_not_the_first() {
    let cpus = two();
    assert!(!cpus.stop(0));
    assert_eq!(cpus.start(1, ENTRY), Ok(()));
    assert!(cpus.stop(0));
    assert!(!cpus.stop(1));
    // It is on for the guest until it has left, so nobody starts it meanwhile.
    assert_eq!(cpus.start(0, ENTRY), Err(StartError::AlreadyOn));
    cpus.leave(0);
    assert_eq!((cpus.power(0), cpus.start(0, ENTRY)), (Some(Power::Off), Ok(())));
}

#[test]
fn a_cpu_that_the_machine_does_not_start_is_off_again() {
    let cpus = Cpus::new(2, RAM, |_| false);
    assert_eq!(cpus.start(1, ENTRY), Err(StartError::Failed));
    assert_eq!(cpus.power(1), Some(Power::Off));
    cpus.leave(0);
    assert!(cpus.wait_for_all(1, || ()));
}

#[test]
fn the_end_waits_for_whoever_is_inside() {
    let cpus = two();
    assert_eq!(cpus.start(1, ENTRY), Ok(()));
    assert!(cpus.end());
    assert!(!cpus.end());
    cpus.leave(0);
    // On its way up it counts already: it will look at the states before it looks at anything else.
    assert!(!cpus.wait_for_all(10, || ()));
    assert_eq!(cpus.begin(1), Some(ENTRY));
    assert!(cpus.is_ending() && !cpus.wait_for_all(10, || ()));
    cpus.leave(1);
    assert!(cpus.wait_for_all(1, || ()));
}

#[test]
fn nobody_waits_for_a_sleeper_and_it_never_gets_inside_again() {
    let cpus = two();
    assert_eq!(cpus.start(1, ENTRY), Ok(()));
    assert_eq!(cpus.begin(1), Some(ENTRY));
    cpus.pause(1);
    assert!(cpus.resume(1));
    cpus.pause(1);
    assert_eq!(cpus.power(1), Some(Power::On));
    assert!(cpus.end());
    cpus.leave(0);
    assert!(cpus.wait_for_all(1, || ()));
    assert!(!cpus.resume(1));
    assert_eq!(cpus.start(0, ENTRY), Err(StartError::Failed));
    assert!(cpus.wait_for_all(1, || ()));
}

fn two_in_slices() -> Cpus {
    Cpus::in_slices(2, RAM, ENTRY, |_| true)
}

#[test]
fn in_slices_a_cpu_begins_goes_on_and_goes_off() {
    let cpus = two_in_slices();
    assert_eq!((cpus.power(0), cpus.power(1)), (Some(Power::Pending), Some(Power::Off)));
    assert_eq!((cpus.enter(0), cpus.enter(1), cpus.enter(2)), (Enter::Begin(ENTRY), Enter::Off, Enter::Off));
    cpus.pause(0);
    assert_eq!(cpus.enter(0), Enter::Resume);
    // Half a word is enough of an alignment here, and no more.
    let entry = Entry { address: RAM.start + 2, argument: 9 };
    assert_eq!(cpus.start(1, Entry { address: RAM.start + 1, ..entry }), Err(StartError::BadAddress));
    assert_eq!(cpus.start(1, entry), Ok(()));
    assert!(cpus.stop(0));
    assert_eq!((cpus.enter(0), cpus.power(0)), (Enter::Off, Some(Power::On)));
    cpus.leave(0);
    assert_eq!((cpus.enter(1), cpus.power(0)), (Enter::Begin(entry), Some(Power::Off)));
    assert!(!cpus.stop(1), "nobody could turn it on again");
}

#[test]
fn in_slices_one_hart_is_the_last_one_out() {
    let cpus = two_in_slices();
    assert_eq!((cpus.start(1, ENTRY), cpus.enter(0)), (Ok(()), Enter::Begin(ENTRY)));
    assert_eq!(cpus.enter(1), Enter::Begin(ENTRY));
    assert!(!cpus.is_last_out());
    assert!(cpus.end());
    cpus.pause(0);
    assert!(!cpus.is_last_out(), "the other one is inside");
    assert_eq!(cpus.enter(0), Enter::Ended);
    cpus.leave(1);
    assert_eq!((cpus.is_last_out(), cpus.is_last_out()), (true, false));
    // One that was turned on and never ran holds nobody up.
    let cpus = two_in_slices();
    assert_eq!((cpus.enter(0), cpus.start(1, ENTRY)), (Enter::Begin(ENTRY), Ok(())));
    assert!(cpus.end());
    cpus.pause(0);
    assert!(cpus.is_last_out() && cpus.wait_for_all(1, || ()));
    assert_eq!(cpus.enter(1), Enter::Ended);
}

#[test]
fn whoever_ends_it_is_the_only_one_and_sees_the_others_leave() {
    for _ in 0..200 {
        let cpus = two();
        assert_eq!(cpus.start(1, ENTRY), Ok(()));
        let run = |cpu: usize| {
            let firsts = u32::from(cpus.end());
            cpus.leave(cpu);
            if firsts == 1 {
                assert!(cpus.wait_for_all(u64::MAX, || ()));
            }
            firsts
        };
        let firsts = thread::scope(|scope| {
            let other = scope.spawn(|| {
                cpus.begin(1);
                run(1)
            });
            run(0) + other.join().expect("the other thread")
        });
        assert_eq!(firsts, 1);
    }
}
