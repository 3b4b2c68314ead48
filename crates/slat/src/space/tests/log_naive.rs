//! Random operations on spaces whose writes are logged, beside a specification that one can see is right: the set of pages
//! that were written to.

use super::lifetimes::{count, is_invalidation};
use super::log::{guest_access, marking_npt};
use super::naive::Random;
use super::*;
use crate::addr::PAGE_SIZE;
use crate::space::AllocOptions;
use crate::table::LogUnit;
use crate::test_util::{Event, cases};
use std::collections::{BTreeMap, BTreeSet};

/// Three 2 MiB blocks around a 1 GiB boundary.
const WINDOW: u64 = 3 * 512;
const BASE: u64 = GIB1 - MIB2;

#[derive(Default)]
struct Spec {
    /// The flags of each mapped page, and whether writes to it are logged.
    pages: BTreeMap<u64, (MappingFlags, bool)>,
    /// Logged pages that have to be told.
    dirty: BTreeSet<u64>,
    /// Pages that have a leaf.
    present: BTreeSet<u64>,
    /// Pages told, and operations that told any.
    told: usize,
    large: usize,
    forked: bool,
    copied: usize,
    /// Pages that were used since the last scan, and the ages of all.
    used: BTreeSet<u64>,
    ages: Vec<u8>,
    idle: usize,
}

fn at(page: u64) -> GuestPhysAddr {
    gpa(BASE + page * PAGE_SIZE)
}

struct Run<'h, F: Format> {
    space: Space<'h, F>,
    hal: &'h HeapHal,
    spec: Spec,
    random: Random,
    /// Whether there are forks.
    forks: bool,
    children: Vec<Space<'h, F>>,
    /// No large leaf is ever there, so that exactly what was written to or populated has to be told.
    exact: bool,
}

impl<'h, F: Format> Run<'h, F> {
    fn pages(&self, range: &std::ops::Range<u64>) -> impl Iterator<Item = (&u64, &(MappingFlags, bool))> {
        self.spec.pages.range(range.clone())
    }

    fn flags(&mut self) -> MappingFlags {
        [RWX, RW, RW, MappingFlags::READ, MappingFlags::empty()][self.random.below(5) as usize]
    }

