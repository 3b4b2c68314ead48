//! The harts' part: start, parameters, the run, the report, the end.
//!
//! Each hart has a stack of its own; interrupts are never taken in HS-mode. The hart that the firmware starts sets everything
//! up. Every way out ends in one line of `slat-hv-protocol` on the serial port, then power-off.

#![expect(unsafe_code, reason = "takes over memory that the linker script and the parameters describe")]

mod boot;
mod console;
mod failure;
mod firmware;
mod float;
mod maintenance;
mod recording;
mod registers;
mod switch;
mod timer;
#[cfg(feature = "unit-guests")]
mod unit;
mod vcpu;

pub use failure::fail;

use super::device_tree::{self, Description};
use super::flat_tree::{self, FlatTree};
use super::host::Host;
use super::image::{DEVICE_TREE_MAX, Header, Layout};
use crate::cpus::{Cpus, Entry};
use crate::guest::Content;
use crate::params;
use crate::pool::Pool;
use crate::run::{Job, Left, Machine};
use crate::vcpu::Vcpu as _;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use buddy_system_allocator::LockedHeap;
use console::{Console, GuestConsole};
use core::arch::asm;
use core::fmt::Write as _;
use maintenance::Counted;
use registers::{read_register, write_register};
use slat::format::gstage::{Capabilities, Gstage, Mode};
use slat::format::{Format as _, Geometry};
use slat::{AddrSpace, GuestPhysAddr, HostPhysAddr};
use slat_hv_protocol::{
    End, Mechanism, MemoryMap, Message, PARAMS_MAX, Params, Span, Started, decode_params, encode_message,
};
use spin::Once;
use vcpu::{Config, Features, RiscvVcpu};

/// Where everything lies.
const MEMORY_MAP: MemoryMap = MemoryMap::RISCV64;

/// VMID of the only guest.
const VMID: u16 = 1;

/// Most bytes of the firmware's device tree.
const HOST_TREE_MAX: usize = 1 << 20;

#[global_allocator]
static HEAP: LockedHeap<32> = LockedHeap::empty();

/// The secret of this run, as soon as it is known.
static NONCE: Once<String> = Once::new();

/// What the harts share, as soon as it is there.
static SHARED: Once<Shared> = Once::new();

