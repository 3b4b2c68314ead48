//! Why a guest left, in the same words for both vendors.

use crate::event::Event;
use crate::state::General;
use slat::device::{AccessWidth, Port};
use slat::{GuestPhysAddr, MappingFlags, NestedPageFaultInfo};

/// Why a vCPU stopped running its guest.
///
/// The vCPU has done its part: an event whose delivery the exit interrupted is remembered and delivered at the next entry.
/// The guest's instruction pointer is still on the instruction, if it was one; [`Vcpu::advance`](crate::Vcpu::advance) goes on
/// behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Second-level translation refused an access (Intel: EPT violation, AMD: nested page fault).
    NestedPageFault(NestedPageFault),
    /// An entry of the EPT is not what the CPU allows, at this address: a mistake of the hypervisor's.
    Misconfiguration(GuestPhysAddr),
    /// The page-modification log is full; the access was not carried out yet.
    ModificationLogFull,
    /// CPUID.
    Cpuid,
    /// HLT.
    Halt,
    /// PAUSE, where it was asked for.
    Pause,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// RDMSR of this register.
    ReadMsr(u32),
    /// WRMSR.
    WriteMsr {
        /// Which register.
        index: u32,
        /// EDX:EAX.
        value: u64,
    },
    /// IN, OUT, INS or OUTS.
    Port(PortAccess),
    /// A control register, where the vendor's own rules did not answer it already.
    Control(ControlAccess),
    /// XSETBV.
    Xsetbv {
        /// ECX.
        index: u32,
        /// EDX:EAX.
        value: u64,
    },
    /// An external interrupt of the host's: with its vector if the CPU has acknowledged it.
    ExternalInterrupt(Option<u8>),
    /// The guest takes interrupts now, as was asked for.
    InterruptWindow,
    /// The guest takes NMIs now, as was asked for.
    NmiWindow,
    /// A non-maskable interrupt of the host's: perhaps the kick of another CPU.
    Nmi,
    /// An exception of the guest's that was to lead to an exit.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, if it has one.
        error_code: Option<u32>,
    },
    /// INIT.
    Init,
    /// A start-up IPI with this vector, to a vCPU that waits for one.
    StartUp(u8),
    /// Triple fault, or another shutdown.
    Shutdown,
    /// An instruction that the guest cannot have: it is to get an invalid opcode exception.
    Refused,
    /// An exit that this crate knows no more about than these numbers (Intel: basic exit reason and qualification; AMD:
    /// EXITCODE and EXITINFO1).
    Other {
        /// The reason.
        code: u64,
        /// What goes with it.
        information: u64,
    },
}

/// A nested page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedPageFault {
    /// What the guest did, as slat takes it.
    pub info: NestedPageFaultInfo,
    /// What all entries together allowed; empty when one of them was not present. (AMD does not tell: empty or `READ`.)
    pub granted: MappingFlags,
    /// The access was a read and a write in one, where the CPU tells that.
    pub read_and_write: bool,
    /// IRET had ended the blocking of NMIs before it faulted; the vCPU has blocked them again.
    pub nmi_unblocked: bool,
    /// The event whose delivery faulted. It will be delivered at the next entry.
    pub interrupted: Option<Event>,
}

/// Which way a port's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortDirection {
    /// To the guest.
    In,
    /// From the guest.
    Out,
}

/// An access of the guest to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// The first port.
    pub port: Port,
    /// 1, 2 or 4 bytes.
    pub width: AccessWidth,
    /// Whose data it is.
    pub direction: PortDirection,
    /// INS or OUTS: the data is in memory.
    pub string: bool,
    /// With a REP prefix.
    pub repeat: bool,
}

/// A control register that a guest can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRegister {
    /// CR0.
    Cr0,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
    /// CR8, the task priority.
    Cr8,
}

/// What a guest did to a control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlAccess {
    /// MOV to it.
    Write(ControlRegister, General),
    /// MOV from it.
    Read(ControlRegister, General),
    /// CLTS.
    ClearTaskSwitched,
    /// LMSW with this operand.
    LoadStatusWord(u16),
}
