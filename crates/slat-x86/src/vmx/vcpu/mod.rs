//! The virtual CPU on VMX.
//!
//! Protocol: [`new`](VmxVcpu::new), [`setup`](VmxVcpu::setup) (or [`set_ept_root`](VmxVcpu::set_ept_root) and
//! [`set_entry`](VmxVcpu::set_entry)); then [`bind`](crate::Vcpu::bind) on a CPU whose [`VmxCpu`](super::VmxCpu) is on,
//! [`run`](crate::Vcpu::run) again and again, [`unbind`](crate::Vcpu::unbind). Interrupts are masked from before `run` until
//! behind it; NMIs may come at any time.
//!
//! **Where the state lies:** general registers and CR2 in the value; what the VMCS has, there; what neither has, in the CPU
//! while bound and in memory otherwise (`resident.rs`). A vCPU that is not bound is clear: its VMCS is in memory, active
//! nowhere.
//!
//! **The CPU knows who is bound to it:** VMPTRST says which VMCS is current. Each function that needs the CPU asks, so that
//! one that is called on another CPU finds [`RunError::NotBound`] and touches nothing. Dropped there, the vCPU leaves its VMCS and the
//! registers to the CPU that has them ([`HostCpus`]).
//!
//! **Control registers.** The guest owns all bits of CR0 but NE, which VMX needs set; a change of it exits, changes
//! what the guest reads, and is carried out by the CPU itself at the second attempt. Of CR4 the guest owns what it may have;
//! a write of anything else is a general protection exception. On CPUs without unrestricted guests PE and PG are
//! the host's too, and a guest that clears one gets that exception.

#![expect(unsafe_code, reason = "takes itself apart when it is dropped")]

mod bitmaps;
mod control;
mod log;
mod run;
mod setup;
mod state;
mod traits;

pub use log::{LogError, ModificationLog};

use super::capabilities::Capabilities;
use super::controls::Controls;
use super::cpu::{CR4_VMXE, check_region};
use super::eptp::{EptPointer, EptPointerError};
use super::exit::Fields;
use super::field;
use super::instructions::{Instructions, InveptType, InvvpidType, Processor, VmxError};
use crate::event::Event;
use crate::frame::Frames;
use crate::host_cpus::{Binding, HostCpus, Remains};
use crate::msr;
use crate::pending::Pending;
use crate::port::Intercepted;
use crate::resident::Resident;
use crate::state::{CpuState, GeneralRegisters};
use crate::vcpu::RunError;
use core::mem::ManuallyDrop;
use slat::format::ept::Ept;
use slat::{Hal, HostPhysAddr};
use thiserror::Error;

/// What a vCPU is to be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmxConfig {
    /// Under what number the CPU keeps its translations, where it [can](Capabilities::vpid): of all vCPUs that may run on
    /// the same CPU, each has its own. 0: none is kept.
    pub vpid: u16,
    /// HLT exits. Otherwise the CPU itself halts, until something makes it exit or wakes the guest.
    pub halt_exits: bool,
    /// External interrupts exit, acknowledged. Otherwise they are the guest's.
    pub interrupt_exits: bool,
    /// The ports that exit.
    pub ports: Intercepted,
}

/// Why a vCPU was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NewError {
    /// The host has not enough frames.
    #[error("out of memory for a vCPU")]
    OutOfMemory,
    /// A frame lies above 4 GiB, where this CPU cannot have a VMCS (IA32_VMX_BASIC bit 48).
    #[error("the VMCS {0:#x} lies above 4 GiB")]
    Region(HostPhysAddr),
}

/// Why a guest cannot begin so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SetupError {
    /// The root or its format.
    #[error(transparent)]
    Root(#[from] EptPointerError),
    /// Real mode or no paging, on a CPU without unrestricted guests.
    #[error("this CPU runs no guest in real mode or without paging")]
    NoUnrestrictedGuest,
    /// The vCPU is bound to another CPU, or the CPU refused a field.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// What a vCPU is doing (SDM vol. 3C, "Guest Non-Register State").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Activity {
    /// It executes.
    Active,
    /// It has executed HLT.
    Halted,
    /// It has shut down.
    ShutDown,
    /// It waits for a start-up IPI.
    WaitForStartUp,
}

