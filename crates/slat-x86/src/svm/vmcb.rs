//! The virtual machine control block: its fields, and which of them the CPU may keep from entry to entry.
//!
//! Invariant: a field that was changed since the last entry has its clean bit clear at the next one; on a CPU that did not
//! run this VMCB last, all are clear (APM vol. 2, "VMCB State Caching").

use crate::frame::Frames;
use crate::state::{Segment, SegmentName, TableRegister};
use slat::{Hal, HostPhysAddr};

/// The clean bits, by what they stand for (APM vol. 2, "VMCB Clean Bits").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Group {
    Intercepts,
    PermissionMaps,
    Asid,
    VirtualInterrupt,
    NestedPaging,
    ControlRegisters,
    DebugRegisters,
    DescriptorTables,
    Segments,
    Cr2,
    LastBranch,
    /// Read at every entry.
    None = 31,
}

/// All groups that are named here.
const ALL_GROUPS: u32 = (1 << (Group::LastBranch as u8 + 1)) - 1;

/// A field: its place, size in bytes and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    offset: u16,
    bytes: u8,
    group: Group,
}

#[cfg(all(test, not(loom)))]
impl Field {
    /// Offset and size.
    pub(super) fn place(self) -> (usize, usize) {
        (self.offset.into(), self.bytes.into())
    }
}

const fn field(offset: u16, bytes: u8, group: Group) -> Field {
    Field { offset, bytes, group }
}

/// APM vol. 2, appendix B, "VMCB Layout, Control Area" and "VMCB Layout, State Save Area".
pub(super) mod fields {
    use super::{Field, Group, field};

    /// Reads of CR0 to 15 in the lower half, writes in the upper one.
    pub(crate) const INTERCEPT_CR: Field = field(0x000, 4, Group::Intercepts);
    pub(crate) const INTERCEPT_EXCEPTIONS: Field = field(0x008, 4, Group::Intercepts);
    pub(crate) const INTERCEPT_1: Field = field(0x00c, 4, Group::Intercepts);
    pub(crate) const INTERCEPT_2: Field = field(0x010, 4, Group::Intercepts);
    pub(crate) const INTERCEPT_3: Field = field(0x014, 4, Group::Intercepts);
    pub(crate) const IOPM_BASE: Field = field(0x040, 8, Group::PermissionMaps);
    pub(crate) const MSRPM_BASE: Field = field(0x048, 8, Group::PermissionMaps);
    pub(crate) const ASID: Field = field(0x058, 4, Group::Asid);
    pub(crate) const TLB_CONTROL: Field = field(0x05c, 1, Group::None);
    pub(crate) const VIRTUAL_INTERRUPT: Field = field(0x060, 8, Group::VirtualInterrupt);
    pub(crate) const INTERRUPT_SHADOW: Field = field(0x068, 8, Group::None);
    pub(crate) const EXIT_CODE: Field = field(0x070, 8, Group::None);
    pub(crate) const EXIT_INFO_1: Field = field(0x078, 8, Group::None);
    pub(crate) const EXIT_INFO_2: Field = field(0x080, 8, Group::None);
    pub(crate) const EXIT_INTERRUPT_INFO: Field = field(0x088, 8, Group::None);
    pub(crate) const NESTED_CONTROL: Field = field(0x090, 8, Group::NestedPaging);
    pub(crate) const EVENT_INJECTION: Field = field(0x0a8, 8, Group::None);
    pub(crate) const NESTED_CR3: Field = field(0x0b0, 8, Group::NestedPaging);
    pub(crate) const CLEAN: Field = field(0x0c0, 4, Group::None);
    pub(crate) const NEXT_RIP: Field = field(0x0c8, 8, Group::None);
    pub(crate) const FETCHED_COUNT: Field = field(0x0d0, 1, Group::None);
    pub(crate) const GDTR: u16 = 0x460;
    pub(crate) const IDTR: u16 = 0x480;
    pub(crate) const CPL: Field = field(0x4cb, 1, Group::Segments);
    pub(crate) const EFER: Field = field(0x4d0, 8, Group::ControlRegisters);
    pub(crate) const CR4: Field = field(0x548, 8, Group::ControlRegisters);
    pub(crate) const CR3: Field = field(0x550, 8, Group::ControlRegisters);
    pub(crate) const CR0: Field = field(0x558, 8, Group::ControlRegisters);
    pub(crate) const DR7: Field = field(0x560, 8, Group::DebugRegisters);
    pub(crate) const DR6: Field = field(0x568, 8, Group::DebugRegisters);
    pub(crate) const RFLAGS: Field = field(0x570, 8, Group::None);
    pub(crate) const RIP: Field = field(0x578, 8, Group::None);
    pub(crate) const RSP: Field = field(0x5d8, 8, Group::None);
    pub(crate) const RAX: Field = field(0x5f8, 8, Group::None);
    pub(crate) const CR2: Field = field(0x640, 8, Group::Cr2);
    pub(crate) const PAT: Field = field(0x668, 8, Group::NestedPaging);
}