    fn step(&mut self) {
        let lengths = [1, 1, 2, 3, 17, 511, 512, 513, 700, 1024];
        let length = lengths[self.random.below(10) as usize];
        let mut start = self.random.below(WINDOW - length + 1);
        if self.random.below(2) == 0 {
            start = start / 512 * 512;
        }
        let (mut range, mut size) = (start..start + length, length * PAGE_SIZE);
        if self.random.below(3) > 0 {
            // A region or a part of one, so that most of it goes through.
            let regions: Vec<_> = self.space.regions().map(|region| region.range).collect();
            if !regions.is_empty() {
                let region = regions[self.random.below(regions.len() as u64) as usize];
                let pages = region.size() / PAGE_SIZE;
                let skip = if self.random.below(2) == 0 { 0 } else { self.random.below(pages) };
                start = (region.start().as_u64() - BASE) / PAGE_SIZE + skip;
                range = start..start + pages - skip;
                size = (pages - skip) * PAGE_SIZE;
            }
        }
        if !self.exact && self.random.below(4) > 0 {
            // Whole blocks, so that large leaves live for a while.
            start = start / 512 * 512;
            range = start..range.end.next_multiple_of(512);
            size = (range.end - start) * PAGE_SIZE;
        }
        let length = size / PAGE_SIZE;
        let covered = self.pages(&range).count() as u64 == length;
        let all_logged = covered && self.pages(&range).all(|(_, (_, logged))| *logged);
        let none_logged = covered && self.pages(&range).all(|(_, (_, logged))| !*logged);
        match self.random.below(28) {
            0..=2 | 26 => {
                let block = start / 512 * 512;
                self.map(if self.exact { range } else { block..block + 512 });
            }
            25 if self.random.below(8) == 0 => {
                self.space.clear().expect("nothing is pinned");
                self.spec.pages.clear();
                self.spec.dirty.clear();
            }
            27 if self.random.below(3) == 0 => {
                assert_eq!(self.space.unmap(at(start), size).is_ok(), covered);
                if covered {
                    self.spec.pages.retain(|page, _| !range.contains(page));
                    self.spec.dirty.retain(|page| !range.contains(page));
                    self.spec.used.retain(|page| !range.contains(page));
                }
            }
            3 | 4 => {
                let new = self.flags();
                assert_eq!(self.space.protect(at(start), size, new).is_ok(), covered);
                if covered {
                    self.spec.pages.range_mut(range).for_each(|(_, (flags, _))| *flags = new);
                }
            }
            5 => drop(self.space.migrate(at(start), size)),
            6 if !self.exact => drop(self.space.collapse(at(start), size)),
            7 => drop(self.space.populate(at(start), size)),
            8 => {
                if self.space.discard(at(start), size).is_ok() {
                    self.spec.dirty.retain(|page| !range.contains(page));
                    self.spec.present.retain(|page| !range.contains(page));
                }
            }
            9..=11 => {
                let unit = [LogUnit::Page, LogUnit::Leaf][self.random.below(2) as usize];
                let before = self.hal.in_use();
                let result = self.space.start_dirty_log(at(start), size, unit);
                assert_eq!(result.is_ok(), none_logged, "{result:?}");
                assert!(self.hal.in_use() <= before + 8, "tables at the edges, and the regions");
                if none_logged {
                    self.spec.pages.range_mut(range.clone()).for_each(|(_, (_, logged))| *logged = true);
                    self.spec.dirty.retain(|page| !range.contains(page));
                }
            }
            21 | 24 => self.scan(range),
            22 | 23 if self.forks => self.fork(start),
            12 if self.random.below(3) == 0 => {
                assert_eq!(self.space.stop_dirty_log(at(start), size).is_ok(), all_logged);
                if all_logged {
                    self.spec.pages.range_mut(range.clone()).for_each(|(_, (_, logged))| *logged = false);
                    self.spec.dirty.retain(|page| !range.contains(page));
                }
            }
            12..=14 => self.collect(range, all_logged),
            15 => self.collect_noted(),
            _ => {
                let page = start + self.random.below(length.min(5));
                let access = [MappingFlags::READ, MappingFlags::WRITE, MappingFlags::WRITE]
                    [self.random.below(3) as usize];
                let allowed = self.spec.pages.get(&page).is_some_and(|(flags, _)| flags.contains(access));
                // The host has no pointer to what is mapped linearly here.
                let linear = self.space.query(at(page)).is_ok_and(|leaf| !leaf.owned);
                let done = if self.random.below(3) > 0 || linear {
                    guest_access(&self.space, at(page), access)
                } else if access == MappingFlags::READ {
                    self.space.memory().read(at(page), &mut [0; 8]).is_ok()
                } else {
                    self.space.memory().write(at(page), &[1; 8]).is_ok()
                };
                assert_eq!(done, allowed, "page {page}: {access}");
                if done {
                    self.spec.used.insert(page);
                }
                if done && access == MappingFlags::WRITE {
                    self.written(page);
                }
            }
        }
        self.see();
    }

    fn map(&mut self, range: std::ops::Range<u64>) {
        let free = self.pages(&range).next().is_none();
        let (start, size) = (range.start, (range.end - range.start) * PAGE_SIZE);
        let flags = self.flags();
        let result = if self.random.below(3) == 0 {
            // Never aligned alike where all leaves are to be small.
            let off = if self.exact { PAGE_SIZE } else { 0 };
            self.space.map_linear(
                at(start),
                hpa(0x40_0000_0000 + BASE + start * PAGE_SIZE + off),
                size,
                flags,
            )
        } else {
            let level = if self.exact { 0 } else { self.random.below(3) as usize };
            let around = LeafSize::ALL[self.random.below(2) as usize];
            let options = AllocOptions {
                populate: self.random.below(2) == 0,
                largest_leaf: LeafSize::ALL[level],
                fault_around: around,
            };
            self.space.map_alloc_with(at(start), size, flags, options)
        };
        assert_eq!(result.is_ok(), free);
        if free {
            self.spec.pages.extend(range.map(|page| (page, (flags, false))));
        }
    }

