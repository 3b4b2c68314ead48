//! Intel VMX with EPT (SDM vol. 3C).
//!
//! Protocol: [`Capabilities::read`] once; [`VmxCpu::on`] on each CPU; a [`VmxVcpu`] for each virtual CPU, which says more.

mod capabilities;
mod controls;
mod cpu;
#[cfg(all(test, not(loom)))]
mod double;
mod eptp;
mod exit;
pub mod field;
mod instructions;
mod interruption;
mod misconfiguration;
mod vcpu;
mod violation;

pub use capabilities::{Capabilities, RawCapabilities, Unsupported};
pub use cpu::{OnError, VmxCpu};
pub use eptp::{EptMemoryType, EptPointer, EptPointerError};
pub use field::{read, write};
pub use instructions::{HostRegisters, Instructions, InveptType, InvvpidType, Processor, VmxError};
pub use misconfiguration::{BadEntry, Misconfiguration, find as find_misconfiguration, misconfiguration};
pub use vcpu::{
    Activity, LogError, ModificationLog, NewError, SetupError, VmxConfig, VmxVcpu, invalidate_ept,
    set_ept_pointer,
};
