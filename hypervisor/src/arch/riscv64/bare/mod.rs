//! The harts' part: start, parameters, the run, the report, the end.
//!
//! Each hart has a stack of its own; interrupts are never taken in HS-mode. The hart that the firmware starts sets everything
//! up and starts the others; then all of them serve the guests. What they share is never freed. Every way out ends in one line of
//! `slat-hv-protocol` on the serial port, then power-off.

#![expect(unsafe_code, reason = "takes over memory that the linker script and the parameters describe")]

mod boot;
mod code;
mod console;
mod failure;
mod firmware;
mod float;
mod guest;
mod harts;
mod maintenance;
mod pause;
mod recording;
mod registers;
mod switch;
mod timer;
#[cfg(feature = "unit-guests")]
mod unit;
mod vcpu;

pub use failure::fail;

use super::device_tree::{self, Description, Serial};
use super::flat_tree::{self, FlatTree};
use super::host::Host;
use super::image::{DEVICE_TREE_MAX, Header, Layout};
use super::platform;
use crate::console_text::ConsoleText;
use crate::cpus::{Cpus, Entry};
use crate::guest::Content;
use crate::params;
use crate::pool::Pool;
use crate::run::{Job, Machine, Port, Reclaim};
use crate::schedule::Scheduler;
use crate::uart16550::Uart16550;
use crate::vcpu::Vcpu as _;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use buddy_system_allocator::LockedHeap;
use console::Console;
use core::arch::asm;
use core::fmt::Write as _;
use guest::Shared;
use harts::ThisHart;
use maintenance::Counted;
use pause::{Guests, Plan};
use slat::format::gstage::{Capabilities, Extensions, Gstage};
use slat::format::{Format as _, Geometry};
use slat::isa::riscv64 as isa;
use slat::{AddrSpace, GuestPhysAddr, TagPool};
use slat_hv_protocol::pause::{Pause, Then};
use slat_hv_protocol::{
    GuestReport, Mechanism, MemoryMap, Message, Mistake, PARAMS_MAX, Params, Span, Started, decode_params,
    encode_message,
};
use spin::{Mutex, Once};
use vcpu::{Config, Features, RiscvVcpu};

/// Where everything lies.
const MEMORY_MAP: MemoryMap = MemoryMap::RISCV64;

/// Slices of time in a second, where there are more virtual CPUs than harts.
const SLICES_PER_SECOND: u64 = 100;

/// Where in RAM the page lies that two guests have by [`Mistake::SharedFrame`]: behind the test guest's program.
const SHARED_PAGE: u64 = 4 << 20;

/// Most bytes of the firmware's device tree.
const HOST_TREE_MAX: usize = 1 << 20;

#[global_allocator]
static HEAP: LockedHeap<32> = LockedHeap::empty();

/// The secret of this run, as soon as it is known.
static NONCE: Once<String> = Once::new();

/// What the harts share, as soon as it is there.
static RUN: Once<Run> = Once::new();

struct Run {
    guests: Guests,
    /// What the vCPUs of each guest share.
    shared: Vec<&'static Shared>,
    pool: &'static Pool<Counted>,
    /// What is done with the guest when it stops in its work, if it is to.
    plan: Option<Plan>,
}

unsafe extern "C" {
    // Symbols of the linker script; only their addresses mean something.
    static heap_start: u8;
    static heap_end: u8;
}

/// The number of the hart on which this runs.
fn this_hart() -> usize {
    let hart: usize;
    // SAFETY: reads a register, which the boot code wrote and nobody else does.
    unsafe { asm!("mv {}, tp", out(reg) hart, options(nomem, nostack, preserves_flags)) };
    hart
}

/// First Rust of the hypervisor, on the hart that the firmware has chosen.
extern "C" fn start(hart: usize, tree: usize) -> ! {
    let (start, end) = (&raw const heap_start as usize, &raw const heap_end as usize);
    // SAFETY: the linker script gives this memory to nobody else, and this runs once.
    unsafe { HEAP.lock().init(start, end - start) };
    match set_up(tree) {
        Ok(run) => serve(hart, run),
        Err(reason) => finish(&Message::Failed { reason }),
    }
}

