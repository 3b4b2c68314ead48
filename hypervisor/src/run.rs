//! The run of one guest: build its space, enter it on each of its CPUs, answer its exits, end it.
//!
//! Nothing here knows the ISA. Protocol: the caller makes an empty space; [`Machine::new`] maps the regions; each CPU
//! that the guest turns on calls [`Machine::run`] with its own vCPU; the one that gets [`Left::Ended`] calls
//! [`Machine::close`], after which every frame is back in the host's pool. Where vCPUs share harts, [`Machine::slice`] runs one
//! for a while instead.
//!
//! **Locks,** in the order in which they are taken: the monitor, churn, ages of pages, space, what is paged out, what comes back from other guests, the end, the CPUs' states,
//! counters; the emulated port and what the guest has printed are locked while no other lock is taken. Faults share the space, for the library
//! answers them beside each other; what changes its structure has it alone.

mod books;
mod buffers;
mod fork;
mod job;
mod look;
mod migrate;
mod monitor;
mod paging;
mod screen;
mod shared_port;
mod slice;
mod snapshot;
mod stir;
mod uart;

pub use books::Outcome;
pub use buffers::LENGTH_MAX;
pub use job::Job;
pub use paging::Paging;
pub use screen::Screen;
pub use shared_port::{SharedPort, SharedRegisters};
pub use slice::{Reclaim, Slice};
pub use uart::Port;

use crate::churn::Churn;
use crate::cpus::Cpus;
use crate::guest::Device;
use crate::monitor::faults::{Answered, LastFaults};
use crate::pool::Host;
use crate::store::Swap;
use crate::vcpu::{BufferCall, Event, Exit, Request, Vcpu};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use books::Books;
use buffers::Calls;
use job::map;
use paging::Ageing;
use slat::format::Format;
use slat::guest::GuestPageWalkInfo;
use slat::{
    AddrSpace, AllocOptions, CreateError, FaultError, FaultOutcome, GuestPhysAddr, GuestVirtAddr, LeafSize,
    MapError, MappingFlags, NestedPageFaultInfo, PAGE_SIZE, PagerBackend,
};
use slat_hv_protocol::{End, FaultPolicy, Faults, Leaf};
use spin::{Mutex, RwLock};
use uart::Uart;

/// Faults in a row for which nothing was to be done: at this many the guest makes no progress.
const IDLE_FAULTS_LIMIT: u32 = 1000;

/// Looks at the other CPUs before one that does not leave the guest is taken for lost: seconds on any machine.
const PATIENCE: u64 = 100_000_000;

/// What guest RAM allows.
const RAM: MappingFlags =
    MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE).union(MappingFlags::USER);
/// What the registers of a device allow.
const DEVICE: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::DEVICE);

/// Why a CPU left the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// It ended the run, and has to close the machine.
    Ended(End),
    /// Another one ended the run.
    Stopped,
    /// The guest turned it off.
    Off,
}

/// Why a vCPU stops running.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stop {
    /// It ended the run.
    Ended(End),
    /// Another one ended the run.
    Stopped,
    /// The guest turned it off.
    Off,
    /// It waits for an interrupt.
    Waits,
    /// Its time is over.
    Preempted,
    /// It has printed what stops it for a while.
    Paused,
}

/// The space of a guest, whose RAM may be paged.
pub type Space<'a, H, F> = AddrSpace<H, F, PagerBackend<Swap<'a>>>;

/// A space of this size from address 0 on, in which nothing is mapped; `swap` is for RAM that is paged.
///
/// # Errors
/// Those of the library.
pub fn space<H: Host, F: Format>(
    host: H,
    format: F,
    size: u64,
    tag: u16,
    swap: Swap<'_>,
) -> Result<Space<'_, H, F>, CreateError> {
    AddrSpace::with_backend(host, format, GuestPhysAddr::new(0), size, tag, PagerBackend(swap))
}

/// A guest and its address space, shared by its CPUs.
pub struct Machine<'a, H: Host, F: Format> {
    /// `None` once it was given back.
    space: RwLock<Option<Space<'a, H, F>>>,
    cpus: &'a Cpus,
    job: Job<'a>,
    ram_options: AllocOptions,
    churn: Option<Mutex<Churn>>,
    paging: Option<Mutex<Ageing>>,
    books: Books,
    uart: Mutex<Uart>,
    calls: Mutex<Calls>,
    /// Where other guests take frames from the same pool.
    reclaim: Option<&'a Reclaim>,
    /// Its number, if it is one of several guests.
    number: Option<u32>,
    /// How it ended, until it is closed: for guests whose vCPUs run in slices.
    end: Mutex<Option<End>>,
    /// The last faults.
    faults: Mutex<LastFaults>,
    /// Held while the monitor is open.
    monitor: Mutex<()>,
}

