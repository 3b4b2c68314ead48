//! The machine's TLB maintenance, counted: fences of this hart, and of those that have run the space, by the firmware.
//!
//! **In a recording** a fence of this hart stands before it is executed, one of other harts after the firmware's call has returned: so that
//! there is never more maintenance in it than there was.

use super::guest::all_forgotten;
use super::recording::record;
use super::{code, fail, firmware, this_hart};
use crate::arch::riscv64::maintenance::{Step, recorded, steps};
use crate::arch::riscv64::platform::RAM_ADDRESS;
use crate::pool::Maintenance;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use core::sync::atomic::{self, Ordering};
use slat::format::gstage::{Fence, HartMask, Instruction, RFENCE, RemoteFence, vmid};
use slat::tlb::HartSet;
use slat::trace::{Ring, Tracer};
use slat::{CacheActions, CacheMaintenance, HostPhysRange, Invalidation, Scope};
use slat_hv_protocol::Mistake;
use slat_hv_protocol::recording::Event;
use spin::{Mutex, Once};

/// The harts that have had a VMID in hgatp, by the lowest bits of the VMID: once there, a hart stays, and a fence too many does no
/// harm.
fn ran() -> &'static [HartSet; 64] {
    static RAN: Once<[HartSet; 64]> = Once::new();
    RAN.call_once(|| core::array::from_fn(|_| HartSet::new()))
}

fn of_vmid(vmid: u16) -> &'static HartSet {
    let ran = ran();
    &ran[usize::from(vmid) % ran.len()]
}

/// To be called before this hart writes hgatp: from now on it is told of changes of this VMID's space. Whether it was not until now:
/// then it has to forget all of the VMID after having written hgatp ([`HartSet::enter`]).
pub(super) fn note_hart(hgatp: u64) -> bool {
    match of_vmid(vmid(hgatp)).enter(this_hart()) {
        Ok(is_new) => is_new,
        Err(error) => fail(format_args!("{error}")),
    }
}

/// The harts that may remember something under this VMID, or under any.
fn harts(vmid: Option<u16>) -> u64 {
    // All of them are in the first word.
    let of = |set: &HartSet| set.harts().fold(0, |harts, (_, bits)| harts | bits);
    match vmid {
        Some(vmid) => of(of_vmid(vmid)),
        None => ran().iter().fold(0, |harts, set| harts | of(set)),
    }
}

/// Executes a fence on this hart.
pub(super) fn fence_here(fence: Fence) {
    execute(Instruction::HfenceGvma(fence));
}

/// Executes an instruction on this hart.
fn execute(instruction: Instruction) {
    let (event, before) = recorded(instruction);
    if before {
        record(event);
    }
    slat::isa::riscv64::execute(instruction);
    if !before {
        record(event);
    }
}

/// Has the other harts that need it execute a fence; `false` if there are none.
fn fence_there(fence: RemoteFence) -> bool {
    let RemoteFence { start, size, vmid } = fence;
    let others = harts(vmid) & !(1 << this_hart());
    if others == 0 {
        return false;
    }
    let arguments = fence.arguments(HartMask { mask: others, base: 0 });
    if let Err(error) = firmware::call(RFENCE as usize, fence.function() as usize, arguments) {
        // Whatever goes on now may use what is gone.
        fail(format_args!("the firmware does not fence harts {others:#x}: {error:?}"));
    }
    record(Event::RemoteFence { harts: others as u8, vmid, start, size });
    true
}

/// Executes what the library asks for, with the mistake that the run asks for.
pub(super) struct Counted {
    mistake: Mistake,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    trace: Option<Ring<'static>>,
}

impl Counted {
    /// Nothing counted yet. What happens goes into `trace`, if there is one.
    pub(super) fn new(mistake: Mistake, trace: Option<Ring<'static>>) -> Self {
        Self { mistake, counts: Mutex::new(BTreeMap::new()), trace }
    }

    /// Instructions executed, by mnemonic.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().iter().map(|(mnemonic, count)| (mnemonic.to_string(), *count)).collect()
    }
}

impl Maintenance for Counted {
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        record(Event::Invalidate { root: invalidation.root });
        if invalidation.scope == Scope::AllSpaces {
            all_forgotten();
        }
        for step in steps(invalidation, self.mistake) {
            let done = match step {
                Step::Here(instruction) => {
                    execute(instruction);
                    true
                }
                Step::There(fence) => fence_there(fence),
            };
            if done {
                *self.counts.lock().entry(step.name()).or_default() += 1;
            }
        }
        record(Event::Invalidated);
    }

    fn tracer(&self) -> Option<Tracer<'_>> {
        self.trace.map(|ring| ring.on_cpu(this_hart()))
    }

    fn invalidations(&self) -> BTreeMap<String, u64> {
        self.counts()
    }

    fn is_memory(&self, range: HostPhysRange) -> bool {
        range.end().as_u64() > RAM_ADDRESS
    }

    fn maintain_cache(&self, _start: *mut u8, maintenance: &CacheMaintenance) {
        if maintenance.actions.contains(CacheActions::INVALIDATE_INSTRUCTIONS) {
            code::is_new();
        }
    }

    fn publish(&self) {
        atomic::fence(Ordering::SeqCst);
    }

    fn record(&self, event: Event) {
        record(event);
    }
}
