//! Hostile accesses: whatever addresses and lengths a guest could have the host use, on all four formats, beside faults.
//!
//! Every access goes to slat and to a naive oracle: a byte per address, and for each page what may be done with it. Both
//! must stop at the same address, for the same reason, with the same bytes read and written. The frames are those of a
//! [`HeapHal`], which panics where anything but a frame that is taken is reached. Meanwhile another thread answers faults in
//! the same space.

mod oracle;

use crate::random::Random;
use oracle::{ALIGNED, Layout, Oracle, Refused, SIZE};
use slat::format::Format;
use slat::format::ept::{Capabilities, Ept};
use slat::format::gstage::{self, Gstage, Mode};
use slat::format::npt::Npt;
use slat::format::stage2::Stage2;
use slat::test_util::HeapHal;
use slat::{
    AccessError, AtomicWord, CopyError, GuestMemory, GuestObject, GuestPhysAddr, Hal, HostPhysAddr,
    MappingFlags,
};
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};

/// Accesses of one space before it is replaced by an empty one.
const ROUND: u64 = 2_000;

/// Most bytes of an access that goes to memory of ours.
const MOST: u64 = 3 * 4096;

/// A mistake of the accesses, so that the oracle is seen to find some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// `done` is one too many.
    Done,
    /// A write goes one byte too far.
    Longer,
    /// What exceeds the space is cut off.
    Wide,
}

/// Runs `accesses` hostile accesses, a quarter on each format; returns how many there were and how many were refused.
///
/// # Errors
/// The first difference between slat and the oracle.
pub fn run(accesses: u64, seed: u64, flaw: Option<Flaw>) -> Result<(u64, u64), String> {
    let marks = Capabilities {
        ept_vpid_cap: Capabilities::BASELINE.ept_vpid_cap | 1 << 16 | 1 << 21,
        accessed_dirty: true,
        ..Capabilities::BASELINE
    };
    let ept = Ept::new(marks, 4).map_err(|error| error.to_string())?;
    let capabilities = gstage::Capabilities {
        modes: gstage::Modes::all(),
        vmid_bits: 14,
        extensions: gstage::Extensions::SVPBMT,
        ..gstage::Capabilities::BASELINE
    };
    let gstage = Gstage::new(Mode::Sv48x4, capabilities).map_err(|error| error.to_string())?;
    let (mut done, mut refused) = (0, 0);
    for round in 0..accesses.div_ceil(ROUND) {
        let (seed, left) = (seed.wrapping_mul(1 << 32) + round, (accesses - done).min(ROUND));
        refused += match round % 4 {
            0 => one_round(Stage2::default(), seed, left, flaw),
            1 => one_round(ept, seed, left, flaw),
            2 => one_round(Npt::default(), seed, left, flaw),
            _ => one_round(gstage, seed, left, flaw),
        }
        .map_err(|difference| format!("seed {seed}: {difference}"))?;
        done += left;
    }
    Ok((done, refused))
}

/// One space, filled and emptied; returns how many accesses were refused.
fn one_round<F: Format>(format: F, seed: u64, accesses: u64, flaw: Option<Flaw>) -> Result<u64, String> {
    let hal = HeapHal::new();
    let layout = Layout::of(&format);
    let linear = hal.alloc_frames(oracle::LINEAR_FRAMES, 1).ok_or("no frames")?;
    hal.write(linear, &vec![0; oracle::LINEAR_FRAMES * 4096]);
    let result = {
        let space = layout.space(&hal, format, linear);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::new(seed ^ 0xfa17);
                while !stop.load(Ordering::Relaxed) {
                    let access = random.choose(&[MappingFlags::READ, MappingFlags::WRITE]);
                    let _ = space.handle_page_fault(GuestPhysAddr::new(random.below(SIZE)), access);
                    std::thread::yield_now();
                }
            });
            let mut guest = Guest {
                memory: space.memory(),
                oracle: Oracle::new(&layout),
                random: Random::new(seed),
                width: format.geometry().gpa_bits,
                flaw,
                refused: 0,
            };
            // A panic is a difference too, and the other thread must not wait for ever.
            let all = || {
                (0..accesses).try_for_each(|_| guest.access())?;
                let refused = guest.refused;
                guest.compare().map(|()| refused)
            };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(all));
            stop.store(true, Ordering::Relaxed);
            result.unwrap_or_else(|_| Err("slat panics".into()))
        })
    };
    layout.release(&hal, linear);
    result
}

