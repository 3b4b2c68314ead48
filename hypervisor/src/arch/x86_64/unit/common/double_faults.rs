//! What becomes of two events when the second comes up in the delivery of the first: exceptions that become one, and those that
//! go before an interrupt or an NMI.

use super::events::{KINDS, Kind, VECTOR, until_fault};
use super::scene::{CODE, ERROR_CODE, HANDLED, IDT, RETURN, STACK, enter, halt};
use crate::arch::x86_64::bare::Vendor;
use crate::arch::x86_64::unit::context::Context;
use crate::arch::x86_64::unit::{Failure, UnitGuest, ensure, ensure_eq, failed, guest_code, nothing};
use slat::PAGE_SIZE;
use slat_x86::{Event, Exit, General, Vcpu as _};

pub(super) fn guests<V: Vendor>() -> [UnitGuest<Context<V>>; 4] {
    [
        UnitGuest { name: "double-fault", needs: nothing, run: two_are_one },
        UnitGuest { name: "double-fault-shutdown", needs: nothing, run: three_are_the_end },
        UnitGuest { name: "exception-before-interrupt", needs: nothing, run: before_interrupt },
        UnitGuest { name: "exception-before-nmi", needs: nothing, run: before_nmi },
    ]
}

const DOUBLE: Event = Event::Exception { vector: 8, error_code: Some(0) };
const PROTECTION: Event = Event::Exception { vector: 13, error_code: Some(0x18) };

fn inject<V: Vendor>(vcpu: &mut V::Vcpu, event: Event) -> Result<(), Failure> {
    vcpu.inject(event).map_err(|error| failed("inject", error))
}

fn kind(is_it: impl Fn(&&Kind) -> bool) -> Result<&'static Kind, Failure> {
    KINDS.iter().find(is_it).ok_or_else(|| "there is no such event".into())
}

/// An exception of the guest's whose delivery meets a missing page, and one of the hypervisor's: a double fault, or the second one
/// alone, for the first one would happen again.
fn two_are_one<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let kind = kind(|kind| matches!(kind.event, Event::Exception { vector: 13, .. }))?;
    for missing in [IDT, STACK] {
        for (second, error_code) in [(PROTECTION, 0), (Event::page_fault(2), 2)] {
            let (space, mut vcpu) = until_fault(context, kind, missing)?;
            inject::<V>(&mut vcpu, second)?;
            halt(&space, &mut vcpu)?;
            ensure_eq!(space.word(HANDLED)?, 1, "how often a handler ran");
            ensure_eq!(space.word(ERROR_CODE)?, error_code, "the error code");
            ensure_eq!(space.word(RETURN)?, CODE + kind.at, "where the handler returns to");
            ensure_eq!(vcpu.general().get(General::Rsp), STACK + PAGE_SIZE, "RSP");
            vcpu.unbind();
        }
    }
    Ok(())
}

/// A fault in the delivery of a double fault ends the guest, which is not entered again.
fn three_are_the_end<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let interrupt = kind(|kind| kind.event == Event::ExternalInterrupt(VECTOR))?;
    for second in [PROTECTION, Event::page_fault(0), DOUBLE] {
        let double = Kind { injected: Some(DOUBLE), event: DOUBLE, ..*interrupt };
        let (space, mut vcpu) = until_fault(context, &double, IDT)?;
        inject::<V>(&mut vcpu, second)?;
        ensure_eq!(enter(&space, &mut vcpu)?, Exit::Shutdown, "exit");
        ensure_eq!(space.word(HANDLED)?, 0, "how often a handler ran");
        vcpu.unbind();
    }
    Ok(())
}

// Halts in the handler, where interrupts are off.
guest_code!(halting_exception_handler, "inc qword ptr [0x60008]", "hlt", "add rsp, 8", "iretq");

/// The exception that comes up in the delivery of an interrupt goes first; the interrupt comes when the guest takes it again.
fn before_interrupt<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    const OWN_HANDLER: u64 = 0x2_1000;
    let interrupt = kind(|kind| kind.event == Event::ExternalInterrupt(VECTOR))?;
    for missing in [IDT, STACK] {
        let (space, mut vcpu) = until_fault(context, interrupt, missing)?;
        space.load(OWN_HANDLER, halting_exception_handler())?;
        // The low half of the gate's offset is all that differs.
        space.load(IDT + 13 * 16, &(OWN_HANDLER as u16).to_le_bytes())?;
        inject::<V>(&mut vcpu, PROTECTION)?;
        halt(&space, &mut vcpu)?;
        let inside = (OWN_HANDLER..OWN_HANDLER + 0x20).contains(&vcpu.rip());
        ensure!(inside && space.word(HANDLED)? == 1, "the guest is at {:#x}", vcpu.rip());
        ensure!(!vcpu.takes_interrupts(), "one waits, and the handler takes none");
        halt(&space, &mut vcpu)?;
        ensure_eq!(space.word(HANDLED)?, 2, "how often handlers ran");
        ensure_eq!(space.word(RETURN)?, CODE + interrupt.at, "where the interrupt's returns to");
        ensure!(vcpu.takes_interrupts(), "nothing waits any more");
        ensure_eq!(vcpu.general().get(General::Rsp), STACK + PAGE_SIZE, "RSP");
        vcpu.unbind();
    }
    Ok(())
}

/// Likewise an NMI, which blocks no others before it is delivered.
fn before_nmi<V: Vendor>(context: &Context<V>) -> Result<(), Failure> {
    let nmi = kind(|kind| kind.event == Event::Nmi)?;
    for missing in [IDT, STACK] {
        let (space, mut vcpu) = until_fault(context, nmi, missing)?;
        inject::<V>(&mut vcpu, PROTECTION)?;
        halt(&space, &mut vcpu)?;
        ensure_eq!(space.word(HANDLED)?, 2, "how often handlers ran");
        ensure_eq!(space.word(ERROR_CODE)?, 0x18, "the error code of the exception");
        ensure_eq!(vcpu.general().get(General::Rsp), STACK + PAGE_SIZE, "RSP");
        // Both handlers are over, and the next NMI has nothing to wait for.
        vcpu.set_rip(CODE + nmi.at);
        inject::<V>(&mut vcpu, Event::Nmi)?;
        halt(&space, &mut vcpu)?;
        ensure_eq!(space.word(HANDLED)?, 3, "how often handlers ran");
        vcpu.unbind();
    }
    Ok(())
}
