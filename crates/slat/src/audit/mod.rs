//! The audit: whether what guests can reach is what they may reach, over any set of spaces.
//!
//! It looks at the tables as they are in memory, not at what the regions say. **No heap:** the caller lends
//! [`AuditRecord`]s. A first pass over the spaces counts how many are needed, a second one fills them: a record for each
//! run of leaves that continue each other with like permissions, each run of frames that a space keeps for itself, and
//! each range that the caller names. They are sorted by host physical address, and one sweep finds those that overlap.

mod record;
mod violation;

pub use record::AuditRecord;
pub use violation::{AuditError, AuditSite, AuditViolation};

use crate::addr::{GuestPhysRange, HostPhysRange};
use crate::flags::{LeafSize, MappingFlags};
use crate::space::Backend;
use record::{Runs, Traits};

pub(crate) mod sealed {
    /// Only what slat knows to be complete can be audited.
    pub trait Sealed {}
}

/// A space of any host, format and backend, as the audit sees it.
pub trait Audited: sealed::Sealed {
    /// Calls `visit` for every leaf through which the guest can reach host memory now, in ascending order of
    /// guest-physical addresses, and for all frames of the host that the space keeps for itself. One pass over the
    /// table, beside faults.
    fn holdings(&self, visit: &mut dyn FnMut(Holding));

    /// The ranges in which TLBs may still hold what the tables no longer say, because a debt was forgotten; empty
    /// otherwise.
    fn owed(&self) -> &[GuestPhysRange];
}

/// Something that a space gives its guest or keeps for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// A leaf through which the guest reaches host memory.
    Leaf(ReachableLeaf),
    /// Frames that hold the root, a table (a retired one too) or regions, or are kept ready for that.
    OwnFrames(HostPhysRange),
}

/// A present leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReachableLeaf {
    /// The guest-physical addresses.
    pub gpa: GuestPhysRange,
    /// The host physical addresses, as many.
    pub hpa: HostPhysRange,
    /// Size of the leaf.
    pub size: LeafSize,
    /// Permissions and memory type, as the hardware applies them.
    pub flags: MappingFlags,
    /// Whether the guest can execute there in any mode: by `EXECUTE` or, where the format separates the modes, `USER`.
    pub executable: bool,
    /// Whether the frames belong to the space and go back to the host with it.
    pub owned: bool,
    /// The backend of the region around it; `None` if it is in no region, which never happens.
    pub backend: Option<Backend>,
}

/// A space to be audited.
#[derive(Clone, Copy)]
pub struct AuditedSpace<'s> {
    /// The space.
    pub space: &'s dyn Audited,
    /// Whether no page of it may be both writable and executable.
    pub write_xor_execute: bool,
}

/// An audit of a set of spaces, each of which stands for one guest.
///
/// ```
/// use slat::{AddrSpace, Audit, AuditRecord, AuditViolation, AuditedSpace, GuestPhysAddr, HostPhysAddr, HostPhysRange};
/// use slat::{MappingFlags, test_util::HeapHal};
///
/// let (a, b) = (GuestPhysAddr::new(0), GuestPhysAddr::new(0x4000));
/// let rw = MappingFlags::READ | MappingFlags::WRITE;
/// let host = HeapHal::new(); // yours
/// let mut first: AddrSpace<&HeapHal> = AddrSpace::with_format(&host, Default::default(), a, 1 << 30, 1)?;
/// let mut second: AddrSpace<&HeapHal> = AddrSpace::with_format(&host, Default::default(), a, 1 << 30, 2)?;
/// first.map_linear(a, HostPhysAddr::new(0x10_0000), 0x8000, rw)?;
/// second.map_linear(b, HostPhysAddr::new(0x10_6000), 0x8000, rw)?; // overlaps by two pages
///
/// let spaces = [&first, &second].map(|space| AuditedSpace { space, write_xor_execute: true });
/// let secret = [HostPhysRange::new(HostPhysAddr::new(0x20_0000), 0x1000)?];
/// let audit = Audit { spaces: &spaces, reserved: &secret, shared: &[] };
/// let mut scratch = [AuditRecord::default(); 64];
/// assert!(audit.records() <= scratch.len());
/// let mut two_writers = 0;
/// audit.run(&mut scratch, |violation| match violation {
///     AuditViolation::TwoWriters { first, second } => {
///         assert_eq!((first.space, first.gpa.start()), (0, GuestPhysAddr::new(0x6000)));
///         assert_eq!((second.space, second.gpa.start()), (1, b));
///         two_writers += 1;
///     }
///     other => println!("{other}"),
/// })?;
/// assert_eq!(two_writers, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Audit<'a> {
    /// The spaces. Those of one guest (for another privilege level, say) may share memory that is declared.
    pub spaces: &'a [AuditedSpace<'a>],
    /// Host physical memory that no guest may reach: the hypervisor itself, its devices.
    pub reserved: &'a [HostPhysRange],
    /// Host physical memory that several spaces may write to. Regions of shared memory ([`Backend::Shared`]) are known as
    /// such among each other, and need not be declared.
    pub shared: &'a [HostPhysRange],
}