impl<'a, H: Host, F: Format> Machine<'a, H, F> {
    /// Maps the guest's RAM and devices into `space`, which has nothing there yet.
    ///
    /// # Errors
    /// Those of the library.
    pub fn new(mut space: Space<'a, H, F>, cpus: &'a Cpus, job: Job<'a>) -> Result<Self, MapError> {
        let (largest_leaf, fault_around) = match job.leaf {
            Leaf::Size4K => (LeafSize::Size4K, LeafSize::Size4K),
            Leaf::Size2M => (LeafSize::Size2M, LeafSize::Size2M),
            Leaf::Auto if job.large_leaves_suit => (LeafSize::Size2M, LeafSize::Size2M),
            // QEMU's software TLB forgets everything when the guest drops one page of a large leaf.
            Leaf::Auto => (LeafSize::Size4K, LeafSize::Size2M),
        };
        let ram_options = AllocOptions { populate: false, largest_leaf, fault_around };
        map(&mut space, &job, ram_options)?;
        let churn = job.churn.map(|settings| Mutex::new(Churn::new(settings)));
        let paging = job.paging.map(|_| Ageing::new(job.memory, cpus.count())).transpose()?.map(Mutex::new);
        let books = Books::new(cpus.count());
        let space = RwLock::new(Some(space));
        let (uart, calls) = (Mutex::default(), Mutex::default());
        let end = Mutex::new(None);
        Ok(Self {
            space,
            cpus,
            job,
            ram_options,
            churn,
            paging,
            books,
            uart,
            calls,
            reclaim: None,
            number: None,
            end,
            faults: Mutex::default(),
            monitor: Mutex::default(),
        })
    }

    /// The same machine, whose emulated serial port is this one. The default is a PL011.
    #[must_use]
    pub fn with_port(self, port: Port) -> Self {
        Self { uart: Mutex::new(Uart::new(port)), ..self }
    }

    /// Runs the guest on CPU `cpu` until that leaves it for good; it has nothing of the guest loaded then.
    pub fn run<V: Vcpu>(&self, cpu: usize, vcpu: &mut V) -> Left {
        vcpu.bind();
        let left = loop {
            match self.go_on(cpu, vcpu) {
                Stop::Ended(end) => break Left::Ended(end),
                Stop::Stopped => break Left::Stopped,
                Stop::Off => break Left::Off,
                Stop::Waits if !self.wait(cpu, vcpu) => break Left::Stopped,
                Stop::Waits | Stop::Preempted | Stop::Paused => {}
            }
        };
        vcpu.unbind();
        let left = match left {
            Left::Ended(_) if !self.cpus.end() => Left::Stopped,
            left => left,
        };
        self.cpus.leave(cpu);
        left
    }

    /// Runs the bound vCPU until it has to stop.
    fn go_on<V: Vcpu>(&self, cpu: usize, vcpu: &mut V) -> Stop {
        loop {
            if self.cpus.is_ending() {
                return Stop::Stopped;
            }
            let exit = vcpu.run();
            let exits = self.books.of(cpu, |counts| {
                counts.exits += 1;
                counts.exits
            });
            // If kicks made churn, two CPUs would kick each other and do nothing else.
            let stirs = !matches!(exit, Exit::Kicked | Exit::Preempted);
            let pause = match self.answer(cpu, vcpu, exit) {
                Ok(()) => None,
                Err(pause @ (Stop::Waits | Stop::Preempted)) => Some(pause),
                Err(stop) => return stop,
            };
            let stirred = if stirs { self.stir(Some(vcpu.program_counter())) } else { Ok(()) };
            let stirred = stirred.and_then(|()| self.age(exits, matches!(pause, Some(Stop::Preempted))));
            let watched = stirred.and_then(|()| self.watch(exits));
            if let Err(stop) = watched.and_then(|()| self.attend(cpu, vcpu)) {
                return stop;
            }
            if let Some(pause) = pause {
                return pause;
            }
        }
    }

    /// On a CPU of the host's that runs no guest: churns beside those that do until the run ends, or until `goes_on`, which is
    /// asked after each round, says no. What is changed while a CPU is inside of the guest has to reach it there.
    pub fn churn_beside(&self, goes_on: impl Fn() -> bool) {
        while !self.cpus.is_ending() && self.stir(None).is_ok() && goes_on() {}
    }

