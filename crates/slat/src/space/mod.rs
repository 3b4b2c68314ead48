//! [`AddrSpace`]: the guest-physical address space of one guest.
//!
//! Regions say what should be mapped; the table says what is. **Invariants.** An entry of the table lies in a region
//! and carries its flags. Structural operations take `&mut self`, check everything, take every frame that they will
//! need, and only then change anything: on an error the space is as it was. [`handle_page_fault`] and all reading
//! take `&self` and run beside each other.
//!
//! [`handle_page_fault`]: AddrSpace::handle_page_fault

mod access;
mod age;
mod backend;
mod change;
mod debt;
mod discard;
mod faults;
mod fork;
mod guest_walk;
mod holdings;
mod lend;
mod log;
mod observe;
mod page_out;
mod pins;
mod populate;
mod query;
mod regions;

pub use access::{
    AccessError, AccessRefusal, AtomicWord, CopyError, GuestBuffer, GuestMemory, GuestObject, GuestPiece,
    Zeroed,
};
pub use backend::{
    Backend, BackendError, BackendPage, CustomBackend, NoBackend, Pager, PagerBackend, SharedId,
    SharedMemory, SharedMemoryError,
};
pub use change::AllocOptions;
pub use debt::Debt;
pub use fork::Snapshot;
pub use page_out::PagedOut;
pub use query::Stats;
pub use regions::Region;

use crate::addr::{GuestPhysAddr, GuestPhysRange, HostPhysAddr, PAGE_SIZE};
use crate::error::{BadRange, CreateError};
use crate::format::{Format, Native};
use crate::hal::Hal;
use crate::observe::Begin;
use crate::operation::Operation;
use crate::table::Table;
use crate::tlb::{Pending, TagError, TagPool};
use backend::Attached;
use core::fmt;
use regions::Regions;

/// A guest-physical address space behind second-level address translation.
///
/// `H` is the host, `F` the table format. Dropping the space invalidates it on every CPU and gives every frame back
/// to the host or backend that it came from; no CPU may have its root loaded any more. Pins do not outlive it.
///
/// ```
/// use slat::{AddrSpace, GuestPhysAddr, MappingFlags, test_util::HeapHal};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut addr_space = AddrSpace::<HeapHal>::new_empty(GuestPhysAddr::from_usize(0x10000), 0x10000)?;
///
/// let vaddr = GuestPhysAddr::from_usize(0x18000);
/// let flags = MappingFlags::READ | MappingFlags::WRITE;
/// addr_space.map_alloc(vaddr, 0x2000, flags, true)?; // 8 KiB, at once
///
/// let paddr = addr_space.translate(vaddr).expect("it was populated");
/// println!("GPA {vaddr:#x} is HPA {paddr:#x}");
///
/// // Lazily: the first access faults, and the handler of the VM exit populates the page.
/// let lazy = GuestPhysAddr::from_usize(0x1c000);
/// addr_space.map_alloc(lazy, 0x1000, flags, false)?;
/// assert_eq!(addr_space.translate(lazy), None);
/// addr_space.handle_page_fault(lazy, MappingFlags::WRITE)?;
/// assert!(addr_space.translate(lazy).is_some());
/// # Ok(())
/// # }
/// ```
pub struct AddrSpace<H: Hal, F: Format = Native, B: CustomBackend = NoBackend> {
    backend: B,
    shared: Attached<H>,
    /// Whether a region ever had frames that go back elsewhere than to the host.
    lent: bool,
    /// Whether leaves may lack what their regions have: permissions, logged or not, or that they are there, being idle.
    held: bool,
    table: Table<H, F>,
    regions: Regions,
    pending: Pending,
    range: GuestPhysRange,
    /// Where [`evict`](Self::evict) goes on looking.
    hand: GuestPhysAddr,
}

impl<H: Hal + Default, F: Format + Default> AddrSpace<H, F> {
    /// An empty space of `size` bytes from `base` on, with the default host, the default format and tag 0. See
    /// [`with_format`](Self::with_format).
    ///
    /// # Errors
    /// As [`with_format`](Self::with_format).
    pub fn new_empty(base: GuestPhysAddr, size: u64) -> Result<Self, CreateError> {
        Self::with_format(H::default(), F::default(), base, size, 0)
    }
}

impl<H: Hal, F: Format> AddrSpace<H, F> {
    /// An empty space of `size` bytes from `base` on, both multiples of 4 KiB, in tables of `format` from `hal`.
    /// `tag` is the VMID under which the TLBs keep its translations: no TLB may hold anything of that tag. More spaces
    /// than VMIDs take theirs from a [`TagPool`]: see [`activate`](Self::activate).
    ///
    /// Takes the frames of the root and nothing else.
    ///
    /// # Errors
    /// [`CreateError::BadRange`], [`CreateError::TooWide`] if the format cannot translate the last address,
    /// [`CreateError::TagTooWide`], [`CreateError::OutOfMemory`].
    pub fn with_format(
        hal: H,
        format: F,
        base: GuestPhysAddr,
        size: u64,
        tag: u16,
    ) -> Result<Self, CreateError> {
        Self::with_backend(hal, format, base, size, tag, NoBackend)
    }
}

