//! The naive side: one byte for each address, and for each page what it is. One can see that it is right.

#![expect(unsafe_code, reason = "gives the linear frames back")]

use super::FOREIGN;
use slat::device::DeviceId;
use slat::format::Format;
use slat::test_util::HeapHal;
use slat::{
    AccessError, AccessRefusal, AddrSpace, AllocOptions, FaultError, GuestPhysAddr, Hal, HostPhysAddr,
    LeafSize, MappingFlags, PAGE_SIZE,
};

/// Bytes of the space.
pub(super) const SIZE: u64 = 8 << 20;
/// What is compared at once in the end.
pub(super) const ALIGNED: u64 = PAGE_SIZE;
/// Frames of linear memory that the host reaches.
pub(super) const LINEAR_FRAMES: usize = 4;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Hole,
    /// Memory with these permissions; `coherent` says that the guest reaches it through the caches.
    Memory {
        read: bool,
        write: bool,
        coherent: bool,
    },
    Device,
    /// Memory of the caller that the host does not reach.
    Foreign,
}

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

/// First page, pages, what it is: an address space with everything in it that can be in the way.
const LAYOUT: [(u64, u64, Kind); 9] = [
    (2, 4, Kind::Memory { read: true, write: true, coherent: true }),
    (6, 2, Kind::Memory { read: true, write: false, coherent: true }),
    // A hole of one page, then two regions beside each other.
    (9, 3, Kind::Memory { read: true, write: true, coherent: true }),
    (12, 4, Kind::Memory { read: true, write: true, coherent: true }),
    (16, 1, Kind::Device),
    (17, 1, Kind::Device),
    (18, 2, Kind::Memory { read: true, write: true, coherent: false }),
    (20, 2, Kind::Foreign),
    // A leaf of 2 MiB, and a page behind it.
    (512, 513, Kind::Memory { read: true, write: true, coherent: true }),
];

/// The part of the layout that is linear memory, and a trap region.
const LINEAR: u64 = 12;
const TRAP: u64 = 17;
/// Where write-only memory is, on the format that has it.
const WRITE_ONLY: (u64, u64) = (24, 2);

/// Addresses where something begins or ends.
pub(super) const EDGES: [u64; 20] = [
    0,
    2 << 12,
    3 << 12,
    6 << 12,
    8 << 12,
    9 << 12,
    12 << 12,
    13 << 12,
    16 << 12,
    17 << 12,
    18 << 12,
    19 << 12,
    20 << 12,
    22 << 12,
    24 << 12,
    26 << 12,
    512 << 12,
    1024 << 12,
    1025 << 12,
    SIZE,
];

/// The layout on one format.
pub(super) struct Layout {
    kinds: Vec<Kind>,
    write_only: bool,
}

impl Layout {
    pub(super) fn of<F: Format>(format: &F) -> Self {
        let write_only = format.check_flags(MappingFlags::WRITE).is_ok();
        // x86 and RISC-V keep their caches coherent.
        let coherent =
            format.cache_actions(slat::format::CacheEvent::ToGuest(RW | MappingFlags::UNCACHED)).is_empty();
        let mut kinds = vec![Kind::Hole; (SIZE / PAGE_SIZE) as usize];
        let mut put =
            |first: u64, pages: u64, kind| kinds[first as usize..(first + pages) as usize].fill(kind);
        for (first, pages, kind) in LAYOUT {
            put(
                first,
                pages,
                match kind {
                    Kind::Memory { read, write, coherent: false } => Kind::Memory { read, write, coherent },
                    kind => kind,
                },
            );
        }
        if write_only {
            put(WRITE_ONLY.0, WRITE_ONLY.1, Kind::Memory { read: false, write: true, coherent: true });
        }
        Self { kinds, write_only }
    }

    /// The space, with nothing populated.
    pub(super) fn space<'h, F: Format>(
        &self,
        hal: &'h HeapHal,
        format: F,
        linear: HostPhysAddr,
    ) -> AddrSpace<&'h HeapHal, F> {
        let mut space =
            AddrSpace::with_format(hal, format, GuestPhysAddr::new(0), SIZE, 1).expect("an empty space");
        let small = AllocOptions { largest_leaf: LeafSize::Size4K, ..AllocOptions::default() };
        for (first, pages, kind) in LAYOUT {
            let (gpa, size) = (GuestPhysAddr::new(first * PAGE_SIZE), pages * PAGE_SIZE);
            let mapped = match kind {
                Kind::Hole => Ok(()),
                Kind::Device if first == TRAP => space.map_trap(gpa, size, DeviceId(1)),
                Kind::Device => space.map_linear(gpa, FOREIGN, size, RW | MappingFlags::DEVICE),
                Kind::Foreign => space.map_linear(gpa, FOREIGN, size, RW),
                Kind::Memory { .. } if first == LINEAR => space.map_linear(gpa, linear, size, RW),
                Kind::Memory { write: false, .. } => {
                    space.map_alloc_with(gpa, size, MappingFlags::READ, small)
                }
                Kind::Memory { coherent: false, .. } => {
                    space.map_alloc_with(gpa, size, RW | MappingFlags::UNCACHED, small)
                }
                Kind::Memory { .. } => space.map_alloc(gpa, size, RW, false),
            };
            mapped.expect("nothing is in the way");
        }
        if self.write_only {
            let (gpa, size) = (GuestPhysAddr::new(WRITE_ONLY.0 * PAGE_SIZE), WRITE_ONLY.1 * PAGE_SIZE);
            space.map_alloc_with(gpa, size, MappingFlags::WRITE, small).expect("nothing is in the way");
        }
        space
    }

    /// Gives the linear frames back.
    pub(super) fn release(&self, hal: &HeapHal, linear: HostPhysAddr) {
        // SAFETY: they were taken from this host, and the space that mapped them is gone.
        unsafe { hal.dealloc_frames(linear, LINEAR_FRAMES) };
    }
}

