//! The CPU's part: start, parameters, the run, the report, the end.
//!
//! One CPU, one stack, interrupts masked at EL2 throughout. Every way out ends in one line of `slat-hv-protocol` on the
//! serial port, then power-off.

#![expect(unsafe_code, reason = "takes over memory that the linker script and the parameters describe")]

mod boot;
mod console;
mod context;
mod maintenance;
mod switch;
mod vcpu;

use super::device_tree::{self, Description};
use super::image::{DEVICE_TREE_MAX, Header, Layout};
use super::platform;
use crate::guest::Content;
use crate::params;
use crate::pool::Pool;
use crate::run::{Job, Machine};
use crate::vcpu::Vcpu as _;
use aarch64_cpu::registers::{ELR_EL2, ESR_EL2, FAR_EL2, MPIDR_EL1, Readable};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use buddy_system_allocator::{Heap, LockedHeap};
use console::Console;
use core::fmt::{self, Write as _};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use maintenance::Counted;
use slat::format::stage2::{Features, Stage2};
use slat::format::{Format as _, Geometry};
use slat::{AddrSpace, GuestPhysAddr};
use slat_hv_protocol::{
    Message, PARAMS_ADDRESS, PARAMS_MAX, Params, Report, Span, Started, decode_params, encode_message,
};
use spin::Mutex;
use vcpu::{Aarch64Vcpu, Config, Root};

/// VMID of the only guest.
const VMID: u16 = 1;

/// Bytes at the end of the heap that are kept for the report of a failure.
const LAST_RESORT: usize = 64 << 10;

#[global_allocator]
static HEAP: LockedHeap<32> = LockedHeap::empty();

/// The secret of this run, as soon as it is known.
static NONCE: Mutex<String> = Mutex::new(String::new());

unsafe extern "C" {
    // Symbols of the linker script; only their addresses mean something.
    static heap_start: u8;
    static heap_end: u8;
}

/// First Rust of the hypervisor.
extern "C" fn start() -> ! {
    let (start, end) = heap();
    // SAFETY: the linker script gives this memory to nobody else, and this runs once.
    unsafe { HEAP.lock().init(start, end - start - LAST_RESORT) };
    match run() {
        Ok(report) => say(&Message::Ended(report)),
        Err(reason) => say(&Message::Failed { reason }),
    }
    console::power_off()
}

/// First address of the heap, and the address after its last.
fn heap() -> (usize, usize) {
    (&raw const heap_start as usize, &raw const heap_end as usize)
}

fn run() -> Result<Report, String> {
    let params = read_params()?;
    NONCE.lock().clone_from(&params.nonce);
    params::check(&params).map_err(|error| format!("bad parameters: {error}"))?;

    let (kernel, initrd) = (blob(params.kernel), blob(params.initrd));
    let header = Header::parse(kernel).map_err(|error| error.to_string())?;
    let layout = Layout::new(header, params.kernel.size, params.initrd.size, params.guest_memory)
        .map_err(|error| error.to_string())?;
    let device_tree = build_device_tree(&params, &layout)?;
    let mut content = Content::default();
    content.add(layout.device_tree, &device_tree);
    content.add(layout.kernel, kernel);
    content.add(layout.initrd, initrd);

    // SAFETY: the parameters give this memory to the pool; it was checked to lie apart from the image and the blobs.
    let pool = unsafe { Pool::new(params.pool, params.churn.is_some(), Counted::new(params.mistake)) };
    let outcome = {
        let features = Features::from_id_registers(&slat::isa::aarch64::id_registers());
        let format = Stage2::new(features, params.gpa_bits).map_err(|error| error.to_string())?;
        let size = 1 << format.geometry().gpa_bits;
        let space = AddrSpace::with_format(&pool, format, GuestPhysAddr::new(0), size, VMID)
            .map_err(|error| error.to_string())?;
        let root = Root { vttbr: space.root_register(), vtcr: format.vtcr_el2(), hcr: format.hcr_el2() };
        let mut vcpu = Aarch64Vcpu::new(0, Config { trap_wait: params.churn.is_some() });
        vcpu.setup(root, GuestPhysAddr::new(layout.kernel), layout.device_tree);
        let job = Job {
            memory: params.guest_memory,
            content,
            devices: &platform::DEVICES,
            leaf: params.leaf,
            on_fault: params.on_fault,
            churn: params.churn,
        };
        let machine = Machine::new(space, vcpu, job).map_err(|error| error.to_string())?;
        say(&Message::Started(started(&format)));
        machine.run()
    };
    Ok(Report {
        end: outcome.end,
        faults: outcome.faults,
        leaves: outcome.leaves,
        table_pages: outcome.table_pages,
        frames: pool.counts(),
        invalidations: pool.maintenance().counts(),
        cache_maintenance_frames: pool.cache_frames(),
        churn: outcome.churn,
        firmware_calls: outcome.firmware_calls,
        injected_aborts: outcome.injected_aborts,
        exits: outcome.exits,
    })
}

fn read_params() -> Result<Params, String> {
    let block = core::ptr::with_exposed_provenance::<u8>(PARAMS_ADDRESS as usize);
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
        // Affinity fields of MPIDR_EL1.
        affinity: MPIDR_EL1.get() & 0xff_00ff_ffff,
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
        features: named.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_string()).collect(),
    }
}

/// Writes one message as a line of its own, whatever the guest has left on the current line.
fn say(message: &Message) {
    let line = encode_message(&NONCE.lock(), message);
    // The console cannot fail.
    let _ = write!(Console::claim(), "\r\n{line}\r\n");
}

/// Ends the machine because the hypervisor itself failed.
pub fn fail(reason: fmt::Arguments<'_>) -> ! {
    static FAILING: AtomicBool = AtomicBool::new(false);
    if FAILING.swap(true, Ordering::Relaxed) {
        // Reporting failed as well: say what can be said without a heap.
        let _ = write!(Console::claim(), "\r\nslat-hv: failed while failing: {reason}\r\n");
        console::power_off();
    }
    // Whoever held a lock will not go on, and the heap may be the very thing that failed: take the part that it
    // never had.
    // SAFETY: the machine ends here, on its only CPU.
    unsafe { NONCE.force_unlock() };
    // SAFETY: likewise.
    unsafe { HEAP.force_unlock() };
    let mut spare = Heap::empty();
    // SAFETY: the heap was set up without its last bytes, and this is done once.
    unsafe { spare.init(heap().1 - LAST_RESORT, LAST_RESORT) };
    *HEAP.lock() = spare;
    say(&Message::Failed { reason: reason.to_string().replace('\n', " ") });
    console::power_off()
}

/// An exception of the hypervisor itself: `vector` is 0 to 7.
extern "C" fn host_exception(vector: u64) -> ! {
    let (esr, far, elr) = (ESR_EL2.get(), FAR_EL2.get(), ELR_EL2.get());
    fail(format_args!(
        "exception at EL2, vector {vector}: ESR_EL2 {esr:#x}, FAR_EL2 {far:#x}, ELR_EL2 {elr:#x}"
    ))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}