impl<H: Hal, F: Format, B: CustomBackend> AddrSpace<H, F, B> {
    /// As [`with_format`](AddrSpace::with_format), with a backend of the caller's own for
    /// [`map_custom`](Self::map_custom): a value that the space owns, or a reference, also a `&dyn CustomBackend`.
    ///
    /// # Errors
    /// As [`with_format`](AddrSpace::with_format).
    pub fn with_backend(
        hal: H,
        format: F,
        base: GuestPhysAddr,
        size: u64,
        tag: u16,
        backend: B,
    ) -> Result<Self, CreateError> {
        let range = aligned_range(base, size)?;
        let geometry = format.geometry();
        if range.end() > geometry.limit() {
            return Err(CreateError::TooWide { range, gpa_bits: geometry.gpa_bits });
        }
        if u32::from(tag) >> format.tag_bits() != 0 {
            return Err(CreateError::TagTooWide { tag, tag_bits: format.tag_bits() });
        }
        let table = Table::new(hal, format, tag).ok_or(CreateError::OutOfMemory)?;
        let (shared, regions) = (Attached::new(), Regions::new());
        Ok(Self {
            backend,
            shared,
            lent: false,
            held: false,
            table,
            regions,
            pending: Pending::NONE,
            range,
            hand: base,
        })
    }

    /// The host.
    pub fn hal(&self) -> &H {
        self.table.hal()
    }

    /// The format.
    pub fn format(&self) -> &F {
        self.table.format()
    }

    /// The backend of [`map_custom`](Self::map_custom) regions.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// First guest-physical address of the space.
    pub fn base(&self) -> GuestPhysAddr {
        self.range.start()
    }

    /// Size of the space in bytes.
    pub fn size(&self) -> u64 {
        self.range.size()
    }

    /// The guest-physical addresses of the space.
    pub fn range(&self) -> GuestPhysRange {
        self.range
    }

    /// Host physical address of the root table.
    pub fn root(&self) -> HostPhysAddr {
        self.table.root()
    }

    /// The VMID that the space has now.
    pub fn tag(&self) -> u16 {
        self.table.tag().number()
    }

    /// Prepares CPU `cpu`, on which this runs, for entering the space: gives it a tag from `tags` if it has none of the
    /// present generation, and drops what the CPU remembers where tags get new owners. Returns the value to load into
    /// the root register; it holds until the CPU activates another space of these tags, or
    /// [`deactivate`](TagPool::deactivate)s.
    ///
    /// To be called with interrupts that could enter a guest off, before each entry or whenever the CPU changes
    /// spaces. All spaces that run on these CPUs take their tags from one pool; the tag that the space was made with is
    /// replaced by the first one. RISC-V: `HFENCE.VVMA` after hgatp was written if it changed, because a VMID may have
    /// belonged to another guest.
    ///
    /// # Errors
    /// [`TagError::NoSuchCpu`].
    pub fn activate<T: Hal>(&self, tags: &TagPool<T>, cpu: usize) -> Result<u64, TagError> {
        let activation = tags.activate(cpu, self.table.tag())?;
        if activation.flush {
            self.table.invalidate_all_spaces_locally();
        }
        Ok(self.format().root_register(self.root(), activation.tag))
    }

    /// The value of the register that points the hardware to this space (Arm: VTTBR_EL2, the VMID included).
    pub fn root_register(&self) -> u64 {
        self.table.root_register()
    }

    /// The regions in ascending order.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.regions.iter()
    }

    fn checked_range(&self, gpa: GuestPhysAddr, size: u64) -> Result<GuestPhysRange, BadRange> {
        let range = aligned_range(gpa, size)?;
        if self.range.contains_range(range) {
            Ok(range)
        } else {
            Err(BadRange::OutsideSpace { range, space: self.range })
        }
    }
}

impl<H: Hal, F: Format, B: CustomBackend> Drop for AddrSpace<H, F, B> {
    fn drop(&mut self) {
        // The table invalidates the whole space and frees itself when it is dropped, after this.
        let begin = Begin::now(self.hal());
        self.take_back_all();
        self.regions.clear(self.table.hal());
        self.over(begin, Operation::Drop, self.whole(), || Ok(0));
    }
}

impl<H: Hal, F: Format, B: CustomBackend> fmt::Debug for AddrSpace<H, F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddrSpace")
            .field("range", &self.range)
            .field("format", self.table.format())
            .field("root", &self.table.root())
            .field("tag", &self.tag())
            .field("regions", &self.regions)
            .finish()
    }
}

fn aligned_range(start: GuestPhysAddr, size: u64) -> Result<GuestPhysRange, BadRange> {
    let range = GuestPhysRange::new(start, size).map_err(|reason| BadRange::Malformed { start, reason })?;
    if range.is_aligned(PAGE_SIZE) { Ok(range) } else { Err(BadRange::Unaligned(range)) }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests;