    /// Ages are nobody else's business either.
    fn scan(&mut self, range: std::ops::Range<u64>) {
        let size = (range.end - range.start) * PAGE_SIZE;
        self.spec.ages.resize(WINDOW as usize, 0);
        let ages = &mut self.spec.ages[range.start as usize..range.end as usize];
        let before = ages.to_vec();
        let (mut idle, least) = (Vec::new(), 1 + self.random.below(3) as u8);
        self.hal.record();
        let pages = self.space.scan_idle(at(range.start), size, ages, least, |leaf, age| {
            let page = |at: GuestPhysAddr| (at.as_u64() - BASE) / PAGE_SIZE;
            assert!(age >= least);
            idle.extend(page(leaf.start())..page(leaf.end()));
        });
        assert!(count(&self.hal.events(), is_invalidation) <= 1);
        assert_eq!(pages, Ok(idle.len() as u64));
        let old: Vec<u64> =
            (range.start..).zip(&*ages).filter(|(_, age)| **age >= least).map(|(page, _)| page).collect();
        assert_eq!(idle, old, "in ascending order");
        for ((page, age), before) in (range.start..).zip(&*ages).zip(before) {
            assert!(
                *age == 0 || *age <= before.saturating_add(1) && !self.spec.used.contains(&page),
                "page {page}"
            );
        }
        self.spec.idle += idle.len();
        self.spec.used.retain(|page| !range.contains(page));
    }

    /// What forks do, and that there are any, concerns nobody else.
    fn fork(&mut self, page: u64) {
        self.spec.forked = true;
        match self.random.below(6) {
            0 if self.children.len() < 3 => {
                let child = self.space.fork(1).expect("memory");
                assert!(child.regions().all(|region| region.log.is_none()));
                self.children.push(child);
            }
            1 => drop(self.children.pop()),
            2 => {
                self.space.consolidate();
            }
            _ => {
                let Some(child) = self.children.last_mut() else { return };
                if guest_access(child, at(page), MappingFlags::WRITE) {
                    assert!(child.query(at(page)).is_ok_and(|leaf| leaf.dirty));
                    self.spec.copied +=
                        usize::from(child.translate(at(page)) != self.space.translate(at(page)));
                }
                let (start, size) = (at(page / 512 * 512), MIB2);
                let flags = [RW, MappingFlags::READ][self.random.below(2) as usize];
                child.consolidate();
                if child.protect(start, size, flags).is_ok() {
                    let range = GuestPhysRange::new(start, size).expect("valid");
                    assert!(child.mappings(range).all(|leaf| flags.contains(leaf.flags)), "{flags}");
                }
            }
        }
    }

    fn written(&mut self, page: u64) {
        if self.spec.pages.get(&page).is_some_and(|(_, logged)| *logged) {
            self.spec.dirty.insert(page);
        }
    }

    /// Takes note of what has a leaf now and had none.
    fn see(&mut self) {
        for page in 0..WINDOW {
            let range = GuestPhysRange::new(at(page), PAGE_SIZE).expect("valid");
            let leaf = self.space.mappings(range).next().is_some();
            if !leaf {
                self.spec.present.remove(&page);
                self.spec.used.remove(&page);
            } else if self.spec.present.insert(page) {
                self.written(page);
            }
        }
    }

    fn collect(&mut self, range: std::ops::Range<u64>, all_logged: bool) {
        let (start, size) = (range.start, (range.end - range.start) * PAGE_SIZE);
        let mut told: Vec<u64> = Vec::new();
        let mut whole_ends = Vec::new();
        self.hal.record();
        let result = if self.random.below(2) == 0 {
            self.space.collect_dirty(at(start), size, |run| {
                let page = |at: GuestPhysAddr| (at.as_u64() - BASE) / PAGE_SIZE;
                whole_ends.push((page(run.start()), page(run.end())));
                told.extend(page(run.start())..page(run.end()));
            })
        } else {
            let mut bitmap = std::vec![0; WINDOW as usize / 64];
            let result = self.space.collect_dirty_bitmap(at(start), size, &mut bitmap);
            let set = |page: &u64| bitmap[(page - start) as usize / 64] >> ((page - start) % 64) & 1 == 1;
            told.extend((start..start + WINDOW.min(bitmap.len() as u64 * 64)).filter(set));
            result
        };
        let events = self.hal.events();
        assert_eq!(result.is_ok(), all_logged, "{result:?}");
        assert_eq!(result.unwrap_or(0), told.len() as u64);
        assert!(told.iter().all(|page| range.contains(page)) && told.is_sorted());
        assert!(whole_ends.is_sorted(), "{whole_ends:?}");
        let invalidations = count(&events, is_invalidation);
        let stored = events.iter().rposition(|event| matches!(event, Event::Store(..)));
        assert!(invalidations <= 1, "{events:?}");
        assert!(!self.exact || invalidations == usize::from(!told.is_empty()), "{events:?}");
        // Copies of shared tables are none that anybody has to be told of.
        let last = events.iter().rposition(is_invalidation);
        assert!(!self.exact || told.is_empty() || last > stored, "{events:?}");
        if all_logged {
            let wanted: Vec<u64> = self.spec.dirty.range(range.clone()).copied().collect();
            if self.exact {
                assert_eq!(told, wanted, "{:?}", self.space.format());
            } else {
                let lost: Vec<_> = wanted.iter().filter(|page| !told.contains(page)).collect();
                assert!(lost.is_empty(), "{lost:?} of {range:?} with {:?}", self.space.format());
            }
            self.spec.told += told.len();
            self.spec.large += usize::from(told.len() > wanted.len());
            self.spec.dirty.retain(|page| !range.contains(page));
        }
    }