/// First Rust on a hart that was started.
extern "C" fn start_hart(hart: usize) -> ! {
    #[cfg(feature = "unit-guests")]
    if RUN.get().is_none() {
        unit::serve();
    }
    match RUN.get() {
        Some(run) => serve(hart, run),
        None => fail(format_args!("hart {hart} was started, and nobody asked for it")),
    }
}

/// Runs guests on this hart until all have ended.
fn serve(hart: usize, run: &Run) -> ! {
    timer::enable();
    let tell = |report: GuestReport| {
        if let Some(shared) = run.shared.get(report.guest as usize) {
            shared.end_console();
        }
        say(&Message::GuestEnded(Box::new(report)));
    };
    match run.guests.serve(hart, &mut ThisHart, |_, root| root, tell) {
        Some(Ok(total)) => {
            let report = total.report(run.pool, run.pool.maintenance().counts());
            finish(&Message::Ended(Box::new(report)))
        }
        Some(Err(reason)) => finish(&Message::Failed { reason }),
        None => firmware::stop(),
    }
}

/// Ends the machine with `message`.
fn finish(message: &Message) -> ! {
    say(message);
    firmware::system_off()
}

fn set_up(tree: usize) -> Result<&'static Run, String> {
    let params = read_params()?;
    NONCE.call_once(|| params.nonce.clone());
    params::check(&params, &MEMORY_MAP).map_err(|error| format!("bad parameters: {error}"))?;
    // Before the pool has any frame: the firmware may have put its device tree there.
    let host = read_host(tree)?;
    #[cfg(feature = "unit-guests")]
    unit::run(&params, host.of_gstage);
    let params: &Params = Box::leak(Box::new(params));
    if params.recording.size != 0 {
        // SAFETY: the parameters give this memory to the recording; it was checked to lie apart from everything else.
        unsafe { recording::start(params.recording) };
    }
    let harts = params.host_cpus.unwrap_or(params.cpus) as usize;
    if this_hart() >= harts {
        return Err(format!(
            "the firmware has chosen hart {}, which is none of the {harts} to be used",
            this_hart()
        ));
    }
    let poison = params.churn.is_some() || params.page_requests;
    // SAFETY: the parameters give this memory to the pool; it was checked to lie apart from the image and the blobs, and
    // all memory is mapped one to one.
    let pool = unsafe { Pool::new(params.pool, poison, Counted::new(params.mistake)) };
    let pool: &Pool<Counted> = Box::leak(Box::new(pool));
    // Each level more is more for every walk: as few as guest RAM needs.
    let ram_end = MEMORY_MAP.guest_ram + params.guest_memory;
    let format = choose_format(params.gpa_bits.unwrap_or(64 - ram_end.leading_zeros()), host.of_gstage)?;

    let each = params.cpus as usize;
    let places = params.pause.as_ref().map_or(0, |pause| pause.then.more_guests()) as usize;
    let count = params.guests as usize + places;
    let scheduler: &Scheduler = Box::leak(Box::new(Scheduler::new(count, each, harts, harts::kick)));
    // Nobody needs to be preempted where everybody has a hart of his own, nor must a wait be seen.
    let crowded = count.saturating_mul(each) > harts;
    let slice = if crowded { u64::from(host.timebase) / SLICES_PER_SECOND } else { timer::NEVER };
    let builder = Builder {
        params,
        pool,
        format,
        scheduler,
        harts,
        trap_wait: params.churn.is_some() || crowded,
        several: count > 1,
        features: Features { sstc: timer::find() && host.has("sstc"), float: host.has("d") },
        reclaim: Box::leak(Box::default()),
        host: &host,
    };
    let plan = params.pause.as_ref().map(|pause| builder.plan(pause));
    let mut guests = (0..params.guests).map(|guest| builder.guest(guest)).collect::<Result<Vec<_>, _>>()?;
    for number in (params.guests..).take(places) {
        let place = guests.first().map(|original| builder.place(number, original));
        guests.extend(place);
    }
    if let (Mistake::SharedFrame, 0, [first, second, ..]) = (params.mistake, places, &guests[..]) {
        first.machine.share_page_with(&second.machine, MEMORY_MAP.guest_ram + SHARED_PAGE)?;
    }
    let root = guests.first().map_or(0, |guest| guest.root);
    say(&Message::Started(started(&format, root)));
    let tags = TagPool::new(pool, format.tag_bits(), harts).map_err(|error| error.to_string())?;
    let shared = guests.iter().map(|guest| guest.shared).collect();
    let machines = guests.into_iter().map(|guest| (guest.machine, guest.vcpus));
    let guests = Guests::new(scheduler, each, slice, tags, machines).with_keeper(places, pause::stopped);
    let run = RUN.call_once(|| Run { guests, shared, pool, plan });
    run.guests.start();
    harts::start_others(harts)?;
    Ok(run)
}

