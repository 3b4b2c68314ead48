//! The run of a kernel, from its image to the report.

use super::machine;
use super::physical::Physical;
use super::second::beside;
use super::vendor::{Host, Intercepts, Vendor};
use super::{MEMORY_MAP, blob, host, say};
use crate::arch::x86_64::linux::{COMMAND_LINE, GDT, Header, SEGMENTS, ZERO_PAGE};
use crate::arch::x86_64::ports;
use crate::arch::x86_64::vcpu::{Config, X86Vcpu};
use crate::cpus::Cpus;
use crate::guest::Content;
use crate::run::{Job, Left, Machine, Outcome, Screen};
use crate::vcpu::Vcpu as _;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::hint::spin_loop;
use slat::format::{Format as _, Geometry};
use slat::{AddrSpace, GuestPhysAddr};
use slat_hv_protocol::{Message, Mistake, PagesWritten, Params, Report, Started};
use slat_x86::cpuid::Policy;

/// Where an old display adapter has the first character of its text screen.
const SCREEN: u64 = 0xb_8000;

/// Turns of a loop between two rounds of churn on the second CPU.
const PAUSE: u32 = 10_000;

/// A vCPU of `V`'s in the run loop.
type RunVcpu<V> = X86Vcpu<<V as Vendor>::Vcpu, Physical<V>>;

/// Runs the kernel of `params` on this CPU; the last message.
pub(super) fn run<V: Vendor>(params: &Params) -> Result<Message, String> {
    let kernel = blob(params.kernel);
    let header = Header::parse(kernel).map_err(|error| error.to_string())?;
    let memory = params.guest_memory;
    let layout = header
        .layout(params.initrd.size, params.bootargs.len() as u64, memory)
        .map_err(|error| error.to_string())?;
    let zero_page = header.zero_page(kernel, &layout, memory);
    let segments: Vec<u8> = SEGMENTS.iter().flat_map(|segment| segment.to_le_bytes()).collect();
    let mut content = Content::default();
    content.add(GDT, segments.leak());
    content.add(ZERO_PAGE, Vec::from(zero_page).leak());
    content.add(COMMAND_LINE, params.bootargs.clone().leak().as_bytes());
    content.add(layout.kernel, header.code(kernel));
    content.add(layout.initrd.address, blob(params.initrd));

    let host = host(params);
    let vendor = V::detect(host)?;
    if let Some(lacking) = vendor.lacks_without_paging() {
        return Err(format!("the kernel begins without paging, and this CPU has no {lacking}"));
    }
    vendor.turn_on(0)?;
    let format = vendor.format(params.gpa_bits)?;
    let Geometry { levels, gpa_bits, root_tables } = format.geometry();
    let space = AddrSpace::with_format(host, format, GuestPhysAddr::new(0), 1 << gpa_bits, 0)
        .map_err(|error| error.to_string())?;
    let root = space.root_register();
    let spaces_cpus = host.maintenance().register(root);
    let cpus: &Cpus = Box::leak(Box::new(Cpus::new(1, 0..memory, |_| false)));
    let devices = machine::devices().leak();
    let job = Job {
        ram: MEMORY_MAP.guest_ram,
        memory,
        content,
        devices,
        leaf: params.leaf,
        large_leaves_suit: true,
        on_fault: params.on_fault,
        churn: params.churn,
        uart: None,
        screen: Some(Screen { address: SCREEN, until: params.until_screen.clone() }),
        skip_copies: params.mistake == Mistake::SkippedCopies,
    };
    let run = Machine::new(space, cpus, job).map_err(|error| error.to_string())?;
    let run: &Machine<'static, Host, V::Format> = Box::leak(Box::new(run));
    say(&Message::Started(Started {
        gpa_bits,
        levels: levels.into(),
        root_tables: root_tables.into(),
        ..vendor.started(&format)
    }));

    let intercepts =
        Intercepts { ports: ports::intercepted(), log_modifications: true, ..Intercepts::default() };
    let config = Config {
        vcpu: vendor.vcpu(&intercepts)?,
        hardware: Physical::new(host, spaces_cpus, run),
        // Two runs are to be the same; and a CPU that only claims fast short string moves is found out by Linux.
        policy: Policy { hide_random: true, hide_fast_short_rep_mov: true, ..Policy::default() },
        requests: params.page_requests,
        no_redelivery: params.mistake == Mistake::NoRedelivery,
    };
    let mut vcpu = RunVcpu::<V>::new(0, config);
    vcpu.setup(root, GuestPhysAddr::new(layout.kernel), ZERO_PAGE);
    let left = if params.churn.is_some() && params.cpus > 1 {
        // The guest has one CPU; another one of the machine changes its memory while it runs.
        beside(1, || run.churn_beside(pause), || run.run(0, &mut vcpu))?.1
    } else {
        run.run(0, &mut vcpu)
    };
    let fault_cost = vcpu.fault_cost();
    let Left::Ended(end) = left else { return Err("the guest's only CPU has left it".to_string()) };
    // Taking the guest's memory away is no part of the test.
    host.maintenance().make_no_more_mistakes();
    let outcome = run.close(end, || ())?;
    let logged = vendor.logs().then(|| vcpu.logged());
    let exits_by_kind = vcpu.exits_by_kind();
    // The vCPU and the extension have frames of the host, too.
    drop(vcpu);
    host.maintenance().unregister(root);
    vendor.turn_off(0);
    drop(vendor);
    let pages_written = outcome.pages_written.map(|dirty| PagesWritten { dirty, logged });
    let report =
        Report { exits_by_kind, pages_written, fault_cost: Some(fault_cost), ..report(host, outcome) };
    Ok(Message::Ended(Box::new(report)))
}

/// Lets the guest get on with its work between two rounds of churn beside it.
fn pause() {
    (0..PAUSE).for_each(|_| spin_loop());
}

/// What the run loop and the host tell.
fn report(host: Host, outcome: Outcome) -> Report {
    Report {
        end: outcome.end,
        faults: outcome.faults,
        leaves: outcome.leaves,
        table_pages: outcome.table_pages,
        frames: host.counts(),
        invalidations: host.maintenance().counts(),
        cache_maintenance_frames: host.cache_frames(),
        churn: outcome.churn,
        firmware_calls: outcome.firmware_calls,
        injected_aborts: outcome.injected_aborts,
        exits: outcome.exits,
        exits_by_cpu: outcome.exits_by_cpu,
        uart: outcome.uart,
        buffer_calls: outcome.buffer_calls,
        exits_by_kind: alloc::collections::BTreeMap::new(),
        pages_written: None,
        fault_cost: None,
        screen: outcome.screen,
    }
}
