//! The run of one guest: build its space, enter it, answer its exits, report.
//!
//! Nothing here knows the ISA. Protocol: the caller makes an empty space and a vCPU that runs on it;
//! [`Machine::new`] maps the regions; [`Machine::run`] consumes the machine, so that every frame is back in the host's
//! pool when it returns.

use crate::churn::{Churn, Operation};
use crate::guest::{Content, Device};
use crate::vcpu::{Event, Exit, Vcpu};
use alloc::format;
use alloc::string::{String, ToString};
use slat::format::Format;
use slat::{
    AddrSpace, AllocOptions, FaultError, FaultOutcome, GuestPhysAddr, Hal, HostPhysAddr, LeafSize, MapError,
    MappingFlags, NestedPageFaultInfo, PAGE_SIZE,
};
use slat_hv_protocol::{ChurnReport, End, FaultPolicy, Faults, GUEST_RAM_ADDRESS, Leaf, Leaves};

/// Faults in a row for which nothing was to be done: at this many the guest makes no progress.
const IDLE_FAULTS_LIMIT: u32 = 1000;

/// What guest RAM allows.
const RAM: MappingFlags =
    MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE).union(MappingFlags::USER);
/// What the registers of a device allow.
const DEVICE: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::DEVICE);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Bytes of guest RAM.
    pub memory: u64,
    /// What lies in it at the beginning.
    pub content: Content<'a>,
    /// The devices that the guest drives.
    pub devices: &'a [Device],
    /// The largest leaf of guest RAM.
    pub leaf: Leaf,
    /// The answer to accesses that are nobody's.
    pub on_fault: FaultPolicy,
    /// Churn, if wanted.
    pub churn: Option<slat_hv_protocol::Churn>,
}

/// What came of a run, apart from what the host's pool counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Faults by outcome.
    pub faults: Faults,
    /// Leaves at the end.
    pub leaves: Leaves,
    /// Frames that held tables at the end.
    pub table_pages: u64,
    /// What churn did.
    pub churn: Option<ChurnReport>,
    /// Calls to the firmware.
    pub firmware_calls: u64,
    /// External aborts given to the guest.
    pub injected_aborts: u64,
    /// Exits of every kind.
    pub exits: u64,
}

/// A guest and its address space.
pub struct Machine<'a, H: Hal, F: Format, V> {
    space: AddrSpace<H, F>,
    vcpu: V,
    job: Job<'a>,
    churn: Option<Churn>,
    faults: Faults,
    firmware_calls: u64,
    injected_aborts: u64,
    exits: u64,
    idle_faults: u32,
}

impl<'a, H: Hal, F: Format, V: Vcpu> Machine<'a, H, F, V> {
    /// Maps the guest's RAM and devices into `space`, which is empty.
    ///
    /// # Errors
    /// Those of the library.
    pub fn new(mut space: AddrSpace<H, F>, vcpu: V, job: Job<'a>) -> Result<Self, MapError> {
        let (largest_leaf, fault_around) = match job.leaf {
            Leaf::Size4K => (LeafSize::Size4K, LeafSize::Size4K),
            Leaf::Size2M => (LeafSize::Size2M, LeafSize::Size2M),
            // QEMU's software TLB forgets everything when the guest drops one page of a large leaf.
            Leaf::Auto => (LeafSize::Size4K, LeafSize::Size2M),
        };
        let lazily = AllocOptions { populate: false, largest_leaf, fault_around };
        space.map_alloc_with(GuestPhysAddr::new(GUEST_RAM_ADDRESS), job.memory, RAM, lazily)?;
        for &Device { address, size, .. } in job.devices {
            space.map_linear(GuestPhysAddr::new(address), HostPhysAddr::new(address), size, DEVICE)?;
        }
        let churn = job.churn.map(Churn::new);
        Ok(Self {
            space,
            vcpu,
            job,
            churn,
            faults: Faults::default(),
            firmware_calls: 0,
            injected_aborts: 0,
            exits: 0,
            idle_faults: 0,
        })
    }

    /// Runs the guest to its end, then gives everything back.
    pub fn run(mut self) -> Outcome {
        self.vcpu.bind();
        let end = loop {
            let exit = self.vcpu.run();
            self.exits += 1;
            if let Err(end) = self.answer(exit).and_then(|()| self.stir()) {
                break end;
            }
        };
        self.vcpu.unbind();
        let table = self.space.stats().table;
        Outcome {
            end,
            faults: self.faults,
            leaves: Leaves { size_4k: table.leaves_4k, size_2m: table.leaves_2m, size_1g: table.leaves_1g },
            table_pages: table.table_frames,
            churn: self.churn.as_ref().map(Churn::report),
            firmware_calls: self.firmware_calls,
            injected_aborts: self.injected_aborts,
            exits: self.exits,
        }
    }

    /// Answers one exit; `Err` is the end of the run.
    fn answer(&mut self, exit: Exit) -> Result<(), End> {
        match exit {
            Exit::NestedPageFault(info) => return self.fault(&info),
            Exit::RepeatAccess => {
                self.faults.total += 1;
                self.faults.retried += 1;
                return self.nothing_done("a stage-2 fault whose address cannot be found out");
            }
            Exit::FirmwareCall => self.firmware_calls += 1,
            Exit::PowerOff => {
                self.firmware_calls += 1;
                return Err(End::PowerOff);
            }
            Exit::Reset => {
                self.firmware_calls += 1;
                return Err(End::Reset);
            }
            Exit::Wait | Exit::Refused => {}
            Exit::Unsupported(what) => return Err(End::Unsupported { description: self.line(&what) }),
        }
        self.idle_faults = 0;
        Ok(())
    }

