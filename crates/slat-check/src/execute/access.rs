//! Accesses of the host to memory of a guest: where each must stop, what it must find, and every byte that it must leave.

use super::wrong;
use crate::checks::{Check, Violation, ensure};
use crate::driver::{Driver, leaf_at};
use crate::host::{Host, contents};
use crate::mistakes::Mistake;
use crate::operation::{HostAccess, HostAccessKind};
use crate::platform::Platform;
use crate::specification::{Architecture, Backing, Origin, Page};
use crate::watch::Target;
use slat::{AccessError, AccessRefusal, CopyError, FaultError, GuestPhysAddr, MappingFlags, PAGE_SIZE};
use std::collections::BTreeMap;

/// Where in a page an access begins.
const OFFSETS: [u64; 10] = [0, 0, 1, 8, 0x238, 0x7fd, 4080, 4088, 4090, 4095];
/// How many bytes it has.
const LENGTHS: [u64; 11] = [0, 1, 2, 4, 8, 9, 16, 200, 4096, 4100, 8200];

const READ: MappingFlags = MappingFlags::READ;
const WRITE: MappingFlags = MappingFlags::WRITE;

/// Bytes of pages, by space and first guest-physical address.
type Image = BTreeMap<(usize, u64), Vec<u8>>;

/// A range of a space.
#[derive(Clone, Copy, Debug)]
struct Part {
    index: usize,
    gpa: u64,
    size: u64,
}

impl Part {
    fn at(self) -> GuestPhysAddr {
        GuestPhysAddr::new(self.gpa)
    }

    fn bytes(self) -> std::ops::Range<u64> {
        self.gpa..self.gpa + self.size
    }

    /// First addresses of the pages of its first `bytes` bytes.
    fn pages(self, bytes: u64) -> impl Iterator<Item = u64> {
        let first = self.gpa & !(PAGE_SIZE - 1);
        (first..self.gpa + bytes).step_by(PAGE_SIZE as usize).filter(move |_| bytes > 0)
    }
}

/// Why an access stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Hole,
    Permission,
    Device,
    Unreachable,
    NotCoherent,
}

/// How far an access gets, and why no further.
type Reach = (u64, Option<Stop>);