    /// Takes the guest's memory away, waits until every CPU has left it, and gives everything back. To be called by
    /// the CPU that got [`Left::Ended`], with the `end` that it got. `wake` wakes CPUs that sleep inside the guest, if any
    /// can (Arm: by WFE, which is not trapped); it is called again and again.
    ///
    /// A CPU that is in the guest, and be it in a loop without exits, leaves it by the fault of its next access
    /// or fetch: no interrupt is needed, which the guest could mask because the interrupt controller is its own.
    /// One that waits for an interrupt has left already, see [`Cpus`].
    ///
    /// # Errors
    /// One line if a CPU did not leave; then nothing was given back.
    pub fn close(&self, end: End, wake: fn()) -> Result<Outcome, String> {
        let (mut table, mut screen, mut dirty, mut paging) = (None, None, None, None);
        if let Some(space) = self.space.write().as_mut() {
            table = Some(space.stats().table);
            paging = space.backend().0.store();
            screen = self.last_screen(space);
            dirty = self.pages_written(space);
            // In slices it is called when all have left.
            if self.cpus.count() > 1 && !self.cpus.are_in_slices() {
                space.clear().map_err(|error| error.to_string())?;
            }
        }
        if !self.cpus.wait_for_all(PATIENCE, wake) {
            return Err("a CPU did not leave the guest".to_string());
        }
        drop(self.space.write().take());
        let paging = paging.and_then(|store| self.paging_report(store));
        let churn = self.churn.as_ref().map(|churn| churn.lock().report());
        let outcome = self.books.close(end, table.unwrap_or_default(), churn);
        let (uart, buffer_calls) = (self.uart.lock().report(), self.calls.lock().report());
        Ok(Outcome { uart, buffer_calls, screen, pages_written: dirty, paging, ..outcome })
    }

    /// Answers one exit; `Err` says why the vCPU stops.
    fn answer<V: Vcpu>(&self, cpu: usize, vcpu: &mut V, exit: Exit) -> Result<(), Stop> {
        match exit {
            Exit::NestedPageFault(info) => return self.fault(cpu, vcpu, &info),
            Exit::UnlocatedFault(tables, gva, access) if V::HIDES_ADDRESSES => {
                return match self.locate(&tables, gva, access)? {
                    Some(info) => self.fault(cpu, vcpu, &info),
                    None => {
                        self.count(cpu, |faults| &mut faults.retried);
                        self.nothing_done(cpu, vcpu, &format!("a fault at the guest's address {gva:#x}"))
                    }
                };
            }
            Exit::RepeatAccess => {
                self.count(cpu, |faults| &mut faults.retried);
                let what = "a stage-2 fault whose address cannot be found out";
                return self.nothing_done(cpu, vcpu, what);
            }
            Exit::FirmwareCall => self.firmware_call(cpu),
            Exit::Suspend => {
                self.firmware_call(cpu);
                return Err(self.waits(cpu));
            }
            Exit::CpuOff => {
                self.firmware_call(cpu);
                return Err(Stop::Off);
            }
            Exit::PowerOff => {
                self.firmware_call(cpu);
                return Err(Stop::Ended(End::PowerOff));
            }
            Exit::Reset => {
                self.firmware_call(cpu);
                return Err(Stop::Ended(End::Reset));
            }
            Exit::ConsoleShows => return Err(Stop::Ended(End::ConsoleShows)),
            Exit::Request(request, page) => {
                let done = self.request(request, page)?;
                vcpu.answer_request(done);
            }
            Exit::Buffer(call, gpa, length) => {
                if call == BufferCall::Console {
                    self.firmware_call(cpu);
                }
                self.buffer_call(vcpu, call, gpa, length)?;
            }
            Exit::Wait => return Err(self.waits(cpu)),
            Exit::Preempted => return Err(Stop::Preempted),
            Exit::Paused => return Err(Stop::Paused),
            Exit::Refused | Exit::Answered | Exit::Kicked => {}
            Exit::Debug(command) => {
                let text = self.debug(vcpu, command)?;
                vcpu.answer_debug(text);
            }
            Exit::UnlocatedFault(_, gva, _) => {
                let description = line(vcpu, &format!("a fault at the guest's address {gva:#x}"));
                return Err(Stop::Ended(End::Unsupported { description }));
            }
            Exit::Unsupported(what) => {
                return Err(Stop::Ended(End::Unsupported { description: line(vcpu, &what) }));
            }
        }
        self.books.of(cpu, |counts| counts.idle_faults = 0);
        Ok(())
    }

