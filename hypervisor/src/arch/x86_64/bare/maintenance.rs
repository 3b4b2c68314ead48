//! What the library asks for after a change of a table: the CPUs that remember something of it are made to forget it.
//!
//! Neither vendor broadcasts: a CPU that is inside the guest is kicked out of it, and every CPU forgets what is old right
//! before it enters (`slat_x86::SpaceCpus`).

use super::{cpu, machine};
use crate::arch::x86_64::mmu::MEMORY_END;
use crate::pool::Maintenance;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use slat::trace::{Ring, Tracer};
use slat::{CacheMaintenance, HostPhysRange, Invalidation};
use slat_hv_protocol::recording::{Event, Recorder};
use slat_hv_protocol::{CPUS_MAX, Mistake};
use slat_x86::SpaceCpus;
use spin::Mutex;

/// The CPUs of one address space.
pub(in crate::arch::x86_64) type Cpus = SpaceCpus<CPUS_MAX>;

/// Carries out what the library asks for, with the mistake that the run asks for.
pub(in crate::arch::x86_64) struct Shootdown {
    mistake: Mistake,
    /// Whether the mistake is made no more.
    corrected: AtomicBool,
    /// The spaces that CPUs can enter, by their root registers.
    spaces: Mutex<Vec<(u64, Arc<Cpus>)>>,
    /// CPUs that have to forget something although nobody told them: with [`Mistake::LocalTlbi`].
    own: [AtomicBool; CPUS_MAX],
    counts: Mutex<BTreeMap<&'static str, u64>>,
    kicks: AtomicU64,
    recorder: Option<Recorder<'static>>,
    trace: Option<Ring<'static>>,
    /// What the recording has of each CPU: its root and tag, and whether it is inside. Each is its own CPU's.
    recorded: [Mutex<Recorded>; CPUS_MAX],
}

/// What the recording has of a CPU.
#[derive(Default)]
struct Recorded {
    loaded: Option<(u64, u32)>,
    inside: bool,
}

impl Shootdown {
    /// Nothing done yet. With a `recorder`, all that happens is recorded, and with a `trace` it is traced.
    pub(in crate::arch::x86_64) fn new(
        mistake: Mistake,
        recorder: Option<Recorder<'static>>,
        trace: Option<Ring<'static>>,
    ) -> Self {
        Self {
            mistake,
            corrected: AtomicBool::new(false),
            spaces: Mutex::new(Vec::new()),
            own: [const { AtomicBool::new(false) }; CPUS_MAX],
            counts: Mutex::new(BTreeMap::new()),
            kicks: AtomicU64::new(0),
            recorder,
            trace,
            recorded: [const { Mutex::new(Recorded { loaded: None, inside: false }) }; CPUS_MAX],
        }
    }

    /// From now on CPUs may enter the space with this root register, through what is returned.
    pub(in crate::arch::x86_64) fn register(&self, root: u64) -> Arc<Cpus> {
        let cpus = Arc::new(Cpus::new());
        self.spaces.lock().push((root, Arc::clone(&cpus)));
        cpus
    }

    /// Nobody enters the space with this root register any more.
    pub(in crate::arch::x86_64) fn unregister(&self, root: u64) {
        self.spaces.lock().retain(|(other, _)| *other != root);
    }

    /// From now on everything is done as the library wants it.
    pub(in crate::arch::x86_64) fn make_no_more_mistakes(&self) {
        self.corrected.store(true, Ordering::Release);
    }

    /// The mistake that is to be made.
    pub(in crate::arch::x86_64) fn mistake(&self) -> Mistake {
        if self.corrected.load(Ordering::Acquire) { Mistake::None } else { self.mistake }
    }

    /// CPU `cpu` is about to enter the space of `cpus`: whether it has to forget what it remembers of it.
    pub(in crate::arch::x86_64) fn enter(&self, cpu: usize, cpus: &Cpus) -> bool {
        // There are as many words as CPUs.
        let told = cpus.enter(cpu).is_ok_and(|entry| entry.flush);
        let own = self.own.get(cpu).is_some_and(|own| own.swap(false, Ordering::AcqRel));
        told || own
    }

