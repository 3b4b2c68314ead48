//! The CPUs' part: start, parameters, the run, the report, the end.
//!
//! Each CPU has a stack of its own; interrupts are masked in the hypervisor throughout. CPU 0 sets everything up. Every way
//! out ends in one line of `slat-hv-protocol` on the serial port, then the end of the machine.

#![expect(unsafe_code, reason = "takes over memory that the linker script and the parameters describe")]

mod boot;
mod console;
mod cpu;
mod failure;
mod machine;
mod maintenance;
mod port;
mod second;
mod vendor;

pub use failure::fail;

// What unit guests use.
#[cfg(feature = "unit-guests")]
pub(super) use self::{
    cpu::{nmis, this_cpu},
    machine::kick,
    maintenance::{Cpus, Shootdown},
    second::beside,
    vendor::{Host, Intercepts, Vendor},
};

use crate::arch::x86_64::platform::Extension;
use crate::params;
use alloc::format;
use alloc::string::{String, ToString};
use buddy_system_allocator::LockedHeap;
use console::Console;
use core::fmt::Write as _;
use slat_hv_protocol::{MemoryMap, Message, PARAMS_MAX, Params, decode_params, encode_message};
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
    match set_up() {
        Ok(()) => finish(&Message::UnitsEnded),
        Err(reason) => finish(&Message::Failed { reason }),
    }
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

fn set_up() -> Result<(), String> {
    let params = read_params()?;
    NONCE.call_once(|| params.nonce.clone());
    params::check(&params, &MEMORY_MAP).map_err(|error| format!("bad parameters: {error}"))?;
    if !params.unit_guests.is_empty() {
        return run_unit_guests(&params);
    }
    Err("not yet".to_string())
}

#[cfg(feature = "unit-guests")]
fn run_unit_guests(params: &Params) -> Result<(), String> {
    let Params { unit_guests: names, pool, mistake, .. } = params;
    super::unit::run_machine(names, *pool, *mistake);
    match extension()? {
        Extension::Vmx => Ok(()),
        Extension::Svm => Ok(()),
    }
}

#[cfg(not(feature = "unit-guests"))]
fn run_unit_guests(_: &Params) -> Result<(), String> {
    Err("unit guests were asked for, and are not in this image".to_string())
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
