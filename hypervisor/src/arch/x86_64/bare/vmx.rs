//! Intel VMX with EPT.

#![expect(unsafe_code, reason = "turns VMX on")]

mod recorded;

use super::vendor::{Host, Intercepts, Vendor};
use alloc::format;
use alloc::string::{String, ToString};
use core::sync::atomic::{AtomicU16, Ordering};
use recorded::Recorded;
use slat::format::Format as _;
use slat::format::ept::{ConfigError, Ept};
use slat_hv_protocol::recording::Event;
use slat_hv_protocol::{CPUS_MAX, Mechanism, Started};
use slat_x86::HostCpus;
use slat_x86::vmx::{Capabilities, Processor, VmxConfig, VmxCpu, VmxVcpu};
use spin::Mutex;

/// VMX operation of one CPU.
struct Operation(VmxCpu<Host>);

// SAFETY: it is made and dropped by `turn_on` and `turn_off` of one number, which their callers call on the CPU of that
// number; in between nobody touches it.
unsafe impl Send for Operation {}

/// VMX, with the capabilities of the CPUs.
pub(in crate::arch::x86_64) struct Vmx {
    host: Host,
    /// What the CPUs offer: all of them the same.
    pub(in crate::arch::x86_64) capabilities: Capabilities,
    cpus: HostCpus<Host>,
    on: [Mutex<Option<Operation>>; CPUS_MAX],
    next_vpid: AtomicU16,
}

impl Vmx {
    /// The format with as much of what the CPU has as is wanted.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn format_with(&self, accessed_dirty: bool) -> Result<Ept, String> {
        Ept::new(self.capabilities.ept(accessed_dirty), 4).map_err(|error: ConfigError| error.to_string())
    }

    /// A vCPU for tables of `format`.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn vcpu_of(
        &self,
        format: Ept,
        intercepts: &Intercepts,
    ) -> Result<VmxVcpu<Host, Recorded>, String> {
        // A machine with two CPUs has no more vCPUs than numbers during one run.
        let vpid = self.next_vpid.fetch_add(1, Ordering::Relaxed);
        let config = VmxConfig {
            vpid,
            halt_exits: intercepts.halt,
            interrupt_exits: intercepts.interrupts,
            ports: intercepts.ports,
        };
        let recorded = Recorded::new(self.host);
        let vcpu = VmxVcpu::new(&self.host, recorded, &self.cpus, self.capabilities, format, config);
        let mut vcpu = vcpu.map_err(|error| error.to_string())?;
        if intercepts.log_modifications && self.capabilities.modification_log() {
            vcpu.enable_log(self.host).map_err(|error| error.to_string())?;
        }
        Ok(vcpu)
    }
}

impl Vendor for Vmx {
    const NAME: &'static str = "VMX";
    const FLUSH: &'static str = "invept";
    type Format = Ept;
    type Vcpu = VmxVcpu<Host, Recorded>;

    fn detect(host: Host) -> Result<Self, String> {
        let capabilities = Capabilities::read(&Processor).map_err(|error| error.to_string())?;
        let cpus = HostCpus::new(host, CPUS_MAX).map_err(|error| error.to_string())?;
        let on = [const { Mutex::new(None) }; CPUS_MAX];
        Ok(Self { host, capabilities, cpus, on, next_vpid: AtomicU16::new(1) })
    }

    fn turn_on(&self, cpu: usize) -> Result<(), String> {
        let place = self.on.get(cpu).ok_or_else(|| format!("there is no CPU {cpu}"))?;
        let mut place = place.lock();
        if place.is_some() {
            return Err(format!("VMX is on on CPU {cpu}"));
        }
        // SAFETY: the hypervisor runs at privilege level 0, one thread for each CPU, and never with CR0.TS or EM set.
        let on = unsafe { VmxCpu::on(self.host, Processor, &self.capabilities, &self.cpus, cpu) };
        *place = Some(Operation(on.map_err(|error| error.to_string())?));
        Ok(())
    }

    fn turn_off(&self, cpu: usize) {
        if let Some(Operation(on)) = self.on.get(cpu).and_then(|place| place.lock().take()) {
            drop(on);
        }
    }

    fn format(&self, gpa_bits: Option<u32>) -> Result<Ept, String> {
        match gpa_bits {
            None | Some(48) => self.format_with(true),
            Some(bits) => Err(format!("EPT with 4 levels has 48-bit addresses, not {bits}-bit ones")),
        }
    }

    fn started(&self, format: &Ept) -> Started {
        let named = [
            (self.capabilities.modification_log(), "PML"),
            (self.capabilities.unrestricted_guest(), "unrestricted guest"),
        ];
        Started {
            mechanism: Mechanism::Ept,
            physical_bits: self.capabilities.raw().physical_bits,
            ept_vpid_cap: self.capabilities.raw().ept_vpid_cap,
            accessed_dirty: format.dirty_bit() != 0,
            features: named.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_string()).collect(),
            ..Started::default()
        }
    }

    fn lacks_without_paging(&self) -> Option<&'static str> {
        (!self.capabilities.unrestricted_guest()).then_some("unrestricted guest")
    }

    fn logs(&self) -> bool {
        self.capabilities.modification_log()
    }

    fn drain_log(vcpu: &mut Self::Vcpu, record: &mut dyn FnMut(Event)) {
        if let Ok(log) = vcpu.drain_log() {
            log.for_each(|gpa| record(Event::Logged { gpa: gpa.as_u64() }));
        }
    }

    fn has_msr(index: u32) -> bool {
        const APIC_BASE: u32 = 0x1b;
        const MISC_ENABLE: u32 = 0x1a0;
        matches!(index, APIC_BASE | MISC_ENABLE)
    }

    fn vcpu(&self, intercepts: &Intercepts) -> Result<Self::Vcpu, String> {
        self.vcpu_of(self.format(None)?, intercepts)
    }
}