    /// Records the entry of this CPU by `event`, into the space of `root` under `tag`. If it was inside it has been outside in
    /// between, on business of the vCPU's own.
    pub(in crate::arch::x86_64) fn record_entry(&self, root: u64, tag: u32, event: Event) {
        self.with_recorded(|recorded| {
            if recorded.loaded.replace((root, tag)) != Some((root, tag)) {
                self.record(Event::LoadTagged { root, tag });
            }
            self.record(event);
            recorded.inside = true;
        });
    }

    /// Records what this CPU does outside of its guest.
    pub(in crate::arch::x86_64) fn record_outside(&self, event: Event) {
        self.with_recorded(|_| self.record(event));
    }

    /// Records that this CPU has left its guest.
    pub(in crate::arch::x86_64) fn record_exit(&self) {
        self.with_recorded(|_| ());
    }

    /// If anything is recorded, lets `work` see what the recording has of this CPU, which is outside.
    fn with_recorded(&self, work: impl FnOnce(&mut Recorded)) {
        let place = self.recorded.get(cpu::this_cpu()).filter(|_| self.recorder.is_some());
        let Some(mut recorded) = place.map(Mutex::lock) else { return };
        if core::mem::take(&mut recorded.inside) {
            self.record(Event::Exit);
        }
        work(&mut recorded);
    }

    /// Counts an instruction of TLB maintenance.
    pub(in crate::arch::x86_64) fn count(&self, mnemonic: &'static str) {
        *self.counts.lock().entry(mnemonic).or_default() += 1;
    }

    /// Instructions executed by mnemonic, and the CPUs that were kicked.
    pub(in crate::arch::x86_64) fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts: BTreeMap<String, u64> =
            self.counts.lock().iter().map(|(mnemonic, count)| (mnemonic.to_string(), *count)).collect();
        counts.insert("nmi ipi".to_string(), self.kicks.load(Ordering::Acquire));
        counts
    }
}

impl Shootdown {
    /// Makes the CPUs of a space forget what they remember of it, or some of them by mistake.
    fn tell(&self, cpus: &Cpus) {
        let this = cpu::this_cpu();
        match self.mistake() {
            Mistake::NoTlbi => return,
            Mistake::LocalTlbi => {
                if let Some(own) = self.own.get(this) {
                    own.store(true, Ordering::Release);
                }
                return;
            }
            Mistake::NoKick => {
                // As if everybody else had left the guest.
                (0..CPUS_MAX).filter(|cpu| *cpu != this).for_each(|cpu| {
                    let _ = cpus.leave(cpu);
                });
            }
            _ => {}
        }
        let kick = |cpu| {
            self.kicks.fetch_add(1, Ordering::AcqRel);
            machine::kick(cpu);
        };
        // There are as many words as CPUs.
        let _ = cpus.invalidate(this, kick);
    }
}

impl Maintenance for Shootdown {
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        let spaces = self.spaces.lock();
        let space =
            spaces.iter().find(|(root, _)| *root == invalidation.root).map(|(_, cpus)| Arc::clone(cpus));
        drop(spaces);
        // One that no CPU can enter is remembered by none.
        let Some(cpus) = space else { return };
        self.record(Event::Invalidate { root: invalidation.root });
        self.tell(&cpus);
        self.record(Event::Invalidated);
    }

    fn tracer(&self) -> Option<Tracer<'_>> {
        self.trace.map(|ring| ring.on_cpu(cpu::this_cpu()))
    }

    fn invalidations(&self) -> BTreeMap<String, u64> {
        self.counts()
    }

    fn is_memory(&self, range: HostPhysRange) -> bool {
        range.start().as_u64() < MEMORY_END
    }

    /// x86 keeps its caches coherent.
    fn maintain_cache(&self, _: *mut u8, _: &CacheMaintenance) {}

    /// x86 orders stores before the table walks of a later entry by itself.
    fn publish(&self) {}

    fn record(&self, event: Event) {
        if let Some(recorder) = &self.recorder {
            recorder.record(cpu::this_cpu(), event);
        }
    }
}
