//! The CPUs' part: start, parameters, the run, the report, the end.
//!
//! Each CPU has a stack of its own; interrupts are masked at EL2 throughout. CPU 0 sets everything up; what the CPUs
//! share is never freed, so that one that sleeps through the end of the run has nothing to lose. Every way out ends
//! in one line of `slat-hv-protocol` on the serial port, then power-off.

#![expect(unsafe_code, reason = "takes over memory that the linker script and the parameters describe")]

mod boot;
mod console;
mod context;
mod failure;
mod firmware;
mod maintenance;
mod recording;
mod switch;
mod vcpu;

pub use failure::fail;

use super::device_tree::{self, Description};
use super::image::{DEVICE_TREE_MAX, Header, Layout};
use super::platform;
use crate::cpus::{Cpus, Entry};
use crate::guest::{Content, Device};
use crate::params;
use crate::pool::{Pool, trace_ring};
use crate::run::{self, Job, Left, Machine, SharedPort};
use crate::store::Swap;
use crate::vcpu::Vcpu as _;
use aarch64_cpu::registers::{CNTFRQ_EL0, Readable as _};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use buddy_system_allocator::LockedHeap;
use console::{Console, Keys};
use core::fmt::Write as _;
use maintenance::Counted;
use slat::GuestPhysAddr;
use slat::format::stage2::{Features, Stage2};
use slat::format::{Format as _, Geometry};
use slat_hv_protocol::{
    End, MemoryMap, Message, PARAMS_MAX, Params, Span, Started, decode_params, encode_message,
};
use spin::Once;
use vcpu::{Aarch64Vcpu, Config, Root};

/// Where everything lies.
const MEMORY_MAP: MemoryMap = MemoryMap::AARCH64;

/// VMID of the only guest.
const VMID: u16 = 1;

#[global_allocator]
static HEAP: LockedHeap<32> = LockedHeap::empty();

/// The secret of this run, as soon as it is known.
static NONCE: Once<String> = Once::new();

/// What the CPUs share, as soon as it is there.
static SHARED: Once<Shared> = Once::new();

struct Shared {
    machine: Machine<'static, &'static Pool<Counted>, Stage2>,
    pool: &'static Pool<Counted>,
    cpus: &'static Cpus,
    root: Root,
    config: Config,
}

unsafe extern "C" {
    // Symbols of the linker script; only their addresses mean something.
    static heap_start: u8;
    static heap_end: u8;
}

/// First Rust of the hypervisor, on CPU 0.
extern "C" fn start() -> ! {
    let (start, end) = (&raw const heap_start as usize, &raw const heap_end as usize);
    // SAFETY: the linker script gives this memory to nobody else, and this runs once.
    unsafe { HEAP.lock().init(start, end - start) };
    match set_up() {
        Ok((shared, entry)) => run(0, shared, entry),
        Err(reason) => finish(&Message::Failed { reason }),
    }
}

/// First Rust on a CPU that the guest has turned on.
extern "C" fn start_cpu(cpu: usize) -> ! {
    match SHARED.get().and_then(|shared| Some((shared, shared.cpus.begin(cpu)?))) {
        Some((shared, entry)) => run(cpu, shared, entry),
        None => fail(format_args!("CPU {cpu} was started, and nobody asked for it")),
    }
}

/// Runs the guest on CPU `cpu` from `entry` on until that leaves it.
fn run(cpu: usize, shared: &Shared, entry: Entry) -> ! {
    let mut vcpu = Aarch64Vcpu::new(cpu, shared.config);
    vcpu.setup(shared.root, GuestPhysAddr::new(entry.address), entry.argument);
    match shared.machine.run(cpu, &mut vcpu) {
        Left::Ended(end) => finish(&close(shared, end)),
        Left::Stopped | Left::Off => firmware::cpu_off(),
    }
}

/// Ends the machine with `message`.
fn finish(message: &Message) -> ! {
    say(message);
    firmware::system_off()
}

