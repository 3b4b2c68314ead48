//! What waits for its delivery, and in which order it is delivered.
//!
//! One event fits into an entry. First comes the one whose delivery an exit has interrupted, then the exception or software
//! interrupt that was injected, then an NMI unless NMIs are blocked, then an external interrupt if the guest takes one. What has
//! to wait is delivered as soon as the guest is ready: for that the vCPU asks for the window itself.
//!
//! NMIs are blocked from the delivery of one until the guest has executed IRET. The CPU only tells that it is about to: the
//! vCPU lets it execute that one instruction (APM vol. 2, "NMI Intercept"; CPUs with virtual NMIs are treated alike).

use super::event::{Delivery, Interrupted};
use super::intercepts::Wanted;
use crate::event::Event;

/// Whether the guest takes NMIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NmiBlocking {
    /// It does.
    #[default]
    Open,
    /// It does not before its next IRET.
    Blocked,
    /// It executes that IRET now, as the only instruction.
    Stepping(Step),
}

/// What single-stepping has changed in the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Where the IRET is.
    pub(super) rip: u64,
    /// RFLAGS.TF was set by the guest itself.
    pub(super) trap_flag: bool,
    /// DR6.
    pub(super) dr6: u64,
}

/// Where the event of an entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Again,
    Next,
    Nmi,
    External,
}

/// What one entry does about events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// What it delivers.
    pub(super) delivery: Option<Delivery>,
    /// What it asks for.
    pub(super) wanted: Wanted,
}

/// The events of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    again: Option<Interrupted>,
    next: Option<Delivery>,
    nmi: bool,
    external: Option<u8>,
    injected: Option<(Source, Delivery)>,
    pub(super) blocking: NmiBlocking,
    /// The hypervisor asked for them.
    pub(super) interrupt_window: bool,
    pub(super) nmi_window: bool,
}

impl Pending {
    /// Puts `event`, which is good, in its place. An exception or software interrupt takes the place of one that waited.
    pub(super) fn add(&mut self, event: Event) {
        match event {
            Event::Nmi => self.nmi = true,
            Event::ExternalInterrupt(vector) => self.external = Some(vector),
            event => self.next = Some(Delivery::of(event)),
        }
    }

    /// Whether an entry delivers something else before an external interrupt.
    pub(super) fn is_busy(&self) -> bool {
        self.again.is_some_and(|interrupted| interrupted.again.is_some())
            || self.next.is_some()
            || self.external.is_some()
    }

    /// The event whose delivery the last exit interrupted, which is not delivered again.
    pub(super) fn take_interrupted(&mut self) -> Option<Event> {
        self.again.take().map(|interrupted| interrupted.event)
    }

    /// What the next entry does, to a guest that would take an external interrupt if `takes_interrupts`.
    pub(super) fn plan(&mut self, takes_interrupts: bool) -> Plan {
        let again = self.again.and_then(|interrupted| interrupted.again);
        let nmi = self.nmi && self.blocking == NmiBlocking::Open;
        let external = self.external.filter(|_| takes_interrupts);
        self.injected = if let Some(delivery) = again {
            Some((Source::Again, delivery))
        } else if let Some(delivery) = self.next {
            Some((Source::Next, delivery))
        } else if nmi {
            Some((Source::Nmi, Delivery::of(Event::Nmi)))
        } else {
            external.map(|vector| (Source::External, Delivery::of(Event::ExternalInterrupt(vector))))
        };
        let delivers_nmi = self.injected.is_some_and(|(_, delivery)| delivery.is_nmi());
        let external_waits = self.external.is_some() && !matches!(self.injected, Some((Source::External, _)));
        Plan {
            delivery: self.injected.map(|(_, delivery)| delivery),
            wanted: Wanted {
                interrupt_window: self.interrupt_window || external_waits,
                iret: (delivers_nmi || self.blocking == NmiBlocking::Blocked)
                    && (self.nmi || self.nmi_window),
                step: matches!(self.blocking, NmiBlocking::Stepping(_)),
            },
        }
    }

    /// RIP has been moved behind the instruction of the software event that the planned entry delivers: it is not moved again
    /// if the delivery has to be repeated.
    pub(super) fn moved_behind(&mut self) {
        if let Some((source, delivery)) = &mut self.injected {
            delivery.length = 0;
            match source {
                Source::Next => self.next = Some(*delivery),
                Source::Again => {
                    self.again = self.again.map(|known| Interrupted { again: Some(*delivery), ..known });
                }
                Source::Nmi | Source::External => {}
            }
        }
    }

    /// What the entry had delivered.
    pub(super) fn injected(&self) -> Option<Delivery> {
        self.injected.map(|(_, delivery)| delivery)
    }

    /// The guest has run, and left with this delivery interrupted.
    pub(super) fn has_run(&mut self, interrupted: Option<Interrupted>) {
        self.again = None;
        match self.injected.take() {
            Some((Source::Next, _)) => self.next = None,
            Some((Source::Nmi, _)) => {
                self.nmi = false;
                self.blocking = NmiBlocking::Blocked;
            }
            Some((Source::External, _)) => self.external = None,
            Some((Source::Again, delivery)) if delivery.is_nmi() => self.blocking = NmiBlocking::Blocked,
            Some((Source::Again, _)) | None => {}
        }
        self.again = interrupted;
    }

    /// Forgets all events; what the hypervisor asked for stays.
    pub(super) fn forget(&mut self) {
        let Self { interrupt_window, nmi_window, .. } = *self;
        *self = Self { interrupt_window, nmi_window, ..Self::default() };
    }
}

#[cfg(test)]
mod tests;