/// What chooses the accesses.
struct Guest<'s, 'o, F: Format> {
    memory: GuestMemory<'s, &'s HeapHal, F>,
    oracle: Oracle<'o>,
    random: Random,
    width: u32,
    flaw: Option<Flaw>,
    refused: u64,
}

/// The words of the trouble.
fn differ(what: &str, (at, size): (u64, u64), slat: impl Debug, oracle: impl Debug) -> Result<(), String> {
    Err(format!("{what} of {size:#x} bytes at {at:#x}: slat {slat:x?}, the oracle {oracle:x?}"))
}

impl<F: Format> Guest<'_, '_, F> {
    /// An address: mostly near an edge of something, now and then any number.
    fn address(&mut self) -> u64 {
        let random = &mut self.random;
        let near = random.choose(&oracle::EDGES);
        let at = match random.below(8) {
            0..4 => near.wrapping_add(random.below(24)).wrapping_sub(12),
            4..6 => random.below(SIZE),
            6 => near.wrapping_add(random.below(4096)),
            _ => random.number() << random.below(20),
        };
        match random.below(16) {
            0 => at | 1 << self.width,
            1 => at | 1 << random.choose(&[63, 62, 48, 47, 52]),
            2 => u64::MAX - random.below(20),
            3..9 => at & !7,
            _ => at,
        }
    }

    /// A length, mostly short.
    fn size(&mut self) -> u64 {
        let random = &mut self.random;
        match random.below(8) {
            0 => 0,
            1..4 => 1 + random.below(16),
            4 => random.below(300),
            5..7 => random.below(MOST),
            _ => 4096 - random.below(2),
        }
    }

    /// A length that nobody can mean.
    fn huge(&mut self, at: u64) -> u64 {
        let random = &mut self.random;
        match random.below(6) {
            0 => u64::MAX,
            1 => u64::MAX - at,
            2 => (u64::MAX - at).wrapping_add(1 + random.below(3)),
            3 => 1 << random.below(64),
            4 => random.number() << 7,
            _ => SIZE,
        }
    }

    /// slat's answer, spoilt if a flaw asks for it.
    fn spoil(&self, result: Result<(), AccessError>) -> Result<(), AccessError> {
        result.map_err(|error| AccessError {
            done: error.done + u64::from(self.flaw == Some(Flaw::Done) && error.done > 0),
            ..error
        })
    }

    /// Whether an answer is that of the oracle.
    fn judge(
        &mut self,
        what: &str,
        (at, size): (u64, u64),
        slat: Result<(), AccessError>,
        oracle: Result<(), Refused>,
    ) -> Result<(), String> {
        self.refused += u64::from(oracle.is_err());
        let slat = self.spoil(slat);
        let same = match (&slat, &oracle) {
            (Ok(()), Ok(())) => true,
            (Err(error), Err(refused)) => refused.is(error, at),
            _ => false,
        };
        if same { Ok(()) } else { differ(what, (at, size), slat, oracle) }
    }

    /// One access of any kind.
    fn access(&mut self) -> Result<(), String> {
        let mut at = self.address();
        if self.flaw == Some(Flaw::Wide) {
            at &= (1 << self.width) - 1;
        }
        let asked = if self.flaw == Some(Flaw::Wide) {
            at | u64::from(self.random.one_in(9)) << self.width
        } else {
            at
        };
        match self.random.below(16) {
            0..3 => {
                let mut bytes = vec![0xa7; self.size() as usize];
                let mut expected = bytes.clone();
                let slat = self.memory.read(GuestPhysAddr::new(at), &mut bytes);
                let oracle = self.oracle.read(asked, &mut expected);
                let size = bytes.len() as u64;
                self.judge("a read", (asked, size), slat, oracle)?;
                if bytes == expected { Ok(()) } else { differ("a read", (at, size), bytes, expected) }
            }
            3..6 => {
                let bytes: Vec<u8> = (0..self.size()).map(|_| self.random.number() as u8).collect();
                let slat = self.memory.write(GuestPhysAddr::new(at), &bytes);
                if self.flaw == Some(Flaw::Longer) && slat.is_ok() {
                    let _ =
                        self.memory.write(GuestPhysAddr::new(at.wrapping_add(bytes.len() as u64)), &[0x5d]);
                }
                let oracle = self.oracle.write(asked, &bytes);
                self.judge("a write", (asked, bytes.len() as u64), slat, oracle)
            }
            6 => {
                let size = if self.random.one_in(4) { self.huge(at) } else { self.size() };
                let byte = self.random.number() as u8;
                let slat = self.memory.fill(GuestPhysAddr::new(at), size, byte);
                let oracle = self.oracle.fill(asked, size, byte);
                self.judge("filling", (asked, size), slat, oracle)
            }
            7..10 => self.copy(at),
            10 => self.pieces(at),
            11 => self.object::<u8>(at),
            12 => self.object::<u32>(at),
            13 => self.object::<u64>(at),
            14 => self.object::<[u16; 9]>(at),
            _ => match self.random.below(4) {
                0 => self.atomics::<u8>(at),
                1 => self.atomics::<u16>(at),
                2 => self.atomics::<u32>(at),
                _ => self.atomics::<u64>(at),
            },
        }
    }

