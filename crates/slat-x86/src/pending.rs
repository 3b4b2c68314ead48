//! Events that wait for their delivery: what an exit interrupted, and what the hypervisor adds.
//!
//! **Invariant:** an event is neither lost nor delivered twice. Two exceptions become one as the CPU would make them one
//! (SDM vol. 3A, "Interrupt 8: Double Fault Exception"; APM vol. 2, "#DF - Double-Fault Exception (Vector 8)": the same
//! table); an exception that is raised while an interrupt or an NMI is being delivered goes first, and the other one waits
//! for the next time that the guest takes it. Both vendors' vCPUs keep their events here.

use crate::event::Event;

/// How an exception counts when two meet (the manual's table "Interrupt and Exception Classes").
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

const fn class(vector: u8) -> Class {
    match vector {
        0 | 10..=13 | 21 => Class::Contributory,
        14 | 20 => Class::PageFault,
        8 => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// Vectors of external interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Vectors([u64; 4]);

impl Vectors {
    fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] |= 1 << (vector & 63);
    }

    const fn is_empty(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// The highest one, as the local APIC has it.
    fn take(&mut self) -> Option<u8> {
        let (index, word) = self.0.iter_mut().enumerate().rfind(|(_, word)| **word != 0)?;
        let bit = 63 - word.leading_zeros();
        *word &= !(1 << bit);
        Some((index as u32 * 64 + bit) as u8)
    }
}

/// Events that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// What the next entry delivers, in any case.
    next: Option<Event>,
    /// Interrupts that an exception went before. The interrupt controller has given them up already.
    interrupts: Vectors,
    /// Likewise an NMI; or one that came while NMIs were blocked.
    nmi: bool,
    /// A fault in the delivery of a double fault.
    shutdown: bool,
}

/// What may be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// External interrupts.
    pub(crate) interrupts: bool,
    /// NMIs.
    pub(crate) nmis: bool,
}

impl Pending {
    /// Nothing waits.
    pub(crate) const NONE: Self =
        Self { next: None, interrupts: Vectors([0; 4]), nmi: false, shutdown: false };

    /// The exit interrupted the delivery of `event`, which is to be delivered again.
    pub(crate) fn interrupted(&mut self, event: Event) {
        self.next = Some(event);
    }

    /// Adds an exception or an NMI, or an interrupt that the guest takes now.
    pub(crate) fn add(&mut self, event: Event, protected: bool) {
        let Some(first) = self.next else {
            match event {
                Event::Nmi => self.nmi = true,
                _ => self.next = Some(event),
            }
            return;
        };
        match (first, event) {
            (_, Event::Nmi) => self.nmi = true,
            (_, Event::ExternalInterrupt(vector)) => self.interrupts.insert(vector),
            (Event::ExternalInterrupt(vector), _) => {
                self.interrupts.insert(vector);
                self.next = Some(event);
            }
            (Event::Nmi, _) => {
                self.nmi = true;
                self.next = Some(event);
            }
            (Event::Exception { vector: first, .. }, Event::Exception { vector: second, .. }) => {
                let double = match (class(first), class(second)) {
                    (Class::DoubleFault, Class::Contributory | Class::PageFault | Class::DoubleFault) => {
                        self.shutdown = true;
                        self.next = None;
                        return;
                    }
                    (Class::Contributory, Class::Contributory) => true,
                    (Class::PageFault, Class::Contributory | Class::PageFault) => true,
                    _ => false,
                };
                let double_fault = Event::Exception { vector: 8, error_code: protected.then_some(0) };
                // Otherwise the first one happens again when the instruction does.
                self.next = Some(if double { double_fault } else { event });
            }
            // Likewise an instruction that raises an interrupt: it is executed again.
            _ => self.next = Some(event),
        }
    }

    /// Whether something is delivered at the next entry, so that nothing else can be.
    pub(crate) fn is_occupied(&self) -> bool {
        self.next.is_some() || self.shutdown
    }

    /// Whether an interrupt that is added now would be delivered at the next entry, if the guest takes it.
    pub(crate) fn has_room_for_interrupts(&self) -> bool {
        !self.is_occupied() && !self.waits_for_interrupts()
    }

    /// Takes out `event` if the next entry would deliver it: it will not be delivered.
    pub(crate) fn withdraw(&mut self, event: Event) -> Option<Event> {
        self.next.take_if(|next| *next == event)
    }

    /// Whether the guest has shut down; asking ends that.
    pub(crate) fn take_shutdown(&mut self) -> bool {
        core::mem::take(&mut self.shutdown)
    }

    /// The event for this entry, where the guest takes what `open` says.
    pub(crate) fn deliver(&mut self, open: Open) -> Option<Event> {
        if let Some(event) = self.next.take() {
            return Some(event);
        }
        if self.nmi && open.nmis {
            self.nmi = false;
            return Some(Event::Nmi);
        }
        if open.interrupts {
            return self.interrupts.take().map(Event::ExternalInterrupt);
        }
        None
    }

    /// Whether an interrupt waits until the guest takes it.
    pub(crate) fn waits_for_interrupts(&self) -> bool {
        !self.interrupts.is_empty()
    }

    /// Whether an NMI waits until the guest takes it.
    pub(crate) fn waits_for_nmis(&self) -> bool {
        self.nmi
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
