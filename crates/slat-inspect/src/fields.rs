//! Entries and registers field by field, as the manuals name them.

use crate::decode::mask;
use crate::entry::X86MemoryType;
use crate::format::Cpu;
use core::fmt;

/// One field of an entry or a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// As the manual calls it; of a group of registers with the register's name before it.
    pub name: &'static str,
    /// Its highest bit.
    pub high: u32,
    /// Its lowest bit.
    pub low: u32,
    /// Its value, shifted down.
    pub value: u64,
    /// What the value says.
    pub meaning: Meaning,
}

/// What the value of a field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing more than the number.
    Number,
    /// This.
    Text(&'static str),
    /// A physical address.
    Address(u64),
    /// So many bits.
    Bits(u64),
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number => Ok(()),
            Self::Text(text) => f.pad(text),
            Self::Address(address) => write!(f, "{address:#x}"),
            Self::Bits(bits) => write!(f, "{bits} bits"),
        }
    }
}

impl fmt::Display for Field {
    /// `name[high:low] = value: meaning`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.high == self.low {
            write!(f, "{}[{}] = {}", self.name, self.high, self.value)?;
        } else {
            write!(f, "{}[{}:{}] = {:#x}", self.name, self.high, self.low, self.value)?;
        }
        match self.meaning {
            Meaning::Number => Ok(()),
            meaning => write!(f, ": {meaning}"),
        }
    }
}

/// How a field is described.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) high: Edge,
    pub(crate) low: Edge,
    pub(crate) how: How,
}

/// The edge of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edge {
    At(u32),
    /// By how much an address of the entry's level is shifted down, plus this: the address of a large page begins there.
    Page(i32),
}

/// What the value of a field says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    Number,
    /// If it is clear, and if it is set.
    Flag(&'static str, &'static str),
    /// In the order of the values; beyond them it is reserved.
    Names(&'static [&'static str]),
    /// The bits in place are an address, shifted left by this.
    Address(u32),
    /// Like [`Flag`](Self::Flag), if the CPU has this on.
    Optional(fn(&Cpu) -> bool, &'static str, &'static str, &'static str),
    /// MemAttr of Arm, which depends on FWB.
    MemAttr,
    /// This number minus the value, in bits.
    BitsBelow(u64),
    /// One of these numbers of bits.
    BitsOf(&'static [u64]),
}

/// A field at fixed bits.
pub(crate) const fn spec(name: &'static str, high: u32, low: u32, how: How) -> Spec {
    Spec { name, high: Edge::At(high), low: Edge::At(low), how }
}

/// A bit that says one of two things.
pub(crate) const fn flag(name: &'static str, number: u32, clear: &'static str, set: &'static str) -> Spec {
    spec(name, number, number, How::Flag(clear, set))
}

/// Bits that say nothing.
pub(crate) const fn ignored(high: u32, low: u32) -> Spec {
    spec("ignored", high, low, How::Flag("", "free for software"))
}

/// The fields of a value; those without a bit (in the address of the smallest page) are left out.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    specs: [&'static [Spec]; 2],
    raws: [u64; 2],
    shift: u32,
    cpu: Option<&'a Cpu>,
    next: usize,
}

impl<'a> Fields<'a> {
    pub(crate) const fn of_entry(specs: &'static [Spec], raw: u64, shift: u32, cpu: &'a Cpu) -> Self {
        Self { specs: [specs, &[]], raws: [raw, 0], shift, cpu: Some(cpu), next: 0 }
    }

    pub(crate) const fn of_registers(specs: [&'static [Spec]; 2], raws: [u64; 2]) -> Self {
        Self { specs, raws, shift: 0, cpu: None, next: 0 }
    }

    fn edge(&self, edge: Edge) -> u32 {
        match edge {
            Edge::At(bit) => bit,
            Edge::Page(more) => self.shift.saturating_add_signed(more),
        }
    }

    fn meaning(&self, how: How, value: u64, in_place: u64) -> Meaning {
        let choose = |clear, set| match if value == 0 { clear } else { set } {
            "" => Meaning::Number,
            text => Meaning::Text(text),
        };
        match how {
            How::Number => Meaning::Number,
            How::Flag(clear, set) => choose(clear, set),
            How::Names(names) => Meaning::Text(names.get(value as usize).copied().unwrap_or("reserved")),
            How::Address(left) => Meaning::Address(in_place << left),
            How::Optional(is_on, clear, set, off) => match self.cpu {
                Some(cpu) if !is_on(cpu) => Meaning::Text(off),
                _ => choose(clear, set),
            },
            How::MemAttr => {
                let forced = self.cpu.is_some_and(|cpu| cpu.force_write_back);
                let names: &[&str] = if forced { &MEM_ATTR_FWB } else { &MEM_ATTR };
                Meaning::Text(names.get(value as usize).copied().unwrap_or("reserved"))
            }
            How::BitsBelow(total) => Meaning::Bits(total.saturating_sub(value)),
            How::BitsOf(bits) => {
                bits.get(value as usize).map_or(Meaning::Text("reserved"), |&bits| Meaning::Bits(bits))
            }
        }
    }
}

impl Iterator for Fields<'_> {
    type Item = Field;

    fn next(&mut self) -> Option<Field> {
        loop {
            let (first, second) = (self.specs[0], self.specs[1]);
            let (spec, raw) = match first.get(self.next) {
                Some(spec) => (spec, self.raws[0]),
                None => (second.get(self.next - first.len())?, self.raws[1]),
            };
            self.next += 1;
            let (high, low) = (self.edge(spec.high), self.edge(spec.low));
            if low > high {
                continue;
            }
            let in_place = raw & mask(high, low);
            let value = in_place >> low;
            return Some(Field {
                name: spec.name,
                high,
                low,
                value,
                meaning: self.meaning(spec.how, value, in_place),
            });
        }
    }
}

const MEM_ATTR: [&str; 16] = [
    "Device-nGnRnE",
    "Device-nGnRE",
    "Device-nGRE",
    "Device-GRE",
    "reserved",
    "Normal, outer and inner non-cacheable",
    "Normal, outer non-cacheable, inner write-through",
    "Normal, outer non-cacheable, inner write-back",
    "reserved",
    "Normal, outer write-through, inner non-cacheable",
    "Normal, outer and inner write-through",
    "Normal, outer write-through, inner write-back",
    "reserved",
    "Normal, outer write-back, inner non-cacheable",
    "Normal, outer write-back, inner write-through",
    "Normal, outer and inner write-back",
];

const MEM_ATTR_FWB: [&str; 8] = [
    "Device-nGnRnE",
    "Device-nGnRE",
    "Device-nGRE",
    "Device-GRE",
    "reserved",
    "Normal non-cacheable, or stage 1's Device",
    "Normal write-back, whatever stage 1 says",
    "as stage 1 says",
];

impl fmt::Display for X86MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Uncacheable => "UC",
            Self::WriteCombining => "WC",
            Self::WriteThrough => "WT",
            Self::WriteProtected => "WP",
            Self::WriteBack => "WB",
            Self::UncachedMinus => "UC-",
            Self::Reserved => "reserved",
        })
    }
}
