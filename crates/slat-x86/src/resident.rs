//! What of a guest no entry loads and no exit saves: floating point and what else XSAVE knows, XCR0, debug registers 0 to 3
//! and 6, some MSRs.
//!
//! It stays in the CPU from [`load`](Resident::load) to [`unload`](Resident::unload), across exits; the host's own waits
//! in memory. **So between bind and unbind a host does not use floating point, vector registers or hardware breakpoints,**
//! as kernels do not. That costs nothing per exit.

#![expect(unsafe_code, reason = "exchanges registers of the host's for those of the guest")]

use crate::frame::Frames;
use crate::isa::common as isa;
use slat::{Hal, PAGE_SIZE};

const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR0_MP: u64 = 1 << 1;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXSAVE: u64 = 1 << 18;

/// x87 control word after FNINIT, and its place in the area (SDM vol. 1, "FXSAVE Area").
const FCW: (usize, u64) = (0, 0x37f);
/// MXCSR after reset, at offset 24.
const MXCSR: (usize, u64) = (24, 0x1f80);

/// At most so many MSRs.
const MSRS: usize = 8;

/// Lets this CPU use the instructions that exchange floating-point state; with `xsave` also XSAVE.
///
/// # Safety
/// Nothing in the host relies on CR0.TS or CR0.EM being set on this CPU, and `xsave` only if CPUID has it.
pub(crate) unsafe fn prepare_cpu(xsave: bool) {
    let cr0 = isa::read_cr0() & !(CR0_EM | CR0_TS) | CR0_MP;
    // SAFETY: instructions that would have raised an exception do not any more; the caller says that nobody minds.
    unsafe { isa::write_cr0(cr0) };
    let extended = if xsave { CR4_OSXSAVE } else { 0 };
    // SAFETY: every CPU in 64-bit mode has FXSAVE; XSAVE by the caller's promise.
    unsafe { isa::write_cr4(isa::read_cr4() | CR4_OSFXSR | extended) };
}

/// One set of the registers, in memory.
#[derive(Debug)]
struct Registers<H: Hal> {
    extended: Frames<H>,
    xcr0: u64,
    debug: [u64; 5],
    msrs: [u64; MSRS],
}

/// The guest's registers while it is not bound, the host's while it is.
#[derive(Debug)]
pub(crate) struct Resident<H: Hal> {
    guest: Registers<H>,
    host: Registers<H>,
    /// The components of XCR0 that any guest may have; 0 on a CPU without XSAVE.
    components: u64,
    indices: &'static [u32],
    loaded: bool,
}

impl<H: Hal + Clone> Resident<H> {
    /// Registers as after reset, on a CPU whose guests may have `components` of the extended state (0: it has no XSAVE),
    /// which takes `bytes` in memory (CPUID 0DH, ECX). `indices` are the MSRs that are exchanged, at most eight.
    pub(crate) fn new(hal: &H, components: u64, bytes: u32, indices: &'static [u32]) -> Option<Self> {
        let registers = || {
            let frames = u64::from(bytes).div_ceil(PAGE_SIZE).max(1) as usize;
            let mut extended = Frames::zeroed(hal.clone(), frames)?;
            // With all of XSTATE_BV clear every component is as after reset but MXCSR, which is read from memory.
            extended.set_word(FCW.0, FCW.1);
            extended.set_word(MXCSR.0, MXCSR.1);
            let debug = [0, 0, 0, 0, 0xffff_0ff0];
            Some(Registers { extended, xcr0: 1, debug, msrs: [0; MSRS] })
        };
        let (guest, host) = (registers()?, registers()?);
        Some(Self { guest, host, components, indices, loaded: false })
    }
}

impl<H: Hal> Resident<H> {
    /// Puts the guest's registers into the CPU, and keeps the host's.
    ///
    /// # Safety
    /// [`prepare_cpu`] was called on this CPU with what the components say, and the CPU has all of the MSRs.
    pub(crate) unsafe fn load(&mut self) {
        if !self.loaded {
            // SAFETY: the caller's promise.
            unsafe { exchange(&mut self.host, &self.guest, self.components, self.indices) };
            self.loaded = true;
        }
    }

    /// Keeps the guest's registers, and puts the host's back.
    ///
    /// # Safety
    /// As [`load`](Self::load), on the same CPU.
    pub(crate) unsafe fn unload(&mut self) {
        if self.loaded {
            // SAFETY: the caller's promise.
            unsafe { exchange(&mut self.guest, &self.host, self.components, self.indices) };
            self.loaded = false;
        }
    }

