//! The run of a kernel, from its image to the report.

use super::console::Keys;
use super::guest_cpus::{RunVcpu, Shared};
use super::machine;
use super::physical::Physical;
use super::vendor::{Host, Intercepts, Vendor};
use super::{MEMORY_MAP, blob, host, say};
use crate::arch::x86_64::acpi;
use crate::arch::x86_64::apic::Signals;
use crate::arch::x86_64::linux::{COMMAND_LINE, GDT, Header, SEGMENTS, ZERO_PAGE};
use crate::arch::x86_64::platform::LOCAL_APIC;
use crate::arch::x86_64::ports;
use crate::arch::x86_64::vcpu::Config;
use crate::cpus::Cpus;
use crate::guest::Content;
use crate::run::{self, Job, Machine, Screen};
use crate::store::Swap;
use crate::vcpu::Vcpu as _;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use slat::format::{Format as _, Geometry};
use slat::{GuestPhysAddr, HostPhysAddr, MappingFlags};
use slat_hv_protocol::{FaultCost, Message, Mistake, PagesWritten, Params, Report, Started};
use slat_x86::cpuid::Policy;

/// Where an old display adapter has the first character of its text screen.
const SCREEN: u64 = 0xb_8000;

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
    if params.cpus > 1 {
        content.add(acpi::TABLES, acpi::tables(params.cpus as usize).leak());
    }

    let host = host(params);
    let vendor = V::detect(host)?;
    if let Some(lacking) = vendor.lacks_without_paging() {
        return Err(format!("the kernel begins without paging, and this CPU has no {lacking}"));
    }
    vendor.turn_on(0).map_err(|error| format!("{} cannot be turned on: {error}", V::NAME))?;
    let format = vendor.format(params.gpa_bits)?;
    let Geometry { levels, gpa_bits, root_tables } = format.geometry();
    let mut space =
        run::space(host, format, 1 << gpa_bits, 0, Swap::default()).map_err(|error| error.to_string())?;
    // Reads pass; what is written could stop the machine's CPUs and is looked at first.
    let (gpa, hpa) = (GuestPhysAddr::new(LOCAL_APIC.address), HostPhysAddr::new(LOCAL_APIC.address));
    space
        .map_linear(gpa, hpa, LOCAL_APIC.size, MappingFlags::READ.union(MappingFlags::DEVICE))
        .map_err(|error| error.to_string())?;
    let root = space.root_register();
    let spaces_cpus = host.maintenance().register(root);
    let cpus: &Cpus = Box::leak(Box::new(Cpus::new(params.cpus as usize, 0..memory, |_| true)));
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
        shared_port: None,
        terminal: params.monitor.then_some(&Keys),
        skip_copies: params.mistake == Mistake::SkippedCopies,
        paging: None,
    };
    let run = Machine::new(space, cpus, job).map_err(|error| error.to_string())?;
    let run: &Machine<'static, Host, V::Format> = Box::leak(Box::new(run));
    say(&Message::Started(Started {
        gpa_bits,
        levels: levels.into(),
        root_tables: root_tables.into(),
        ..vendor.started(&format)
    }));

    let intercepts = Intercepts {
        ports: ports::intercepted(params.monitor),
        log_modifications: true,
        ..Intercepts::default()
    };
    let signals: &Signals = Box::leak(Box::default());
    let config = || -> Result<_, String> {
        Ok(Config {
            vcpu: vendor.vcpu(&intercepts)?,
            hardware: Physical::new(host, spaces_cpus.clone(), run),
            cpus,
            signals,
            // Two runs are to be the same; and a CPU that only claims fast short string moves is found out by Linux.
            policy: Policy { hide_random: true, hide_fast_short_rep_mov: true, ..Policy::default() },
            requests: params.page_requests,
            no_redelivery: params.mistake == Mistake::NoRedelivery,
        })
    };
    let mut vcpus = Vec::new();
    for cpu in 0..cpus.count() {
        vcpus.push(RunVcpu::<V>::new(cpu, config()?));
    }
    let outcome = {
        let shared =
            Shared { vendor: &vendor, host, cpus, machine: run, root, churns: params.churn.is_some() };
        let mut vcpus = vcpus.iter_mut();
        let first = vcpus.next().ok_or("the guest has no CPU")?;
        first.setup(root, GuestPhysAddr::new(layout.kernel), ZERO_PAGE);
        shared.run(first, vcpus.next())?
    };
    let mut fault_cost = FaultCost::default();
    let mut exits_by_kind = BTreeMap::new();
    for vcpu in &vcpus {
        let FaultCost { faults, ticks, run_ticks } = vcpu.fault_cost();
        fault_cost.faults += faults;
        fault_cost.ticks += ticks;
        fault_cost.run_ticks += run_ticks;
        for (kind, count) in vcpu.exits_by_kind() {
            *exits_by_kind.entry(kind).or_default() += count;
        }
    }
    let logged = vendor.logs().then(|| vcpus.iter().map(RunVcpu::<V>::logged).sum());
    // The vCPUs and the extension have frames of the host, too.
    drop(vcpus);
    host.maintenance().unregister(root);
    vendor.turn_off(0);
    drop(vendor);
    let pages_written = outcome.pages_written.map(|dirty| PagesWritten { dirty, logged });
    let told = outcome.report(host, host.maintenance().counts());
    let report = Report { exits_by_kind, pages_written, fault_cost: Some(fault_cost), ..told };
    Ok(Message::Ended(Box::new(report)))
}
