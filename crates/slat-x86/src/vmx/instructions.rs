//! What a CPU in VMX root operation can do: the seam between the logic of this module and the hardware.
//!
//! [`Processor`] is the CPU at hand. A host that wants to know of every invalidation wraps it in an implementation of its
//! own, and tests bring a CPU made of a map.

#![expect(unsafe_code, reason = "declares the contract between the vCPU and the CPU that runs it")]

use crate::state::GeneralRegisters;
use slat::HostPhysAddr;
use thiserror::Error;

/// A VMX instruction failed (SDM vol. 3C, "Conventions" of the VMX instruction reference).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VmxError {
    /// There is no current VMCS to say why (VMfailInvalid), or VMX is off.
    #[error("a VMX instruction failed without a current VMCS")]
    Invalid,
    /// The VM-instruction error of the current VMCS (VMfailValid).
    #[error("a VMX instruction failed with VM-instruction error {0}")]
    Valid(u32),
}

impl VmxError {
    /// The VM-instruction error; 0 if there is none.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Invalid => 0,
            Self::Valid(number) => number,
        }
    }
}

/// What INVEPT drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InveptType {
    /// What was derived from one EPTP.
    SingleContext(u64),
    /// What was derived from any.
    AllContexts,
}

/// What INVVPID drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvvpidType {
    /// The translations of one linear address of a VPID.
    Address(u16, u64),
    /// All of a VPID.
    SingleContext(u16),
    /// All of every VPID but 0.
    AllContexts,
    /// All of a VPID but the global ones.
    SingleContextRetainingGlobals(u16),
}

/// The host's registers that an exit loads from the VMCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostRegisters {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// Selectors of ES, CS, SS, DS, FS, GS, TR. The one of TR must not be 0.
    pub selectors: [u16; 7],
    /// Base of the FS segment.
    pub fs_base: u64,
    /// Base of the GS segment.
    pub gs_base: u64,
    /// Base of the task state segment.
    pub tr_base: u64,
    /// Base of the global descriptor table.
    pub gdtr_base: u64,
    /// Base of the interrupt descriptor table.
    pub idtr_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u32,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_EFER.
    pub efer: u64,
}

/// The instructions of VMX.
///
/// # Safety
/// An implementation does what the instructions of the same names do on the CPU at hand (or, in a test, what they would
/// do to the state that the tests look at).
pub unsafe trait Instructions {
    /// Reads a model-specific register that the CPU has.
    fn rdmsr(&self, index: u32) -> u64;

    /// Writes one.
    ///
    /// # Safety
    /// The CPU has the register and takes `value`, and the host goes on well with it.
    unsafe fn wrmsr(&self, index: u32, value: u64);

    /// CPUID: EAX, EBX, ECX, EDX.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];

    /// CR0.
    fn cr0(&self) -> u64;

    /// CR4.
    fn cr4(&self) -> u64;

    /// Sets CR0 and CR4.
    ///
    /// # Safety
    /// The CPU takes the values, and the host goes on well with them.
    unsafe fn set_cr0_cr4(&self, cr0: u64, cr4: u64);

    /// What an exit is to restore.
    fn host_registers(&self) -> HostRegisters;

    /// Enters VMX operation.
    ///
    /// # Errors
    /// [`VmxError`].
    ///
    /// # Safety
    /// `region` is a frame with the CPU's VMCS revision identifier that nothing else uses until [`vmxoff`](Self::vmxoff), and
    /// IA32_FEATURE_CONTROL, CR0 and CR4 allow it.
    unsafe fn vmxon(&self, region: HostPhysAddr) -> Result<(), VmxError>;

    /// Leaves VMX operation.
    ///
    /// # Errors
    /// [`VmxError`].
    ///
    /// # Safety
    /// The CPU is in VMX operation, and no VMCS is active on it.
    unsafe fn vmxoff(&self) -> Result<(), VmxError>;

    /// Writes what the CPU holds of the VMCS back to memory, and makes it inactive and clear.
    ///
    /// # Errors
    /// [`VmxError`].
    ///
    /// # Safety
    /// The CPU is in VMX operation; `vmcs` is a frame of a VMCS that is not active on another CPU.
    unsafe fn vmclear(&self, vmcs: HostPhysAddr) -> Result<(), VmxError>;

    /// Makes the VMCS current.
    ///
    /// # Errors
    /// [`VmxError`].
    ///
    /// # Safety
    /// As [`vmclear`](Self::vmclear); and nothing but VMX instructions touches the frame until it was cleared.
    unsafe fn vmptrld(&self, vmcs: HostPhysAddr) -> Result<(), VmxError>;

    /// The current VMCS of this CPU; all ones if there is none. Not to be called outside of VMX operation.
    fn vmptrst(&self) -> u64;

    /// Reads a field of the current VMCS. VMX operation is on.
    ///
    /// # Errors
    /// [`VmxError`].
    fn vmread(&self, encoding: u32) -> Result<u64, VmxError>;

    /// Writes a field of the current VMCS, which this crate's vCPUs own. VMX operation is on.
    ///
    /// # Errors
    /// [`VmxError`].
    fn vmwrite(&self, encoding: u32, value: u64) -> Result<(), VmxError>;

    /// Takes NMIs again after one has led to an exit: they are blocked from there to the next IRET.
    fn end_nmi(&self);

    /// Drops translations derived from EPT on this CPU. Forgetting is always allowed.
    ///
    /// # Errors
    /// [`VmxError`]: the CPU does not offer the type, or is not in VMX operation.
    fn invept(&self, kind: InveptType) -> Result<(), VmxError>;

    /// Drops translations of virtual processors on this CPU.
    ///
    /// # Errors
    /// As [`invept`](Self::invept); or the VPID is 0.
    fn invvpid(&self, kind: InvvpidType) -> Result<(), VmxError>;

    /// Runs the guest of the current VMCS until it exits (VMLAUNCH, or VMRESUME if it was launched). All general registers
    /// but RSP, and CR2, are the guest's at the entry, and come back as the guest left them.
    ///
    /// # Errors
    /// [`VmxError`]: the guest was not entered, and nothing has changed.
    ///
    /// # Safety
    /// The VMCS belongs to a vCPU; its host-state area is that of this CPU (but for RSP and RIP, which are set here), and its
    /// EPT leads the guest to nothing but memory that it may have. Interrupts are masked.
    unsafe fn enter(
        &self,
        general: &mut GeneralRegisters,
        cr2: &mut u64,
        launched: bool,
    ) -> Result<(), VmxError>;
}

/// The CPU at hand. On a development host, one whose VMX is off: every instruction fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct Processor;