/// A guest before its start.
struct NewGuest {
    machine: Machine<'static, &'static Pool<Counted>, Gstage>,
    vcpus: Vec<RiscvVcpu>,
    shared: &'static Shared,
    /// hgatp, without a VMID.
    root: u64,
}

/// What guests are made from.
struct Builder<'a> {
    params: &'static Params,
    pool: &'static Pool<Counted>,
    format: Gstage,
    scheduler: &'static Scheduler,
    harts: usize,
    trap_wait: bool,
    /// Whether there are several guests, or may be.
    several: bool,
    features: Features,
    reclaim: &'static Reclaim,
    host: &'a Host,
}

impl Builder<'_> {
    /// Guest `number`, with its content in place and nothing of it mapped.
    fn guest(&self, number: u32) -> Result<NewGuest, String> {
        let Self { params, .. } = *self;
        if let Some(Pause { then: Then::Restore, image, commands, .. }) = &params.pause {
            return self.restored(number, *image, commands);
        }
        let (kernel, initrd) = (blob(params.kernel), blob(params.initrd));
        let header = Header::parse(kernel).map_err(|error| error.to_string())?;
        let layout = Layout::new(header, params.kernel.size, params.initrd.size, params.guest_memory)
            .map_err(|error| error.to_string())?;
        let bootargs = match params.guests > 1 {
            true => format!("{} slat.guest={number}", params.bootargs),
            false => params.bootargs.clone(),
        };
        // Linux prints through the firmware, but what it is told comes through the port.
        let serial = match (header.is_flat, &params.pause) {
            (true, _) => Serial::Console,
            (false, Some(_)) => Serial::Quiet,
            (false, None) => Serial::None,
        };
        let device_tree = build_device_tree(params, &bootargs, &layout, serial, self.host)?;
        let mut content = Content::default();
        content.add(layout.device_tree, device_tree.leak());
        content.add(layout.kernel, kernel);
        content.add(layout.initrd, initrd);

        let cpus = self.cpus(number, Entry { address: layout.kernel, argument: layout.device_tree });
        let (machine, root) = self.machine(number, cpus, content, serial)?;
        let pause_text = params.pause.as_ref().map(|pause| pause.text.clone());
        let texts = [params.until_console.clone(), pause_text].map(|text| text.and_then(ConsoleText::new));
        let (shared, vcpus) = self.vcpus(number, cpus, texts);
        Ok(NewGuest { machine, vcpus, shared, root })
    }

    /// Guest `number`, which goes on as the snapshot in `image` says, and does what the first of `commands` says.
    fn restored(&self, number: u32, image: Span, commands: &[String]) -> Result<NewGuest, String> {
        let snapshot = pause::find(blob(image), &self.host.isa(), self.ram())?;
        let mut content = Content::default();
        snapshot.pages().for_each(|(gpa, page)| content.add(gpa, page));
        let cpus = self.cpus(number, Entry { address: MEMORY_MAP.guest_ram, argument: 0 });
        let (machine, root) = self.machine(number, cpus, content, Serial::Quiet)?;
        let (shared, mut vcpus) = self.vcpus(number, cpus, [None, None]);
        pause::restore(&snapshot.state, &machine, cpus, &mut vcpus)?;
        commands.iter().take(1).for_each(|command| machine.type_in(&format!("{command}\n")));
        Ok(NewGuest { machine, vcpus, shared, root })
    }

    /// The guest's RAM.
    fn ram(&self) -> Span {
        Span { address: MEMORY_MAP.guest_ram, size: self.params.guest_memory }
    }

    /// What is to be done with a guest that stops.
    fn plan(&self, pause: &Pause) -> Plan {
        // SAFETY: the parameters give this memory to a snapshot; it was checked to lie apart from everything else, and nobody else
        // takes it.
        let area = (pause.then == Then::Snapshot).then(|| unsafe { area(pause.image) });
        Plan {
            pause: pause.clone(),
            ticks_per_second: self.host.timebase.into(),
            mistake: self.params.mistake,
            isa: self.host.isa(),
            mode: format!("{:?}", self.format.mode()),
            ram: self.ram(),
            moving: Mutex::new(None),
            format: self.format,
            area: Mutex::new(area),
        }
    }

    /// The machine of guest `number`, with this content and nothing of it mapped; and hgatp, without a VMID.
    fn machine(
        &self,
        number: u32,
        cpus: &'static Cpus,
        content: Content<'static>,
        serial: Serial,
    ) -> Result<(Machine<'static, &'static Pool<Counted>, Gstage>, u64), String> {
        let Self { params, pool, format, .. } = *self;
        let size = 1 << format.geometry().gpa_bits;
        // The tag is given when a hart first enters the space.
        let space = AddrSpace::with_format(pool, format, GuestPhysAddr::new(0), size, 0)
            .map_err(|error| error.to_string())?;
        let root = space.root_register();
        let job = Job {
            ram: MEMORY_MAP.guest_ram,
            memory: params.guest_memory,
            content,
            devices: &[],
            leaf: params.leaf,
            large_leaves_suit: true,
            on_fault: params.on_fault,
            churn: params.churn,
            uart: (serial != Serial::None).then_some(platform::EMULATED_UART),
            screen: None,
            skip_copies: false,
        };
        let machine = Machine::new(space, cpus, job).map_err(|error| error.to_string())?;
        let machine = machine.with_port(Port::Uart16550(Uart16550::default()));
        let machine = if self.several { machine.sharing(number, self.reclaim) } else { machine };
        Ok((machine, root))
    }

    /// A place with this number for a fork of `original`.
    fn place(&self, number: u32, original: &NewGuest) -> NewGuest {
        // Where its CPUs begin is where those of the original are then.
        let cpus = self.cpus(number, Entry { address: MEMORY_MAP.guest_ram, argument: 0 });
        let machine = original.machine.place(cpus).sharing(number, self.reclaim);
        let (shared, vcpus) = self.vcpus(number, cpus, [None, None]);
        NewGuest { machine, vcpus, shared, root: 0 }
    }

    /// The CPUs of guest `number`, the first of which is to begin at `entry`.
    fn cpus(&self, number: u32, entry: Entry) -> &'static Cpus {
        let Self { params, scheduler, .. } = *self;
        let ram = MEMORY_MAP.guest_ram..MEMORY_MAP.guest_ram + params.guest_memory;
        let first = number as usize * params.cpus as usize;
        let power_on = move |cpu| {
            scheduler.start(first + cpu);
            true
        };
        Box::leak(Box::new(Cpus::in_slices(params.cpus as usize, ram, entry, power_on)))
    }

    /// The vCPUs of guest `number`, and what they share; `texts` are as for [`Shared::new`].
    fn vcpus(
        &self,
        number: u32,
        cpus: &'static Cpus,
        texts: [Option<ConsoleText>; 2],
    ) -> (&'static Shared, Vec<RiscvVcpu>) {
        let Self { params, scheduler, .. } = *self;
        let harts = (1 << self.harts) - 1;
        let first = number as usize * params.cpus as usize;
        let shared = Shared::new(self.several.then_some(number), cpus, scheduler, first, harts, texts);
        let shared: &Shared = Box::leak(Box::new(shared));
        let config = Config {
            trap_wait: self.trap_wait,
            shared,
            requests: params.page_requests,
            machine: firmware::machine(),
            features: self.features,
        };
        (shared, (0..cpus.count()).map(|cpu| RiscvVcpu::new(cpu, config)).collect())
    }
}

