//! The recording of a run: what the hypervisor stored into tables, executed and gave away, in order.
//!
//! In the machine's memory lies an area of 64-bit words: first the number of events that were recorded, or would have been
//! had there been room; then three words for each event. The order of events is that in which CPUs claimed their places:
//! a store is recorded after it was made, a TLBI before it is executed and a barrier after, so that a recording
//! never claims more maintenance than there was.
//!
//! On x86 invalidations are of one CPU, and a CPU outside of its guest uses no translation of it. So there INVEPT and INVVPID
//! are recorded before they are executed, [`Event::Enter`] or [`Event::Vmrun`] before the entry but after the CPU has said
//! that it is inside, and [`Event::Exit`] after the exit but before it says that it is outside: a CPU is never shown outside while
//! it is inside.
//!
//! On RISC-V fences are of one hart, too: HFENCE.GVMA and HINVAL.GVMA are recorded before they are executed. What the firmware
//! executes on other harts is recorded as [`Event::RemoteFence`] when its call has returned, and hgatp as [`Event::Load`] before it
//! is written, as [`Event::Unload`] after it was cleared.

use core::sync::atomic::{AtomicU64, Ordering};

/// Words of an event.
pub const EVENT_WORDS: usize = 3;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An entry of a table was written.
    Store {
        /// Its host physical address.
        entry: u64,
        /// Its new value.
        value: u64,
    },
    /// An instruction of TLB maintenance, or a barrier.
    Maintenance {
        /// Which.
        operation: Operation,
        /// Its operand, 0 where it takes none.
        operand: u64,
    },
    /// The CPU loaded a guest's root register.
    Load {
        /// VTTBR_EL2, or hgatp.
        root: u64,
    },
    /// The CPU has no guest's table loaded any more.
    Unload,
    /// A sequence of maintenance begins, under the tag of this root register.
    Invalidate {
        /// VTTBR_EL2, or hgatp.
        root: u64,
    },
    /// The sequence of maintenance is complete.
    Invalidated,
    /// The CPU enters the guest (Intel: VM entry; RISC-V: SRET).
    Enter,
    /// The guest's access faulted.
    Fault {
        /// The guest-physical address.
        gpa: u64,
        /// Bit 0 read, 1 write, 2 execute; bit 8 the walk of the guest's own table.
        access: u64,
    },
    /// Frames of 4 KiB were taken from the pool.
    Take {
        /// Host physical address of the first.
        start: u64,
        /// How many.
        count: u64,
    },
    /// Frames were given back to the pool.
    Return {
        /// Host physical address of the first.
        start: u64,
        /// How many.
        count: u64,
    },
    /// The host zeroed frames.
    Zero {
        /// Host physical address of the first.
        start: u64,
        /// How many.
        count: u64,
    },
    /// Frames were cleaned and invalidated to the point of coherency.
    Clean {
        /// Host physical address of the first.
        start: u64,
        /// How many.
        count: u64,
    },
    /// Intel: INVEPT.
    Invept {
        /// The type: 1 single-context, 2 all-context.
        kind: u8,
        /// The EPT pointer of the descriptor.
        eptp: u64,
    },
    /// Intel: INVVPID.
    Invvpid {
        /// The type: 0 individual-address, 1 single-context, 2 all-context, 3 single-context-retaining-globals.
        kind: u8,
        /// The VPID of the descriptor.
        vpid: u16,
        /// The linear address of the descriptor.
        linear: u64,
    },
    /// x86: the root register that the CPU's entries have from now on, and its tag.
    LoadTagged {
        /// EPTP or nCR3.
        root: u64,
        /// VPID or ASID.
        tag: u32,
    },
    /// AMD: the CPU enters the guest.
    Vmrun {
        /// TLB_CONTROL of the VMCB.
        tlb_control: u8,
    },
    /// x86 and RISC-V: the CPU has left the guest.
    Exit,
    /// Intel: the page-modification log had an entry for this page.
    Logged {
        /// The guest-physical address.
        gpa: u64,
    },
    /// RISC-V: a fence of G-stage translations, on the hart that executes it.
    Fence {
        /// Which.
        kind: FenceKind,
        /// rs1, the guest-physical address shifted right by 2; `None` for x0.
        address: Option<u64>,
        /// rs2; `None` for x0.
        vmid: Option<u16>,
    },
    /// RISC-V: HFENCE.GVMA on other harts, by SBI RFENCE.
    RemoteFence {
        /// The harts, bit n for CPU n.
        harts: u8,
        /// The VMID; `None` for all of them.
        vmid: Option<u16>,
        /// The first guest-physical address, as it was passed.
        start: u64,
        /// Bytes, as they were passed.
        size: u64,
    },
}

