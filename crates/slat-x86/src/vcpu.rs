//! What both vendors' vCPUs can do.
//!
//! Protocol: a vCPU is made unbound. [`bind`](Vcpu::bind) loads it into the CPU on which it is called; between then and
//! [`unbind`](Vcpu::unbind) every other function is to be called on that same CPU. On another CPU, or unbound, the functions
//! that need the CPU fail with [`RunError::NotBound`] and change nothing. A vCPU may be dropped on any CPU: see
//! [`HostCpus`](crate::HostCpus).

use crate::event::{BadEvent, Event};
use crate::exit::Exit;
use crate::state::{CpuState, GeneralRegisters};
use slat::{GuestPageWalkInfo, InstructionBytes, TagError};
use thiserror::Error;

/// Why a vCPU was not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BindError {
    /// It is bound to this CPU already, or to another one, which has to unbind it.
    #[error("the vCPU is bound to CPU {0}")]
    Bound(usize),
    /// Another vCPU is bound to this CPU.
    #[error("another vCPU is bound to CPU {0}")]
    Occupied(usize),
    /// This CPU has not turned its virtualization extension on, or not in the table of CPUs that the vCPU knows.
    #[error("CPU {0} has not turned virtualization on")]
    Off(usize),
    /// The CPU on which this runs is another one.
    #[error("this is not CPU {0}")]
    Elsewhere(usize),
    /// The CPU refused the VMCS (VM-instruction error, 0 if there is none).
    #[error("the CPU refused the vCPU's VMCS (VM-instruction error {0})")]
    Refused(u32),
    /// The tags of the vCPU (VPIDs, ASIDs) are for fewer CPUs.
    #[error(transparent)]
    Tag(#[from] TagError),
}

/// Why a guest was not entered, or something of it not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RunError {
    /// The vCPU is not bound, or it is to another CPU.
    #[error("the vCPU is not bound to this CPU")]
    NotBound,
    /// The vCPU has no second-level root yet.
    #[error("the vCPU has no second-level root")]
    NoRoot,
    /// The CPU refused the guest's state: the hypervisor made one that does not exist (Intel: exit reason and qualification;
    /// AMD: VMEXIT_INVALID).
    #[error("the CPU refused the guest's state (reason {reason:#x}, qualification {qualification:#x})")]
    InvalidState {
        /// Exit reason or code.
        reason: u64,
        /// Qualification, or 0.
        qualification: u64,
    },
    /// VMLAUNCH, VMRESUME, VMREAD or VMWRITE failed with this VM-instruction error.
    #[error("a VMX instruction failed (VM-instruction error {0})")]
    Instruction(u32),
    /// The event is none.
    #[error(transparent)]
    Event(#[from] BadEvent),
    /// The root is not aligned, or wider than the CPU's physical addresses.
    #[error("{0:#x} cannot be the second-level root")]
    BadRoot(u64),
}

/// A virtual CPU, of either vendor.
pub trait Vcpu {
    /// Loads the vCPU into the CPU on which this is called and whose index is `cpu`.
    ///
    /// Where the vCPU ran on another CPU before, what this CPU may remember of it is dropped first.
    ///
    /// # Errors
    /// [`BindError`]; nothing has changed then.
    fn bind(&mut self, cpu: usize) -> Result<(), BindError>;

    /// Takes the vCPU out of the CPU that it is bound to, on that CPU. Does nothing when it is not bound, or on another CPU.
    fn unbind(&mut self);

    /// The CPU that it is bound to.
    fn bound_to(&self) -> Option<usize>;

    /// The second-level root (slat's [`root_register`](slat::AddrSpace::root_register)) that the guest runs on from the next entry on.
    /// Drops what this CPU remembers of it if the vCPU is bound.
    ///
    /// # Errors
    /// [`RunError::BadRoot`], [`RunError::NotBound`].
    fn set_root(&mut self, root: u64) -> Result<(), RunError>;

    /// Everything in the guest's CPU that [`CpuState`] has.
    ///
    /// # Errors
    /// [`RunError::NotBound`].
    fn state(&self) -> Result<CpuState, RunError>;

    /// Sets everything in the guest's CPU that [`CpuState`] has; an event that waits for its delivery is forgotten.
    ///
    /// # Errors
    /// [`RunError::NotBound`].
    fn set_state(&mut self, state: &CpuState) -> Result<(), RunError>;

