//! The guest on AArch64: EL1, and MMU off (so every access is to Device memory and must be aligned) but in the scenarios
//! about stale translations; one CPU but in those that start another.

#![expect(unsafe_code, reason = "a guest is bare metal: registers, devices, vectors")]

mod boot;
mod buffers;
mod emulated;
mod machine;
mod scenarios;
mod second;
mod stage1;
mod stale;
mod wild;

use core::fmt::Write as _;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use machine::{Console, Function, hvc};
use slat_test_guest::{device_tree_size, word_after};

/// What a scenario comes to.
type Outcome = Result<(), &'static str>;

/// Which comparison expects something wrong, if `contrary=N` in the command line asks for one: the control that a
/// wrong answer of the hypervisor would be noticed. And how many there were.
static CONTRARY: AtomicU64 = AtomicU64::new(0);
static COMPARISONS: AtomicU64 = AtomicU64::new(0);

/// Compares what was found with what it must be.
fn expect(found: u64, wanted: u64, why: &'static str) -> Outcome {
    // Without exclusive accesses: the MMU is off.
    let number = COMPARISONS.load(Relaxed) + 1;
    COMPARISONS.store(number, Relaxed);
    let wrong = number == CONTRARY.load(Relaxed);
    if found == wanted ^ u64::from(wrong) { Ok(()) } else { Err(why) }
}

/// First Rust of the guest; `device_tree` is what the boot protocol passes in x0.
extern "C" fn start(device_tree: *const u8) -> ! {
    let tree = read_device_tree(device_tree);
    let name = word_after(tree, b"scenario=").unwrap_or("(none)");
    say(format_args!("test-guest: {name}: begin"));
    let contrary = word_after(tree, b"contrary=").and_then(|number| number.parse().ok());
    CONTRARY.store(contrary.unwrap_or(0), Relaxed);
    conclude(name, scenarios::run(name, tree))
}

/// Says how the scenario `name` went, and ends the machine accordingly.
fn conclude(name: &str, outcome: Outcome) -> ! {
    match outcome {
        Ok(()) => {
            say(format_args!("test-guest: {name}: ok"));
            hvc(Function::SYSTEM_OFF, [0; 3]);
        }
        Err(why) => {
            say(format_args!("test-guest: {name}: FAILED: {why}"));
            hvc(Function::SYSTEM_RESET, [0; 3]);
        }
    }
    machine::stop()
}

fn read_device_tree(start: *const u8) -> &'static [u8] {
    // SAFETY: the boot protocol promises a device tree here, and its header is longer than 8 bytes.
    let head = unsafe { start.cast::<[u8; 8]>().read() };
    let size = device_tree_size(&head).unwrap_or(0);
    // SAFETY: the header gives the size of the tree, and nobody writes to it (`touch-all` keeps what it finds).
    unsafe { core::slice::from_raw_parts(start, size) }
}

fn say(text: core::fmt::Arguments<'_>) {
    // The console cannot fail.
    let _ = writeln!(Console, "\r{text}\r");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say(format_args!("test-guest: FAILED: {info}"));
    hvc(Function::SYSTEM_RESET, [0; 3]);
    machine::stop()
}