impl<P: Platform> Driver<'_, P> {
    pub(super) fn host_access(&mut self, index: usize, access: HostAccess) -> Result<(), Violation> {
        self.host.read_only(true);
        let result = self.host_access_alone(index, access);
        // What it asked for may be dirty, whether it was written or not.
        for page in self.subjects[index].specification.pages.values_mut() {
            page.marks.told = true;
        }
        self.host.read_only(false);
        result
    }

    fn host_access_alone(&mut self, index: usize, access: HostAccess) -> Result<(), Violation> {
        let length = LENGTHS[usize::from(access.length) % LENGTHS.len()];
        let offset = OFFSETS[usize::from(access.offset) % OFFSETS.len()];
        let mut part = self.part(index, access.page, offset, length);
        if access.kind == HostAccessKind::Exchange {
            part = Part { gpa: part.gpa & !7, size: 8, ..part };
        }
        if !self.is_plain(part, access.kind) {
            return Ok(());
        }
        match access.kind {
            HostAccessKind::Read => self.host_read(part),
            HostAccessKind::Write | HostAccessKind::Fill => self.host_write(part, access),
            HostAccessKind::Copy => self.host_copy(part, access),
            HostAccessKind::Exchange => self.host_exchange(part, u64::from(access.other)),
            HostAccessKind::Pieces => self.host_pieces(part, access.other),
        }
    }

    /// A range that begins in a page in play; what lies between pages in play is left alone.
    fn part(&self, index: usize, page: u8, offset: u64, size: u64) -> Part {
        let page = self.shape.page(page);
        let gpa = self.shape.pages[page] + offset;
        let mut size = size;
        if !self.shape.complete {
            let follows = |pair: &&[u64]| pair[1] == pair[0] + PAGE_SIZE;
            let more = self.shape.pages[page..].windows(2).take_while(follows).count() as u64;
            size = size.min((more + 1) * PAGE_SIZE - offset);
        }
        Part { index, gpa, size }
    }

    /// Whether what an access does to shared memory is simple: two addresses of one page, or contents of a frame that is not
    /// known, would need more than an image of the pages.
    fn is_plain(&self, part: Part, kind: HostAccessKind) -> bool {
        let mut seen = vec![];
        for gpa in part.pages(part.size) {
            let page = self.page_at(gpa).and_then(|page| self.subjects[part.index].specification.page(page));
            let of_memory = page.and_then(|page| match page.backing {
                Backing::Shared { memory, page, .. } => Some((memory, page)),
                _ => page.to_copy(),
            });
            let Some((memory, page)) = of_memory else { continue };
            let known = self.shared[memory].as_ref().is_some_and(|state| state.frames.contains_key(&page));
            let reads = matches!(kind, HostAccessKind::Read);
            if kind == HostAccessKind::Copy || seen.contains(&(memory, page)) || !(known || reads) {
                return false;
            }
            seen.push((memory, page));
        }
        true
    }

    /// The index of the page in play at an address.
    fn page_at(&self, gpa: u64) -> Option<usize> {
        self.shape.pages.binary_search(&gpa).ok()
    }

    /// How far an access gets by what the specification knows.
    fn reach(&self, part: Part, access: MappingFlags) -> Reach {
        for gpa in part.pages(part.size) {
            let page = self.page_at(gpa).and_then(|page| self.subjects[part.index].specification.page(page));
            let stop = match page {
                None => Some(Stop::Hole),
                Some(page) if !self.host.rules().allows(page.flags, access) => Some(Stop::Permission),
                Some(page) if page.flags.contains(MappingFlags::DEVICE) => Some(Stop::Device),
                Some(Page { backing: Backing::Trap(..), .. }) => Some(Stop::Device),
                Some(page) if matches!(page.backing, Backing::Linear(_)) => Some(Stop::Unreachable),
                Some(_) => None,
            };
            if stop.is_some() {
                return (gpa.max(part.gpa) - part.gpa, stop);
            }
        }
        (part.size, None)
    }

    /// Whether an access of so many bytes would populate something.
    fn populates(&self, part: Part, bytes: u64) -> bool {
        let absent = |gpa| self.page_at(gpa).is_some_and(|page| !self.window(part.index, page).is_empty());
        part.pages(bytes).any(absent)
    }

    /// Reads what the pages of a range hold before the access; absent ones are zero.
    fn load(&self, part: Part, image: &mut Image) {
        for gpa in part.pages(part.size) {
            let spec = self.page_at(gpa).and_then(|page| self.subjects[part.index].specification.page(page));
            image.insert((part.index, gpa), spec.map_or_else(empty, |page| self.contents_of(page)));
        }
    }

    /// What a page holds, or will hold when it is populated.
    fn contents_of(&self, page: &Page) -> Vec<u8> {
        let shared = |memory: usize, page| self.shared[memory].as_ref()?.frames.get(&page).copied();
        let frame = match page.backing {
            Backing::Shared { memory, page, .. } | Backing::Private { memory, page, copy: None, .. } => {
                shared(memory, page)
            }
            _ => page.owned(),
        };
        match (frame, page.backing) {
            (Some(frame), _) => frame_bytes(self.host, frame.hpa),
            (None, Backing::Alloc { origin: Origin::Pager(source, offset), .. }) => {
                self.paged_bytes(source, offset)
            }
            (None, Backing::Alloc { origin: Origin::Custom(source, offset), .. }) => {
                let mut bytes = empty();
                bytes[..8].copy_from_slice(&contents(source, offset).to_le_bytes());
                bytes
            }
            (None, _) => empty(),
        }
    }

    /// Allows what an access of so many bytes may populate; `after` has the contents that CPUs may see in the end.
    fn expect(&mut self, part: Part, access: MappingFlags, bytes: u64, after: &Image) {
        let pages: Vec<usize> = part.pages(bytes).filter_map(|gpa| self.page_at(gpa)).collect();
        for page in pages {
            let bytes = after.get(&(part.index, self.shape.pages[page]));
            if let Some(bytes) = bytes.filter(|_| access.contains(WRITE)) {
                let word = first_word(bytes);
                self.plan_copy(part.index, page);
                if let (Some(Target::Moved(_) | Target::Copied(_)), Some(spec)) =
                    (self.planned[page], self.subjects[part.index].specification.page(page))
                {
                    self.allow(page, spec.flags, Target::Moved(word));
                }
            }
            for page in self.window(part.index, page) {
                let Some(spec) = self.subjects[part.index].specification.page(page).copied() else {
                    continue;
                };
                if spec.to_copy().is_some() && self.planned[page].is_some() {
                    continue;
                }
                self.plan_page(part.index, page, 0);
                if matches!(spec.backing, Backing::Shared { .. } | Backing::Private { .. }) {
                    continue;
                }
                if let Some(bytes) = after.get(&(part.index, self.shape.pages[page])) {
                    self.allow(page, spec.flags, Target::Moved(first_word(bytes)));
                }
            }
        }
    }

    /// Judges where an access stopped; returns how many bytes it did.
    fn judge(
        &self,
        what: &str,
        part: Part,
        (done, stop): Reach,
        result: Result<(), AccessError>,
    ) -> Result<u64, Violation> {
        let error = match (result, stop) {
            (Ok(()), None) => return Ok(part.size),
            (Err(error), _) => error,
            (Ok(()), Some(_)) => return wrong(what, (part, done, stop, result)),
        };
        let right = match error.reason {
            AccessRefusal::Fault(FaultError::OutOfMemory(_)) => {
                let page = error.gpa.as_u64() & !(PAGE_SIZE - 1);
                let subject = &self.subjects[part.index];
                let spec = self.page_at(page).and_then(|page| subject.specification.page(page));
                let copied = subject.shares || spec.is_some_and(|spec| spec.to_copy().is_some());
                let absent = leaf_at(subject.space(), page).is_none() || copied;
                self.host.refused() > 0 && error.done <= done && absent
            }
            reason => {
                let reason = match reason {
                    AccessRefusal::Fault(FaultError::NoRegion(_)) => Some(Stop::Hole),
                    AccessRefusal::Fault(FaultError::Permission { .. }) => Some(Stop::Permission),
                    AccessRefusal::Device => Some(Stop::Device),
                    AccessRefusal::Unreachable => Some(Stop::Unreachable),
                    AccessRefusal::NotCoherent => Some(Stop::NotCoherent),
                    _ => None,
                };
                reason.is_some() && reason == stop && error.done == done
            }
        };
        if right && error.gpa.as_u64() == part.gpa + error.done {
            Ok(error.done)
        } else {
            wrong(what, (part, done, stop, error))
        }
    }

    /// slat's answer, with the mistake of miscounting.
    fn miscount(&self, result: Result<(), AccessError>) -> Result<(), AccessError> {
        let more = u64::from(self.host.mistake() == Some(Mistake::HostMiscounts));
        result.map_err(|error| AccessError { done: error.done + more, ..error })
    }

    /// All pages hold what they must after an access that wrote so many bytes, and the specification learns of it.
    fn settle_contents(&mut self, part: Part, written: u64, after: &Image) -> Result<(), Violation> {
        for ((index, gpa), expected) in after {
            let leaf = leaf_at(self.subjects[*index].space(), *gpa);
            let Some(leaf) = leaf.filter(|leaf| self.host.born(leaf.hpa.as_u64()).is_some()) else {
                continue;
            };
            let found = frame_bytes(self.host, leaf.hpa.as_u64() + (gpa - leaf.gpa.as_u64()));
            let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
            ensure(differs.is_none(), Check::Contents, || {
                let at = differs.unwrap_or_default();
                format!("{:#x} holds {:#x} instead of {:#x}", gpa + at as u64, found[at], expected[at])
            })?;
        }
        for gpa in part.pages(written) {
            let (Some(page), Some(bytes)) = (self.page_at(gpa), after.get(&(part.index, gpa))) else {
                continue;
            };
            let word = first_word(bytes);
            if let Some(Target::Fresh(_)) = self.planned[page] {
                self.planned[page] = Some(Target::Moved(word));
            }
            self.host.watch.borrow_mut().wrote(page, word);
        }
        Ok(())
    }

    fn host_read(&mut self, part: Part) -> Result<(), Violation> {
        let reach = self.reach(part, READ);
        let mut image = Image::new();
        self.load(part, &mut image);
        self.expect(part, READ, reach.0, &Image::new());
        let mut bytes = vec![0xa7; part.size as usize];
        let space = self.subjects[part.index].space();
        let result = if self.host.mistake() == Some(Mistake::HostPopulatesRubbish) {
            space.memory_with(|_, bytes| bytes.fill(0x5a)).read(part.at(), &mut bytes)
        } else {
            space.read(part.at(), &mut bytes)
        };
        if let (Some(Mistake::HostReadsPastPage), Ok(()), Some(hpa)) =
            (self.host.mistake(), result, space.translate(part.at()))
        {
            for (hpa, byte) in (hpa.as_u64()..).zip(&mut bytes) {
                *byte = peek(self.host, hpa);
            }
        }
        let done = self.judge("a read of the host", part, reach, self.miscount(result))?;
        let expected = part
            .bytes()
            .zip(0..)
            .map(|(at, number)| if number < done { get(&image, part.index, at) } else { 0xa7 });
        ensure(bytes.iter().copied().eq(expected), Check::Contents, || {
            format!("{part:x?} is read as {bytes:x?}")
        })?;
        self.settle_contents(part, 0, &image)
    }

    fn host_write(&mut self, part: Part, access: HostAccess) -> Result<(), Violation> {
        let fill = access.kind == HostAccessKind::Fill;
        let byte = |number: u64| {
            if fill { access.other } else { access.other.wrapping_add((number as u8).wrapping_mul(3)) | 1 }
        };
        let bytes: Vec<u8> = (0..part.size).map(byte).collect();
        let reach = self.reach(part, WRITE);
        let mut before = Image::new();
        self.load(part, &mut before);
        self.expect(part, WRITE, reach.0, &written(&before, part, &bytes[..reach.0 as usize]));
        let result = self.slat_write(part, &bytes, fill);
        let done = self.judge("a write of the host", part, reach, self.miscount(result))?;
        let after = written(&before, part, &bytes[..done as usize]);
        self.settle_contents(part, done, &after)
    }

    /// Has slat write, or makes a mistake instead.
    fn slat_write(&self, part: Part, bytes: &[u8], fill: bool) -> Result<(), AccessError> {
        let space = self.subjects[part.index].space();
        let present = |at| {
            let hpa = space.translate(GuestPhysAddr::new(at));
            hpa.map(|hpa| hpa.as_u64()).filter(|hpa| self.host.born(*hpa).is_some())
        };
        let past_slat = || -> Option<()> {
            let targets: Option<Vec<u64>> = part.bytes().map(present).collect();
            targets?.iter().zip(bytes).for_each(|(hpa, byte)| poke(self.host, *hpa, *byte));
            Some(())
        };
        let allowed = self.reach(part, WRITE).1.is_none();
        match self.host.mistake() {
            Some(Mistake::HostForgetsDirty) if allowed && past_slat().is_some() => return Ok(()),
            Some(Mistake::HostWritesReadOnly)
                if !allowed && self.reach(part, READ).1.is_none() && past_slat().is_some() =>
            {
                return Ok(());
            }
            Some(Mistake::HostPopulatesRubbish) => {
                return space.memory_with(|_, bytes| bytes.fill(0x5a)).write(part.at(), bytes);
            }
            Some(Mistake::HostWritesTooMuch) if part.size > 0 => {
                present(part.gpa + part.size).into_iter().for_each(|hpa| poke(self.host, hpa, 0x66));
            }
            _ => {}
        }
        match bytes.first() {
            Some(byte) if fill => space.memory().fill(part.at(), part.size, *byte),
            _ => space.write(part.at(), bytes),
        }
    }

    fn host_copy(&mut self, to: Part, access: HostAccess) -> Result<(), Violation> {
        let other = (to.index + usize::from(access.other & 1)) % self.subjects.len();
        let offset = OFFSETS[usize::from(access.offset / 10) % OFFSETS.len()];
        let mut from = self.part(other, access.other >> 1, offset, to.size);
        let size = from.size.min(to.size);
        let to = Part { size, ..to };
        from.size = size;
        let (mut read, write) = (self.reach(from, READ), self.reach(to, WRITE));
        if !self.is_plain(from, access.kind) {
            return Ok(());
        }
        if other != to.index && self.populates(from, read.0.min(write.0 + 1).max(1).min(size)) {
            // What happens to the tables of another space is not looked at.
            from.index = to.index;
            read = self.reach(from, READ);
        }
        let mut before = Image::new();
        self.load(to, &mut before);
        self.load(from, &mut before);
        let done = read.0.min(write.0);
        let after = copied(&before, from, to, done);
        if from.index == to.index {
            self.expect(from, READ, read.0, &after);
        }
        self.expect(to, WRITE, write.0, &after);
        let (source, target) = (self.subjects[from.index].space(), self.subjects[to.index].space());
        let result = source.memory().copy_to(from.at(), &target.memory(), to.at(), size);
        let what = "a copy of the host";
        let done = match result {
            Ok(()) if read.1.is_none() && write.1.is_none() => size,
            Err(CopyError::From(error)) if error.done <= write.0 => {
                self.judge(what, from, read, self.miscount(Err(error)))?
            }
            Err(CopyError::To(error)) if error.done <= read.0 => {
                self.judge(what, to, write, self.miscount(Err(error)))?
            }
            _ => return wrong(what, (from, to, read, write, result)),
        };
        let after = copied(&before, from, to, done);
        self.settle_contents(to, done, &after)
    }

    fn host_exchange(&mut self, part: Part, seed: u64) -> Result<(), Violation> {
        let mut reach = self.reach(part, READ | WRITE);
        let mut before = Image::new();
        self.load(part, &mut before);
        let page = self.page_at(part.gpa & !(PAGE_SIZE - 1));
        let spec = page.and_then(|page| self.subjects[part.index].specification.page(page));
        let uncached = spec.is_some_and(|page| page.flags.contains(MappingFlags::UNCACHED));
        let old: Vec<u8> = part.bytes().map(|at| get(&before, part.index, at)).collect();
        let old = u64::from_le_bytes(old.try_into().expect("eight bytes"));
        let (hit, value) = (seed % 3 > 0, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let exchanged = written(&before, part, &value.to_le_bytes());
        self.expect(part, WRITE, reach.0, if hit { &exchanged } else { &before });
        if reach.1.is_none() && uncached && self.host.rules().architecture == Architecture::Stage2 {
            reach = (0, Some(Stop::NotCoherent));
        }
        let memory = self.subjects[part.index].space().memory();
        let expected = if hit { old } else { !old };
        let result = if self.host.mistake() == Some(Mistake::HostExchangesAlways) {
            memory.atomic_swap(part.at(), value).map(|old| if hit { Ok(old) } else { Err(old) })
        } else {
            memory.atomic_compare_exchange(part.at(), expected, value)
        };
        let done = self.judge("a compare-exchange", part, reach, result.map(drop))?;
        if let Ok(found) = result {
            let right = if hit { Ok(old) } else { Err(old) };
            ensure(found == right, Check::Contents, || {
                format!("{part:x?}: {found:x?} instead of {right:x?}")
            })?;
        }
        let after = if hit && done > 0 { &exchanged } else { &before };
        self.settle_contents(part, if hit { done } else { 0 }, after)
    }

    fn host_pieces(&mut self, part: Part, other: u8) -> Result<(), Violation> {
        let write = other & 1 == 1;
        let access = if write { WRITE } else { READ };
        let reach = self.reach(part, access);
        let mut before = Image::new();
        self.load(part, &mut before);
        let bytes = vec![other; part.size as usize];
        let after =
            |done: u64| if write { written(&before, part, &bytes[..done as usize]) } else { before.clone() };
        self.expect(part, access, reach.0, &after(reach.0));
        let space = self.subjects[part.index].space();
        let (mut done, mut result) = (0, Ok(()));
        for piece in space.translated_byte_buffer(part.at(), part.size, access) {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    result = Err(error);
                    continue;
                }
            };
            let place = (piece.gpa().as_u64(), space.translate(piece.gpa()));
            ensure(result.is_ok() && place == (part.gpa + done, Some(piece.hpa())), Check::Query, || {
                format!("{piece:x?} follows {done:#x} bytes of {part:x?}")
            })?;
            let mut found = vec![0; piece.len() as usize];
            let moved = if write { piece.write(0, &bytes[..found.len()]) } else { piece.read(0, &mut found) };
            let expected = (part.gpa + done..).map(|at| get(&before, part.index, at)).take(found.len());
            ensure(moved.is_ok() && (write || found.iter().copied().eq(expected)), Check::Contents, || {
                format!("{piece:x?} holds {found:x?}, {moved:?}")
            })?;
            done += piece.len();
        }
        let judged = self.judge("the pieces", part, reach, result)?;
        ensure(judged == done, Check::Verdict, || format!("{part:x?}: pieces of {done:#x} bytes"))?;
        self.settle_contents(part, if write { done } else { 0 }, &after(done))
    }
}