    /// General registers; RSP is right after an exit and counts at the next entry.
    fn general(&self) -> &GeneralRegisters;

    /// As [`general`](Self::general), to be changed.
    fn general_mut(&mut self) -> &mut GeneralRegisters;

    /// The guest's instruction pointer, 0 before the first [`set_state`](Self::set_state).
    fn rip(&self) -> u64;

    /// Lets the guest go on at `rip`.
    fn set_rip(&mut self, rip: u64);

    /// Goes on behind the instruction that led to the last exit, and ends the blocking of interrupts by STI or MOV SS. The
    /// hardware says how long the instruction was (AMD without NRIP: it is decoded). Only for exits by an instruction.
    fn advance(&mut self);

    /// Whether the CPU has not said how long the instruction was that led to the last exit, so that
    /// [`advance`](Self::advance) has to know its bytes (AMD without NRIP): without them it takes it for one without
    /// prefixes. Whoever sees `true` reads them ([`fetch_instruction`](slat::AddrSpace::fetch_instruction)) and gives them to
    /// [`set_instruction`](Self::set_instruction).
    fn needs_instruction(&self) -> bool {
        false
    }

    /// The bytes of the instruction that led to the last exit.
    fn set_instruction(&mut self, bytes: InstructionBytes) {
        let _ = bytes;
    }

    /// Runs the guest until it exits. `flush` drops what this CPU remembers of the second-level table before the entry (see
    /// [`SpaceCpus`](crate::SpaceCpus)).
    ///
    /// # Errors
    /// [`RunError`]; the guest has not run then.
    fn run(&mut self, flush: bool) -> Result<Exit, RunError>;

    /// Delivers `event` at the next entry, behind one that was interrupted before.
    ///
    /// # Errors
    /// [`RunError::Event`]; an external interrupt is refused while the guest does not take any (ask for the window).
    fn inject(&mut self, event: Event) -> Result<(), RunError>;

    /// Takes away the event whose delivery the last exit interrupted, so that it will not be delivered again: for tests, which
    /// have to see that it is missed.
    fn take_interrupted(&mut self) -> Option<Event>;

    /// Whether the guest would take an external interrupt at the next entry.
    fn takes_interrupts(&self) -> bool;

    /// Whether interrupts wait for the guest's next instruction although its RFLAGS.IF is set: the one before was STI or a load
    /// of SS. An entry brings that back (Intel: "Guest Non-Register State"; AMD: "Interrupt Shadows"), but not on every emulator:
    /// QEMU's VMRUN forgets it, and an interrupt then comes before the HLT behind an STI, which nothing will end. A hypervisor
    /// that is to run there looks for this after an exit that was by no instruction, and goes on behind the HLT.
    fn is_in_interrupt_shadow(&self) -> bool;

    /// Whether to exit ([`Exit::InterruptWindow`]) as soon as the guest takes external interrupts.
    fn set_interrupt_window(&mut self, wanted: bool);

    /// Whether to exit ([`Exit::NmiWindow`]) as soon as the guest takes NMIs.
    fn set_nmi_window(&mut self, wanted: bool);

    /// CR0, CR4 or EFER from the guest's own MOV or WRMSR: checked as the CPU would, then made so.
    ///
    /// # Errors
    /// `false` if the guest is to get a general protection exception; nothing has changed then.
    #[must_use]
    fn set_control(&mut self, control: Control, value: u64) -> bool;

    /// The value of CR0, CR3, CR4 or EFER that the guest sees.
    fn control(&self, control: Control) -> u64;

    /// The guest's XCR0.
    fn xcr0(&self) -> u64;

    /// Sets the guest's XCR0, a value that [`xcr::check`](crate::xcr::check) takes.
    fn set_xcr0(&mut self, value: u64);

    /// The guest's paging at the last exit, for [`translate_virt`](slat::AddrSpace::translate_virt): MAXPHYADDR, PDPTEs and all.
    fn paging(&self) -> GuestPageWalkInfo;

    /// The bytes of the instruction at the last exit, where the CPU has kept them (AMD, on data faults). Elsewhere
    /// [`fetch_instruction`](slat::AddrSpace::fetch_instruction) reads them from the guest's memory.
    fn instruction_bytes(&self) -> Option<InstructionBytes>;
}

/// Registers whose values decide about the CPU's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the manuals name them")]
pub enum Control {
    Cr0,
    Cr3,
    Cr4,
    Efer,
}
