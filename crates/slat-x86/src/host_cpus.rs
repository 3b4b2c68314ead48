//! The CPUs of the host on which vCPUs are bound, known to all of them and to whoever turns the extension on.
//!
//! A bound vCPU has things in its CPU that only that CPU can take out: its VMCS is active there (Intel), and registers of
//! the host's wait in its memory (`resident.rs`). **So one that is dropped on another CPU leaves what that takes to
//! its own CPU,** in a frame of its own, and everything else goes back to the host at once. The CPU clears up before the next vCPU is
//! bound to it, when it is asked to ([`VmxCpu::reap`](crate::vmx::VmxCpu::reap), [`SvmCpu::reap`](crate::svm::SvmCpu::reap)), and
//! at the latest when it turns the extension off. Until then the host is short of a few frames; it loses none. While a guest runs on a
//! CPU there is nothing to clear up there, for the seat is taken. `seat.rs` has the protocol.

#![expect(
    unsafe_code,
    reason = "keeps the seats of the CPUs in frames of the host's, and passes ownership on through them"
)]

use crate::frame::Frames;
use crate::resident::Resident;
use crate::seat::{Seat, Session, Unavailable};
use crate::sync::{AtomicUsize, Ordering, fence};
use crate::vcpu::BindError;
use core::fmt;
use slat::{Hal, PAGE_SIZE};
use thiserror::Error;

/// What a vCPU has in its CPU while it is bound: of a dropped one that CPU has to clear it up.
#[derive(Debug)]
pub(crate) struct Remains<H: Hal> {
    /// Intel: the VMCS, active in the CPU.
    pub(crate) vmcs: Option<Frames<H>>,
    /// The guest's registers in the CPU, and the host's in memory.
    pub(crate) resident: Resident<H>,
    /// A frame that no hardware uses any more when the vCPU is dropped. There this lies while it waits for the CPU.
    pub(crate) place: Frames<H>,
}

/// Where a vCPU is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) cpu: usize,
    pub(crate) session: Session,
}

/// The host has no frames for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("out of memory for the table of {0} CPUs")]
pub struct NoTable(pub usize);

struct Table<H: Hal> {
    handles: AtomicUsize,
    cpus: usize,
    /// Where this lies, and behind it the seats.
    frames: Frames<H>,
}

/// A handle to the table of the host's CPUs, numbered from 0 on: one table for all CPUs and vCPUs that have to do with each other.
/// All handles are equal; the last one gives the frames back. Needs no heap.
pub struct HostCpus<H: Hal> {
    /// Not `NonNull`: what one `H` has left another one may take away, so they have to be the same (invariance).
    table: *mut Table<H>,
}

// SAFETY: all handles reach the table only by atomics, but for fields that never change; what goes through it from one
// CPU to another is a `Remains`, which can be sent if the host can.
unsafe impl<H: Hal + Send> Send for HostCpus<H> {}
// SAFETY: as above.
unsafe impl<H: Hal + Send> Sync for HostCpus<H> {}

impl<H: Hal> HostCpus<H> {
    /// Bytes from the table to the seats.
    const SEATS: usize = size_of::<Table<H>>().next_multiple_of(align_of::<Seat<Remains<H>>>());

    /// A table for CPUs 0 to `cpus` - 1, all of them off. Takes a frame of `hal`, or more for more than about a hundred CPUs.
    ///
    /// # Errors
    /// [`NoTable`].
    pub fn new(hal: H, cpus: usize) -> Result<Self, NoTable> {
        const {
            assert!(align_of::<Seat<Remains<H>>>() <= PAGE_SIZE as usize);
            assert!(align_of::<Table<H>>() <= PAGE_SIZE as usize);
            assert!(size_of::<Table<H>>() <= PAGE_SIZE as usize);
        }
        let bytes = cpus.checked_mul(size_of::<Seat<Remains<H>>>());
        let bytes = bytes.and_then(|bytes| bytes.checked_add(Self::SEATS)).ok_or(NoTable(cpus))?;
        let frames = Frames::zeroed(hal, bytes.div_ceil(PAGE_SIZE as usize)).ok_or(NoTable(cpus))?;
        let start = frames.pointer();
        let table = start.cast::<Table<H>>();
        for cpu in 0..cpus {
            // SAFETY: inside the frames, which are long enough for all seats.
            let seat = unsafe { start.add(Self::SEATS + cpu * size_of::<Seat<Remains<H>>>()) };
            // SAFETY: aligned, for frames and `SEATS` are; nobody else knows of it yet.
            unsafe { seat.cast::<Seat<Remains<H>>>().write(Seat::new()) };
        }
        // SAFETY: likewise, and the table ends before the seats.
        unsafe { table.write(Table { handles: AtomicUsize::new(1), cpus, frames }) };
        Ok(Self { table })
    }

