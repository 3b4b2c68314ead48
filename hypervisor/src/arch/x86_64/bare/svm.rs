//! AMD SVM with nested page tables.

#![expect(unsafe_code, reason = "turns SVM on")]

use super::vendor::{Host, Intercepts, Vendor};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use slat::TagPool;
use slat::format::Format as _;
use slat::format::npt::Npt;
use slat_hv_protocol::recording::Event;
use slat_hv_protocol::{CPUS_MAX, Mechanism, Started};
use slat_x86::isa::svm::{Entry, Instructions, Native};
use slat_x86::svm::{Capabilities, Configuration, SvmCpu, SvmVcpu};
use slat_x86::{GeneralRegisters, HostCpus};
use spin::Mutex;

/// SVM of one CPU.
struct On(#[expect(dead_code, reason = "SVM is on while it lives")] SvmCpu<Host>);

// SAFETY: it is made and dropped by `turn_on` and `turn_off` of one number, which their callers call on the CPU of that
// number; in between nobody touches it.
unsafe impl Send for On {}

/// VMRUN, which the recording has to see.
pub(in crate::arch::x86_64) struct Recorded {
    host: Host,
}

impl Instructions for Recorded {
    fn is_on(&self) -> bool {
        Native.is_on()
    }

    fn save_area(&self) -> u64 {
        Native.save_area()
    }

    unsafe fn enter(&self, entry: &Entry, general: &mut GeneralRegisters) {
        let Entry { root, asid, tlb_control, .. } = *entry;
        let event = Event::Vmrun { tlb_control: tlb_control as u8 };
        self.host.maintenance().record_entry(root, asid.into(), event);
        // SAFETY: the caller's promise.
        unsafe { Native.enter(entry, general) };
    }
}

/// SVM, with the capabilities of the CPUs.
pub(in crate::arch::x86_64) struct Svm {
    host: Host,
    /// What the CPUs offer: all of them the same.
    pub(in crate::arch::x86_64) capabilities: Capabilities,
    cpus: HostCpus<Host>,
    on: [Mutex<Option<On>>; CPUS_MAX],
    /// The ASIDs, for the vCPUs of all CPUs.
    tags: Arc<TagPool<Host>>,
}

impl Svm {
    /// The format, with accessed and dirty bits if they are wanted.
    ///
    /// # Errors
    /// One line.
    pub(in crate::arch::x86_64) fn format_with(&self, accessed_dirty: bool) -> Result<Npt, String> {
        let Capabilities { levels, .. } = self.capabilities;
        Npt::new(self.capabilities.npt(accessed_dirty), levels).map_err(|error| error.to_string())
    }
}

impl Vendor for Svm {
    const NAME: &'static str = "SVM";
    const FLUSH: &'static str = "tlb_control";
    type Format = Npt;
    type Vcpu = SvmVcpu<Host, Arc<TagPool<Host>>, Recorded>;

    fn detect(host: Host) -> Result<Self, String> {
        let capabilities = Capabilities::read().map_err(|error| error.to_string())?;
        let format =
            Npt::new(capabilities.npt(true), capabilities.levels).map_err(|error| error.to_string())?;
        let tags = TagPool::new(host, format.tag_bits(), CPUS_MAX).map_err(|error| error.to_string())?;
        let cpus = HostCpus::new(host, CPUS_MAX).map_err(|error| error.to_string())?;
        let on = [const { Mutex::new(None) }; CPUS_MAX];
        Ok(Self { host, capabilities, cpus, on, tags: Arc::new(tags) })
    }

    fn turn_on(&self, cpu: usize) -> Result<(), String> {
        let place = self.on.get(cpu).ok_or_else(|| format!("there is no CPU {cpu}"))?;
        let mut place = place.lock();
        if place.is_some() {
            return Err(format!("SVM is on on CPU {cpu}"));
        }
        // SAFETY: the hypervisor runs at privilege level 0, one thread for each CPU, and never with CR0.TS or EM set; all CPUs
        // are the same.
        let on = unsafe { SvmCpu::turn_on(self.host, &self.capabilities, &self.cpus, cpu) };
        *place = Some(On(on.map_err(|error| error.to_string())?));
        Ok(())
    }

    fn turn_off(&self, cpu: usize) {
        if let Some(on) = self.on.get(cpu).and_then(|place| place.lock().take()) {
            drop(on);
        }
    }

    fn format(&self, gpa_bits: Option<u32>) -> Result<Npt, String> {
        let Capabilities { levels, .. } = self.capabilities;
        let has = 12 + 9 * u32::from(levels);
        if let Some(bits) = gpa_bits.filter(|&bits| bits != has) {
            return Err(format!(
                "a nested table of {levels} levels has {has}-bit addresses, not {bits}-bit ones"
            ));
        }
        self.format_with(true)
    }

    fn started(&self, format: &Npt) -> Started {
        let Capabilities { next_rip, flush_by_asid, decode_assists, vmcb_clean, .. } = self.capabilities;
        let named = [
            (next_rip, "NRIP"),
            (flush_by_asid, "FlushByAsid"),
            (decode_assists, "decode assists"),
            (vmcb_clean, "clean bits"),
        ];
        Started {
            mechanism: Mechanism::Npt,
            physical_bits: self.capabilities.physical_bits.into(),
            accessed_dirty: format.dirty_bit() != 0,
            features: named.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_string()).collect(),
            ..Started::default()
        }
    }

    fn lacks_without_paging(&self) -> Option<&'static str> {
        None
    }

    /// AMD has none.
    fn logs(&self) -> bool {
        false
    }

    fn drain_log(_: &mut Self::Vcpu, _: &mut dyn FnMut(Event)) {}

    fn has_msr(index: u32) -> bool {
        const APIC_BASE: u32 = 0x1b;
        const HWCR: u32 = 0xc001_0015;
        matches!(index, APIC_BASE | HWCR)
    }

    fn vcpu(&self, intercepts: &Intercepts) -> Result<Self::Vcpu, String> {
        let Intercepts { ports, halt, interrupts, .. } = intercepts;
        let configuration = Configuration {
            capabilities: &self.capabilities,
            intercepts: slat_x86::svm::Intercepts {
                halt: *halt,
                external_interrupts: *interrupts,
                ..slat_x86::svm::Intercepts::default()
            },
            ports,
        };
        let tags = Arc::clone(&self.tags);
        let instructions = Recorded { host: self.host };
        SvmVcpu::with_instructions(&self.host, &configuration, &self.cpus, tags, instructions)
            .map_err(|error| error.to_string())
    }
}