/// The fences of the G-stage by address and VMID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceKind {
    /// `HFENCE.GVMA`.
    HfenceGvma,
    /// `HINVAL.GVMA`, between [`Operation::SfenceWInval`] and [`Operation::SfenceInvalIr`].
    HinvalGvma,
}

/// An instruction of a maintenance sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `DSB ISHST`.
    DsbIshst,
    /// `DSB ISH`.
    DsbIsh,
    /// `DSB NSHST`.
    DsbNshst,
    /// `DSB NSH`.
    DsbNsh,
    /// `ISB`.
    Isb,
    /// `TLBI IPAS2E1IS`.
    Ipas2e1is,
    /// `TLBI IPAS2E1`.
    Ipas2e1,
    /// `TLBI RIPAS2E1IS`.
    Ripas2e1is,
    /// `TLBI RIPAS2E1`.
    Ripas2e1,
    /// `TLBI VMALLE1IS`.
    Vmalle1is,
    /// `TLBI VMALLE1`.
    Vmalle1,
    /// `TLBI VMALLS12E1IS`.
    Vmalls12e1is,
    /// `TLBI VMALLS12E1`.
    Vmalls12e1,
    /// `TLBI ALLE1IS`.
    Alle1is,
    /// `TLBI ALLE1`.
    Alle1,
    /// `TLBI VAE2IS`, the hypervisor's own.
    Vae2is,
    /// `SFENCE.W.INVAL`.
    SfenceWInval,
    /// `SFENCE.INVAL.IR`.
    SfenceInvalIr,
}

impl Operation {
    /// All of them; the place in this list is the number in a recording.
    pub const ALL: [Self; 18] = [
        Self::DsbIshst,
        Self::DsbIsh,
        Self::DsbNshst,
        Self::DsbNsh,
        Self::Isb,
        Self::Ipas2e1is,
        Self::Ipas2e1,
        Self::Ripas2e1is,
        Self::Ripas2e1,
        Self::Vmalle1is,
        Self::Vmalle1,
        Self::Vmalls12e1is,
        Self::Vmalls12e1,
        Self::Alle1is,
        Self::Alle1,
        Self::Vae2is,
        Self::SfenceWInval,
        Self::SfenceInvalIr,
    ];
}

impl Event {
    /// The event of CPU `cpu` as words: kind in bits 7:0, CPU in 15:8, in 23:16 the operation of a maintenance, the type of an
    /// INVEPT or INVVPID, the TLB_CONTROL, the kind of a fence and which operands it has, or the harts of a remote one, whose VMID is in
    /// 38:24 behind a bit 39 that says that there is one, and bit 63, which tells it from a place that was claimed and never written;
    /// then two operands.
    #[must_use]
    pub fn encode(self, cpu: usize) -> [u64; EVENT_WORDS] {
        let (kind, a, b) = match self {
            Self::Store { entry, value } => (0, entry, value),
            Self::Maintenance { operation, operand } => (1 | (operation as u64) << 16, operand, 0),
            Self::Load { root } => (2, root, 0),
            Self::Unload => (3, 0, 0),
            Self::Invalidate { root } => (4, root, 0),
            Self::Invalidated => (5, 0, 0),
            Self::Enter => (6, 0, 0),
            Self::Fault { gpa, access } => (7, gpa, access),
            Self::Take { start, count } => (8, start, count),
            Self::Return { start, count } => (9, start, count),
            Self::Zero { start, count } => (10, start, count),
            Self::Clean { start, count } => (11, start, count),
            Self::Invept { kind, eptp } => (12 | u64::from(kind) << 16, eptp, 0),
            Self::Invvpid { kind, vpid, linear } => (13 | u64::from(kind) << 16, u64::from(vpid), linear),
            Self::LoadTagged { root, tag } => (14, root, u64::from(tag)),
            Self::Vmrun { tlb_control } => (15 | u64::from(tlb_control) << 16, 0, 0),
            Self::Exit => (16, 0, 0),
            Self::Logged { gpa } => (17, gpa, 0),
            Self::Fence { kind, address, vmid } => {
                let operands = u64::from(address.is_some()) << 1 | u64::from(vmid.is_some()) << 2;
                let number = operands | u64::from(kind == FenceKind::HinvalGvma);
                (18 | number << 16, address.unwrap_or(0), u64::from(vmid.unwrap_or(0)))
            }
            Self::RemoteFence { harts, vmid, start, size } => {
                // A VMID has 14 bits.
                let vmid = vmid.map_or(0, |vmid| 1 << 15 | u64::from(vmid) & 0x7fff);
                (19 | u64::from(harts) << 16 | vmid << 24, start, size)
            }
        };
        [1 << 63 | (cpu as u64 & 0xff) << 8 | kind, a, b]
    }