    fn collect_noted(&mut self) {
        let noted: Vec<u64> = (0..5).map(|_| self.random.below(WINDOW)).collect();
        let mut told = Vec::new();
        self.space.collect_logged(noted.iter().map(|page| at(*page)), |run| {
            told.extend((run.start().as_u64() - BASE) / PAGE_SIZE..(run.end().as_u64() - BASE) / PAGE_SIZE);
        });
        let mut missing = noted.iter().filter(|page| self.spec.dirty.contains(page));
        assert!(missing.all(|page| told.contains(page)));
        if self.exact {
            assert!(told.iter().all(|page| noted.contains(page) && self.spec.dirty.contains(page)));
        }
        self.spec.dirty.retain(|page| !told.contains(page));
    }

    fn check(&self) {
        for leaf in self.space.mappings(GuestPhysRange::new(at(0), WINDOW * PAGE_SIZE).expect("valid")) {
            let pages =
                leaf.gpa.as_u64().max(BASE)..leaf.range().end().as_u64().min(BASE + WINDOW * PAGE_SIZE);
            for page in pages.step_by(PAGE_SIZE as usize).map(|gpa| (gpa - BASE) / PAGE_SIZE) {
                let (flags, logged) = self.spec.pages[&page];
                let flags = if self.space.format().separates_user_execute() {
                    flags
                } else {
                    flags - MappingFlags::USER
                };
                assert!(flags.contains(leaf.flags), "more than its region allows: page {page}, {leaf:?}");
                let held = flags - leaf.flags;
                let may_be = logged || self.spec.forked;
                assert!(held.is_empty() || may_be && held == MappingFlags::WRITE, "page {page}: {leaf:?}");
                assert!(!self.spec.dirty.contains(&page) || leaf.dirty, "page {page}: {leaf:?}");
            }
        }
        if self.spec.forked {
            return;
        }
        let stats = self.space.stats();
        let counted = stats.table.owned_frames + stats.table.table_frames + stats.region_frames as u64;
        assert_eq!(self.hal.in_use() as u64, counted, "frames taken = guest memory + tables + regions");
    }
}

fn random_operations<F: Format>(formats: impl IntoIterator<Item = F>) {
    for (index, format) in formats.into_iter().enumerate() {
        let (mut told, mut large, mut copied, mut idle) = (0, 0, 0, 0);
        for seed in 1..=cases(16) as u64 {
            let hal = HeapHal::new();
            let space = Space::with_format(&hal, format, gpa(0), 4 * GIB1, 0).expect("a root");
            let random = Random(seed * 0x9e37_79b9 + index as u64);
            let (spec, exact, forks) = (Spec::default(), seed % 2 == 0, seed % 4 < 2);
            let mut run = Run { space, hal: &hal, spec, random, forks, children: Vec::new(), exact };
            for _ in 0..cases(300).max(50) {
                run.step();
                run.check();
            }
            told += run.spec.told;
            large += run.spec.large;
            copied += run.spec.copied;
            idle += run.spec.idle;
            drop(run);
            assert_eq!(hal.in_use(), 0);
        }
        // A tenth of the cases is not enough for everything to happen.
        if cases(100) < 100 {
            continue;
        }
        assert!(copied > 0 && idle > cases(1000), "{copied} copied, {idle} idle pages: {format:?}");
        assert!(
            told > cases(100) && large > 0,
            "{told} pages, {large} collections that told more: {format:?}"
        );
    }
}

#[test]
fn what_was_written_is_told_stage2() {
    random_operations(formats());
}

#[test]
fn what_was_written_is_told_ept() {
    random_operations(ept_formats());
}

#[test]
fn what_was_written_is_told_npt() {
    random_operations(npt_formats().into_iter().chain([marking_npt()]));
}

#[test]
fn what_was_written_is_told_gstage() {
    random_operations(gstage_formats());
}
