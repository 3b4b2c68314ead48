//! Who comes first, and who waits.

use super::*;

const FAULT: Event = Event::GENERAL_PROTECTION;

fn interrupted(event: Event) -> Option<Interrupted> {
    Some(Interrupted { event, again: true })
}

fn delivers(pending: &mut Pending, takes_interrupts: bool) -> Option<Event> {
    pending.plan(takes_interrupts);
    pending.injected()
}

#[test]
fn one_event_per_entry_and_the_interrupted_one_first() {
    let mut pending = Pending::default();
    pending.has_run(interrupted(Event::ExternalInterrupt(0x20)));
    assert!(!pending.has_room_for_interrupts());
    pending.add(Event::Nmi, true);
    pending.add(FAULT, true);
    for event in [FAULT, Event::Nmi, Event::ExternalInterrupt(0x20)] {
        assert_eq!(pending.plan(true).delivery, Some(Delivery::of(event)), "{event:?}");
        // Planning again changes nothing: the entry may fail.
        assert_eq!(pending.plan(true).delivery, Some(Delivery::of(event)), "{event:?}");
        pending.has_run(None);
    }
    assert_eq!(pending.plan(true).delivery, None);
}

#[test]
fn faults_in_deliveries_become_double_faults_and_then_a_shutdown() {
    const DOUBLE: Event = Event::Exception { vector: 8, error_code: Some(0) };
    let mut pending = Pending::default();
    pending.has_run(interrupted(Event::page_fault(2)));
    pending.add(Event::page_fault(0), true);
    assert_eq!(delivers(&mut pending, false), Some(DOUBLE));
    // An entry that fails does not make it two.
    pending.has_not_run();
    assert_eq!(delivers(&mut pending, false), Some(DOUBLE));
    pending.has_run(interrupted(DOUBLE));
    pending.add(FAULT, true);
    assert!(pending.take_shutdown() && !pending.take_shutdown());
    assert_eq!(delivers(&mut pending, true), None);
    // What is not of these classes goes first, and the other one happens again.
    pending.has_run(interrupted(FAULT));
    pending.add(Event::UNDEFINED, true);
    assert_eq!(delivers(&mut pending, true), Some(Event::UNDEFINED));
}

#[test]
fn an_nmi_that_an_exception_went_before_is_not_blocked() {
    let mut pending = Pending::default();
    pending.add(Event::Nmi, true);
    assert_eq!(delivers(&mut pending, false), Some(Event::Nmi));
    pending.has_run(interrupted(Event::Nmi));
    assert_eq!(pending.blocking, NmiBlocking::Open, "it was not delivered");
    pending.add(FAULT, true);
    let plan = pending.plan(false);
    assert_eq!(plan.delivery, Some(Delivery::of(FAULT)));
    assert!(plan.wanted.iret && plan.wanted.interrupt_window, "the vCPU looks for the next occasion");
    pending.has_run(None);
    let plan = pending.plan(false);
    assert_eq!(plan.delivery, Some(Delivery::of(Event::Nmi)));
    assert_eq!(plan.wanted, Wanted { iret: true, ..Wanted::default() });
    pending.has_run(None);
    assert_eq!(pending.blocking, NmiBlocking::Blocked);
}

#[test]
fn an_event_is_delivered_until_it_has_been() {
    let mut pending = Pending::default();
    pending.add(FAULT, true);
    for _ in 0..3 {
        assert_eq!(pending.plan(false).delivery, Some(Delivery::of(FAULT)));
        pending.has_run(interrupted(FAULT));
        assert!(!pending.has_room_for_interrupts());
    }
    assert_eq!(pending.take_interrupted(), Some(FAULT));
    assert_eq!((pending.plan(false).delivery, pending.take_interrupted()), (None, None));
}

#[test]
fn an_external_interrupt_waits_for_the_window() {
    let mut pending = Pending::default();
    pending.has_run(interrupted(Event::ExternalInterrupt(0x30)));
    pending.add(FAULT, true);
    let plan = pending.plan(false);
    assert_eq!((plan.delivery, plan.wanted.interrupt_window), (Some(Delivery::of(FAULT)), true));
    pending.has_run(None);
    let plan = pending.plan(true);
    assert_eq!(plan.delivery, Some(Delivery::of(Event::ExternalInterrupt(0x30))));
    assert!(!plan.wanted.interrupt_window);
    pending.has_run(None);
    pending.interrupt_window = true;
    assert!(pending.plan(true).wanted.interrupt_window, "the hypervisor asked");
}

#[test]
fn a_second_nmi_waits_for_iret() {
    let mut pending = Pending::default();
    pending.add(Event::Nmi, true);
    let plan = pending.plan(false);
    assert_eq!(plan.delivery, Some(Delivery::of(Event::Nmi)));
    pending.has_run(None);
    assert_eq!(pending.blocking, NmiBlocking::Blocked);
    assert!(pending.plan(false).wanted.iret, "nobody waits for it yet");
    pending.add(Event::Nmi, true);
    let plan = pending.plan(false);
    assert_eq!((plan.delivery, plan.wanted.iret), (None, true));
    pending.has_run(None);
    pending.blocking = NmiBlocking::Stepping(Step::default());
    let plan = pending.plan(false);
    assert_eq!((plan.delivery, plan.wanted.iret, plan.wanted.step), (None, false, true));
    pending.has_run(None);
    pending.blocking = NmiBlocking::Open;
    assert_eq!(pending.plan(false).delivery, Some(Delivery::of(Event::Nmi)));
}

#[test]
fn an_nmi_whose_delivery_was_interrupted_blocks_too() {
    let mut pending = Pending::default();
    pending.has_run(interrupted(Event::Nmi));
    pending.nmi_window = true;
    let plan = pending.plan(false);
    assert_eq!(plan.delivery, Some(Delivery::of(Event::Nmi)));
    assert!(plan.wanted.iret, "the window opens behind its IRET");
    pending.has_run(None);
    assert_eq!(pending.blocking, NmiBlocking::Blocked);
}

#[test]
fn software_events_of_the_guest_are_not_in_the_way() {
    let event = Event::SoftwareInterrupt { vector: 0x80, length: 2 };
    let mut pending = Pending::default();
    pending.has_run(Some(Interrupted { event, again: false }));
    assert!(pending.has_room_for_interrupts());
    assert_eq!(pending.plan(true).delivery, None);
}

#[test]
fn a_new_state_has_no_events() {
    let mut pending = Pending { interrupt_window: true, nmi_window: true, ..Pending::default() };
    pending.add(Event::Nmi, true);
    pending.add(FAULT, true);
    pending.has_run(interrupted(FAULT));
    pending.forget();
    assert_eq!(pending, Pending { interrupt_window: true, nmi_window: true, ..Pending::default() });
}
