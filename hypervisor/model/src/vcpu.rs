//! The vCPU: takes the guest's turns, and tells why the guest has left as the hardware would.

use crate::guest::Action;
use crate::turn::{World, here};
use crate::world::Trap;
use slat::GuestPhysAddr;
use slat::device::{AccessWidth, DataAccess};
use slat_check::platform::Platform;
use slat_hv::cpus::{Cpus, Entry};
use slat_hv::vcpu::{BufferAnswer, Event, Exit, Vcpu};
use slat_model::Root;
use std::sync::Arc;

/// What a vCPU needs of the machine.
#[derive(Clone)]
pub(crate) struct Config<'a, P> {
    pub(crate) world: Arc<World>,
    pub(crate) platform: P,
    pub(crate) cpus: &'a Cpus,
    /// Number of the guest's first vCPU among all.
    pub(crate) first: usize,
}

/// A vCPU.
pub(crate) struct ModelVcpu<'a, P> {
    /// Its number in the guest, and among all vCPUs.
    number: usize,
    id: usize,
    /// The CPU that it is bound to.
    cpu: usize,
    config: Config<'a, P>,
    root: Option<Root>,
    /// The last address that it left the guest at.
    pc: u64,
}

impl<'a, P: Platform> Vcpu for ModelVcpu<'a, P> {
    type Config = Config<'a, P>;
    type Root = Root;

    fn new(id: usize, config: Self::Config) -> Self {
        Self { number: id, id: config.first + id, cpu: 0, config, root: None, pc: 0 }
    }

    fn set_entry(&mut self, entry: GuestPhysAddr, _argument: u64) {
        self.pc = entry.as_u64();
        self.config.world.with(|state| state.enter_program(self.id));
    }

    fn set_root(&mut self, root: Root) {
        self.root = Some(root);
    }

    fn bind(&mut self) {
        self.cpu = here();
        self.config.world.with(|state| {
            state.cpus[self.cpu].vcpu = self.id;
            state.load(self.cpu, self.root);
        });
    }

    fn unbind(&mut self) {
        self.config.world.with(|state| state.load(self.cpu, None));
    }

    fn run(&mut self) -> Exit {
        match self.config.world.run(self.cpu) {
            Trap::Timer => Exit::Preempted,
            Trap::Kick => Exit::Kicked,
            Trap::Fault(fault, gva) => {
                self.pc = gva;
                match self.config.platform.decode_fault(&fault.syndrome, gva) {
                    Some(info) => Exit::NestedPageFault(info),
                    None => Exit::Unsupported(fault.to_string()),
                }
            }
            Trap::Call(Action::Start(cpu)) => self.start(cpu),
            Trap::Call(Action::Off) if self.config.cpus.stop(self.number) => Exit::CpuOff,
            Trap::Call(Action::Call) => Exit::FirmwareCall,
            Trap::Call(Action::PowerOff) => Exit::PowerOff,
            Trap::Call(_) => Exit::Wait,
        }
    }

    /// The guest has no instructions, so this is the address that its last fault was about.
    fn program_counter(&self) -> u64 {
        self.pc
    }

    /// The guest has no registers either: the only one is what it is about to store.
    fn register(&self, _index: usize) -> Option<u64> {
        self.config.world.with(|state| state.about_to_store(self.id)).map(u64::from)
    }

    fn set_register(&mut self, _index: usize, _value: u64) {}

    fn data_access(&self) -> Option<DataAccess> {
        let store =
            DataAccess { width: AccessWidth::Word, register: Some(0), sign_extend: false, sixty_four: false };
        self.register(0).map(|_| store)
    }

    fn advance(&mut self) {
        self.config.world.with(|state| state.stored(self.id));
    }

    /// An interrupt comes when it is its turn again.
    fn next_timer(&self) -> Option<u64> {
        Some(0)
    }

    fn wait(&mut self) {
        self.config.world.sleep(self.cpu);
    }

    fn answer_request(&mut self, _done: bool) {}

    fn answer_buffer_call(&mut self, _answer: BufferAnswer) {}

    /// Nothing to deliver: the guest touches nothing that is nobody's, and a run in which it does ends there.
    fn inject(&mut self, _event: Event) {}
}

impl<P: Platform> ModelVcpu<'_, P> {
    /// As the firmware's CPU_ON. A CPU that is still about to go off is asked for again after a while, as Linux does.
    fn start(&mut self, cpu: usize) -> Exit {
        let Config { world, cpus, .. } = &self.config;
        let entry = Entry { address: world.with(|state| state.second_entry(self.id)), argument: cpu as u64 };
        if cpus.start(cpu, entry).is_ok() {
            if !cpus.are_in_slices() {
                world.power_on(cpu);
            }
            return Exit::FirmwareCall;
        }
        world.with(|state| state.repeat(self.id, Action::Start(cpu)));
        Exit::Suspend
    }
}