    /// A copy, often onto itself.
    fn copy(&mut self, at: u64) -> Result<(), String> {
        let to = if self.random.one_in(2) {
            at.wrapping_add(self.random.below(40)).wrapping_sub(20)
        } else {
            self.address()
        };
        let size = if self.random.one_in(8) { self.huge(at.max(to)) } else { self.size() };
        let slat = self.memory.copy_to(GuestPhysAddr::new(at), &self.memory, GuestPhysAddr::new(to), size);
        let oracle = self.oracle.copy(at, to, size);
        self.refused += u64::from(oracle.is_err());
        let same = match (&slat, &oracle) {
            (Ok(()), Ok(())) => true,
            (Err(CopyError::From(error)), Err((true, refused))) => refused.is(error, at),
            (Err(CopyError::To(error)), Err((false, refused))) => refused.is(error, to),
            _ => false,
        };
        if same { Ok(()) } else { differ(&format!("a copy to {to:#x}"), (at, size), slat, oracle) }
    }

    /// Reads piece by piece.
    fn pieces(&mut self, at: u64) -> Result<(), String> {
        let size = if self.random.one_in(8) { self.huge(at) } else { self.size() };
        let write = self.random.one_in(2);
        let access = if write { MappingFlags::WRITE } else { MappingFlags::READ };
        let oracle = self.oracle.check(at, size, write);
        let (mut bytes, mut slat) = (vec![], Ok(()));
        let mut length = 0;
        for piece in self.memory.translated_byte_buffer(GuestPhysAddr::new(at), size, access) {
            match piece {
                Ok(piece) => {
                    if piece.gpa().as_u64() != at + length {
                        return differ("a piece", (at, size), piece, length);
                    }
                    length += piece.len();
                    if !write && length < MOST {
                        let mut more = vec![0; piece.len() as usize];
                        piece.read(0, &mut more).map_err(|error| error.to_string())?;
                        bytes.extend(more);
                    }
                }
                Err(error) => slat = Err(error),
            }
        }
        let reached = oracle.map_or_else(|refused| refused.done, |()| size);
        if length != reached {
            return differ("the pieces", (at, size), length, reached);
        }
        let mut expected = vec![0; bytes.len()];
        let _ = self.oracle.read(at, &mut expected);
        if bytes != expected {
            return differ("the pieces", (at, size), bytes, expected);
        }
        self.judge("pieces", (at, size), slat, oracle)
    }

    fn object<T: GuestObject + Bytes + PartialEq + Debug>(&mut self, at: u64) -> Result<(), String> {
        let size = size_of::<T>() as u64;
        if self.random.one_in(2) {
            let mut expected = vec![0; size as usize];
            let oracle = self.oracle.read(at, &mut expected);
            let slat = self.memory.read_obj::<T>(GuestPhysAddr::new(at));
            self.judge("read_obj", (at, size), slat.map(|_| ()), oracle)?;
            match slat {
                Ok(object) if object.to_bytes() != expected => {
                    differ("read_obj", (at, size), object, expected)
                }
                _ => Ok(()),
            }
        } else {
            let bytes: Vec<u8> = (0..size).map(|_| self.random.number() as u8).collect();
            let slat = self.memory.write_obj(GuestPhysAddr::new(at), T::from_bytes(&bytes));
            let oracle = self.oracle.write(at, &bytes);
            self.judge("write_obj", (at, size), slat, oracle)
        }
    }

