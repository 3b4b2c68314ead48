//! A run of several guests, whose vCPUs share the machine's CPUs in slices of time, and whose spaces share a few tags.

use crate::guest::Map;
use crate::host::Hardware;
use crate::run::Scene;
use crate::turn::{Thread, World};
use crate::vcpu::{Config, ModelVcpu};
use slat::TagPool;
use slat_check::platform::Platform;
use slat_hv::cpus::{Cpus, Entry};
use slat_hv::guests::{Guests, Hart, Total};
use slat_hv::pool::Pool;
use slat_hv::run::{Machine, Reclaim};
use slat_hv::schedule::Scheduler;
use slat_hv::vcpu::Vcpu;
use slat_hv_protocol::Report;
use std::sync::Arc;
use std::thread;

/// Bits of the tags that are used: three tags, or as many as make more of them than CPUs.
const TAG_BITS: u32 = 2;

/// A CPU of the model. It has no clock: the end of a slice is drawn, and whoever waits may go on when it is its turn.
struct ModelHart {
    world: Arc<World>,
    cpu: usize,
}

impl Hart for ModelHart {
    fn now(&self) -> u64 {
        0
    }

    fn preempt_at(&mut self, _time: u64) {}

    fn sleep(&mut self, _until: Option<u64>) {
        self.world.sleep(self.cpu);
    }
}

/// Runs the guests of `scene`; the report, or why they could not be closed.
pub(crate) fn run<P: Platform>(scene: &Scene<'_, P>) -> Result<Result<Report, String>, String> {
    let Scene { platform, world, host, map, settings, harts, .. } = scene;
    let (count, each) = (settings.guests, settings.cpus);
    let kick = {
        let world = world.clone();
        move |hart| world.kick(hart)
    };
    let scheduler = Arc::new(Scheduler::new(count, each, *harts, kick));
    let cpus: Vec<Cpus> = (0..count).map(|guest| guest_cpus(map, each, guest, &scheduler)).collect();
    let reclaim = Reclaim::default();
    let bits = (TAG_BITS..).find(|bits| (1 << bits) - 1 > *harts).unwrap_or(TAG_BITS);
    let tags =
        TagPool::new(*host, bits.min(platform.tag_bits()), *harts).map_err(|error| error.to_string())?;
    let mut machines = Vec::new();
    for (guest, cpus) in cpus.iter().enumerate() {
        let machine =
            Machine::new(scene.space(0)?, cpus, scene.job(guest)).map_err(|error| error.to_string())?;
        let machine = machine.sharing(guest as u32, &reclaim);
        let config = Config { world: world.clone(), platform: *platform, cpus, first: guest * each };
        machines.push((machine, (0..each).map(|cpu| ModelVcpu::new(cpu, config.clone())).collect()));
    }
    let guests: Guests<'_, &Pool<Hardware<P>>, P, ModelVcpu<'_, P>> =
        Guests::new(&scheduler, each, 1, tags, machines);
    guests.start();
    let serve = |cpu: usize| {
        let _thread = Thread::new(world.clone(), cpu);
        if cpu != 0 && !world.await_power(cpu) {
            return None;
        }
        let mut hart = ModelHart { world: world.clone(), cpu };
        let total =
            guests.serve(cpu, &mut hart, |space, register| platform.root(register, space.tag()), drop);
        world.leave(cpu);
        total
    };
    let total: Option<Result<Total, String>> = thread::scope(|scope| {
        let serve = &serve;
        let threads: Vec<_> = (0..*harts).map(|cpu| scope.spawn(move || serve(cpu))).collect();
        let ended: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        let ended =
            ended.into_iter().map(|joined| joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.flatten().next()
    });
    let total = total.unwrap_or_else(|| Err("no CPU closed the last guest".to_owned()));
    Ok(total.map(|total| total.report(host, host.maintenance().instructions())))
}

fn guest_cpus(map: &Map, each: usize, guest: usize, scheduler: &Arc<Scheduler>) -> Cpus {
    let scheduler = scheduler.clone();
    let power_on = move |cpu| {
        scheduler.start(guest * each + cpu);
        true
    };
    Cpus::in_slices(each, map.ram.clone(), Entry { address: map.kernel.start, argument: 0 }, power_on)
}