/// A virtual CPU on VMX.
///
/// Dropping it unbinds it, if that happens on the CPU that it is bound to, and gives all its frames back. If it is dropped on another
/// CPU while it is bound, its VMCS and its registers wait for the CPU to clear them up ([`HostCpus`]): that may write to
/// the VMCS until then.
#[derive(Debug)]
pub struct VmxVcpu<H: Hal, P: Instructions = Processor> {
    cpu: P,
    capabilities: Capabilities,
    ept: Ept,
    config: VmxConfig,
    cpus: HostCpus<H>,
    /// The VMCS; as the place, the MSR bitmap. Until the vCPU is dropped.
    remains: ManuallyDrop<Remains<H>>,
    io_bitmaps: Frames<H>,
    log: Option<Frames<H>>,
    /// Whether what the CPU remembers of the EPT has to go before the next entry.
    owes_flush: bool,
    /// As they are in the VMCS, once it was written.
    controls: Controls,
    root: Option<EptPointer>,
    /// What the guest is to begin with, while there is no VMCS to write it to.
    staged: Option<CpuState>,
    general: GeneralRegisters,
    cr2: u64,
    rip: u64,
    /// RIP and RSP as the VMCS has them.
    written: (u64, u64),
    pending: Pending,
    /// What the last exit interrupted.
    interrupted: Option<Event>,
    last: Fields,
    windows: (bool, bool),
    bound: Option<Binding>,
    last_cpu: Option<usize>,
    initialized: bool,
    launched: bool,
}

impl<H: Hal + Clone, P: Instructions> VmxVcpu<H, P> {
    /// A vCPU for guests on tables of `ept`, on the CPUs of `cpus`. Takes a frame of `hal` for the VMCS, three for bitmaps,
    /// and what the extended state needs, twice.
    ///
    /// # Errors
    /// [`NewError`].
    pub fn new(
        hal: &H,
        cpu: P,
        cpus: &HostCpus<H>,
        capabilities: Capabilities,
        ept: Ept,
        config: VmxConfig,
    ) -> Result<Self, NewError> {
        let frames = |count| Frames::zeroed(hal.clone(), count).ok_or(NewError::OutOfMemory);
        let mut vmcs = frames(1)?;
        check_region(&capabilities, vmcs.address()).map_err(NewError::Region)?;
        vmcs.set_word(0, u64::from(capabilities.revision()));
        let mut msr_bitmap = frames(1)?;
        bitmaps::fill_msrs(&mut msr_bitmap, msr::passes);
        let mut io_bitmaps = frames(2)?;
        bitmaps::fill_ports(&mut io_bitmaps, &config.ports);
        let switched: &[u32] = match capabilities.rdtscp() {
            true => &msr::SWITCHED,
            false => &msr::SWITCHED[..msr::SWITCHED.len() - 1],
        };
        let components = capabilities.extended_components();
        let resident = Resident::new(hal, components, capabilities.raw().extended_bytes, switched)
            .ok_or(NewError::OutOfMemory)?;
        let controls = setup::controls(&capabilities, &config);
        Ok(Self {
            cpu,
            capabilities,
            ept,
            config,
            cpus: cpus.clone(),
            remains: ManuallyDrop::new(Remains { vmcs: Some(vmcs), resident, place: msr_bitmap }),
            io_bitmaps,
            log: None,
            owes_flush: false,
            controls,
            root: None,
            staged: None,
            general: GeneralRegisters::default(),
            cr2: 0,
            rip: 0,
            written: (0, 0),
            pending: Pending::NONE,
            interrupted: None,
            last: Fields::default(),
            windows: (false, false),
            bound: None,
            last_cpu: None,
            initialized: false,
            launched: false,
        })
    }
}

impl<H: Hal, P: Instructions> VmxVcpu<H, P> {
    /// Both [`set_ept_root`](Self::set_ept_root) and [`set_entry`](Self::set_entry).
    ///
    /// # Errors
    /// Those of both; nothing has changed then.
    pub fn setup(&mut self, ept_root: EptPointer, entry: &CpuState) -> Result<(), SetupError> {
        self.check_entry(entry)?;
        self.set_ept_root(ept_root)?;
        self.set_entry(entry)
    }

    /// The table that the guest runs on from the next entry on. Of a bound vCPU the field is written and what this CPU
    /// remembers of the root is dropped: the frame may have been that of another table.
    ///
    /// # Errors
    /// [`RunError::NotBound`] if the vCPU is bound to another CPU, [`RunError::Instruction`].
    pub fn set_ept_root(&mut self, root: EptPointer) -> Result<(), RunError> {
        if self.bound.is_some() {
            self.here()?;
            set_ept_pointer(&self.cpu, &self.capabilities, root)?;
        }
        self.root = Some(root);
        Ok(())
    }