fn set_up() -> Result<(&'static Shared, Entry), String> {
    let params = read_params()?;
    NONCE.call_once(|| params.nonce.clone());
    params::check(&params, &MEMORY_MAP).map_err(|error| format!("bad parameters: {error}"))?;

    let (kernel, initrd) = (blob(params.kernel), blob(params.initrd));
    let header = Header::parse(kernel).map_err(|error| error.to_string())?;
    let layout = Layout::new(header, params.kernel.size, params.initrd.size, params.guest_memory)
        .map_err(|error| error.to_string())?;
    let device_tree = build_device_tree(&params, &layout)?;
    let mut content = Content::default();
    content.add(layout.device_tree, device_tree.leak());
    content.add(layout.kernel, kernel);
    content.add(layout.initrd, initrd);

    if params.recording.size != 0 {
        // SAFETY: the parameters give this memory to the recording; it was checked to lie apart from everything else.
        unsafe { recording::start(params.recording) };
    }
    // SAFETY: the parameters give this memory to the trace; it was checked to lie apart from everything else.
    let trace = unsafe { trace_ring(params.trace) };
    let poison = params.churn.is_some() || params.page_requests;
    // SAFETY: the parameters give this memory to the pool; it was checked to lie apart from the image and the blobs, and
    // all memory is mapped one to one.
    let pool = unsafe { Pool::new(params.pool, poison, Counted::new(params.mistake, trace)) };
    let pool: &Pool<Counted> = Box::leak(Box::new(pool));
    let features = Features::from_id_registers(&slat::isa::aarch64::id_registers());
    let format = Stage2::new(features, params.gpa_bits).map_err(|error| error.to_string())?;
    let size = 1 << format.geometry().gpa_bits;
    let space = run::space(pool, format, size, VMID, Swap::default()).map_err(|error| error.to_string())?;
    let root = Root { vttbr: space.root_register(), vtcr: format.vtcr_el2(), hcr: format.hcr_el2() };

    let ram = MEMORY_MAP.guest_ram..MEMORY_MAP.guest_ram + params.guest_memory;
    let cpus: &Cpus = Box::leak(Box::new(Cpus::new(params.cpus as usize, ram, firmware::power_on)));
    let devices: Vec<Device> = platform::devices(cpus.count()).into();
    let (devices, shared_port) = match params.monitor {
        true => {
            let others = devices.into_iter().filter(|device| *device != platform::UART).collect::<Vec<_>>();
            (others, Some(SharedPort { device: platform::UART, registers: &Keys }))
        }
        false => (devices, None),
    };
    let job = Job {
        ram: MEMORY_MAP.guest_ram,
        memory: params.guest_memory,
        content,
        devices: devices.leak(),
        leaf: params.leaf,
        large_leaves_suit: false,
        on_fault: params.on_fault,
        churn: params.churn,
        uart: Some(platform::EMULATED_UART),
        screen: None,
        shared_port,
        terminal: params.monitor.then_some(&Keys),
        skip_copies: false,
        paging: None,
    };
    let machine = Machine::new(space, cpus, job).map_err(|error| error.to_string())?;
    // With several CPUs none may sleep inside the guest: the run could end without it.
    let trap_wait = params.churn.is_some() || cpus.count() > 1;
    let config = Config { trap_wait, cpus, requests: params.page_requests };
    say(&Message::Started(started(&format)));
    let shared = SHARED.call_once(|| Shared { machine, pool, cpus, root, config });
    Ok((shared, Entry { address: layout.kernel, argument: layout.device_tree }))
}

/// Ends the run on all CPUs and gives everything back.
fn close(shared: &Shared, end: End) -> Message {
    let Shared { machine, pool, .. } = shared;
    // Taking the guest's memory away is what gets the other CPUs out of it: no mistake may be made in that.
    pool.maintenance().make_no_more_mistakes();
    let outcome = match machine.close(end, switch::wake_all) {
        Ok(outcome) => outcome,
        Err(reason) => return Message::Failed { reason },
    };
    let report = outcome.report(pool, pool.maintenance().counts());
    Message::Ended(Box::new(report))
}

fn read_params() -> Result<Params, String> {
    let block = core::ptr::with_exposed_provenance::<u8>(MEMORY_MAP.params as usize);
    // SAFETY: this RAM lies below the image, is mapped, and belongs to the parameters alone; nobody writes to it.
    let block = unsafe { core::slice::from_raw_parts(block, PARAMS_MAX) };
    decode_params(block).map_err(ToString::to_string)
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

fn build_device_tree(params: &Params, layout: &Layout) -> Result<Vec<u8>, String> {
    let blob = device_tree::build(&Description {
        memory: params.guest_memory,
        bootargs: &params.bootargs,
        initrd: Span { address: layout.initrd, size: params.initrd.size },
        cpus: params.cpus as usize,
    })
    .map_err(|error| format!("the device tree cannot be built: {error}"))?;
    if blob.len() as u64 > DEVICE_TREE_MAX {
        return Err("the device tree exceeds 2 MiB".to_string());
    }
    Ok(blob)
}

fn started(format: &Stage2) -> Started {
    let Features { fwb, xnx, range_tlbi, idc, dic, .. } = format.features();
    let named = [
        (fwb, "FEAT_S2FWB"),
        (xnx, "FEAT_XNX"),
        (range_tlbi, "FEAT_TLBIRANGE"),
        (idc, "CTR_EL0.IDC"),
        (dic, "CTR_EL0.DIC"),
    ];
    let Geometry { levels, gpa_bits, root_tables } = format.geometry();
    Started {
        gpa_bits,
        levels: levels.into(),
        root_tables: root_tables.into(),
        vtcr: format.vtcr_el2(),
        ticks_per_second: CNTFRQ_EL0.get(),
        features: named.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_string()).collect(),
        ..Started::default()
    }
}

/// Writes one message as a line of its own, whatever the guest has left on the current line.
fn say(message: &Message) {
    let line = encode_message(NONCE.get().map_or("", |nonce| nonce), message);
    // The console cannot fail.
    let _ = write!(Console::claim(), "\r\n{line}\r\n");
}