    /// For how many CPUs it is.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.table().cpus
    }

    fn table(&self) -> &Table<H> {
        // SAFETY: it lives as long as there is a handle, and is only shared.
        unsafe { &*self.table }
    }

    fn seat(&self, cpu: usize) -> Option<&Seat<Remains<H>>> {
        if cpu >= self.cpus() {
            return None;
        }
        // SAFETY: `new` has put a seat there, which lives as long as the table.
        let seat = unsafe { self.table.cast::<u8>().add(Self::SEATS + cpu * size_of::<Seat<Remains<H>>>()) };
        // SAFETY: as above; shared only.
        Some(unsafe { &*seat.cast::<Seat<Remains<H>>>() })
    }

    /// CPU `cpu`, which is the one at hand and called `identity` among all CPUs, begins a session; `None` if there is no such CPU,
    /// or one of this number is on.
    pub(crate) fn turn_on(&self, cpu: usize, identity: u64) -> Option<Binding> {
        let session = self.seat(cpu)?.turn_on(identity)?;
        Some(Binding { cpu, session })
    }

    /// The session ends. Nothing is active in the CPU any more; registers of the host's may still be in what this returns.
    pub(crate) fn turn_off(&self, on: Binding) -> Option<Remains<H>> {
        let left = self.seat(on.cpu)?.turn_off(on.session)?;
        // SAFETY: it was left, and the seat gives it away once.
        Some(unsafe { left.read() })
    }

    /// What was left in `cpu`, the CPU at hand: to be cleared up by the caller.
    pub(crate) fn reap(&self, cpu: usize) -> Option<Remains<H>> {
        let left = self.seat(cpu)?.reap()?;
        // SAFETY: it was left, and the seat gives it away once.
        Some(unsafe { left.read() })
    }

    /// Whether `cpu` is the CPU at hand, which is called `identity`, and on.
    ///
    /// # Errors
    /// [`BindError::Off`], [`BindError::Elsewhere`].
    pub(crate) fn check(&self, cpu: usize, identity: u64) -> Result<(), BindError> {
        let seat = self.seat(cpu).ok_or(BindError::Elsewhere(cpu))?;
        match seat.identity() {
            None => Err(BindError::Off(cpu)),
            Some(known) if known == identity => Ok(()),
            Some(_) => Err(BindError::Elsewhere(cpu)),
        }
    }

    /// Seats a vCPU on `cpu`, the CPU at hand.
    ///
    /// # Errors
    /// [`BindError::Off`], [`BindError::Occupied`].
    pub(crate) fn take(&self, cpu: usize) -> Result<Binding, BindError> {
        let seat = self.seat(cpu).ok_or(BindError::Elsewhere(cpu))?;
        match seat.take() {
            Ok(session) => Ok(Binding { cpu, session }),
            Err(Unavailable::Off) => Err(BindError::Off(cpu)),
            Err(Unavailable::Occupied) => Err(BindError::Occupied(cpu)),
        }
    }

    /// Whether the vCPU of `binding` is bound on the CPU at hand, which is called `identity`.
    pub(crate) fn is_bound_here(&self, binding: Binding, identity: u64) -> bool {
        let seat = self.seat(binding.cpu);
        seat.is_some_and(|seat| seat.is_taken(binding.session) && seat.identity() == Some(identity))
    }

    /// The vCPU of `binding` has nothing in the CPU any more.
    pub(crate) fn free(&self, binding: Binding) {
        if let Some(seat) = self.seat(binding.cpu) {
            seat.free(binding.session);
        }
    }

    /// The vCPU of `binding` is dropped on another CPU. Its CPU gets `remains`; or they go back to the host here, if that CPU has
    /// given them up before.
    pub(crate) fn leave(&self, binding: Binding, remains: Remains<H>) {
        const {
            assert!(
                size_of::<Remains<H>>() <= PAGE_SIZE as usize,
                "a host of that size has no place in a frame"
            )
        };
        let place = remains.place.pointer().cast::<Remains<H>>();
        // SAFETY: a frame of the dropped vCPU's that nobody uses any more, large enough and aligned.
        unsafe { place.write(remains) };
        let left = self.seat(binding.cpu).is_some_and(|seat| seat.leave(binding.session, place));
        if !left {
            // SAFETY: written above, and nobody has got it.
            drop(unsafe { place.read() });
        }
    }
}

impl<H: Hal> Clone for HostCpus<H> {
    fn clone(&self) -> Self {
        // As many handles as there are addresses cannot be held.
        self.table().handles.fetch_add(1, Ordering::Relaxed);
        Self { table: self.table }
    }
}

impl<H: Hal> Drop for HostCpus<H> {
    fn drop(&mut self) {
        if self.table().handles.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // What others did with their handles comes before.
        fence(Ordering::Acquire);
        // Whoever turned a CPU on had a handle until it was off, so nothing is left in any seat; seats own nothing else.
        // SAFETY: the last handle: nobody else knows of the table. Its frames outlive the read.
        let table = unsafe { self.table.read() };
        drop(table.frames);
    }
}

impl<H: Hal> fmt::Debug for HostCpus<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostCpus").field("cpus", &self.cpus()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