    /// The CPU and the event that `words` stand for; `None` if they stand for none.
    #[must_use]
    pub fn decode(words: [u64; EVENT_WORDS]) -> Option<(usize, Self)> {
        let [head, a, b] = words;
        let number = (head >> 16 & 0xff) as u8;
        let event = match head & 0xff {
            0 => Self::Store { entry: a, value: b },
            1 => Self::Maintenance { operation: *Operation::ALL.get(usize::from(number))?, operand: a },
            2 => Self::Load { root: a },
            3 => Self::Unload,
            4 => Self::Invalidate { root: a },
            5 => Self::Invalidated,
            6 => Self::Enter,
            7 => Self::Fault { gpa: a, access: b },
            8 => Self::Take { start: a, count: b },
            9 => Self::Return { start: a, count: b },
            10 => Self::Zero { start: a, count: b },
            11 => Self::Clean { start: a, count: b },
            12 => Self::Invept { kind: number, eptp: a },
            // What is too wide comes out narrower, and is refused below.
            13 => Self::Invvpid { kind: number, vpid: a as u16, linear: b },
            14 => Self::LoadTagged { root: a, tag: b as u32 },
            15 => Self::Vmrun { tlb_control: number },
            16 => Self::Exit,
            17 => Self::Logged { gpa: a },
            18 => Self::Fence {
                kind: if number & 1 == 0 { FenceKind::HfenceGvma } else { FenceKind::HinvalGvma },
                address: (number >> 1 & 1 == 1).then_some(a),
                vmid: (number >> 2 & 1 == 1).then_some(b as u16),
            },
            19 => {
                let vmid = (head >> 24 & 0xffff) as u16;
                let vmid = (vmid >> 15 == 1).then_some(vmid & 0x7fff);
                Self::RemoteFence { harts: number, vmid, start: a, size: b }
            }
            _ => return None,
        };
        let cpu = (head >> 8 & 0xff) as usize;
        // Only what `encode` makes.
        (event.encode(cpu) == words).then_some((cpu, event))
    }
}

/// Writes a recording. Several CPUs may do so at once.
#[derive(Clone, Copy, Debug)]
pub struct Recorder<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Recorder<'a> {
    /// A recorder that writes into `words`, which are zero.
    #[must_use]
    pub fn new(words: &'a [AtomicU64]) -> Self {
        Self { words }
    }

    /// Adds an event of CPU `cpu`. What finds no room is counted and lost.
    pub fn record(&self, cpu: usize, event: Event) {
        let Some((count, places)) = self.words.split_first() else { return };
        let place = usize::try_from(count.fetch_add(1, Ordering::AcqRel)).unwrap_or(usize::MAX);
        let start = place.saturating_mul(EVENT_WORDS);
        let Some(place) = places.get(start..start.saturating_add(EVENT_WORDS)) else { return };
        for (word, value) in place.iter().zip(event.encode(cpu)) {
            word.store(value, Ordering::Release);
        }
    }
}

/// The events that a recording in these bytes has room for, whether written or not.
#[must_use]
pub const fn capacity(bytes: u64) -> u64 {
    bytes.saturating_sub(8) / (8 * EVENT_WORDS as u64)
}

#[cfg(test)]
mod tests;