    /// Counts a fault, once it is clear what became of it: one by which a CPU leaves at the end is none.
    fn count(&self, cpu: usize, kind: fn(&mut Faults) -> &mut u64) {
        self.books.of(cpu, |counts| {
            counts.faults.total += 1;
            *kind(&mut counts.faults) += 1;
        });
    }

    fn firmware_call(&self, cpu: usize) {
        self.books.of(cpu, |counts| counts.firmware_calls += 1);
    }

    fn waits(&self, cpu: usize) -> Stop {
        self.books.of(cpu, |counts| counts.idle_faults = 0);
        Stop::Waits
    }

    /// Waits for an interrupt; with other CPUs about, without the guest's table, for one of them may end the run. `false` if one did.
    fn wait<V: Vcpu>(&self, cpu: usize, vcpu: &mut V) -> bool {
        if self.cpus.count() == 1 {
            vcpu.wait();
            return true;
        }
        vcpu.unbind();
        self.cpus.pause(cpu);
        vcpu.wait();
        // If not, the table may be gone, and must not be loaded again.
        let goes_on = self.cpus.resume(cpu);
        if goes_on {
            vcpu.bind();
        }
        goes_on
    }

    fn fault<V: Vcpu>(&self, cpu: usize, vcpu: &mut V, info: &NestedPageFaultInfo) -> Result<(), Stop> {
        let returns = self.returns();
        let outcome = match self.handle_making_room(info)? {
            Err(FaultError::Permission { .. }) if self.churn.is_some() => {
                match self.give_back(cpu, vcpu, info)? {
                    None => {
                        self.note_fault(cpu, vcpu, info, Answered::Restored);
                        return Ok(());
                    }
                    Some(outcome) => outcome,
                }
            }
            outcome => outcome,
        };
        self.note_fault(cpu, vcpu, info, Answered::Library(outcome));
        if !matches!(outcome, Ok(FaultOutcome::Spurious | FaultOutcome::Retry | FaultOutcome::Wait)) {
            self.books.of(cpu, |counts| counts.idle_faults = 0);
        }
        match outcome {
            Ok(FaultOutcome::Populated(_)) => {
                self.count(cpu, |faults| &mut faults.populated);
                Ok(())
            }
            Ok(FaultOutcome::Copied(_)) => {
                self.count(cpu, |faults| &mut faults.copied);
                Ok(())
            }
            Ok(FaultOutcome::Marked | FaultOutcome::MadeWritable | FaultOutcome::Unshared) => {
                self.count(cpu, |faults| &mut faults.upgraded);
                Ok(())
            }
            Ok(FaultOutcome::Spurious) => {
                self.count(cpu, |faults| &mut faults.spurious);
                self.nothing_done(cpu, vcpu, &format!("{info}, although it is mapped"))
            }
            Ok(FaultOutcome::Retry | FaultOutcome::Wait) => {
                self.count(cpu, |faults| &mut faults.retried);
                self.nothing_done(cpu, vcpu, &format!("{info}"))
            }
            Ok(FaultOutcome::Trap(access)) => self.emulate(cpu, vcpu, info, &access),
            Err(error @ FaultError::OutOfMemory(_)) => {
                let description = line(vcpu, &format!("{info}: {error}{}", self.left_over()));
                let stop = self.starved(description, returns);
                match stop {
                    Stop::Ended(_) => self.count(cpu, |faults| &mut faults.unanswered),
                    _ => self.count(cpu, |faults| &mut faults.retried),
                }
                Err(stop)
            }
            Err(error @ FaultError::NoSuchPage(_)) if self.paging.is_some() => {
                self.count(cpu, |faults| &mut faults.unanswered);
                let description = line(vcpu, &format!("{info}: {error}{}", self.of_the_store()));
                Err(Stop::Ended(End::Unsupported { description }))
            }
            Err(
                error @ (FaultError::Permission { .. }
                | FaultError::OutsideSpace { .. }
                | FaultError::NoRegion(_)
                | FaultError::NoSuchPage(_)
                | FaultError::BadFrame { .. }),
            ) => self.unanswered(cpu, vcpu, info, &error),
        }
    }

    /// The fault of an access by `gva`; `None` if it would not come to one any more, or would be one of the guest's own tables:
    /// then the guest has to repeat it.
    fn locate(
        &self,
        tables: &GuestPageWalkInfo,
        gva: GuestVirtAddr,
        access: MappingFlags,
    ) -> Result<Option<NestedPageFaultInfo>, Stop> {
        let space = self.space.read();
        let space = space.as_ref().filter(|_| !self.cpus.is_ending()).ok_or(Stop::Stopped)?;
        Ok(space.locate_fault(tables, gva, access).ok())
    }

