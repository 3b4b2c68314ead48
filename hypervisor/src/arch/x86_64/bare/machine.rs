//! The end of the machine, and what starts and interrupts its other CPUs.

#![expect(unsafe_code, reason = "halts, drives the local APIC and copies the trampoline")]

use super::console::Console;
use super::port::{inb, outb};
use crate::arch::x86_64::platform::{DEBUG_EXIT, HPET, IO_APIC, LOCAL_APIC, TRAMPOLINE, apic_id};
use crate::guest::Device;
use alloc::vec::Vec;
use core::arch::asm;

// Registers of the local APIC (Intel SDM vol. 3A, "The Local APIC Block Diagram").
#[cfg(feature = "unit-guests")]
const END_OF_INTERRUPT: u64 = 0x0b0;
const SPURIOUS: u64 = 0x0f0;
const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const LVT_LINT0: u64 = 0x350;
const LVT_LINT1: u64 = 0x360;

/// Enabled, with the last vector for spurious interrupts.
const ENABLED: u32 = 1 << 8 | 0xff;
/// Delivery mode of an external interrupt controller's interrupts, and of NMIs.
const EXTERNAL: u32 = 7 << 8;
const NMI: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const START_UP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const PENDING: u32 = 1 << 12;
#[cfg(feature = "unit-guests")]
const TO_SELF: u32 = 1 << 18;

/// A port that nobody answers: each access takes a microsecond on a PC.
const DELAY: u16 = 0x80;
/// Polls of the command register before the local APIC is taken for dead.
const PATIENCE: u32 = 1_000_000;

unsafe extern "C" {
    // The code for CPUs that are woken up, see `boot.rs`.
    static trampoline: u8;
    static trampoline_cpu: u8;
    static trampoline_end: u8;
}

/// Sends what is still in the serial port, then ends the machine: QEMU by its device for that, with success; Bochs by the
/// instruction at which its debugger takes over (and quits).
pub(super) fn end() -> ! {
    Console::claim().drain();
    outb(DEBUG_EXIT, 0);
    // SAFETY: to any CPU this does nothing.
    unsafe { asm!("xchg bx, bx", options(nomem, nostack, preserves_flags)) };
    stop()
}

/// Does nothing any more, on this CPU.
pub(super) fn stop() -> ! {
    loop {
        wait();
    }
}

/// Waits until this CPU is kicked. A kick that came before is not noticed.
pub(super) fn wait() {
    // SAFETY: waits, with interrupts masked; changes nothing.
    unsafe { asm!("hlt", options(nomem, nostack, preserves_flags)) };
}

/// The devices that the guest drives by itself, those that there are. The local APIC is none of them.
pub(super) fn devices() -> Vec<Device> {
    // SAFETY: the first register of an HPET, or what the bus answers where nobody is.
    let timer = unsafe { (HPET.address as *const u32).read_volatile() };
    let has_timer = timer != 0 && timer != u32::MAX;
    [IO_APIC].into_iter().chain(has_timer.then_some(HPET)).collect()
}

/// Enables this CPU's local APIC. The interrupt controller of old is wired to that of CPU 0.
pub(super) fn enable_apic(cpu: usize) {
    write(SPURIOUS, ENABLED);
    if cpu == 0 {
        write(LVT_LINT0, EXTERNAL);
    }
    write(LVT_LINT1, NMI);
}

/// Keeps the interrupts of devices from guests that have nothing to do with them: the timer of a firmware may still run.
#[cfg(feature = "unit-guests")]
pub(in crate::arch::x86_64) fn mask_interrupts() {
    /// Masks of the two interrupt controllers of old.
    const MASKS: [u16; 2] = [0x21, 0xa1];
    MASKS.into_iter().for_each(|mask| outb(mask, 0xff));
}

/// Sends `cpu` an NMI, which gets it out of its guest, whatever that masked.
pub(in crate::arch::x86_64) fn kick(cpu: usize) {
    command(cpu, NMI | ASSERT);
}

/// Sends this CPU the external interrupt `vector`, which waits while interrupts are masked.
#[cfg(feature = "unit-guests")]
pub(in crate::arch::x86_64) fn interrupt_self(vector: u8) {
    write(COMMAND_LOW, TO_SELF | ASSERT | u32::from(vector));
}

