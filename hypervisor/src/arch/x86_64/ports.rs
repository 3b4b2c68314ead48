//! The ports that are not simply the guest's: what ends its run, what would end the machine, the debug port.
//!
//! All other ports, and all other uses of these, reach the machine.

use slat::device::{AccessWidth, Port, PortRange};
use slat_x86::PortAccess;
use slat_x86::PortDirection;
use slat_x86::port::Intercepted;

/// Power management control of QEMU's PC: a word with SLP_EN ends the machine.
const POWER: u16 = 0x604;
/// SLP_EN with the sleep type "soft off".
const SOFT_OFF: u16 = 0x2000;
/// Command port of the keyboard controller.
const KEYBOARD: u16 = 0x64;
/// It pulses the line that resets the CPU.
const PULSE_RESET: u8 = 0xfe;
/// System control port A: bit 0 resets the CPU.
const CONTROL_A: u16 = 0x92;
/// Reset control of the PCI chip set: bit 2 resets the machine.
const RESET_CONTROL: u16 = 0xcf9;
/// The debug port.
const DEBUG: u16 = 0xe9;
/// Bytes to these end the emulators: QEMU by its exit device, Bochs by the word "Shutdown".
const EMULATORS: [u16; 2] = [super::platform::DEBUG_EXIT, 0x8900];

/// All of them, and the serial port if the monitor looks at what the guest reads there.
#[must_use]
pub fn intercepted(monitor: bool) -> Intercepted {
    let [qemu, bochs] = EMULATORS;
    // A word to the power management control is an access to both its ports.
    let ranges =
        [(POWER, 2), (KEYBOARD, 1), (CONTROL_A, 1), (RESET_CONTROL, 1), (DEBUG, 1), (qemu, 1), (bochs, 1)];
    let serial = monitor.then_some((super::platform::COM1, 8));
    let ranges = ranges
        .into_iter()
        .chain(serial)
        .filter_map(|(first, count)| PortRange::with_count(Port(first), count).ok());
    // There is room for eight.
    ranges.fold(Intercepted::NONE, |all, range| all.with(range).unwrap_or(all))
}

/// What is to be done about an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The machine carries it out.
    Pass,
    /// Nothing happens; a read gives ones.
    Ignore,
    /// The guest turns itself off.
    PowerOff,
    /// The guest resets itself.
    Reset,
    /// A byte for the debug port.
    DebugWrite(u8),
    /// A byte from the debug port.
    DebugRead,
    /// It cannot be carried out: to or from memory.
    String,
}

/// What to do about an access of `access` with this value in RAX.
#[must_use]
pub fn action(access: &PortAccess, rax: u64) -> Action {
    let Port(first) = access.port;
    if access.string {
        return Action::String;
    }
    let bytes = match access.width {
        AccessWidth::Byte => 1,
        AccessWidth::Word => 2,
        AccessWidth::Dword | AccessWidth::Qword => 4,
    };
    // The byte for `port`, if it is among those of the access.
    let byte = |port: u16| {
        let distance = usize::from(port.checked_sub(first)?);
        rax.to_le_bytes()[..bytes].get(distance).copied()
    };
    if access.direction == PortDirection::In {
        return match first {
            DEBUG => Action::DebugRead,
            _ if EMULATORS.into_iter().any(|port| byte(port).is_some()) => Action::Ignore,
            _ => Action::Pass,
        };
    }
    // Whole, or its upper half by itself: SLP_EN is there.
    let [low, high] = SOFT_OFF.to_le_bytes();
    if byte(POWER + 1) == Some(high) && byte(POWER).is_none_or(|value| value == low) {
        return Action::PowerOff;
    }
    let resets = byte(KEYBOARD) == Some(PULSE_RESET)
        || byte(CONTROL_A).is_some_and(|value| value & 1 != 0)
        // Behind the configuration address, which is 32 bits wide, the same port is part of that.
        || first == RESET_CONTROL && rax & 4 != 0;
    if resets {
        return Action::Reset;
    }
    match byte(DEBUG) {
        Some(value) if first == DEBUG => Action::DebugWrite(value),
        _ if EMULATORS.into_iter().any(|port| byte(port).is_some()) => Action::Ignore,
        _ if byte(POWER).is_some() || byte(POWER + 1).is_some() => Action::Ignore,
        _ => Action::Pass,
    }
}

/// RAX after an access that gave `value`: IN of a byte or a word leaves the rest alone, OUT all of it.
#[must_use]
pub fn merged(access: &PortAccess, rax: u64, value: u64) -> u64 {
    let mask = match (access.direction, access.width) {
        (PortDirection::Out, _) => return rax,
        (PortDirection::In, AccessWidth::Byte | AccessWidth::Word) => access.width.mask(),
        // 32 bits clear the upper half.
        (PortDirection::In, _) => return value & 0xffff_ffff,
    };
    rax & !mask | value & mask
}

#[cfg(test)]
mod tests;