    /// Lets the library answer a fault, and tells churn of the pages that came of it.
    fn handle(&self, info: &NestedPageFaultInfo) -> Result<Result<FaultOutcome, FaultError>, Stop> {
        let mut populated = Vec::new();
        let outcome = self.ask(info, &mut populated)?;
        // Where two CPUs raced for a page both tell of it, which only makes it likelier to be drawn.
        if let Some(churn) = &self.churn {
            let mut churn = churn.lock();
            populated.into_iter().for_each(|(gpa, bytes)| churn.populated(gpa, bytes));
        }
        Ok(outcome)
    }

    /// Lets the library answer a fault, beside other faults. With churn, what it populated is added to `populated`.
    fn ask(
        &self,
        info: &NestedPageFaultInfo,
        populated: &mut Vec<(u64, u64)>,
    ) -> Result<Result<FaultOutcome, FaultError>, Stop> {
        let fill = |gpa: GuestPhysAddr, memory: &mut [u8]| {
            self.job.content.fill(gpa.as_u64(), memory);
            if self.churn.is_some() {
                populated.push((gpa.as_u64(), memory.len() as u64));
            }
        };
        let space = self.space.read();
        // The end is announced before the regions go.
        let space = space.as_ref().filter(|_| !self.cpus.is_ending()).ok_or(Stop::Stopped)?;
        Ok(space.handle_nested_fault_with(info, fill))
    }

    /// Changes the structure of the space, which nobody else uses meanwhile.
    fn change<R>(&self, work: impl FnOnce(&mut Space<'a, H, F>) -> R) -> Result<R, Stop> {
        let mut space = self.space.write();
        let space = space.as_mut().filter(|_| !self.cpus.is_ending()).ok_or(Stop::Stopped)?;
        Ok(work(space))
    }

    /// A fault to which the answer was to try again: fine, unless it never ends.
    fn nothing_done<V: Vcpu>(&self, cpu: usize, vcpu: &V, what: &str) -> Result<(), Stop> {
        let idle_faults = self.books.of(cpu, |counts| {
            counts.idle_faults += 1;
            counts.idle_faults
        });
        if idle_faults < IDLE_FAULTS_LIMIT {
            return Ok(());
        }
        let description = line(vcpu, &format!("{what}: {IDLE_FAULTS_LIMIT} times in a row"));
        Err(Stop::Ended(End::Unsupported { description }))
    }

    fn unanswered<V: Vcpu>(
        &self,
        cpu: usize,
        vcpu: &mut V,
        info: &NestedPageFaultInfo,
        error: &FaultError,
    ) -> Result<(), Stop> {
        self.count(cpu, |faults| &mut faults.unanswered);
        match self.job.on_fault {
            FaultPolicy::Stop => {
                let inside = |device: &&Device| info.gpa.as_u64().wrapping_sub(device.address) < device.size;
                let device = self.job.devices.iter().find(inside);
                let name = device.map_or(String::new(), |device| format!(" ({})", device.name));
                let description = line(vcpu, &format!("{info}: {error}{name}"));
                Err(Stop::Ended(End::Fault { description }))
            }
            FaultPolicy::Inject => {
                vcpu.inject(Event::AccessFailed);
                self.books.of(cpu, |counts| counts.injected_aborts += 1);
                Ok(())
            }
        }
    }

    /// Carries out what the guest asked for; `false` if that cannot be.
    fn request(&self, request: Request, page: GuestPhysAddr) -> Result<bool, Stop> {
        let offset = page.as_u64().wrapping_sub(self.job.ram);
        if offset >= self.job.memory || offset % PAGE_SIZE != 0 {
            return Ok(false);
        }
        self.change(|space| match request {
            Request::Move => space.migrate(page, PAGE_SIZE).is_ok(),
            Request::WriteProtect => {
                space.protect(page, PAGE_SIZE, RAM.difference(MappingFlags::WRITE)).is_ok()
            }
            Request::Renew => {
                let options = self.ram_options;
                space.unmap(page, PAGE_SIZE).is_ok()
                    && space.map_alloc_with(page, PAGE_SIZE, RAM, options).is_ok()
            }
        })
    }
}

fn line<V: Vcpu>(vcpu: &V, what: &str) -> String {
    format!("PC {:#x}: {what}", vcpu.program_counter())
}

#[cfg(test)]
pub(crate) mod tests;
