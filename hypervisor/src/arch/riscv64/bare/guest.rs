//! What the vCPUs of one guest share, whichever harts they are on.
//!
//! **Interrupts between CPUs:** the sender sets the flag of the receiver and then wakes it, which makes a hart that runs it leave its
//! guest; the receiver takes the flag before each entry, and looks at it before it waits. A wake that comes between is
//! pending when the hart enters, which ends the entry at once. So none is lost.
//!
//! **Translations of the guest's own tables** are told apart by VMID and ASID, and ASIDs are each CPU's own. A hart that has run another
//! vCPU of the guest since, or a vCPU that was on another hart meanwhile, has to forget them first: each hart remembers
//! whom of the guest it ran last, and how often it had forgotten all guests then, because tags got new owners.

use super::console::Console;
use super::{firmware, this_hart};
use crate::arch::riscv64::sbi::{Fence, Harts};
use crate::console::Lines;
use crate::console_text::ConsoleText;
use crate::cpus::Cpus;
use crate::schedule::Scheduler;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use slat_hv_protocol::CPUS_MAX;
use spin::Mutex;

/// How often each hart has forgotten what it remembered of all guests.
static FORGOTTEN: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];

/// This hart has forgotten what it remembered of all guests, and their tags may have new owners.
pub(super) fn all_forgotten() {
    if let Some(count) = FORGOTTEN.get(this_hart()) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the vCPUs of a guest share.
pub(super) struct Shared {
    /// Which of them are on.
    pub(super) cpus: &'static Cpus,
    scheduler: &'static Scheduler,
    /// The number of the first one, for the scheduler.
    first: usize,
    /// Harts of the machine, a bit each.
    harts: u64,
    console: Mutex<Lines>,
    /// The text whose appearance on the console ends the guest.
    end_text: Option<Awaited>,
    /// The one that stops it for a while.
    pause_text: Option<Awaited>,
    interrupts: [AtomicBool; CPUS_MAX],
    /// Whom each hart ran last: above, how often it had forgotten all guests; below, the number of the vCPU, from 1 on.
    last: [AtomicU64; CPUS_MAX],
}

/// A text that is awaited on the console.
struct Awaited {
    text: Mutex<ConsoleText>,
    /// Whether it has appeared.
    has_shown: AtomicBool,
}

impl Awaited {
    fn new(text: ConsoleText) -> Self {
        Self { text: Mutex::new(text), has_shown: AtomicBool::new(false) }
    }

    fn push(&self, printed: &[u8]) {
        let mut text = self.text.lock();
        if printed.iter().any(|&byte| text.push(byte)) {
            self.has_shown.store(true, Ordering::Release);
        }
    }

    /// Whether it has appeared since this was asked for last.
    fn take(&self) -> bool {
        self.has_shown.swap(false, Ordering::Acquire)
    }
}

impl Shared {
    /// What the vCPUs of guest `number` share, which is one of several if that is not `None`. They are `cpus` and have consecutive
    /// numbers from `first` on. The machine has the harts of the mask `harts`. The guest ends, or stops for a while, when the first or
    /// the second of `texts` has been printed.
    pub(super) fn new(
        number: Option<u32>,
        cpus: &'static Cpus,
        scheduler: &'static Scheduler,
        first: usize,
        harts: u64,
        [end_text, pause_text]: [Option<ConsoleText>; 2],
    ) -> Self {
        Self {
            cpus,
            scheduler,
            first,
            harts,
            console: Mutex::new(Lines::new(number)),
            end_text: end_text.map(Awaited::new),
            pause_text: pause_text.map(Awaited::new),
            interrupts: [const { AtomicBool::new(false) }; CPUS_MAX],
            last: [const { AtomicU64::new(0) }; CPUS_MAX],
        }
    }

    /// Prints `text` on the guest's console.
    pub(super) fn print(&self, text: &[u8]) {
        self.console.lock().add(text, |line| Console::claim().send(line));
        [&self.end_text, &self.pause_text].into_iter().flatten().for_each(|awaited| awaited.push(text));
    }

    /// Whether the text that ends the guest has been printed since this was asked for last.
    pub(super) fn takes_end(&self) -> bool {
        self.end_text.as_ref().is_some_and(Awaited::take)
    }

    /// Whether the text that stops the guest for a while has been printed since this was asked for last.
    pub(super) fn takes_pause(&self) -> bool {
        self.pause_text.as_ref().is_some_and(Awaited::take)
    }

    /// Whether an interrupt was sent to `cpu`, which has never run here.
    pub(super) fn set_interrupted(&self, cpu: usize, interrupted: bool) {
        if let Some(flag) = self.interrupts.get(cpu) {
            flag.store(interrupted, Ordering::Release);
        }
    }

    /// The guest has ended: what it left on its last line is printed, too.
    pub(super) fn end_console(&self) {
        self.console.lock().end(|line| Console::claim().send(line));
    }

    /// Sends `targets` an interrupt; `this` is the one that does so, and looks before it goes on.
    pub(super) fn interrupt(&self, targets: Harts, this: usize) {
        for (cpu, flag) in self.interrupts.iter().enumerate().filter(|(cpu, _)| targets.contains(*cpu)) {
            flag.store(true, Ordering::Release);
            if cpu != this {
                self.scheduler.wake(self.first + cpu);
            }
        }
    }

    /// Takes the interrupt that was sent to `cpu`, if one was.
    pub(super) fn take_interrupt(&self, cpu: usize) -> bool {
        self.interrupts.get(cpu).is_some_and(|flag| flag.swap(false, Ordering::Acquire))
    }

    /// Whether an interrupt was sent to `cpu` that it has not taken.
    pub(super) fn is_interrupted(&self, cpu: usize) -> bool {
        self.interrupts.get(cpu).is_some_and(|flag| flag.load(Ordering::Acquire))
    }

    /// `cpu` is about to run on this hart, and ran on `before` last: whether nobody of the guest was here since, so that what
    /// the hart remembers of the guest's own tables is this one's.
    pub(super) fn returns(&self, cpu: usize, before: Option<usize>) -> bool {
        let hart = this_hart();
        let (Some(last), Some(forgotten)) = (self.last.get(hart), FORGOTTEN.get(hart)) else { return false };
        let now = forgotten.load(Ordering::Relaxed) << 8 | (cpu as u64 + 1);
        last.swap(now, Ordering::Relaxed) == now && before == Some(hart)
    }

    /// Every other hart executes `fence` for the guest, whose table this hart has loaded: any of its CPUs may have been there, and
    /// may come back.
    pub(super) fn fence_elsewhere(&self, fence: Fence) -> Result<(), firmware::SbiError> {
        let others = self.harts & !(1 << this_hart());
        match fence {
            _ if others == 0 => Ok(()),
            Fence::Instructions => firmware::remote_fence_i(others),
            Fence::Addresses { range, asid } => firmware::remote_hfence_vvma(others, range, asid),
        }
    }
}
