//! What guests are made from: their spaces, their vCPUs, and what they find in their memory.

#![expect(unsafe_code, reason = "takes over memory that the parameters describe")]

use super::console::Keys;
use super::guest::Shared;
use super::maintenance::Counted;
use super::pause::{self, Plan};
use super::vcpu::{Config, Features, RiscvVcpu};
use super::{MEMORY_MAP, firmware};
use crate::arch::riscv64::device_tree::{self, Description, Serial};
use crate::arch::riscv64::host::Host;
use crate::arch::riscv64::image::{DEVICE_TREE_MAX, Header, Layout};
use crate::arch::riscv64::platform;
use crate::console_text::ConsoleText;
use crate::cpus::{Cpus, Entry};
use crate::guest::Content;
use crate::pool::Pool;
use crate::run::{self, Job, Machine, Port, Reclaim};
use crate::schedule::Scheduler;
use crate::store::{Store, Swap};
use crate::uart16550::Uart16550;
use crate::vcpu::Vcpu as _;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use slat::format::Format as _;
use slat::format::gstage::Gstage;
use slat_hv_protocol::pause::{Pause, Then};
use slat_hv_protocol::{Paging, Params, Span};
use spin::Mutex;

/// A guest before its start.
pub(super) struct NewGuest {
    pub(super) machine: Machine<'static, &'static Pool<Counted>, Gstage>,
    pub(super) vcpus: Vec<RiscvVcpu>,
    pub(super) shared: &'static Shared,
    /// hgatp, without a VMID.
    pub(super) root: u64,
}

/// What guests are made from.
pub(super) struct Builder<'a> {
    pub(super) params: &'static Params,
    pub(super) pool: &'static Pool<Counted>,
    pub(super) format: Gstage,
    pub(super) scheduler: &'static Scheduler,
    pub(super) harts: usize,
    pub(super) trap_wait: bool,
    /// Whether there are several guests, or may be.
    pub(super) several: bool,
    pub(super) features: Features,
    pub(super) reclaim: &'static Reclaim,
    pub(super) host: &'a Host,
    /// Where pages go, if RAM is paged.
    pub(super) store: Option<&'static Store>,
}