    /// The guest's XCR0; 1 after reset. While it is in the CPU, and that is the one at hand (`here`), it is read there: not every CPU
    /// that runs guests tells of XSETBV (QEMU's SVM does not).
    pub(crate) fn xcr0(&self, here: bool) -> u64 {
        if !self.loaded || !here || self.components == 0 {
            return self.guest.xcr0;
        }
        // SAFETY: the CPU was prepared before the registers were loaded.
        match unsafe { isa::read_xcr0() } {
            // On a development host. x87 is always on.
            0 => self.guest.xcr0,
            value => value,
        }
    }

    /// Sets the guest's XCR0; what is none of the components, and everything on a CPU without XSAVE, is left out. If it is loaded,
    /// on that same CPU.
    pub(crate) fn set_xcr0(&mut self, value: u64) {
        if self.components == 0 {
            return;
        }
        self.guest.xcr0 = value & self.components | 1;
        if self.loaded {
            // SAFETY: the CPU was prepared before the registers were loaded, and it has all components.
            unsafe { isa::write_xcr0(self.guest.xcr0) };
        }
    }
}

/// Saves what the CPU has to `old` and loads `new`.
///
/// # Safety
/// As [`Resident::load`].
unsafe fn exchange<H: Hal>(old: &mut Registers<H>, new: &Registers<H>, components: u64, indices: &[u32]) {
    old.debug = [isa::read_dr0(), isa::read_dr1(), isa::read_dr2(), isa::read_dr3(), isa::read_dr6()];
    let writers = [isa::write_dr0, isa::write_dr1, isa::write_dr2, isa::write_dr3, isa::write_dr6];
    for (write, value) in writers.into_iter().zip(new.debug) {
        // SAFETY: the values were read from the same registers, or are those after reset; DR7 has no breakpoint on, for
        // the host has none, and an exit clears it.
        unsafe { write(value) };
    }
    for ((&index, old), &new) in indices.iter().zip(&mut old.msrs).zip(&new.msrs) {
        // SAFETY: the CPU has the register, says the caller.
        *old = unsafe { isa::rdmsr(index) };
        // SAFETY: the value was read from the same register, or is that after reset.
        unsafe { isa::wrmsr(index, new) };
    }
    if components == 0 {
        // SAFETY: the CPU was prepared; a frame has 512 bytes and is aligned.
        unsafe { isa::fxsave(old.extended.pointer()) };
        // SAFETY: the area has the state after reset or what FXSAVE left there.
        unsafe { isa::fxrstor(new.extended.pointer()) };
        return;
    }
    // SAFETY: the CPU was prepared.
    old.xcr0 = unsafe { isa::read_xcr0() };
    // What a guest has turned off in XCR0 keeps its value too.
    // SAFETY: CPUID has all of the components, and together they are a valid value.
    unsafe { isa::write_xcr0(old.xcr0 | components) };
    // SAFETY: the area is as long as CPUID says for all components, and frames are aligned.
    unsafe { isa::xsave(old.extended.pointer(), u64::MAX) };
    // SAFETY: the area has the state after reset or what XSAVE left there.
    unsafe { isa::xrstor(new.extended.pointer(), u64::MAX) };
    // SAFETY: the CPU had this value before, or it is one that its guest may have.
    unsafe { isa::write_xcr0(new.xcr0) };
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Resident;
    use slat::test_util::HeapHal;

    #[test]
    fn frames_go_back_and_xcr0_stays_within_the_components() {
        let hal = HeapHal::new();
        let mut resident = Resident::new(&&hal, 0b111, 0x340, &[]).expect("frames");
        assert_eq!(hal.in_use(), 2);
        assert_eq!(resident.xcr0(true), 1);
        resident.set_xcr0(0x207);
        assert_eq!(resident.xcr0(true), 7);
        // SAFETY: on a development host the instructions do nothing.
        unsafe { resident.load() };
        // SAFETY: likewise.
        unsafe { resident.unload() };
        drop(resident);
        assert_eq!(hal.in_use(), 0);
        let mut without = Resident::new(&&hal, 0, 0x5000, &[]).expect("frames");
        assert_eq!(hal.in_use(), 10);
        without.set_xcr0(7);
        assert_eq!(without.xcr0(true), 1);
        drop(without);
        hal.fail_after(Some(1));
        assert!(Resident::new(&&hal, 0, 0, &[]).is_none());
        assert_eq!(hal.in_use(), 0);
    }
}
