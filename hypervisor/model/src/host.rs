//! The host: slat-hv's pool of frames in the model's RAM, whose machine is the model.

#![expect(unsafe_code, reason = "makes the pool of the model's RAM")]

use crate::mnemonic::mnemonic;
use crate::turn::World;
use slat::trace::{Ring, Tracer};
use slat::{CacheMaintenance, HostPhysAddr, Invalidation, PAGE_SIZE, Scope, TableKind};
use slat_check::maintenance;
use slat_check::platform::{Platform, arm_instruction};
use slat_hv::arch::aarch64::maintenance::{Step, narrowed, steps};
use slat_hv::pool::{Maintenance, Pool};
use slat_hv_protocol::recording::Event;
use slat_hv_protocol::{Mistake, Span};
use slat_model::{Instruction, Ram};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Host physical address of the first frame.
pub(crate) const FIRST_FRAME: u64 = 0x8000_0000;

/// Frames beyond the guest's: tables, regions, and what moves.
const SLACK: u64 = 4 << 20;

/// As large and as aligned as any format's root.
const ROOT: u64 = 16 * PAGE_SIZE;

/// The machine's RAM: the pool of this size, or as large as guests with so much memory all together can need, and behind it a root
/// without entries.
pub(crate) fn ram(guest_memory: u64, pool: Option<u64>) -> (Ram, Span) {
    let size = pool.unwrap_or(guest_memory + guest_memory / 512 + SLACK).next_multiple_of(ROOT);
    (Ram::new(FIRST_FRAME, size + ROOT), Span { address: FIRST_FRAME, size })
}

/// The model's CPUs, as slat's requests reach them.
pub(crate) struct Hardware<P> {
    platform: P,
    world: Arc<World>,
    ram: Ram,
    cpus: usize,
    /// A root without entries, for invalidating under a tag whose table is not loaded.
    empty_root: u64,
    mistake: Mistake,
    /// A mistake too: when tags get new owners nobody drops anything.
    keeps_old_tags: bool,
    /// Whether the mistake is made no more.
    corrected: AtomicBool,
    counts: Mutex<BTreeMap<String, u64>>,
    /// The memory of the trace; empty for none.
    trace: Vec<AtomicU64>,
}

impl<P: Platform> Hardware<P> {
    fn plan(&self, invalidation: &Invalidation<'_>, here: usize) -> Vec<(usize, Instruction)> {
        let corrected = self.corrected.load(Ordering::Relaxed);
        if self.keeps_old_tags && invalidation.scope == Scope::AllSpaces {
            return vec![];
        }
        let mistake = if corrected { Mistake::None } else { self.mistake };
        let invalidation = &narrowed(*invalidation, mistake);
        if matches!(mistake, Mistake::None | Mistake::LocalTlbi) {
            return maintenance::plan(&self.platform, invalidation, here, self.cpus);
        }
        if P::TABLE == TableKind::Stage2 {
            let native = |step| match step {
                Step::Native(instruction) => Some((here, arm_instruction(instruction))),
                // Of the hypervisor's own translations the model knows nothing.
                Step::Vae2is(_) => None,
            };
            return steps(invalidation, mistake).filter_map(native).collect();
        }
        vec![]
    }
}

impl<P: Platform> Maintenance for Hardware<P> {
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        self.world.hook(|state, here| {
            let plan = self.plan(invalidation, here);
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, instruction) in &plan {
                *counts.entry(mnemonic(*instruction)).or_default() += 1;
            }
            let roots = (invalidation.root, self.empty_root);
            let done = maintenance::carry_out(&self.platform, &mut state.machine, here, roots, &plan);
            if let Err(invalid) = done {
                state.checks.note(|checks| &mut checks.rules_broken, || invalid.to_string());
            }
            state.take_reports();
        });
    }

    fn maintain_cache(&self, _start: *mut u8, maintenance: &CacheMaintenance) {
        self.world.hook(|state, here| maintenance::clean(&mut state.machine, here, maintenance));
    }

    fn publish(&self) {
        self.world.hook(|state, here| {
            let instructions = self.platform.publication();
            instructions.iter().for_each(|instruction| state.machine.execute(here, *instruction));
        });
    }

    fn tracer(&self) -> Option<Tracer<'_>> {
        let here = || self.world.with(|state| state.turn.unwrap_or(0));
        (!self.trace.is_empty()).then(|| Ring::new(&self.trace).on_cpu(here()))
    }

    fn time(&self) -> u64 {
        self.world.with(|state| state.time)
    }

    fn record(&self, event: Event) {
        self.world.hook(|state, here| match event {
            Event::Store { entry, value } => state.machine.stored(here, entry, value),
            // What the previous owner left behind is in the caches of the host, and so are zeroes.
            Event::Take { start, count } | Event::Zero { start, count } => {
                state.machine.host_wrote(start..start + count * PAGE_SIZE);
            }
            Event::Return { start, count } => state.returned(start..start + count * PAGE_SIZE),
            // The rest is known from where it happens.
            _ => {}
        });
    }

    fn pointer(&self, hpa: HostPhysAddr) -> *mut u8 {
        let offset = hpa.as_u64().wrapping_sub(FIRST_FRAME);
        // Asked for frames of the pool only, which the RAM holds.
        let offset = if offset < self.ram.bytes() { offset as usize } else { 0 };
        self.ram.words().as_ptr().cast_mut().cast::<u8>().wrapping_add(offset)
    }
}

impl<P: Platform> Hardware<P> {
    /// The host of a guest's address space: the frames in `memory`, which is part of `ram`, in a new machine, and so many words for a trace.
    pub(crate) fn pool(
        platform: P,
        world: Arc<World>,
        ram: Ram,
        memory: Span,
        cpus: usize,
        (mistake, keeps_old_tags): (Mistake, bool),
        trace: usize,
    ) -> Pool<Self> {
        let hardware = Self {
            platform,
            world,
            ram,
            cpus,
            empty_root: memory.address + memory.size,
            mistake,
            keeps_old_tags,
            corrected: AtomicBool::new(false),
            counts: Mutex::default(),
            trace: (0..trace).map(|_| AtomicU64::new(0)).collect(),
        };
        // SAFETY: the span is part of the RAM, which lives as long as the hardware that the pool owns; its words are one
        // array, in the order of their addresses. Besides the pool only the model's CPUs use it, as hardware would, by atomic
        // accesses, and never while another thread does (`turn`).
        unsafe { Pool::new(memory, true, hardware) }
    }

    /// The words of the trace.
    pub(crate) fn trace(&self) -> Vec<u64> {
        self.trace.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// From now on everything is done as slat wants it.
    pub(crate) fn make_no_more_mistakes(&self) {
        self.corrected.store(true, Ordering::Relaxed);
    }

    /// Instructions executed, by name.
    pub(crate) fn instructions(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