impl Builder<'_> {
    /// Guest `number`, with its content in place and nothing of it mapped.
    pub(super) fn guest(&self, number: u32) -> Result<NewGuest, String> {
        let Self { params, .. } = *self;
        if let Some(Pause { then: Then::Restore, image, commands, .. }) = &params.pause {
            return self.restored(number, *image, commands);
        }
        let (kernel, initrd) = (blob(params.kernel), blob(params.initrd));
        let header = Header::parse(kernel).map_err(|error| error.to_string())?;
        let layout = Layout::new(header, params.kernel.size, params.initrd.size, params.guest_memory)
            .map_err(|error| error.to_string())?;
        let bootargs = match params.guests > 1 {
            true => format!("{} slat.guest={number}", params.bootargs),
            false => params.bootargs.clone(),
        };
        // Linux prints through the firmware, but what it is told comes through the port.
        let serial = match (header.is_flat, &params.pause) {
            (true, _) => Serial::Console,
            (false, Some(_)) => Serial::Quiet,
            (false, None) => Serial::None,
        };
        let device_tree = build_device_tree(params, &bootargs, &layout, serial, self.host)?;
        let mut content = Content::default();
        content.add(layout.device_tree, device_tree.leak());
        content.add(layout.kernel, kernel);
        content.add(layout.initrd, initrd);

        let cpus = self.cpus(number, Entry { address: layout.kernel, argument: layout.device_tree });
        let (machine, root) = self.machine(number, cpus, content, serial)?;
        let pause_text = params.pause.as_ref().map(|pause| pause.text.clone());
        let texts = [params.until_console.clone(), pause_text].map(|text| text.and_then(ConsoleText::new));
        let (shared, vcpus) = self.vcpus(number, cpus, texts);
        Ok(NewGuest { machine, vcpus, shared, root })
    }

    /// Guest `number`, which goes on as the snapshot in `image` says, and does what the first of `commands` says.
    fn restored(&self, number: u32, image: Span, commands: &[String]) -> Result<NewGuest, String> {
        let snapshot = pause::find(blob(image), &self.host.isa(), self.ram())?;
        let mut content = Content::default();
        snapshot.pages().for_each(|(gpa, page)| content.add(gpa, page));
        let cpus = self.cpus(number, Entry { address: MEMORY_MAP.guest_ram, argument: 0 });
        let (machine, root) = self.machine(number, cpus, content, Serial::Quiet)?;
        let (shared, mut vcpus) = self.vcpus(number, cpus, [None, None]);
        pause::restore(&snapshot.state, &machine, cpus, &mut vcpus)?;
        commands.iter().take(1).for_each(|command| machine.type_in(&format!("{command}\n")));
        Ok(NewGuest { machine, vcpus, shared, root })
    }

    /// The guest's RAM.
    fn ram(&self) -> Span {
        Span { address: MEMORY_MAP.guest_ram, size: self.params.guest_memory }
    }

    /// What is to be done with a guest that stops.
    pub(super) fn plan(&self, pause: &Pause) -> Plan {
        // SAFETY: the parameters give this memory to a snapshot; it was checked to lie apart from everything else, and nobody else
        // takes it.
        let area = (pause.then == Then::Snapshot).then(|| unsafe { area(pause.image) });
        Plan {
            pause: pause.clone(),
            ticks_per_second: self.host.timebase.into(),
            mistake: self.params.mistake,
            isa: self.host.isa(),
            mode: format!("{:?}", self.format.mode()),
            ram: self.ram(),
            moving: Mutex::new(None),
            format: self.format,
            area: Mutex::new(area),
        }
    }

    /// The machine of guest `number`, with this content and nothing of it mapped; and hgatp, without a VMID.
    fn machine(
        &self,
        number: u32,
        cpus: &'static Cpus,
        content: Content<'static>,
        serial: Serial,
    ) -> Result<(Machine<'static, &'static Pool<Counted>, Gstage>, u64), String> {
        let Self { params, pool, format, .. } = *self;
        let size = 1 << format.geometry().gpa_bits;
        // The tag is given when a hart first enters the space.
        let swap = self.store.map_or(Swap::default(), |store| Swap::new(store, content.clone()));
        let space = run::space(pool, format, size, 0, swap).map_err(|error| error.to_string())?;
        let root = space.root_register();
        let job = Job {
            ram: MEMORY_MAP.guest_ram,
            memory: params.guest_memory,
            content,
            devices: &[],
            leaf: params.leaf,
            large_leaves_suit: true,
            on_fault: params.on_fault,
            churn: params.churn,
            uart: (serial != Serial::None).then_some(platform::EMULATED_UART),
            screen: None,
            shared_port: None,
            terminal: params.monitor.then_some(&Keys),
            skip_copies: false,
            paging: params
                .paging
                .map(|Paging { idle_scans, .. }| run::Paging { guest: number as u16, idle_scans }),
        };
        let machine = Machine::new(space, cpus, job).map_err(|error| error.to_string())?;
        let machine = machine.with_port(Port::Uart16550(Uart16550::default()));
        let machine = if self.several { machine.sharing(number, self.reclaim) } else { machine };
        Ok((machine, root))
    }

    /// A place with this number for a fork of `original`.
    pub(super) fn place(&self, number: u32, original: &NewGuest) -> NewGuest {
        // Where its CPUs begin is where those of the original are then.
        let cpus = self.cpus(number, Entry { address: MEMORY_MAP.guest_ram, argument: 0 });
        let machine = original.machine.place(cpus).sharing(number, self.reclaim);
        let (shared, vcpus) = self.vcpus(number, cpus, [None, None]);
        NewGuest { machine, vcpus, shared, root: 0 }
    }

    /// The CPUs of guest `number`, the first of which is to begin at `entry`.
    fn cpus(&self, number: u32, entry: Entry) -> &'static Cpus {
        let Self { params, scheduler, .. } = *self;
        let ram = MEMORY_MAP.guest_ram..MEMORY_MAP.guest_ram + params.guest_memory;
        let first = number as usize * params.cpus as usize;
        let power_on = move |cpu| {
            scheduler.start(first + cpu);
            true
        };
        Box::leak(Box::new(Cpus::in_slices(params.cpus as usize, ram, entry, power_on)))
    }

    /// The vCPUs of guest `number`, and what they share; `texts` are as for [`Shared::new`].
    fn vcpus(
        &self,
        number: u32,
        cpus: &'static Cpus,
        texts: [Option<ConsoleText>; 2],
    ) -> (&'static Shared, Vec<RiscvVcpu>) {
        let Self { params, scheduler, .. } = *self;
        let harts = (1 << self.harts) - 1;
        let first = number as usize * params.cpus as usize;
        let shared = Shared::new(self.several.then_some(number), cpus, scheduler, first, harts, texts);
        let shared: &Shared = Box::leak(Box::new(shared));
        let config = Config {
            trap_wait: self.trap_wait,
            shared,
            requests: params.page_requests,
            machine: firmware::machine(),
            features: self.features,
        };
        (shared, (0..cpus.count()).map(|cpu| RiscvVcpu::new(cpu, config)).collect())
    }
}

/// What `span` of the parameters describes.
fn blob(span: Span) -> &'static [u8] {
    if span.size == 0 {
        return &[];
    }
    let start = core::ptr::with_exposed_provenance::<u8>(span.address as usize);
    // SAFETY: the span was checked: mapped, apart from everything that is ever written to. The emulator filled it.
    unsafe { core::slice::from_raw_parts(start, span.size as usize) }
}

/// The store of paged-out pages, if the parameters want one.
pub(super) fn store(params: &Params) -> Result<Option<&'static Store>, String> {
    let Some(Paging { store, .. }) = params.paging else { return Ok(None) };
    // SAFETY: the parameters give this memory to the store; it was checked to lie apart from everything else, and nobody else takes
    // it.
    let area = unsafe { area(store) };
    let store = Store::new(area, params.guests, params.guest_memory, params.mistake);
    let store = store.map_err(|error| error.to_string())?;
    Ok(Some(Box::leak(Box::new(store))))
}

/// The memory that `span` of the parameters describes, to be written.
///
/// # Safety
/// It is valid memory, and nobody else uses it.
unsafe fn area(span: Span) -> &'static mut [u8] {
    let start = core::ptr::with_exposed_provenance_mut::<u8>(span.address as usize);
    // SAFETY: the caller's promise; the emulator has zeroed it.
    unsafe { core::slice::from_raw_parts_mut(start, span.size as usize) }
}

fn build_device_tree(
    params: &Params,
    bootargs: &str,
    layout: &Layout,
    serial: Serial,
    host: &Host,
) -> Result<Vec<u8>, String> {
    let blob = device_tree::build(&Description {
        memory: params.guest_memory,
        bootargs,
        initrd: Span { address: layout.initrd, size: params.initrd.size },
        serial,
        cpus: params.cpus as usize,
        host,
    })
    .map_err(|error| format!("the device tree cannot be built: {error}"))?;
    if blob.len() as u64 > DEVICE_TREE_MAX {
        return Err("the device tree exceeds 64 KiB".to_string());
    }
    Ok(blob)
}
