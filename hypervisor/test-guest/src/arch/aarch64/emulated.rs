//! The serial port that the hypervisor emulates: used as a driver would, and as nobody should.

use super::machine::{exception_of, exception_of_fetch, read32, write32};
use super::scenarios::{HOLE, check, check_abort};
use super::{Outcome, expect};
use core::arch::asm;

/// The port. Behind its page there is nothing.
pub(super) const PORT: u64 = 0x0904_0000;
const PORT_END: u64 = PORT + 0x1000;

const FLAGS: u64 = PORT + 0x18;
const INTEGER_BAUD: u64 = PORT + 0x24;
const FRACTIONAL_BAUD: u64 = PORT + 0x28;
const CONTROL: u64 = PORT + 0x30;

/// What a load instruction with operands `{0}` (the register, all ones before) and `{1}` (the address) leaves behind.
macro_rules! load {
    ($instruction:literal, $address:expr) => {{
        let mut value = u64::MAX;
        // SAFETY: a load from a device whose effect is the point, or an abort by which it is skipped.
        unsafe { asm!($instruction, inout(reg) value, in(reg) $address, options(nostack)) };
        value
    }};
}

/// Executes a store instruction with operands `{0}` (the value) and `{1}` (the address).
macro_rules! store {
    ($instruction:literal, $address:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: a store to a device whose effect is the point, or an abort by which it is skipped.
        unsafe { asm!($instruction, in(reg) value, in(reg) $address, options(nostack)) };
    }};
}

/// Scenario `emulated-uart`.
pub(super) fn used_well() -> Outcome {
    let mut wrong = Ok(());
    let exception = exception_of(|| wrong = drive())?;
    check(exception.is_none(), "the port led to an exception")?;
    wrong
}

fn drive() -> Outcome {
    let id = (0..8).map(|index| u64::from(read32(PORT + 0xfe0 + 4 * index)));
    check(id.eq([0x11, 0x10, 0x34, 0, 0x0d, 0xf0, 0x05, 0xb1]), "the emulated UART is no PL011")?;
    write32(CONTROL, 0x301);
    // Each width, acquire and release, and the zero register.
    store!("strb {0:w}, [{1}]", PORT, 0xffff_ff00 | u64::from(b'w'));
    store!("strh {0:w}, [{1}]", PORT, 0xffff_ff00 | u64::from(b'i'));
    store!("str {0:w}, [{1}]", PORT, 0xffff_ff00 | u64::from(b'd'));
    store!("stlr {0:w}, [{1}]", PORT, u64::from(b't'));
    store!("stlrb {0:w}, [{1}]", PORT, u64::from(b'h'));
    store!("strb {0:w}, [{1}, #0]", PORT, u64::from(b's'));
    store!("stur {0:w}, [{1}, #-4]", PORT + 4, u64::from(b'\n'));
    expect(load!("ldrh {0:w}, [{1}]", FLAGS), 0x90, "the flags are not those of an empty port")?;

    // A value with the signs of a byte and of a half-word, and its forms in registers of 32 and 64 bits.
    store!("strh {0:w}, [{1}]", INTEGER_BAUD, 0x80ff);
    expect(load!("ldr {0:w}, [{1}]", INTEGER_BAUD), 0x80ff, "LDR W")?;
    expect(load!("ldrh {0:w}, [{1}]", INTEGER_BAUD), 0x80ff, "LDRH W")?;
    expect(load!("ldrb {0:w}, [{1}]", INTEGER_BAUD), 0xff, "LDRB W")?;
    expect(load!("ldrsb {0:w}, [{1}]", INTEGER_BAUD), 0xffff_ffff, "LDRSB W")?;
    expect(load!("ldrsb {0}, [{1}]", INTEGER_BAUD), u64::MAX, "LDRSB X")?;
    expect(load!("ldrsh {0:w}, [{1}]", INTEGER_BAUD), 0xffff_80ff, "LDRSH W")?;
    expect(load!("ldrsh {0}, [{1}]", INTEGER_BAUD), 0xffff_ffff_ffff_80ff, "LDRSH X")?;
    expect(load!("ldrsw {0}, [{1}]", INTEGER_BAUD), 0x80ff, "LDRSW X")?;
    expect(load!("ldar {0:w}, [{1}]", INTEGER_BAUD), 0x80ff, "LDAR W")?;
    expect(load!("ldur {0:w}, [{1}, #-4]", INTEGER_BAUD + 4), 0x80ff, "LDUR W")?;
    expect(load!("ldr wzr, [{1}] // {0}", INTEGER_BAUD), u64::MAX, "a load into the zero register")?;
    store!("str wzr, [{1}] // {0}", INTEGER_BAUD, 0);
    expect(load!("ldr {0:w}, [{1}]", INTEGER_BAUD), 0, "a store from the zero register")?;

    // The first and the last register, and a base that the load overwrites.
    store!("str {0:w}, [{1}]", FRACTIONAL_BAUD, 0x2a);
    let (x0, x30, base): (u64, u64, u64);
    // SAFETY: loads from a device.
    unsafe {
        asm!("ldr w0, [{base}]", "ldr w30, [{base}]", "ldr {base:w}, [{base}]", base = inout(reg) FRACTIONAL_BAUD => base,
             out("x0") x0, out("x30") x30, options(nostack));
    }
    check([x0, x30, base] == [0x2a; 3], "a register did not get what was loaded")
}

