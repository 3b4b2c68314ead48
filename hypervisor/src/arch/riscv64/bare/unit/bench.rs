//! What a unit guest runs on: a host with frames of its own, spaces, and fences of which some can be left out.

#![expect(unsafe_code, reason = "takes over memory that the parameters describe")]

use super::super::maintenance::Counted;
use super::super::recording::record;
use super::super::{choose_format, this_hart};
use super::{Failure, failed};
use crate::pool::{Maintenance, Pool};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU8, Ordering};
use slat::format::Format as _;
use slat::format::gstage::{Extensions, Fence, Gstage, Mode, fences, vmid};
use slat::{
    AddrSpace, AllocOptions, CacheMaintenance, GuestPhysAddr, HostPhysRange, Invalidation, LeafSize,
    MappingFlags, PAGE_SIZE,
};
use slat_hv_protocol::recording::Event;
use slat_hv_protocol::{Mechanism, Mistake, Params, Started};

/// The failure `$message` unless `$condition` holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($message)+));
        }
    };
}
pub(super) use ensure;

/// A failure that shows both values unless they are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $what:expr) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err(alloc::format!("{}: {left:x?} instead of {right:x?}", $what));
                }
            }
        }
    };
}
pub(super) use ensure_eq;

/// Everything that guest RAM allows.
pub(super) const RAM: MappingFlags =
    MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE).union(MappingFlags::USER);

/// What a pool fills frames with that come back.
pub(super) const POISON: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// The VMID of spaces of which nothing else is said.
pub(super) const VMID: u16 = 7;

/// The host of a unit guest.
pub(super) type Host = &'static Pool<Fenced>;

/// Which fences are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fencing {
    /// What the library asks for, on all harts, as the hypervisor does it.
    Right,
    /// None at all.
    None,
    /// On this hart alone.
    Local,
    /// By the address of [`TARGET`](super::probes::TARGET) and the pages behind it, where all addresses would have to be given.
    ByAddress,
}

impl Fencing {
    const ALL: [Self; 4] = [Self::Right, Self::None, Self::Local, Self::ByAddress];
}

/// The maintenance of the machine, with fences left out on request.
pub(super) struct Fenced {
    right: Counted,
    fencing: AtomicU8,
}

impl Fenced {
    /// From now on fences are executed like this.
    pub(super) fn set(&self, fencing: Fencing) {
        self.fencing.store(fencing as u8, Ordering::Release);
    }

    fn fencing(&self) -> Fencing {
        Fencing::ALL[usize::from(self.fencing.load(Ordering::Acquire)) % Fencing::ALL.len()]
    }
}

impl Maintenance for Fenced {
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        let fencing = self.fencing();
        if fencing == Fencing::Right {
            return self.right.invalidate(invalidation);
        }
        record(Event::Invalidate { root: invalidation.root });
        match fencing {
            Fencing::Right | Fencing::None => {}
            Fencing::Local => fences(invalidation).for_each(fence),
            Fencing::ByAddress => {
                let vmid = Some(vmid(invalidation.root));
                for page in 0..super::probes::PAGES {
                    let address = super::probes::TARGET + page * PAGE_SIZE;
                    fence(Fence { address: Some(address >> 2), vmid });
                }
            }
        }
        record(Event::Invalidated);
    }

    fn is_memory(&self, range: HostPhysRange) -> bool {
        self.right.is_memory(range)
    }

    fn maintain_cache(&self, start: *mut u8, maintenance: &CacheMaintenance) {
        self.right.maintain_cache(start, maintenance);
    }

    fn publish(&self) {
        self.right.publish();
    }

    fn record(&self, event: Event) {
        record(event);
    }
}

pub(super) use super::super::maintenance::fence_here as fence;

/// The machine.
pub(super) struct Bench {
    /// Where frames come from; those that do not come back are reported.
    pub(super) host: Host,
    /// Harts of the machine.
    pub(super) harts: usize,
    /// What is used of their extensions: what changes which instructions fence, and leaves of 64 KiB.
    extensions: Extensions,
}

impl Bench {
    pub(super) fn new(params: &Params, extensions: Extensions) -> Result<Self, String> {
        let harts = params.host_cpus.unwrap_or(params.cpus) as usize;
        let fenced = Fenced { right: Counted::new(Mistake::None, None), fencing: AtomicU8::new(0) };
        // SAFETY: the parameters give this memory to the pool; it was checked to lie apart from the image, and all memory is
        // mapped one to one. The pool of the unit guest before is not used any more.
        let pool = unsafe { Pool::new(params.pool, true, fenced) };
        let extensions = extensions & (Extensions::SVINVAL | Extensions::SVNAPOT);
        Ok(Self { host: Box::leak(Box::new(pool)), harts, extensions })
    }