    fn fault(&mut self, info: &NestedPageFaultInfo) -> Result<(), End> {
        self.faults.total += 1;
        let (content, churn) = (&self.job.content, &mut self.churn);
        let fill = |gpa: GuestPhysAddr, memory: &mut [u8]| {
            content.fill(gpa.as_u64(), memory);
            if let Some(churn) = churn.as_mut() {
                churn.populated(gpa.as_u64(), memory.len() as u64);
            }
        };
        let outcome = self.space.handle_page_fault_with(info.gpa, info.access, fill);
        if !matches!(outcome, Ok(FaultOutcome::Spurious | FaultOutcome::Retry)) {
            self.idle_faults = 0;
        }
        match outcome {
            Ok(FaultOutcome::Populated(_)) => {
                self.faults.populated += 1;
                Ok(())
            }
            Ok(FaultOutcome::Spurious) => {
                self.faults.spurious += 1;
                self.nothing_done(&format!("{info}, although it is mapped"))
            }
            Ok(FaultOutcome::Retry) => {
                self.faults.retried += 1;
                self.nothing_done(&format!("{info}"))
            }
            Err(error @ FaultError::OutOfMemory(_)) => {
                self.faults.unanswered += 1;
                Err(End::OutOfMemory { description: self.line(&format!("{info}: {error}")) })
            }
            Err(error @ FaultError::Permission { .. }) => match self.taken_by_churn(info.gpa) {
                Some(page) => self.restore(page),
                None => self.unanswered(info, &error),
            },
            Err(error @ (FaultError::OutsideSpace { .. } | FaultError::NoRegion(_))) => {
                self.unanswered(info, &error)
            }
        }
    }

    /// A fault to which the answer was to try again: fine, unless it never ends.
    fn nothing_done(&mut self, what: &str) -> Result<(), End> {
        self.idle_faults += 1;
        if self.idle_faults < IDLE_FAULTS_LIMIT {
            return Ok(());
        }
        Err(End::Unsupported {
            description: self.line(&format!("{what}: {IDLE_FAULTS_LIMIT} times in a row")),
        })
    }

    fn unanswered(&mut self, info: &NestedPageFaultInfo, error: &FaultError) -> Result<(), End> {
        self.faults.unanswered += 1;
        match self.job.on_fault {
            FaultPolicy::Stop => {
                let inside = |device: &&Device| info.gpa.as_u64().wrapping_sub(device.address) < device.size;
                let device = self.job.devices.iter().find(inside);
                let name = device.map_or(String::new(), |device| format!(" ({})", device.name));
                Err(End::Fault { description: self.line(&format!("{info}: {error}{name}")) })
            }
            FaultPolicy::Inject => {
                self.vcpu.inject(Event::AccessFailed);
                self.injected_aborts += 1;
                Ok(())
            }
        }
    }

    fn taken_by_churn(&mut self, gpa: GuestPhysAddr) -> Option<GuestPhysAddr> {
        self.churn.as_mut()?.give_back(gpa.as_u64()).map(GuestPhysAddr::new)
    }

    fn restore(&mut self, page: GuestPhysAddr) -> Result<(), End> {
        self.faults.restored += 1;
        let restored = self.space.protect(page, PAGE_SIZE, RAM).map_err(|error| error.to_string());
        restored.map_err(|error| self.churn_failed("restoring", page, &error))
    }

    /// Lets churn do its work after an exit.
    fn stir(&mut self) -> Result<(), End> {
        for _ in 0..self.churn.as_ref().map_or(0, Churn::per_exit) {
            let Some((page, operation)) = self.churn.as_mut().and_then(Churn::draw) else { break };
            let gpa = GuestPhysAddr::new(page);
            let done = self.carry_out(gpa, operation);
            done.map_err(|error| self.churn_failed(&format!("{operation:?}"), gpa, &error))?;
            if let Some(churn) = &mut self.churn {
                churn.done(page, operation);
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, page: GuestPhysAddr, operation: Operation) -> Result<(), String> {
        let flags = match operation {
            Operation::Move => {
                return self.space.migrate(page, PAGE_SIZE).map(drop).map_err(|error| error.to_string());
            }
            Operation::Unmap => MappingFlags::empty(),
            Operation::WriteProtect => RAM.difference(MappingFlags::WRITE),
        };
        self.space.protect(page, PAGE_SIZE, flags).map_err(|error| error.to_string())
    }

    /// The pages are the guest's and the flags are legal: what can be missing is a frame.
    fn churn_failed(&self, doing: &str, page: GuestPhysAddr, error: &str) -> End {
        End::OutOfMemory { description: self.line(&format!("churn: {doing} GPA {page:#x}: {error}")) }
    }

    fn line(&self, what: &str) -> String {
        format!("PC {:#x}: {what}", self.vcpu.program_counter())
    }
}

#[cfg(test)]
mod tests;
