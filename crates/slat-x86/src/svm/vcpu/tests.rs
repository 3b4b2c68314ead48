//! Whole runs on a CPU that is a script: what it finds in the VMCB, and what it leaves there.

#![expect(unsafe_code, reason = "plays the CPU, which writes to the VMCB")]

mod entries;
mod events;
mod orphans;
mod states;

use super::*;
use crate::event::{BadEvent, Event};
use crate::exit::Exit;
use crate::isa::svm::Entry;
use crate::svm::SvmCpu;
use crate::svm::capabilities::tests::{epyc, rome};
use crate::svm::vmcb::Field;
use crate::vcpu::{BindError, Control, RunError};
use slat::guest::{GuestPaging, X86Paging};
use slat::test_util::HeapHal;
use slat::{HostPhysAddr, TagError};
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

/// Two CPUs that do what they are told, one step for each entry.
struct Script<'s> {
    hal: &'s HeapHal,
    on: Cell<bool>,
    steps: RefCell<VecDeque<Step<'s>>>,
    /// The CPU at hand.
    this: Cell<usize>,
    svm: RefCell<[Option<SvmCpu<&'s HeapHal>>; 2]>,
    cpus: HostCpus<&'s HeapHal>,
}

/// Frames of a script: the table, and a save area for each CPU.
const SCRIPT: usize = 3;

impl<'s> Script<'s> {
    fn new(hal: &'s HeapHal) -> Self {
        let cpus = HostCpus::new(hal, 2).expect("a frame");
        let steps = RefCell::default();
        let script =
            Self { hal, on: Cell::new(true), steps, this: Cell::new(0), svm: RefCell::default(), cpus };
        script.turn_on(0);
        script.turn_on(1);
        script
    }

    /// SVM on, on a CPU.
    fn turn_on(&self, cpu: usize) {
        // SAFETY: nothing can be turned on here.
        let on = unsafe { SvmCpu::turn_on(self.hal, &epyc(), &self.cpus, cpu) };
        self.svm.borrow_mut()[cpu] = Some(on.expect("a frame"));
    }

    fn turn_off(&self, cpu: usize) {
        let on = self.svm.borrow_mut()[cpu].take();
        drop(on);
    }

    /// Clears up on a CPU.
    fn reap(&self, cpu: usize) -> bool {
        self.svm.borrow()[cpu].as_ref().is_some_and(SvmCpu::reap)
    }

    fn go_to(&self, cpu: usize) {
        self.this.set(cpu);
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

    fn save_area(&self) -> u64 {
        self.svm.borrow()[self.this.get()].as_ref().map_or(0, |on| on.save_area().as_u64())
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
    let mut vcpu =
        SvmVcpu::with_instructions(&hal, &configuration, &script.cpus, tags, script).expect("frames");
    vcpu.set_root(0x1000).expect("a good root");
    vcpu
}