/// Where the bytes of an instruction lie that the CPU has kept ("Decode Assists").
const FETCHED_BYTES: usize = 0x0d1;

/// A VMCB in a frame of its own. Its fields are plain memory, read and written by whole words; the CPU writes there only while
/// it executes VMRUN and VMSAVE.
#[derive(Debug)]
pub(super) struct Vmcb<H: Hal> {
    frame: Frames<H>,
    /// The groups that were changed since the last entry.
    changed: u32,
}

impl<H: Hal> Vmcb<H> {
    /// One of zeroes; `None` if the host has no frame.
    pub(super) fn new(hal: H) -> Option<Self> {
        Some(Self { frame: Frames::zeroed(hal, 1)?, changed: ALL_GROUPS })
    }

    pub(super) fn address(&self) -> HostPhysAddr {
        self.frame.address()
    }

    pub(super) fn get(&self, field: Field) -> u64 {
        let (word, shift) = place(field.offset);
        self.frame.word(word) >> shift & mask(field.bytes)
    }

    /// Sets `field`, of which the bits that it has count.
    pub(super) fn set(&mut self, field: Field, value: u64) {
        let (word, shift) = place(field.offset);
        let mask = mask(field.bytes) << shift;
        let old = self.frame.word(word);
        let new = old & !mask | value << shift & mask;
        if new != old {
            self.frame.set_word(word, new);
            self.changed |= 1 << field.group as u8;
        }
    }

    /// Forgets what any CPU has kept.
    pub(super) fn forget_kept(&mut self) {
        self.changed = ALL_GROUPS;
    }

    /// Tells the CPU what is still right; to be called last before the entry. `supported`: the CPU keeps parts at all.
    pub(super) fn set_clean(&mut self, supported: bool) {
        let clean = if supported { ALL_GROUPS & !self.changed } else { 0 };
        self.set(fields::CLEAN, clean.into());
    }

    /// The CPU has read everything.
    pub(super) fn entered(&mut self) {
        self.changed = 0;
    }

    pub(super) fn segment(&self, name: SegmentName) -> Segment {
        let [first, base] = segment_fields(name);
        let low = self.get(first);
        let attributes = (low >> 16) as u32 & 0xfff;
        // Type to P as they are; AVL, L, D/B and G stand in 11:8 here and in 15:12 there.
        let rights = attributes & 0xff | (attributes & 0xf00) << 4;
        let unusable = if attributes & 0x80 == 0 { Segment::UNUSABLE.rights } else { 0 };
        Segment {
            selector: low as u16,
            base: self.get(base),
            limit: (low >> 32) as u32,
            rights: rights | unusable,
        }
    }

    pub(super) fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        let [first, base] = segment_fields(name);
        let usable = segment.rights & Segment::UNUSABLE.rights == 0;
        let attributes = if usable { segment.rights & 0xff | segment.rights >> 4 & 0xf00 } else { 0 };
        let low = u64::from(segment.limit) << 32 | u64::from(attributes) << 16 | u64::from(segment.selector);
        self.set(first, low);
        self.set(base, segment.base);
    }

    /// GDTR or IDTR.
    pub(super) fn table(&self, offset: u16) -> TableRegister {
        let limit = self.get(field(offset + 4, 4, Group::DescriptorTables)) as u16;
        TableRegister { base: self.get(field(offset + 8, 8, Group::DescriptorTables)), limit }
    }

    pub(super) fn set_table(&mut self, offset: u16, table: TableRegister) {
        self.set(field(offset + 4, 4, Group::DescriptorTables), table.limit.into());
        self.set(field(offset + 8, 8, Group::DescriptorTables), table.base);
    }

    /// The bytes of the instruction that the CPU has kept, and how many.
    pub(super) fn fetched(&self) -> ([u8; 15], usize) {
        let count = self.get(fields::FETCHED_COUNT) & 0xf;
        let bytes = core::array::from_fn(|index| {
            let (word, shift) = place((FETCHED_BYTES + index) as u16);
            (self.frame.word(word) >> shift) as u8
        });
        (bytes, count as usize)
    }
}

/// The word of 8 bytes, and the bit in it.
fn place(offset: u16) -> (usize, u32) {
    (usize::from(offset & !7), u32::from(offset & 7) * 8)
}

fn mask(bytes: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(bytes))
}

/// Selector, attributes and limit; base.
fn segment_fields(name: SegmentName) -> [Field; 2] {
    use SegmentName::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};
    let offset = match name {
        Es => 0x400,
        Cs => 0x410,
        Ss => 0x420,
        Ds => 0x430,
        Fs => 0x440,
        Gs => 0x450,
        Ldtr => 0x470,
        Tr => 0x490,
    };
    // The last four are loaded by VMLOAD.
    let group = if matches!(name, Es | Cs | Ss | Ds) { Group::Segments } else { Group::None };
    [field(offset, 8, group), field(offset + 8, 8, group)]
}

#[cfg(all(test, not(loom)))]
mod tests;