/// Scenario `hostile-uart`.
pub(super) fn used_badly() -> Outcome {
    write32(CONTROL, 0x301);
    write32(INTEGER_BAUD, 0x1234);
    enable_vectors();
    let mut refused = 0;
    let mut must_fail = |address: u64, write: bool, access: &mut dyn FnMut()| {
        refused += 1;
        check_abort(exception_of(access)?, 0x25, address, write)
    };
    // Wider than the bus.
    must_fail(FLAGS, false, &mut || _ = load!("ldr {0}, [{1}]", FLAGS))?;
    must_fail(PORT, true, &mut || store!("str {0}, [{1}]", PORT, u64::MAX))?;
    must_fail(PORT + 0xff8, false, &mut || _ = load!("ldr {0}, [{1}]", PORT + 0xff8))?;
    // Within a register.
    must_fail(PORT + 1, true, &mut || store!("strb {0:w}, [{1}]", PORT + 1, 1))?;
    must_fail(FLAGS + 2, false, &mut || _ = load!("ldrh {0:w}, [{1}]", FLAGS + 2))?;
    must_fail(PORT + 0xfff, false, &mut || _ = load!("ldrsb {0}, [{1}]", PORT + 0xfff))?;
    // Not decoded by the hardware: pairs, write-back, exclusives, vectors.
    must_fail(FLAGS, false, &mut || _ = load!("ldp {0:w}, wzr, [{1}]", FLAGS))?;
    must_fail(FLAGS, false, &mut || _ = load!("ldp {0}, xzr, [{1}]", FLAGS))?;
    must_fail(FLAGS, false, &mut || _ = load!("ldpsw {0}, xzr, [{1}]", FLAGS))?;
    must_fail(PORT, true, &mut || store!("stp {0:w}, {0:w}, [{1}]", PORT, 1))?;
    must_fail(PORT, true, &mut || store!("stp {0}, {0}, [{1}]", PORT, 1))?;
    must_fail(FLAGS, false, &mut || _ = load!("ldxr {0:w}, [{1}]", FLAGS))?;
    must_fail(FLAGS, false, &mut || _ = load!("ldaxrb {0:w}, [{1}]", FLAGS))?;
    must_fail(FLAGS, false, &mut || _ = load!("ldxp {0:w}, wzr, [{1}]", FLAGS))?;
    for (write, word) in [(false, 0), (true, 1), (false, 2), (true, 3), (false, 4), (false, 5), (true, 6)] {
        must_fail(INTEGER_BAUD, write, &mut || unusual(word, INTEGER_BAUD))?;
    }
    if has_atomics() {
        for (write, word) in [(true, 7), (true, 8), (true, 9)] {
            let exception = exception_of(|| unusual(word, INTEGER_BAUD))?.ok_or("no exception")?;
            // Whether such an instruction reads or writes is for the CPU to say.
            let direction = exception.esr & 1 << 6 != 0;
            check_abort(Some(exception), 0x25, INTEGER_BAUD, direction && write)?;
            refused += 1;
        }
    }
    // A fetch is nobody's, and so is what lies behind the port.
    check_abort(exception_of_fetch(PORT)?, 0x21, PORT, false)?;
    check_abort(exception_of(|| _ = read32(PORT_END))?, 0x25, PORT_END, false)?;
    check_abort(exception_of(|| _ = read32(PORT - 4))?, 0x25, PORT - 4, false)?;
    check_abort(exception_of(|| _ = read32(HOLE))?, 0x25, HOLE, false)?;
    // Maintenance and prefetches may do nothing, or fail, but not more.
    for word in 10..14 {
        exception_of(|| unusual(word, INTEGER_BAUD))?;
    }
    // All that went by the port, which is in order.
    expect(load!("ldr {0:w}, [{1}]", INTEGER_BAUD), 0x1234, "an access that was refused changed a register")?;
    store!("strb {0:w}, [{1}]", PORT, u64::from(b'!'));
    expect(refused, if has_atomics() { 24 } else { 21 }, "accesses are missing")
}

/// Instructions that the assembler may not know for this target, with x0 as the address; x1 to x3 and v0 are theirs.
fn unusual(which: usize, address: u64) {
    macro_rules! execute {
        ($($word:literal)*) => {
            // SAFETY: accesses of a device, each of which is refused and skipped; maintenance of a line without RAM.
            unsafe { asm!($(concat!(".inst ", $word),)* inout("x0") address => _, inout("x1") 0_u64 => _, inout("x2") 0_u64 => _, out("x3") _, options(nostack)) }
        };
    }
    match which {
        // ldr w1, [x0], #4; str w1, [x0], #4; ldr q0, [x0]; str q0, [x0]; ldr s0, [x0]; ld1 {v0.16b}, [x0]; st1.
        0 => execute!("0xb8404401"),
        1 => execute!("0xb8004401"),
        2 => execute!("0x3dc00000"),
        3 => execute!("0x3d800000"),
        4 => execute!("0xbd400000"),
        5 => execute!("0x4c407000"),
        6 => execute!("0x4c007000"),
        // ldadd w1, w2, [x0]; swp w1, w2, [x0]; cas w1, w2, [x0].
        7 => execute!("0xb8210002"),
        8 => execute!("0xb8218002"),
        9 => execute!("0x88a17c02"),
        // dc cvac, x0; dc civac, x0; prfm pldl1keep, [x0]; at s1e1r, x0.
        10 => execute!("0xd50b7a20"),
        11 => execute!("0xd50b7e20"),
        12 => execute!("0xf9800000"),
        _ => execute!("0xd5087800"),
    }
}

/// Lets this CPU use its vector registers, which the compiler does not.
fn enable_vectors() {
    // SAFETY: CPACR_EL1.FPEN; the program has nothing in those registers.
    unsafe { asm!("msr cpacr_el1, {}", "isb", in(reg) 3_u64 << 20, options(nostack)) };
}

/// FEAT_LSE.
fn has_atomics() -> bool {
    let features: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, id_aa64isar0_el1", out(reg) features, options(nomem, nostack)) };
    features >> 20 & 0xf != 0
}
