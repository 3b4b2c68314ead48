//! The guest's side of its machine: serial port, firmware calls, memory, registers, the interrupt controller.

use super::boot::record;
use core::arch::asm;
use core::fmt;

/// The PL011.
pub(super) const UART: u64 = 0x0900_0000;
/// The GIC's distributor.
pub(super) const DISTRIBUTOR: u64 = 0x0800_0000;
/// The GIC's redistributor of CPU 0; its page for private interrupts follows 64 KiB further up.
const REDISTRIBUTOR: u64 = 0x080a_0000;
/// The interrupt of the virtual timer.
const VIRTUAL_TIMER: u32 = 27;

/// The serial port as a sink of text.
pub(super) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while read32(UART + 0x18) & 1 << 5 != 0 {}
            write32(UART, byte.into());
        }
        Ok(())
    }
}

/// Function identifiers of PSCI and SMCCC.
pub(super) struct Function;

impl Function {
    pub(super) const VERSION: u64 = 0x8400_0000;
    pub(super) const CPU_OFF: u64 = 0x8400_0002;
    pub(super) const CPU_ON: u64 = 0xc400_0003;
    pub(super) const AFFINITY_INFO: u64 = 0xc400_0004;
    pub(super) const SYSTEM_OFF: u64 = 0x8400_0008;
    pub(super) const SYSTEM_RESET: u64 = 0x8400_0009;
    pub(super) const FEATURES: u64 = 0x8400_000a;
    // Requests to a hypervisor that offers them, by the address of a page.
    pub(super) const MOVE: u64 = 0xc600_0001;
    pub(super) const WRITE_PROTECT: u64 = 0xc600_0002;
    pub(super) const RENEW: u64 = 0xc600_0003;
    // Calls about buffers, which every guest may make.
    pub(super) const PRINT: u64 = 0xc600_0010;
    pub(super) const STATISTICS: u64 = 0xc600_0011;
}

macro_rules! firmware_call {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        pub(super) fn $name(function: u64, arguments: [u64; 3]) -> i64 {
            let [x1, x2, x3] = arguments;
            let result;
            // SAFETY: the firmware of this guest touches no memory; SMCCC says which registers it may change.
            unsafe {
                asm!($instruction, inout("x0") function => result, in("x1") x1, in("x2") x2, in("x3") x3,
                     clobber_abi("C"), options(nostack))
            };
            result
        }
    };
}

firmware_call!(
    /// Calls the firmware by HVC.
    hvc, "hvc #0"
);
firmware_call!(
    /// Calls the firmware by SMC.
    smc, "smc #0"
);
firmware_call!(
    /// Calls the firmware by HVC with an immediate that SMCCC reserves.
    hvc_with_immediate, "hvc #0x1234"
);

/// Calls the hypervisor about a buffer: the status, and how many bytes were done.
pub(super) fn buffer_call(function: u64, gpa: u64, length: u64) -> (i64, u64) {
    let (status, done);
    // SAFETY: callers name memory that the program can do without; SMCCC says which registers may change.
    unsafe {
        asm!("hvc #0", inout("x0") function => status, inout("x1") gpa => done, in("x2") length,
             clobber_abi("C"), options(nostack))
    };
    (status, done)
}

/// Reads a word of device memory.
pub(super) fn read32(address: u64) -> u32 {
    let value: u32;
    // SAFETY: a load whose effect is the point; where nothing answers, the vector skips it.
    unsafe { asm!("ldr {:w}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
    value
}

/// Writes a word of device memory.
pub(super) fn write32(address: u64, value: u32) {
    // SAFETY: a store whose effect is the point; callers name devices, or addresses where nothing answers.
    unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) address, options(nostack)) };
}

/// Reads a word of RAM; where the access fails, the vector skips it, and the answer is 0.
pub(super) fn read64(address: u64) -> u64 {
    let mut value = 0;
    // SAFETY: a load; callers name RAM that is not part of the program.
    unsafe { asm!("ldr {}, [{}]", inout(reg) value, in(reg) address, options(nostack)) };
    value
}

/// Writes a word of RAM.
pub(super) fn write64(address: u64, value: u64) {
    // SAFETY: a store; callers name RAM that is not part of the program.
    unsafe { asm!("str {}, [{}]", in(reg) value, in(reg) address, options(nostack)) };
}