struct Shared {
    machine: Machine<'static, &'static Pool<Counted>, Gstage>,
    pool: &'static Pool<Counted>,
    cpus: &'static Cpus,
    root: u64,
    config: Config,
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
extern "C" fn start(_hart: usize, tree: usize) -> ! {
    let (start, end) = (&raw const heap_start as usize, &raw const heap_end as usize);
    // SAFETY: the linker script gives this memory to nobody else, and this runs once.
    unsafe { HEAP.lock().init(start, end - start) };
    match set_up(tree) {
        Ok((shared, entry)) => run(0, shared, entry),
        Err(reason) => finish(&Message::Failed { reason }),
    }
}

/// First Rust on a hart that was started.
extern "C" fn start_hart(hart: usize) -> ! {
    #[cfg(feature = "unit-guests")]
    if SHARED.get().is_none() {
        unit::serve();
    }
    match SHARED.get().and_then(|shared| Some((shared, shared.cpus.begin(hart)?))) {
        Some((shared, entry)) => run(hart, shared, entry),
        None => fail(format_args!("hart {hart} was started, and nobody asked for it")),
    }
}

/// Runs vCPU `cpu` from `entry` on until it leaves the guest.
fn run(cpu: usize, shared: &Shared, entry: Entry) -> ! {
    timer::enable();
    let mut vcpu = RiscvVcpu::new(cpu, shared.config);
    vcpu.setup(shared.root, GuestPhysAddr::new(entry.address), entry.argument);
    match shared.machine.run(cpu, &mut vcpu) {
        Left::Ended(end) => finish(&close(shared, end)),
        Left::Stopped | Left::Off => firmware::stop(),
    }
}

/// Ends the machine with `message`.
fn finish(message: &Message) -> ! {
    say(message);
    firmware::system_off()
}

fn set_up(tree: usize) -> Result<(&'static Shared, Entry), String> {
    let params = read_params()?;
    NONCE.call_once(|| params.nonce.clone());
    params::check(&params, &MEMORY_MAP).map_err(|error| format!("bad parameters: {error}"))?;
    #[cfg(feature = "unit-guests")]
    unit::run(&params);

    // Before the pool has any frame: the firmware may have put its device tree there.
    let host = read_host(tree)?;
    let features = Features { sstc: timer::find() && host.has("sstc"), float: host.has("d") };
    let (kernel, initrd) = (blob(params.kernel), blob(params.initrd));
    let header = Header::parse(kernel).map_err(|error| error.to_string())?;
    let layout = Layout::new(header, params.kernel.size, params.initrd.size, params.guest_memory)
        .map_err(|error| error.to_string())?;
    let device_tree = build_device_tree(&params, &layout, &host)?;
    let mut content = Content::default();
    content.add(layout.device_tree, device_tree.leak());
    content.add(layout.kernel, kernel);
    content.add(layout.initrd, initrd);

    if params.recording.size != 0 {
        // SAFETY: the parameters give this memory to the recording; it was checked to lie apart from everything else.
        unsafe { recording::start(params.recording) };
    }
    let poison = params.churn.is_some() || params.page_requests;
    // SAFETY: the parameters give this memory to the pool; it was checked to lie apart from the image and the blobs, and
    // all memory is mapped one to one.
    let pool = unsafe { Pool::new(params.pool, poison, Counted::new(params.mistake)) };
    let pool: &Pool<Counted> = Box::leak(Box::new(pool));
    let format = choose_format(params.gpa_bits)?;
    let size = 1 << format.geometry().gpa_bits;
    let space = AddrSpace::with_format(pool, format, GuestPhysAddr::new(0), size, VMID)
        .map_err(|error| error.to_string())?;
    let root = space.root_register();

    let ram = MEMORY_MAP.guest_ram..MEMORY_MAP.guest_ram + params.guest_memory;
    let cpus: &Cpus = Box::leak(Box::new(Cpus::new(params.cpus as usize, ram, power_on)));
    let job = Job {
        ram: MEMORY_MAP.guest_ram,
        memory: params.guest_memory,
        content,
        devices: &[],
        leaf: params.leaf,
        large_leaves_suit: false,
        on_fault: params.on_fault,
        churn: params.churn,
        uart: None,
        screen: None,
        skip_copies: false,
    };
    let machine = Machine::new(space, cpus, job).map_err(|error| error.to_string())?;
    // With several CPUs none may sleep inside the guest: the run could end without it.
    let config = Config {
        trap_wait: params.churn.is_some() || cpus.count() > 1,
        cpus,
        requests: params.page_requests,
        console: Box::leak(Box::new(GuestConsole::new(0, true))),
        machine: firmware::machine(),
        features,
    };
    say(&Message::Started(started(&format, root, &host)));
    let shared = SHARED.call_once(|| Shared { machine, pool, cpus, root, config });
    Ok((shared, Entry { address: layout.kernel, argument: layout.device_tree }))
}

/// Starts the hart on which vCPU `cpu` will run.
fn power_on(cpu: usize) -> bool {
    firmware::start_hart(cpu).is_ok()
}

/// Ends the run on all harts and gives everything back.
fn close(shared: &Shared, end: End) -> Message {
    let Shared { machine, pool, .. } = shared;
    // Taking the guest's memory away is what gets the other harts out of it: no mistake may be made in that.
    pool.maintenance().make_no_more_mistakes();
    let outcome = match machine.close(end, || {}) {
        Ok(outcome) => outcome,
        Err(reason) => return Message::Failed { reason },
    };
    let report = outcome.report(pool, pool.maintenance().counts());
    Message::Ended(Box::new(report))
}

/// The format in the widest mode that the harts have, or in the one of `gpa_bits`.
fn choose_format(gpa_bits: Option<u32>) -> Result<Gstage, String> {
    let modes = [Mode::Sv57x4, Mode::Sv48x4, Mode::Sv39x4];
    let formats = modes.map(|mode| Gstage::new(mode, Capabilities { svpbmt: false, vmid_bits: 14 }));
    let offered = formats.into_iter().filter(|format| {
        let value = format.root_register(HostPhysAddr::new(0), 0);
        write_register!("hgatp", value);
        let found = read_register!("hgatp") == value;
        write_register!("hgatp", 0);
        found
    });
    let mut wanted = offered.filter(|format| gpa_bits.is_none_or(|bits| format.geometry().gpa_bits == bits));
    wanted.next().ok_or_else(|| format!("the harts have no G-stage of {gpa_bits:?} bits"))
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

fn build_device_tree(params: &Params, layout: &Layout, host: &Host) -> Result<Vec<u8>, String> {
    let blob = device_tree::build(&Description {
        memory: params.guest_memory,
        bootargs: &params.bootargs,
        initrd: Span { address: layout.initrd, size: params.initrd.size },
        cpus: params.cpus as usize,
        host,
    })
    .map_err(|error| format!("the device tree cannot be built: {error}"))?;
    if blob.len() as u64 > DEVICE_TREE_MAX {
        return Err("the device tree exceeds 64 KiB".to_string());
    }
    Ok(blob)
}

fn started(format: &Gstage, root: u64, host: &Host) -> Started {
    let Geometry { levels, gpa_bits, root_tables } = format.geometry();
    Started {
        gpa_bits,
        levels: levels.into(),
        root_tables: root_tables.into(),
        mechanism: Mechanism::Gstage,
        hgatp: root,
        features: host.extensions.iter().filter(|name| name.starts_with('s')).cloned().collect(),
        ..Started::default()
    }
}

/// Writes one message as a line of its own, whatever the guest has left on the current line.
fn say(message: &Message) {
    let line = encode_message(NONCE.get().map_or("", |nonce| nonce), message);
    // The console cannot fail.
    let _ = write!(Console::claim(), "\r\n{line}\r\n");
}