    pub(super) fn started(&self) -> Started {
        let napot = self.extensions.contains(Extensions::SVNAPOT).then(|| "Svnapot".to_string());
        let features = napot.into_iter().collect();
        Started { mechanism: Mechanism::Gstage, gpa_bits: 41, levels: 3, features, ..Started::default() }
    }

    /// What is executed of the fences from now on.
    pub(super) fn set_fencing(&self, fencing: Fencing) {
        self.host.maintenance().set(fencing);
    }

    /// A space without regions in the smallest mode that there is.
    ///
    /// # Errors
    /// One line.
    pub(super) fn space(&self) -> Result<Space, Failure> {
        self.space_under(VMID)
    }

    /// The same under another VMID.
    ///
    /// # Errors
    /// One line.
    pub(super) fn space_under(&self, vmid: u16) -> Result<Space, Failure> {
        self.space_in(Mode::Sv39x4, vmid)
    }

    /// The same in another mode.
    ///
    /// # Errors
    /// One line.
    pub(super) fn space_in(&self, mode: Mode, vmid: u16) -> Result<Space, Failure> {
        let bits = match mode {
            Mode::Sv39x4 => 41,
            Mode::Sv48x4 => 50,
            Mode::Sv57x4 => 59,
        };
        let format = choose_format(bits, self.extensions)?;
        let size = 1 << format.geometry().gpa_bits;
        let space = AddrSpace::with_format(self.host, format, GuestPhysAddr::new(0), size, vmid);
        Ok(Space(space.map_err(|error| failed("a space", error))?))
    }

    /// The number of the hart on which this does not run, if there is one.
    ///
    /// # Errors
    /// One line.
    pub(super) fn other_hart(&self) -> Result<usize, Failure> {
        ensure!(self.harts == 2, "{} harts instead of 2", self.harts);
        Ok(1 - this_hart())
    }
}

/// An address space.
pub(super) struct Space(AddrSpace<Host, Gstage>);

impl Deref for Space {
    type Target = AddrSpace<Host, Gstage>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Space {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Space {
    /// Maps `size` bytes at `gpa` at once, in leaves of 4 KiB.
    ///
    /// # Errors
    /// One line.
    pub(super) fn map(&mut self, gpa: u64, size: u64, flags: MappingFlags) -> Result<(), Failure> {
        self.map_in(gpa, size, flags, LeafSize::Size4K)
    }

    /// The same in leaves of this size where they fit.
    ///
    /// # Errors
    /// One line.
    pub(super) fn map_in(
        &mut self,
        gpa: u64,
        size: u64,
        flags: MappingFlags,
        largest_leaf: LeafSize,
    ) -> Result<(), Failure> {
        let options = AllocOptions { populate: true, largest_leaf, fault_around: LeafSize::Size4K };
        let mapped = self.0.map_alloc_with(GuestPhysAddr::new(gpa), size, flags, options);
        mapped.map_err(|error| failed("map_alloc", error))
    }

    /// Copies `bytes` into the guest's memory at `gpa`.
    ///
    /// # Errors
    /// One line.
    pub(super) fn load(&self, gpa: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.0.memory().write(GuestPhysAddr::new(gpa), bytes).map_err(|error| failed("load", error))
    }

    /// Writes a number to the 8 bytes at `gpa`.
    ///
    /// # Errors
    /// One line.
    pub(super) fn set_word(&self, gpa: u64, value: u64) -> Result<(), Failure> {
        self.load(gpa, &value.to_le_bytes())
    }

    /// The 8 bytes at `gpa` as a number.
    ///
    /// # Errors
    /// One line.
    pub(super) fn word(&self, gpa: u64) -> Result<u64, Failure> {
        let mut bytes = [0; 8];
        let read = self.0.memory().read(GuestPhysAddr::new(gpa), &mut bytes);
        read.map_err(|error| failed("word", error))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Takes the page at `gpa` away.
    ///
    /// # Errors
    /// One line.
    pub(super) fn unmap_page(&mut self, gpa: u64) -> Result<(), Failure> {
        self.0.unmap(GuestPhysAddr::new(gpa), PAGE_SIZE).map_err(|error| failed("unmap", error))
    }

    /// Gives the page at `gpa` another frame with the same contents; the old one is poisoned.
    ///
    /// # Errors
    /// One line.
    pub(super) fn move_page(&mut self, gpa: u64) -> Result<(), Failure> {
        let moved = self.0.migrate(GuestPhysAddr::new(gpa), PAGE_SIZE);
        ensure_eq!(moved.map_err(|error| failed("migrate", error))?, 1, "pages moved");
        Ok(())
    }

    /// Gives the page at `gpa` other permissions.
    ///
    /// # Errors
    /// One line.
    pub(super) fn protect_page(&mut self, gpa: u64, flags: MappingFlags) -> Result<(), Failure> {
        let changed = self.0.protect(GuestPhysAddr::new(gpa), PAGE_SIZE, flags);
        changed.map_err(|error| failed("protect", error))
    }
}
