//! What is to be run, and the regions that it has.

use super::paging::Paging;
use super::shared_port::SHARED;
use super::uart::UART;
use super::{DEVICE, RAM, Screen, SharedPort, Space};
use crate::guest::{Content, Device};
use crate::monitor::terminal::Terminal;
use crate::pool::Host;
use slat::format::Format;
use slat::{AllocOptions, GuestPhysAddr, HostPhysAddr, MapError};
use slat_hv_protocol::{FaultPolicy, Leaf};

/// What is to be run.
#[derive(Clone)]
pub struct Job<'a> {
    /// Guest-physical address of RAM.
    pub ram: u64,
    /// Bytes of guest RAM.
    pub memory: u64,
    /// What lies in it at the beginning.
    pub content: Content<'a>,
    /// The devices that the guest drives.
    pub devices: &'a [Device],
    /// The largest leaf of guest RAM.
    pub leaf: Leaf,
    /// Whether [`Leaf::Auto`] is a large leaf where one fits: not on an emulator whose TLB is the worse for it.
    pub large_leaves_suit: bool,
    /// The answer to accesses that are nobody's.
    pub on_fault: FaultPolicy,
    /// Churn, if wanted.
    pub churn: Option<slat_hv_protocol::Churn>,
    /// Where the emulated serial port lies, if there is to be one.
    pub uart: Option<Device>,
    /// The guest's text screen, if it has one.
    pub screen: Option<Screen>,
    /// The machine's own serial port, if the guest drives it through the hypervisor.
    pub shared_port: Option<SharedPort<'a>>,
    /// The console, if a key on it opens the monitor.
    pub terminal: Option<&'a dyn Terminal>,
    /// A mistake on purpose: of the pages that churn moves, one in 50 loses its contents.
    pub skip_copies: bool,
    /// How its RAM is paged, if it is: its space has a pager then.
    pub paging: Option<Paging>,
}

/// Maps the RAM and the devices of `job` into `space`.
pub(super) fn map<H: Host, F: Format>(
    space: &mut Space<'_, H, F>,
    job: &Job<'_>,
    ram_options: AllocOptions,
) -> Result<(), MapError> {
    let ram = GuestPhysAddr::new(job.ram);
    match job.paging {
        Some(Paging { guest, .. }) => space.map_paged(ram, guest, 0, job.memory, RAM)?,
        None => space.map_alloc_with(ram, job.memory, RAM, ram_options)?,
    }
    for &Device { address, size, .. } in job.devices {
        space.map_linear(GuestPhysAddr::new(address), HostPhysAddr::new(address), size, DEVICE)?;
    }
    if let Some(Device { address, size, .. }) = job.uart {
        space.map_trap(GuestPhysAddr::new(address), size, UART)?;
    }
    if let Some(SharedPort { device: Device { address, size, .. }, .. }) = job.shared_port {
        space.map_trap(GuestPhysAddr::new(address), size, SHARED)?;
    }
    Ok(())
}
