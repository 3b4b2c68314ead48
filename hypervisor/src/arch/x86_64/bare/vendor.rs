//! What the hypervisor needs to know of a vendor: VMX with EPT, or SVM with nested page tables. Chosen once, at boot.

use super::maintenance::{Cpus, Shootdown};
use crate::pool::Pool;
use alloc::string::String;
use slat::format::Format;
use slat::{MappingFlags, NestedPageFaultInfo};
use slat_hv_protocol::Started;
use slat_hv_protocol::recording::Event;
use slat_x86::port::Intercepted;

/// The host of guests, of their tables and of everything that the extension needs memory for.
pub(in crate::arch::x86_64) type Host = &'static Pool<Shootdown>;

/// What a vCPU is to exit on, beside what every vCPU exits on.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::arch::x86_64) struct Intercepts {
    /// Ports.
    pub(in crate::arch::x86_64) ports: Intercepted,
    /// HLT.
    pub(in crate::arch::x86_64) halt: bool,
    /// External interrupts of the host's.
    pub(in crate::arch::x86_64) interrupts: bool,
    /// Page modifications are logged, where the CPU can.
    pub(in crate::arch::x86_64) log_modifications: bool,
}

/// One vendor's extension, on a machine that has it.
pub(in crate::arch::x86_64) trait Vendor: Sized + Send + Sync + 'static {
    /// Its name for people.
    const NAME: &'static str;
    /// By what a CPU forgets what it remembers of a table.
    const FLUSH: &'static str;
    /// The format of its second-level tables.
    type Format: Format + Send + Sync;
    /// Its vCPUs.
    type Vcpu: slat_x86::Vcpu + Send;

    /// Looks at what this CPU offers; changes nothing. What it takes from `host` it gives back when it is dropped.
    ///
    /// # Errors
    /// One line that says what the CPU lacks.
    fn detect(host: Host) -> Result<Self, String>;

    /// Turns the extension on, on this CPU, whose number is `cpu`.
    ///
    /// # Errors
    /// One line.
    fn turn_on(&self, cpu: usize) -> Result<(), String>;

    /// Turns it off again, on the same CPU. No vCPU is bound.
    fn turn_off(&self, cpu: usize);

    /// The format, with everything that the CPU has.
    ///
    /// # Errors
    /// One line.
    fn format(&self, gpa_bits: Option<u32>) -> Result<Self::Format, String>;

    /// What there is to tell about the CPU, and about `format`.
    fn started(&self, format: &Self::Format) -> Started;

    /// What the CPU lacks for a guest that begins without paging, if it lacks something.
    fn lacks_without_paging(&self) -> Option<&'static str>;

    /// Whether it keeps a page-modification log for a vCPU that wants one.
    fn logs(&self) -> bool;

    /// Empties the page-modification log of a bound `vcpu`, if it has one.
    fn drain_log(vcpu: &mut Self::Vcpu, record: &mut dyn FnMut(Event));

    /// Whether the CPU has one of the registers whose value a guest learns (slat_x86's `Rule::Host`).
    fn has_msr(index: u32) -> bool;

    /// A vCPU, which belongs to nobody yet.
    ///
    /// # Errors
    /// One line.
    fn vcpu(&self, intercepts: &Intercepts) -> Result<Self::Vcpu, String>;
}

/// CPU `cpu` is about to enter the space of `cpus`: whether it has to forget what it remembers of it.
pub(in crate::arch::x86_64) fn enter<V: Vendor>(host: Host, cpus: &Cpus, cpu: usize) -> bool {
    let flush = host.maintenance().enter(cpu, cpus);
    if flush {
        host.maintenance().count(V::FLUSH);
    }
    flush
}

/// CPU `cpu` has left the space of `cpus`.
pub(in crate::arch::x86_64) fn leave(host: Host, cpus: &Cpus, cpu: usize) {
    // Before it says so: it is never shown outside while it is inside.
    host.maintenance().record_exit();
    // There are as many words as CPUs.
    let _ = cpus.leave(cpu);
}

/// A fault of the guest on this CPU, for the recording.
pub(in crate::arch::x86_64) fn faulted(host: Host, info: &NestedPageFaultInfo) {
    let kinds = [(MappingFlags::READ, 1), (MappingFlags::WRITE, 2), (MappingFlags::EXECUTE, 4)];
    let bits = kinds.iter().filter(|(kind, _)| info.access.contains(*kind)).map(|(_, bit)| bit);
    let access = bits.sum::<u64>() | u64::from(info.walk) << 8;
    host.maintenance().record_outside(Event::Fault { gpa: info.gpa.as_u64(), access });
}
