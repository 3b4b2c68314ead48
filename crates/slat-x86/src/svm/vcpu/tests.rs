//! Whole runs on a CPU that is a script: what it finds in the VMCB, and what it leaves there.

#![expect(unsafe_code, reason = "plays the CPU, which writes to the VMCB")]

mod entries;
mod events;
mod states;

use super::*;
use crate::isa::svm::Entry;
use crate::svm::capabilities::tests::{epyc, rome};
use crate::svm::vmcb::Field;
use slat::HostPhysAddr;
use slat::test_util::HeapHal;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// The VMCB as the CPU sees it.
struct View<'h> {
    hal: &'h HeapHal,
    vmcb: HostPhysAddr,
    general: &'h mut GeneralRegisters,
}

impl View<'_> {
    fn get(&self, field: Field) -> u64 {
        let (offset, bytes) = field.place();
        let mut value = [0; 8];
        for (index, byte) in value.iter_mut().enumerate().take(bytes) {
            // SAFETY: inside the frame of the VMCB.
            let place = unsafe { self.hal.phys_to_virt(self.vmcb).add(offset + index) };
            // SAFETY: as above; the vCPU is in `enter` and looks at nothing.
            *byte = unsafe { place.read_volatile() };
        }
        u64::from_le_bytes(value)
    }

    fn set(&self, field: Field, value: u64) {
        let (offset, bytes) = field.place();
        for (index, byte) in value.to_le_bytes().into_iter().enumerate().take(bytes) {
            // SAFETY: inside the frame of the VMCB.
            let place = unsafe { self.hal.phys_to_virt(self.vmcb).add(offset + index) };
            // SAFETY: as above; the vCPU is in `enter` and looks at nothing.
            unsafe { place.write_volatile(byte) };
        }
    }

    fn exit(&self, code: u64) {
        self.set(fields::EXIT_CODE, code);
        self.set(fields::EXIT_INTERRUPT_INFO, 0);
    }
}

type Step<'s> = Box<dyn FnMut(&mut View<'_>) + 's>;

/// A CPU that does what it is told, one step for each entry.
struct Script<'s> {
    hal: &'s HeapHal,
    on: Cell<bool>,
    steps: RefCell<VecDeque<Step<'s>>>,
}

impl<'s> Script<'s> {
    fn new(hal: &'s HeapHal) -> Self {
        Self { hal, on: Cell::new(true), steps: RefCell::default() }
    }

    fn then(&self, step: impl FnMut(&mut View<'_>) + 's) {
        self.steps.borrow_mut().push_back(Box::new(step));
    }

    /// The guest leaves with `code`.
    fn exit(&self, code: u64) {
        self.then(move |view| view.exit(code));
    }
}

impl Instructions for &Script<'_> {
    fn is_on(&self) -> bool {
        self.on.get()
    }

    unsafe fn enter(&self, entry: &Entry, general: &mut GeneralRegisters) {
        let mut step = self.steps.borrow_mut().pop_front().expect("an entry that the test expects");
        step(&mut View { hal: self.hal, vmcb: entry.vmcb, general });
    }
}

type TestVcpu<'t, 'h> = SvmVcpu<&'h HeapHal, &'t TagPool<&'h HeapHal>, &'t Script<'h>>;

fn pool(hal: &HeapHal, cpus: usize) -> TagPool<&HeapHal> {
    TagPool::new(hal, 4, cpus).expect("memory")
}

fn vcpu<'t, 'h>(
    hal: &'h HeapHal,
    capabilities: &Capabilities,
    tags: &'t TagPool<&'h HeapHal>,
    script: &'t Script<'h>,
) -> TestVcpu<'t, 'h> {
    let configuration =
        Configuration { capabilities, intercepts: Intercepts::default(), ports: &Intercepted::NONE };
    let mut vcpu = SvmVcpu::with_instructions(&hal, &configuration, tags, script).expect("frames");
    vcpu.set_root(0x1000).expect("a good root");
    vcpu
}