/// Why an access stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Wraps,
    Outside,
    Hole,
    Permission,
    Device,
    Foreign,
    Unaligned,
    NotCoherent,
}

/// An access stops after so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) done: u64,
    pub(super) reason: Reason,
}

impl Refused {
    /// Whether slat says the same of an access that begins at `at`.
    pub(super) fn is(self, error: &AccessError, at: u64) -> bool {
        let gpa = GuestPhysAddr::new(at.wrapping_add(self.done));
        let reason = match error.reason {
            AccessRefusal::Wraps => Reason::Wraps,
            AccessRefusal::Fault(FaultError::OutsideSpace { gpa: inner, .. }) if inner == gpa => {
                Reason::Outside
            }
            AccessRefusal::Fault(FaultError::NoRegion(inner)) if inner == gpa => Reason::Hole,
            AccessRefusal::Fault(FaultError::Permission { gpa: inner, .. }) if inner == gpa => {
                Reason::Permission
            }
            AccessRefusal::Device => Reason::Device,
            AccessRefusal::Unreachable => Reason::Foreign,
            AccessRefusal::Unaligned => Reason::Unaligned,
            AccessRefusal::NotCoherent => Reason::NotCoherent,
            _ => return false,
        };
        (error.gpa, error.done, reason) == (gpa, self.done, self.reason)
    }
}

/// The bytes.
pub(super) struct Oracle<'l> {
    layout: &'l Layout,
    bytes: Vec<u8>,
}

impl<'l> Oracle<'l> {
    pub(super) fn new(layout: &'l Layout) -> Self {
        Self { layout, bytes: vec![0; SIZE as usize] }
    }

    /// Whether the page of an address can be accessed.
    fn page(&self, at: u64, read: bool, write: bool) -> Result<Kind, Reason> {
        let kind = *self.layout.kinds.get((at / PAGE_SIZE) as usize).ok_or(Reason::Outside)?;
        match kind {
            Kind::Hole => Err(Reason::Hole),
            Kind::Device => Err(Reason::Device),
            Kind::Foreign => Err(Reason::Foreign),
            Kind::Memory { read: may_read, write: may_write, .. } => {
                if read && !may_read || write && !may_write { Err(Reason::Permission) } else { Ok(kind) }
            }
        }
    }

    /// How far an access gets: address by address, but a page at once.
    pub(super) fn check(&self, at: u64, size: u64, write: bool) -> Result<(), Refused> {
        if u128::from(at) + u128::from(size) > 1 << 64 {
            return Err(Refused { done: 0, reason: Reason::Wraps });
        }
        let mut done = 0;
        while done < size {
            self.page(at + done, !write, write).map_err(|reason| Refused { done, reason })?;
            done += PAGE_SIZE - (at + done) % PAGE_SIZE;
        }
        Ok(())
    }

    /// The bytes of an access that gets so far.
    fn reached(&mut self, at: u64, size: u64, result: Result<(), Refused>) -> &mut [u8] {
        let bytes = result.map_or_else(|refused| refused.done, |()| size);
        if bytes == 0 { &mut [] } else { &mut self.bytes[at as usize..(at + bytes) as usize] }
    }

    pub(super) fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), Refused> {
        let result = self.check(at, bytes.len() as u64, false);
        let reached = self.reached(at, bytes.len() as u64, result);
        bytes[..reached.len()].copy_from_slice(reached);
        result
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Refused> {
        let result = self.check(at, bytes.len() as u64, true);
        let reached = self.reached(at, bytes.len() as u64, result);
        let length = reached.len();
        reached.copy_from_slice(&bytes[..length]);
        result
    }

    pub(super) fn fill(&mut self, at: u64, size: u64, byte: u8) -> Result<(), Refused> {
        let result = self.check(at, size, true);
        self.reached(at, size, result).fill(byte);
        result
    }

    /// Byte after byte, upwards. `true` in an error is the side that is copied from.
    pub(super) fn copy(&mut self, from: u64, to: u64, size: u64) -> Result<(), (bool, Refused)> {
        let (read, write) = (self.check(from, size, false), self.check(to, size, true));
        let result = match (read, write) {
            (Err(refused), _) if refused.reason == Reason::Wraps => Err((true, refused)),
            (_, Err(refused)) if refused.reason == Reason::Wraps => Err((false, refused)),
            (Err(read), Err(write)) if write.done < read.done => Err((false, write)),
            (Err(read), _) => Err((true, read)),
            (Ok(()), Err(write)) => Err((false, write)),
            (Ok(()), Ok(())) => Ok(()),
        };
        let bytes = result.map_or_else(|(_, refused)| refused.done, |()| size);
        for offset in 0..bytes {
            self.bytes[(to + offset) as usize] = self.bytes[(from + offset) as usize];
        }
        result
    }

    /// The bytes of a word that an atomic access finds.
    pub(super) fn atomic(&mut self, at: u64, size: u64, read: bool, write: bool) -> Result<Vec<u8>, Refused> {
        let refused = |reason| Refused { done: 0, reason };
        if at % size != 0 {
            return Err(refused(Reason::Unaligned));
        }
        let kind = self.page(at, read, write).map_err(refused)?;
        if let Kind::Memory { coherent: false, .. } = kind {
            return Err(refused(Reason::NotCoherent));
        }
        Ok(self.bytes[at as usize..(at + size) as usize].to_vec())
    }
}
