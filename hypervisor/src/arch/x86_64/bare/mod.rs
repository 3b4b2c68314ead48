//! The CPUs' part: start, parameters, the run, the report, the end.
//!
//! Each CPU has a stack of its own; interrupts are masked in the hypervisor throughout. CPU 0 sets everything up. Every way
//! out ends in one line of `slat-hv-protocol` on the serial port, then the end of the machine.

#![expect(unsafe_code, reason = "takes over memory that the linker script and the parameters describe")]

mod boot;
mod console;
mod cpu;
mod failure;
mod guest_cpus;
mod machine;
mod maintenance;
pub(super) mod physical;
mod port;
mod run;
mod second;
mod svm;
pub(super) mod vendor;
mod vmx;

pub use failure::fail;

// What unit guests use.
#[cfg(feature = "unit-guests")]
pub(super) use self::{
    cpu::{nmis, this_cpu},
    machine::{end_of_interrupt, interrupt_self, kick, mask_interrupts, start_up},
    maintenance::Cpus,
    second::beside,
    svm::Svm,
    vendor::{Host, Intercepts, Vendor},
    vmx::Vmx,
};

use crate::arch::x86_64::platform::Extension;
use crate::params;
use crate::pool::{Pool, trace_ring};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use buddy_system_allocator::LockedHeap;
use console::Console;
use core::fmt::Write as _;
use core::sync::atomic::AtomicU64;
use maintenance::Shootdown;
use slat_hv_protocol::recording::Recorder;
use slat_hv_protocol::{MemoryMap, Message, PARAMS_MAX, Params, Span, decode_params, encode_message};
use slat_x86::isa::common::cpuid;
use spin::Once;

/// Where everything lies.
const MEMORY_MAP: MemoryMap = MemoryMap::X86_64;

#[global_allocator]
static HEAP: LockedHeap<32> = LockedHeap::empty();

/// The secret of this run, as soon as it is known.
static NONCE: Once<String> = Once::new();

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
    cpu::set_up(0);
    console::set_up();
    machine::enable_apic(0);
    finish(&work().unwrap_or_else(|reason| Message::Failed { reason }))
}

/// First Rust on another CPU.
extern "C" fn start_cpu(cpu: usize) -> ! {
    cpu::set_up(cpu);
    machine::enable_apic(cpu);
    second::serve(cpu)
}

/// Ends the machine with `message`.
fn finish(message: &Message) -> ! {
    say(message);
    machine::end()
}

/// Does what the parameters ask for; the last message.
fn work() -> Result<Message, String> {
    let params = read_params()?;
    NONCE.call_once(|| params.nonce.clone());
    params::check(&params, &MEMORY_MAP).map_err(|error| format!("bad parameters: {error}"))?;
    if !params.unit_guests.is_empty() {
        return run_unit_guests(&params).map(|()| Message::UnitsEnded);
    }
    match extension()? {
        Extension::Vmx => run::run::<vmx::Vmx>(&params),
        Extension::Svm => run::run::<svm::Svm>(&params),
    }
}

#[cfg(feature = "unit-guests")]
fn run_unit_guests(params: &Params) -> Result<(), String> {
    super::unit::run_machine(params);
    match extension()? {
        Extension::Vmx => super::unit::run::<Vmx>(super::unit::vmx::GUESTS, params),
        Extension::Svm => super::unit::run::<Svm>(super::unit::svm::GUESTS, params),
    }
}

#[cfg(not(feature = "unit-guests"))]
fn run_unit_guests(_: &Params) -> Result<(), String> {
    Err("unit guests were asked for, and are not in this image".to_string())
}

/// The host of a guest, with all memory and everything else that the parameters give it. The one of the guest before is no
/// longer used: what that has not given back nobody uses.
pub(super) fn host(params: &Params) -> vendor::Host {
    let recorder = (params.recording.size != 0).then(|| {
        let first = core::ptr::with_exposed_provenance::<AtomicU64>(params.recording.address as usize);
        // SAFETY: the parameters give this memory to the recording; it was checked to lie apart from everything else, and is
        // zeroed. Atomic words may be shared.
        Recorder::new(unsafe { core::slice::from_raw_parts(first, params.recording.size as usize / 8) })
    });
    let poison = params.churn.is_some() || params.page_requests || !params.unit_guests.is_empty();
    // SAFETY: as above, of the trace.
    let trace = unsafe { trace_ring(params.trace) };
    let maintenance = Shootdown::new(params.mistake, recorder, trace);
    // SAFETY: the parameters give this memory to the pool; it was checked to lie apart from the image and the blobs, and
    // all memory is mapped one to one.
    let pool = unsafe { Pool::new(params.pool, poison, maintenance) };
    Box::leak(Box::new(pool))
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

/// The extension that this CPU has.
fn extension() -> Result<Extension, String> {
    let ([.., basic, _], [.., extended, _]) = (cpuid(1, 0), cpuid(0x8000_0001, 0));
    Extension::of(basic, extended).ok_or_else(|| "this CPU has neither VMX nor SVM".to_string())
}

fn read_params() -> Result<Params, String> {
    let block = core::ptr::with_exposed_provenance::<u8>(MEMORY_MAP.params as usize);
    // SAFETY: this RAM lies above the image and the heap, is mapped, and belongs to the parameters alone; nobody writes to it.
    let block = unsafe { core::slice::from_raw_parts(block, PARAMS_MAX) };
    decode_params(block).map_err(ToString::to_string)
}

/// Writes one message as a line of its own, whatever the guest has left on the current line.
pub(super) fn say(message: &Message) {
    let line = encode_message(NONCE.get().map_or("", |nonce| nonce), message);
    // The console cannot fail.
    let _ = write!(Console::claim(), "\r\n{line}\r\n");
}