impl Audit<'_> {
    /// How many records [`run`](Self::run) needs at this moment: never more than there are leaves, frames of tables and
    /// regions, and ranges. One pass over all tables. A fault that is answered meanwhile may add one or two.
    #[must_use]
    pub fn records(&self) -> usize {
        let mut count = 0;
        self.collect(&mut |_| count += 1);
        count
    }

    /// Looks for violations, calls `report` for each and returns how many there are. `scratch` may hold anything.
    ///
    /// Leaves that continue each other are one violation, not one each. Two overlapping violations are both reported: a
    /// frame that three spaces can write makes three pairs. **Only two writers are a violation:** that one space reads
    /// what another one writes is how rings and read-only views are made, and only the caller knows whether it is meant.
    /// Where faults are answered meanwhile, each leaf is seen as it was at some moment of the audit.
    ///
    /// Costs two passes over all tables, then O(n log n) for n records, and O(log n) for each pair of records that
    /// overlap. No effect on TLBs; takes no memory.
    ///
    /// # Errors
    /// [`AuditError::TooFewRecords`] with the number that is needed; nothing was reported.
    pub fn run(
        &self,
        scratch: &mut [AuditRecord],
        mut report: impl FnMut(AuditViolation),
    ) -> Result<usize, AuditError> {
        let (given, mut needed) = (scratch.len(), 0);
        self.collect(&mut |record| {
            if let Some(place) = scratch.get_mut(needed) {
                *place = record;
            }
            needed += 1;
        });
        let Some(records) = scratch.get_mut(..needed) else {
            return Err(AuditError::TooFewRecords { given, needed });
        };
        records.sort_unstable();
        let declared = records.partition_point(|record| record.traits.contains(Traits::DECLARED));
        let (declared, records) = records.split_at_mut(declared);
        let declared = record::join(declared);

        let mut count = 0;
        let mut report = |violation| {
            count += 1;
            report(violation);
        };
        for (space, audited) in self.spaces.iter().enumerate() {
            for gpa in audited.space.owed() {
                report(AuditViolation::Unsettled { space, gpa: *gpa });
            }
        }
        for (index, record) in records.iter().enumerate() {
            if let Some(violation) = self.judge(record) {
                report(violation);
            }
            let behind = records.iter().skip(index + 1);
            for other in behind.take_while(|other| other.start < record.end) {
                record::judge_pair(record, other, declared, &mut report);
            }
        }
        Ok(count)
    }

    /// What is wrong with a record by itself.
    fn judge(&self, record: &AuditRecord) -> Option<AuditViolation> {
        let both = Traits::LEAF.union(Traits::WRITABLE).union(Traits::EXECUTABLE);
        let asked = self.spaces.get(record.space as usize).is_some_and(|space| space.write_xor_execute);
        (asked && record.traits.contains(both))
            .then(|| AuditViolation::WriteAndExecute(record.site(record.range())))
    }

    /// Calls `sink` for every record.
    fn collect(&self, sink: &mut dyn FnMut(AuditRecord)) {
        for range in self.reserved {
            sink(AuditRecord::of_range(*range, Traits::RESERVED));
        }
        for range in self.shared {
            sink(AuditRecord::of_range(*range, Traits::DECLARED));
        }
        for (space, audited) in (0..).zip(self.spaces) {
            let mut leaves = Runs::default();
            let mut frames = Runs::default();
            audited.space.holdings(&mut |holding| match holding {
                Holding::Leaf(leaf) => leaves.add(AuditRecord::of_leaf(space, &leaf), sink),
                Holding::OwnFrames(range) => {
                    let record = AuditRecord { space, ..AuditRecord::of_range(range, Traits::OWN_FRAMES) };
                    frames.add(record, sink);
                }
            });
            leaves.end(sink);
            frames.end(sink);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