    fn atomics<T: AtomicWord + Bytes + PartialEq + Debug>(&mut self, at: u64) -> Result<(), String> {
        let size = size_of::<T>() as u64;
        let random = |random: &mut Random| T::from_bytes(&random.number().to_le_bytes()[..size as usize]);
        let (value, other) = (random(&mut self.random), random(&mut self.random));
        let gpa = GuestPhysAddr::new(at);
        let (read, write, what) = [
            (true, false, "atomic_load"),
            (false, true, "atomic_store"),
            (true, true, "atomic_swap"),
            (true, true, "atomic_compare_exchange"),
        ][self.random.below(4) as usize];
        let old = self.oracle.atomic(at, size, read, write);
        let hit = old
            .as_ref()
            .map_or(other, |bytes| if self.random.one_in(2) { T::from_bytes(bytes) } else { other });
        let found = old.clone().map(|bytes| T::from_bytes(&bytes));
        // What slat says stood there, and what stands there now if that has changed.
        let (slat, now) = match what {
            "atomic_load" => (self.memory.atomic_load::<T>(gpa).map(Some), None),
            "atomic_store" => (self.memory.atomic_store(gpa, value).map(|()| None), Some(value)),
            "atomic_swap" => (self.memory.atomic_swap(gpa, value).map(Some), Some(value)),
            _ => {
                let equal = found.as_ref().is_ok_and(|found| *found == hit);
                let answer = self.memory.atomic_compare_exchange(gpa, hit, value);
                if let Ok(answer) = answer {
                    if answer.is_ok() != equal {
                        return differ(what, (at, size), answer, equal);
                    }
                }
                (answer.map(|answer| Some(answer.unwrap_or_else(|found| found))), equal.then_some(value))
            }
        };
        self.judge(what, (at, size), slat.map(|_| ()), old.map(|_| ()))?;
        if let (Ok(Some(seen)), Ok(found)) = (&slat, &found) {
            if seen != found {
                return differ(what, (at, size), seen, found);
            }
        }
        if let (Ok(_), Some(now)) = (slat, now) {
            let _ = self.oracle.write(at, &now.to_bytes());
        }
        Ok(())
    }

    /// All that can be read is what the oracle has: nothing else was written either.
    fn compare(&mut self) -> Result<(), String> {
        for at in (0..SIZE).step_by(ALIGNED as usize) {
            let mut bytes = vec![0; ALIGNED as usize];
            let mut expected = bytes.clone();
            let slat = self.memory.read(GuestPhysAddr::new(at), &mut bytes);
            let oracle = self.oracle.read(at, &mut expected);
            self.judge("the last read", (at, ALIGNED), slat, oracle)?;
            if bytes != expected {
                let first = bytes.iter().zip(&expected).position(|(one, other)| one != other).unwrap_or(0);
                let there = (at + first as u64, 1);
                return differ("in the end, a read", there, bytes[first], expected[first]);
            }
        }
        Ok(())
    }
}

/// An object from bytes and back.
trait Bytes: Copy {
    fn from_bytes(bytes: &[u8]) -> Self;
    fn to_bytes(self) -> Vec<u8>;
}

macro_rules! bytes {
    ($($type:ty)*) => {
        $(
            impl Bytes for $type {
                fn from_bytes(bytes: &[u8]) -> Self {
                    Self::from_ne_bytes(bytes.try_into().expect("as many"))
                }

                fn to_bytes(self) -> Vec<u8> {
                    self.to_ne_bytes().to_vec()
                }
            }
        )*
    };
}

bytes!(u8 u16 u32 u64);

impl Bytes for [u16; 9] {
    fn from_bytes(bytes: &[u8]) -> Self {
        std::array::from_fn(|index| u16::from_bytes(&bytes[2 * index..2 * index + 2]))
    }

    fn to_bytes(self) -> Vec<u8> {
        self.into_iter().flat_map(u16::to_bytes).collect()
    }
}

/// The host physical address of linear memory that the host does not reach.
pub(crate) const FOREIGN: HostPhysAddr = HostPhysAddr::new(0x900_0000);