/// The format in the mode with the fewest levels that has guest-physical addresses of `gpa_bits` bits.
fn choose_format(gpa_bits: u32, extensions: Extensions) -> Result<Gstage, String> {
    let configurable = Extensions::SSTC | Extensions::SVPBMT | Extensions::SVADU;
    let has_henvcfg = extensions.intersects(configurable);
    let henvcfg = if has_henvcfg { isa::probe_henvcfg() } else { 0 };
    let offered = Capabilities::new(isa::probe_hgatp(), extensions, henvcfg);
    let capabilities = Capabilities { napot_leaves: true, ..offered };
    Gstage::narrowest(gpa_bits, capabilities).map_err(|error| error.to_string())
}

fn read_params() -> Result<Params, String> {
    let block = core::ptr::with_exposed_provenance::<u8>(MEMORY_MAP.params as usize);
    // SAFETY: this RAM lies above the image and the heap, and belongs to the parameters alone; nobody writes to it.
    let block = unsafe { core::slice::from_raw_parts(block, PARAMS_MAX) };
    decode_params(block).map_err(ToString::to_string)
}

/// What the firmware's device tree at `address` tells of the harts.
fn read_host(address: usize) -> Result<Host, String> {
    let bytes = |length| {
        let start = core::ptr::with_exposed_provenance::<u8>(address);
        // SAFETY: the firmware put its device tree there, which is at least as long as its own header says; nobody
        // writes to it as long as the slice is used, which is before the pool is.
        unsafe { core::slice::from_raw_parts(start, length) }
    };
    if address == 0 {
        return Err("the firmware passed no device tree".to_string());
    }
    let size = flat_tree::total_size(bytes(flat_tree::HEADER_SIZE)).filter(|size| *size <= HOST_TREE_MAX);
    let tree = size.and_then(|size| FlatTree::new(bytes(size)));
    let tree = tree.ok_or("what the firmware passed is no device tree")?;
    Host::from_tree(&tree).map_err(|error| error.to_string())
}

