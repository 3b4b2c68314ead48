//! Who comes first, and who waits.

use super::*;

const FAULT: Event = Event::GENERAL_PROTECTION;

fn interrupted(event: Event) -> Option<Interrupted> {
    Some(Interrupted { event, again: Some(Delivery::of(event)) })
}

#[test]
fn one_event_per_entry_and_the_interrupted_one_first() {
    let mut pending = Pending::default();
    pending.has_run(interrupted(Event::ExternalInterrupt(0x20)));
    pending.add(Event::ExternalInterrupt(0x30));
    pending.add(Event::Nmi);
    pending.add(FAULT);
    let order = [Event::ExternalInterrupt(0x20), FAULT, Event::Nmi, Event::ExternalInterrupt(0x30)];
    for event in order {
        assert_eq!(pending.plan(true).delivery, Some(Delivery::of(event)), "{event:?}");
        // Planning again changes nothing: the entry may fail.
        assert_eq!(pending.plan(true).delivery, Some(Delivery::of(event)), "{event:?}");
        pending.has_run(None);
    }
    assert_eq!(pending.plan(true).delivery, None);
}

#[test]
fn an_event_is_delivered_until_it_has_been() {
    let mut pending = Pending::default();
    pending.add(FAULT);
    for _ in 0..3 {
        assert_eq!(pending.plan(false).delivery, Some(Delivery::of(FAULT)));
        pending.has_run(interrupted(FAULT));
        assert!(pending.is_busy());
    }
    assert_eq!(pending.take_interrupted(), Some(FAULT));
    assert_eq!((pending.plan(false).delivery, pending.take_interrupted()), (None, None));
}

#[test]
fn an_external_interrupt_waits_for_the_window() {
    let mut pending = Pending::default();
    pending.add(Event::ExternalInterrupt(0x30));
    let plan = pending.plan(false);
    assert_eq!((plan.delivery, plan.wanted.interrupt_window), (None, true));
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
    pending.add(Event::Nmi);
    let plan = pending.plan(false);
    assert_eq!(plan.delivery, Some(Delivery::of(Event::Nmi)));
    pending.has_run(None);
    assert_eq!(pending.blocking, NmiBlocking::Blocked);
    assert!(!pending.plan(false).wanted.iret, "nobody waits for it");
    pending.add(Event::Nmi);
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
    pending.has_run(Some(Interrupted { event, again: None }));
    assert!(!pending.is_busy());
    assert_eq!(pending.plan(true).delivery, None);
}

#[test]
fn a_new_state_has_no_events() {
    let mut pending = Pending { interrupt_window: true, nmi_window: true, ..Pending::default() };
    pending.add(Event::Nmi);
    pending.add(FAULT);
    pending.has_run(interrupted(FAULT));
    pending.forget();
    assert_eq!(pending, Pending { interrupt_window: true, nmi_window: true, ..Pending::default() });
}
