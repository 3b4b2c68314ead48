//! The guest on RISC-V: VS-mode, one CPU, translation off but in the scenario about the guest's own table.

#![expect(unsafe_code, reason = "a guest is bare metal: registers, traps, memory")]

mod boot;
mod firmware;
mod isolation;
mod machine;
mod scenarios;
mod wild;

use core::fmt::Write as _;
use core::panic::PanicInfo;
use firmware::{Console, system_reset};
use slat_test_guest::{device_tree_size, word_after};

/// What a scenario comes to.
type Outcome = Result<(), &'static str>;

/// First Rust of the guest; `device_tree` is what the firmware passes in a1.
extern "C" fn start(device_tree: *const u8) -> ! {
    let tree = read_device_tree(device_tree);
    let name = word_after(tree, b"scenario=").unwrap_or("(none)");
    say(format_args!("test-guest: {name}: begin"));
    match scenarios::run(name, tree) {
        Ok(()) => {
            say(format_args!("test-guest: {name}: ok"));
            system_reset(firmware::SHUTDOWN)
        }
        Err(why) => {
            say(format_args!("test-guest: {name}: FAILED: {why}"));
            system_reset(firmware::COLD_REBOOT)
        }
    }
}

fn read_device_tree(start: *const u8) -> &'static [u8] {
    // SAFETY: the firmware promises a device tree here, and its header is longer than 8 bytes.
    let head = unsafe { start.cast::<[u8; 8]>().read() };
    let size = device_tree_size(&head).unwrap_or(0);
    // SAFETY: the header gives the size of the tree, and nobody writes to it (the scenarios that write to all of RAM keep what they
    // find there, or have read what they need).
    unsafe { core::slice::from_raw_parts(start, size) }
}

fn say(text: core::fmt::Arguments<'_>) {
    // The console cannot fail.
    let _ = writeln!(Console, "{text}");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say(format_args!("test-guest: FAILED: {info}"));
    system_reset(firmware::COLD_REBOOT)
}