/// What `span` of the parameters describes.
fn blob(span: Span) -> &'static [u8] {
    if span.size == 0 {
        return &[];
    }
    let start = core::ptr::with_exposed_provenance::<u8>(span.address as usize);
    // SAFETY: the span was checked: mapped, apart from everything that is ever written to. The emulator filled it.
    unsafe { core::slice::from_raw_parts(start, span.size as usize) }
}

/// The memory that `span` of the parameters describes, to be written.
///
/// # Safety
/// It is valid memory, and nobody else uses it.
unsafe fn area(span: Span) -> &'static mut [u8] {
    let start = core::ptr::with_exposed_provenance_mut::<u8>(span.address as usize);
    // SAFETY: the caller's promise; the emulator has zeroed it.
    unsafe { core::slice::from_raw_parts_mut(start, span.size as usize) }
}

fn build_device_tree(
    params: &Params,
    bootargs: &str,
    layout: &Layout,
    serial: Serial,
    host: &Host,
) -> Result<Vec<u8>, String> {
    let blob = device_tree::build(&Description {
        memory: params.guest_memory,
        bootargs,
        initrd: Span { address: layout.initrd, size: params.initrd.size },
        serial,
        cpus: params.cpus as usize,
        host,
    })
    .map_err(|error| format!("the device tree cannot be built: {error}"))?;
    if blob.len() as u64 > DEVICE_TREE_MAX {
        return Err("the device tree exceeds 64 KiB".to_string());
    }
    Ok(blob)
}

fn started(format: &Gstage, root: u64) -> Started {
    let named = [
        (Extensions::SVPBMT, "Svpbmt"),
        (Extensions::SVNAPOT, "Svnapot"),
        (Extensions::SVINVAL, "Svinval"),
        (Extensions::SVADE, "Svade"),
        (Extensions::SVADU, "Svadu"),
        (Extensions::SVVPTC, "Svvptc"),
        (Extensions::SSTC, "Sstc"),
    ];
    let capabilities = format.capabilities();
    let Geometry { levels, gpa_bits, root_tables } = format.geometry();
    Started {
        gpa_bits,
        levels: levels.into(),
        root_tables: root_tables.into(),
        mechanism: Mechanism::Gstage,
        hgatp: root,
        vmid_bits: format.tag_bits(),
        accessed_dirty: capabilities.accessed_dirty,
        features: named
            .iter()
            .filter(|(bit, _)| capabilities.has(*bit))
            .map(|(_, name)| name.to_string())
            .collect(),
        ..Started::default()
    }
}

/// Writes one message as a line of its own, whatever the guest has left on the current line.
fn say(message: &Message) {
    let line = encode_message(NONCE.get().map_or("", |nonce| nonce), message);
    // The console cannot fail.
    let _ = write!(Console::claim(), "\r\n{line}\r\n");
}