/// Number of this CPU, 0 or 1.
pub(super) fn this_cpu() -> usize {
    let mpidr: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) mpidr, options(nomem, nostack, preserves_flags)) };
    mpidr & 1
}

/// Whether `condition` came true within a few seconds.
pub(super) fn soon(condition: impl Fn() -> bool) -> bool {
    const SECONDS: u64 = 4;
    let begin = ticks();
    while !condition() {
        if ticks() - begin > SECONDS * frequency() {
            return condition();
        }
    }
    true
}

fn ticks() -> u64 {
    let count: u64;
    // SAFETY: reads the counter.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack, preserves_flags)) };
    count
}

fn frequency() -> u64 {
    let frequency: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack, preserves_flags)) };
    frequency
}

/// What the vectors noted of the last exception.
#[derive(Clone, Copy)]
pub(super) struct Exception {
    /// ESR_EL1.
    pub(super) esr: u64,
    /// FAR_EL1.
    pub(super) far: u64,
}

/// Runs `access`, and returns the exception that it led to: exactly one, or none.
pub(super) fn exception_of(access: impl FnOnce()) -> Result<Option<Exception>, &'static str> {
    let record = record();
    let before = load(record.count.get());
    access();
    match load(record.count.get()) - before {
        0 => Ok(None),
        1 => Ok(Some(Exception { esr: load(record.esr.get()), far: load(record.far.get()) })),
        _ => Err("more than one exception"),
    }
}

/// Like [`exception_of`] for a fetch from `address`: the guest goes on behind the call.
pub(super) fn exception_of_fetch(address: u64) -> Result<Option<Exception>, &'static str> {
    exception_of(|| {
        let resume = record().resume.get();
        // SAFETY: the vectors go on behind the call, as if the code at `address` had returned.
        unsafe {
            asm!(
                "adr {there}, 2f",
                "str {there}, [{resume}]",
                "blr {address}",
                "2: str xzr, [{resume}]",
                there = out(reg) _,
                // Registers that a call keeps; the fetch fails, so nothing is called.
                resume = in(reg) resume,
                address = in(reg) address,
                out("x30") _,
                options(nostack),
            );
        }
    })
}

fn load(word: *mut u64) -> u64 {
    // SAFETY: a word of a record, which is always initialised.
    unsafe { word.read_volatile() }
}

/// Waits for an interrupt, for ever.
pub(super) fn stop() -> ! {
    loop {
        // SAFETY: waits; changes nothing.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

/// Sets the interrupt controller up so that the virtual timer ends a WFI; interrupts stay masked.
pub(super) fn enable_timer_interrupt() {
    const WAKER: u64 = REDISTRIBUTOR + 0x14;
    const PRIVATE: u64 = REDISTRIBUTOR + 0x1_0000;
    const GROUP: u64 = PRIVATE + 0x80;
    const SET_ENABLE: u64 = PRIVATE + 0x100;
    // Distributor: affinity routing and group 1 on.
    write32(DISTRIBUTOR, 0b1_0010);
    // Redistributor: awake.
    write32(WAKER, read32(WAKER) & !0b10);
    write32(GROUP, u32::MAX);
    write32(SET_ENABLE, 1 << VIRTUAL_TIMER);
    // SAFETY: the CPU interface lets every priority through; nothing is taken, because PSTATE masks interrupts.
    unsafe {
        asm!(
            "msr icc_sre_el1, {sre}", "isb", "msr icc_pmr_el1, {all}", "msr icc_igrpen1_el1, {sre}", "isb",
            sre = in(reg) 1_u64, all = in(reg) 0xff_u64, options(nostack)
        );
    }
}

/// Arms the virtual timer for `ticks`, waits for an interrupt, and tells whether the timer has expired.
pub(super) fn wait_for_timer(ticks: u64) -> bool {
    let control: u64;
    // SAFETY: the timer belongs to the guest; its interrupt only ends the wait.
    unsafe {
        asm!(
            "msr cntv_tval_el0, {ticks}", "msr cntv_ctl_el0, {on}", "isb", "wfi", "mrs {control}, cntv_ctl_el0",
            "msr cntv_ctl_el0, xzr", "isb",
            ticks = in(reg) ticks, on = in(reg) 1_u64, control = out(reg) control, options(nostack)
        );
    }
    control & 0b100 != 0
}