/// A page of zeroes.
fn empty() -> Vec<u8> {
    vec![0; PAGE_SIZE as usize]
}

/// The first word of a page.
pub(crate) fn first_word(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// A byte of an image.
fn get(image: &Image, index: usize, at: u64) -> u8 {
    let page = image.get(&(index, at & !(PAGE_SIZE - 1)));
    page.map_or(0, |bytes| bytes[(at % PAGE_SIZE) as usize])
}

fn put(image: &mut Image, index: usize, at: u64, byte: u8) {
    if let Some(bytes) = image.get_mut(&(index, at & !(PAGE_SIZE - 1))) {
        bytes[(at % PAGE_SIZE) as usize] = byte;
    }
}

/// The image after `bytes` were written.
fn written(image: &Image, part: Part, bytes: &[u8]) -> Image {
    let mut after = image.clone();
    (part.gpa..).zip(bytes).for_each(|(at, byte)| put(&mut after, part.index, at, *byte));
    after
}

/// The image after `bytes` bytes were copied, one after the other.
fn copied(image: &Image, from: Part, to: Part, bytes: u64) -> Image {
    let mut after = image.clone();
    for offset in 0..bytes {
        let byte = get(&after, from.index, from.gpa + offset);
        put(&mut after, to.index, to.gpa + offset, byte);
    }
    after
}

pub(crate) fn frame_bytes<P: Platform>(host: &Host<P>, frame: u64) -> Vec<u8> {
    let words = (frame..frame + PAGE_SIZE).step_by(8).map(|hpa| host.ram().read(hpa).unwrap_or_default());
    words.flat_map(u64::to_le_bytes).collect()
}

fn peek<P: Platform>(host: &Host<P>, hpa: u64) -> u8 {
    host.ram().read(hpa & !7).unwrap_or_default().to_le_bytes()[(hpa % 8) as usize]
}

fn poke<P: Platform>(host: &Host<P>, hpa: u64, byte: u8) {
    let mut word = host.ram().read(hpa & !7).unwrap_or_default().to_le_bytes();
    word[(hpa % 8) as usize] = byte;
    host.ram().write(hpa & !7, u64::from_le_bytes(word));
}