/// Tells the local APIC that the interrupt which this CPU took last is over.
#[cfg(feature = "unit-guests")]
pub(in crate::arch::x86_64) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Sends `cpu` a start-up IPI, which only a CPU that waits for one notices.
#[cfg(feature = "unit-guests")]
pub(in crate::arch::x86_64) fn start_up(cpu: usize, vector: u8) {
    command(cpu, START_UP | ASSERT | u32::from(vector));
}

/// Makes `cpu`, which has not run since the reset or has been stopped, begin as the boot code has it.
pub(super) fn start(cpu: usize) {
    let (code, end) = (&raw const trampoline, &raw const trampoline_end);
    let length = end as usize - code as usize;
    let number = (&raw const trampoline_cpu as usize) - code as usize;
    let page = core::ptr::with_exposed_provenance_mut::<u8>(TRAMPOLINE as usize);
    // SAFETY: the page is RAM that nothing else uses, and holds all of the code.
    unsafe { core::ptr::copy_nonoverlapping(code, page, length) };
    // SAFETY: inside of what was just copied.
    let number = unsafe { page.add(number) }.cast::<u32>();
    // SAFETY: as above; it is aligned, and the other CPU looks later.
    unsafe { number.write_volatile(cpu as u32) };
    command(cpu, INIT | ASSERT);
    delay(10_000);
    let vector = (TRAMPOLINE >> 12) as u32;
    command(cpu, START_UP | ASSERT | vector);
    delay(200);
    command(cpu, START_UP | ASSERT | vector);
}

fn delay(microseconds: u32) {
    for _ in 0..microseconds {
        inb(DELAY);
    }
}

fn command(cpu: usize, command: u32) {
    send(apic_id(cpu) << 24, command);
}

/// Sends a command by this CPU's local APIC.
pub(super) fn send(high: u32, low: u32) {
    write(COMMAND_HIGH, high);
    write(COMMAND_LOW, low);
    for _ in 0..PATIENCE {
        if read(COMMAND_LOW) & PENDING == 0 {
            return;
        }
    }
}

/// Puts this CPU's local APIC into the state in which a guest's CPU begins (SDM, "Local APIC State After It Receives an
/// INIT-Deassert IPI"); interrupts that have arrived stay.
pub(super) fn reset_apic() {
    const TASK_PRIORITY: u64 = 0x080;
    const END_OF_INTERRUPT: u64 = 0x0b0;
    const LOGICAL_DESTINATION: u64 = 0x0d0;
    const DESTINATION_FORMAT: u64 = 0x0e0;
    const LVT_TIMER: u64 = 0x320;
    const LVT_ERROR: u64 = 0x370;
    const INITIAL_COUNT: u64 = 0x380;
    const DIVIDE: u64 = 0x3e0;
    const MASKED: u32 = 1 << 16;
    for entry in [LVT_TIMER, LVT_LINT0, LVT_LINT1, LVT_ERROR] {
        write(entry, MASKED);
    }
    let zeroes = [TASK_PRIORITY, LOGICAL_DESTINATION, INITIAL_COUNT, DIVIDE];
    zeroes.into_iter().for_each(|register| write(register, 0));
    write(DESTINATION_FORMAT, u32::MAX);
    // At most one interrupt of each priority class is in service.
    (0..16).for_each(|_| write(END_OF_INTERRUPT, 0));
    write(SPURIOUS, 0xff);
}

/// A register of this CPU's local APIC.
pub(super) fn read(offset: u64) -> u32 {
    // SAFETY: a register of the local APIC, which is mapped uncacheable; reading has no effect.
    unsafe { ((LOCAL_APIC.address + offset) as *const u32).read_volatile() }
}

/// Writes a register of this CPU's local APIC.
pub(super) fn write(offset: u64, value: u32) {
    // SAFETY: a register of the local APIC, which is mapped uncacheable; it does no DMA.
    unsafe { ((LOCAL_APIC.address + offset) as *mut u32).write_volatile(value) }
}
