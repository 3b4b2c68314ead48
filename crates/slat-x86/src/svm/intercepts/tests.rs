//! The words, bit by bit.

use super::*;

const NONE: Wanted = Wanted { interrupt_window: false, iret: false, step: false };

#[test]
fn what_a_hypervisor_cannot_do_without_is_always_there() {
    let words = words(Intercepts::default(), NONE);
    assert_eq!(words.exceptions, 0);
    // Shutdown, MSR, IOIO, INVLPGA, INVD, CPUID, RDPMC, INIT, NMI.
    assert_eq!(words.first, 0x9c44_800a);
    // RDPRU, XSETBV, MWAIT twice, MONITOR, and VMRUN to SKINIT.
    assert_eq!(words.second, 0x7c7f);
    assert_eq!(words.third, 0x1b);
}

#[test]
fn each_choice_is_one_bit() {
    let least = words(Intercepts::default(), NONE);
    let chosen = |change: fn(&mut Intercepts)| {
        let mut intercepts = Intercepts::default();
        change(&mut intercepts);
        words(intercepts, NONE).first ^ least.first
    };
    assert_eq!(chosen(|chosen| chosen.halt = true), 1 << 24);
    assert_eq!(chosen(|chosen| chosen.pause = true), 1 << 23);
    assert_eq!(chosen(|chosen| chosen.external_interrupts = true), 1 << 0);
    assert_eq!(chosen(|chosen| chosen.time_stamp = true), 1 << 14);
    let wanted = |wanted| words(Intercepts::default(), wanted).first ^ least.first;
    assert_eq!(wanted(Wanted { interrupt_window: true, ..NONE }), 1 << 4);
    assert_eq!(wanted(Wanted { iret: true, ..NONE }), 1 << 20);
    let intercepts = Intercepts { exceptions: 1 << 6, ..Intercepts::default() };
    assert_eq!(words(intercepts, Wanted { step: true, ..NONE }).exceptions, 1 << 6 | 1 << 1);
}
