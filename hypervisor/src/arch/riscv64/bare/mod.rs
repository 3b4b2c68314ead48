//! The harts' part: start, parameters, the run, the report, the end.
//!
//! Each hart has a stack of its own; interrupts are never taken in HS-mode. The hart that the firmware starts sets everything
//! up and starts the others; then all of them serve the guests. What they share is never freed. Every way out ends in one line of
//! `slat-hv-protocol` on the serial port, then power-off.

#![expect(unsafe_code, reason = "takes over memory that the linker script and the parameters describe")]

mod boot;
mod builder;
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

use super::flat_tree::{self, FlatTree};
use super::host::Host;
use crate::params;
use crate::pool::{Pool, trace_ring};
use crate::schedule::Scheduler;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use buddy_system_allocator::LockedHeap;
use builder::Builder;
use console::Console;
use core::arch::asm;
use core::fmt::Write as _;
use guest::Shared;
use harts::ThisHart;
use maintenance::Counted;
use pause::{Guests, Plan};
use slat::TagPool;
use slat::format::gstage::{Capabilities, Extensions, Gstage};
use slat::format::{Format as _, Geometry};
use slat::isa::riscv64 as isa;
use slat_hv_protocol::{
    GuestReport, Mechanism, MemoryMap, Message, Mistake, PARAMS_MAX, Params, Started, decode_params,
    encode_message,
};
use spin::Once;
use vcpu::Features;

/// Where everything lies.
const MEMORY_MAP: MemoryMap = MemoryMap::RISCV64;

/// Slices of time in a second, where there are more virtual CPUs than harts.
const SLICES_PER_SECOND: u64 = 100;
/// The same where each has a hart of its own: rarely, but a hart comes back from any guest, and writes the guest's timer again.
const LONE_SLICES_PER_SECOND: u64 = 1;

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
    // SAFETY: the parameters give this memory to the trace; it was checked to lie apart from everything else.
    let trace = unsafe { trace_ring(params.trace) };
    let poison = params.churn.is_some() || params.page_requests;
    // SAFETY: the parameters give this memory to the pool; it was checked to lie apart from the image and the blobs, and
    // all memory is mapped one to one.
    let pool = unsafe { Pool::new(params.pool, poison, Counted::new(params.mistake, trace)) };
    let pool: &Pool<Counted> = Box::leak(Box::new(pool));
    // Each level more is more for every walk: as few as guest RAM needs.
    let ram_end = MEMORY_MAP.guest_ram + params.guest_memory;
    let format = choose_format(params.gpa_bits.unwrap_or(64 - ram_end.leading_zeros()), host.of_gstage)?;

    let each = params.cpus as usize;
    let places = params.pause.as_ref().map_or(0, |pause| pause.then.more_guests()) as usize;
    let count = params.guests as usize + places;
    let scheduler: &Scheduler = Box::leak(Box::new(Scheduler::new(count, each, harts, harts::kick)));
    // Hardly anybody needs to be preempted where everybody has a hart of his own, nor must a wait be seen. Pages age by slices.
    let crowded = count.saturating_mul(each) > harts;
    // The monitor's key is looked for after each slice.
    let often = crowded || params.paging.is_some() || params.monitor;
    let slice = u64::from(host.timebase) / if often { SLICES_PER_SECOND } else { LONE_SLICES_PER_SECOND };
    let builder = Builder {
        params,
        pool,
        format,
        scheduler,
        harts,
        // A hart that sleeps would not see the monitor's key: the guest waits on the hart.
        trap_wait: (params.churn.is_some() || crowded) && !params.monitor,
        several: count > 1,
        features: Features { sstc: timer::find() && host.has("sstc"), float: host.has("d") },
        reclaim: Box::leak(Box::default()),
        host: &host,
        store: builder::store(params)?,
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
    say(&Message::Started(started(&format, root, host.timebase.into())));
    let tags = TagPool::new(pool, format.tag_bits(), harts).map_err(|error| error.to_string())?;
    let shared = guests.iter().map(|guest| guest.shared).collect();
    let machines = guests.into_iter().map(|guest| (guest.machine, guest.vcpus));
    let guests = Guests::new(scheduler, each, slice, tags, machines).with_keeper(places, pause::stopped);
    let run = RUN.call_once(|| Run { guests, shared, pool, plan });
    run.guests.start();
    harts::start_others(harts)?;
    Ok(run)
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

fn started(format: &Gstage, root: u64, ticks_per_second: u64) -> Started {
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
        ticks_per_second,
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