    /// The table that the guest runs on.
    pub fn ept_root(&self) -> Option<EptPointer> {
        self.root
    }

    /// Where and how the guest begins, or goes on: everything that [`CpuState`] has; events that wait are forgotten. May be
    /// called while the vCPU is not bound, too.
    ///
    /// # Errors
    /// [`SetupError::NoUnrestrictedGuest`]; [`SetupError::Run`] if the vCPU is bound to another CPU.
    pub fn set_entry(&mut self, entry: &CpuState) -> Result<(), SetupError> {
        self.check_entry(entry)?;
        if self.bound.is_some() {
            self.here()?;
            self.write_state(entry).map_err(failed)?;
        } else {
            self.staged = Some(*entry);
            self.general = entry.general;
            self.rip = entry.rip;
        }
        self.cr2 = entry.cr2;
        self.pending = Pending::NONE;
        self.interrupted = None;
        Ok(())
    }

    fn check_entry(&self, entry: &CpuState) -> Result<(), SetupError> {
        // PE and PG.
        let paged = entry.cr0 & 1 << 0 != 0 && entry.cr0 & 1 << 31 != 0;
        if paged || self.capabilities.unrestricted_guest() {
            Ok(())
        } else {
            Err(SetupError::NoUnrestrictedGuest)
        }
    }

    /// What the CPU offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The basic exit reason and the exit qualification of the last exit, as the CPU gave them.
    pub fn exit_numbers(&self) -> (u16, u64) {
        (self.last.reason, self.last.qualification)
    }

    /// Takes away the event that the next entry would deliver again because the last exit interrupted it. A hypervisor that
    /// does so loses it: this is for tests that are to notice.
    pub fn take_pending_event(&mut self) -> Option<Event> {
        let event = self.interrupted.take()?;
        self.pending.withdraw(event)
    }

    /// Whether the vCPU is bound to this very CPU.
    fn is_here(&self) -> bool {
        let Some(vmcs) = self.vmcs() else { return false };
        self.bound.is_some() && self.cpu.cr4() & CR4_VMXE != 0 && self.cpu.vmptrst() == vmcs.as_u64()
    }

    fn vmcs(&self) -> Option<HostPhysAddr> {
        self.remains.vmcs.as_ref().map(Frames::address)
    }

    fn here(&self) -> Result<(), RunError> {
        if self.is_here() { Ok(()) } else { Err(RunError::NotBound) }
    }

    /// Drops what this CPU remembers of the guest's linear addresses: something was changed behind its back.
    fn drop_linear(&self) -> Result<(), VmxError> {
        if !self.has_vpid() {
            // Each entry does.
            return Ok(());
        }
        if self.capabilities.invvpid_single() {
            self.cpu.invvpid(InvvpidType::SingleContext(self.config.vpid))
        } else {
            self.cpu.invvpid(InvvpidType::AllContexts)
        }
    }

    fn has_vpid(&self) -> bool {
        self.controls.has_secondary(super::controls::secondary::VPID)
    }
}

/// Writes the EPTP of the current VMCS and drops what this CPU remembers of it.
///
/// # Errors
/// [`RunError::Instruction`].
pub fn set_ept_pointer(
    cpu: &impl Instructions,
    capabilities: &Capabilities,
    pointer: EptPointer,
) -> Result<(), RunError> {
    field::write(cpu, field::EPT_POINTER, pointer.raw()).map_err(failed)?;
    invalidate_ept(cpu, capabilities, pointer)
}

/// Drops what this CPU remembers of the tables of `pointer`: of them alone, or of all where the CPU cannot.
///
/// # Errors
/// [`RunError::Instruction`]: VMX is off.
pub fn invalidate_ept(
    cpu: &impl Instructions,
    capabilities: &Capabilities,
    pointer: EptPointer,
) -> Result<(), RunError> {
    let kind = match capabilities.invept_single() {
        true => InveptType::SingleContext(pointer.raw()),
        false => InveptType::AllContexts,
    };
    cpu.invept(kind).map_err(failed)
}

/// What a failed instruction means to the caller.
fn failed(error: VmxError) -> RunError {
    RunError::Instruction(error.number())
}

impl<H: Hal, P: Instructions> Drop for VmxVcpu<H, P> {
    fn drop(&mut self) {
        use crate::vcpu::Vcpu;
        self.unbind();
        // SAFETY: taken once, here, and not used any more.
        let remains = unsafe { ManuallyDrop::take(&mut self.remains) };
        if let Some(binding) = self.bound {
            self.cpus.leave(binding, remains);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
