//! Random operations against a specification that one can see is right: a map from page to what is there.

use super::*;
use crate::addr::PAGE_SIZE;
use crate::fault::FaultOutcome;
use crate::space::AllocOptions;
use crate::test_util::cases;
use std::collections::BTreeMap;

/// A small generator: xorshift64*, any seed but zero.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What the specification knows of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Linear { hpa: u64, flags: MappingFlags },
    Alloc { flags: MappingFlags, contents: Option<u64> },
}

/// Pages of the window on which the operations fall: three 2 MiB blocks around a 1 GiB boundary.
const WINDOW: u64 = 3 * 512;
const BASE: u64 = GIB1 - MIB2;

fn at(page: u64) -> GuestPhysAddr {
    gpa(BASE + page * PAGE_SIZE)
}

fn some_range(random: &mut Random) -> (u64, u64) {
    let lengths = [1, 2, 3, 17, 511, 512, 513, 700, 1024];
    let length = lengths[random.below(lengths.len() as u64) as usize].min(WINDOW);
    let mut start = random.below(WINDOW - length + 1);
    if random.below(3) == 0 {
        start = start / 512 * 512;
    }
    (start, length)
}

/// Flags that the format takes; the last choice, no access at all, always is.
fn some_flags<F: Format>(format: &F, random: &mut Random) -> MappingFlags {
    let choices = [RWX, RW, MappingFlags::READ, RW | MappingFlags::UNCACHED, MappingFlags::empty()];
    loop {
        let flags = choices[random.below(choices.len() as u64) as usize];
        if format.check_flags(flags).is_ok() {
            return flags;
        }
    }
}

/// What a leaf with these flags tells of them.
fn told<F: Format>(format: &F, flags: MappingFlags) -> MappingFlags {
    if format.separates_user_execute() { flags } else { flags - MappingFlags::USER }
}

fn step<F: Format>(
    space: &mut Space<'_, F>,
    spec: &mut BTreeMap<u64, Page>,
    hal: &HeapHal,
    random: &mut Random,
) {
    let (start, length) = some_range(random);
    let pages = start..start + length;
    let size = length * PAGE_SIZE;
    let free = spec.range(pages.clone()).next().is_none();
    let covered = spec.range(pages.clone()).count() as u64 == length;
    match random.below(11) {
        0 => {
            // Congruent to the address modulo 2 MiB half of the time, so that blocks are possible.
            let hpa_start = 0x40_0000_0000 + BASE + start * PAGE_SIZE + random.below(2) * PAGE_SIZE;
            let flags = some_flags(space.format(), random);
            let result = space.map_linear(at(start), hpa(hpa_start), size, flags);
            assert_eq!(result.is_ok(), free);
            if free {
                let page = |page| (page, Page::Linear { hpa: hpa_start + (page - start) * PAGE_SIZE, flags });
                spec.extend(pages.map(page));
            }
        }
        1 | 2 => {
            let populate = random.below(2) == 0;
            let largest_leaf = LeafSize::ALL[random.below(3) as usize];
            let flags = some_flags(space.format(), random);
            let result = space.map_alloc_with(
                at(start),
                size,
                flags,
                AllocOptions { populate, largest_leaf, ..AllocOptions::default() },
            );
            assert_eq!(result.is_ok(), free);
            if free {
                let contents = populate.then_some(0);
                spec.extend(pages.map(|page| (page, Page::Alloc { flags, contents })));
            }
        }
        3 => {
            assert_eq!(space.unmap(at(start), size).is_ok(), covered);
            if covered {
                spec.retain(|page, _| !pages.contains(page));
            }
        }
        4 | 5 => {
            let new = some_flags(space.format(), random);
            assert_eq!(space.protect(at(start), size, new).is_ok(), covered);
            if covered {
                for (_, page) in spec.range_mut(pages) {
                    let (Page::Linear { flags, .. } | Page::Alloc { flags, .. }) = page;
                    *flags = new;
                }
            }
        }
        6 => {
            let owned = |page: &Page| matches!(page, Page::Alloc { .. });
            let movable = covered && spec.range(pages.clone()).all(|(_, page)| owned(page));
            let populated = |page: &Page| matches!(page, Page::Alloc { contents: Some(_), .. });
            let count = spec.range(pages).filter(|(_, page)| populated(page)).count() as u64;
            let result = space.migrate(at(start), size);
            assert_eq!(result.ok(), movable.then_some(count));
        }
        7 => {
            // What the guest sees stays as it is, so the specification knows nothing of it.
            assert_eq!(space.collapse(at(start), size).is_ok(), covered);
        }
        8 => {
            let result = space.populate(at(start), size);
            assert_eq!(result.is_ok(), covered);
            let mut added = 0;
            for page in pages.filter(|_| covered) {
                // A large leaf at an edge reaches beyond the range.
                let around = (page / 512 * 512)..(page / 512 + 1) * 512;
                for page in around {
                    if let Some(Page::Alloc { flags, contents: contents @ None }) = spec.get_mut(&page) {
                        if flags.is_accessible() && space.translate(at(page)).is_some() {
                            *contents = Some(0);
                            added += 1;
                        }
                    }
                }
            }
            assert_eq!(result.unwrap_or(0), added);
        }
        _ => fault(space, spec, hal, random, start),
    }
}

/// A guest touches a page: it faults if it must, and writes if it may.
fn fault<F: Format>(
    space: &Space<'_, F>,
    spec: &mut BTreeMap<u64, Page>,
    hal: &HeapHal,
    random: &mut Random,
    page: u64,
) {
    let outcome = space.handle_page_fault(at(page), MappingFlags::READ);
    match spec.get(&page).copied() {
        None => assert!(outcome.is_err()),
        Some(Page::Linear { flags, .. } | Page::Alloc { flags, .. })
            if !flags.contains(MappingFlags::READ) =>
        {
            assert!(outcome.is_err());
        }
        Some(Page::Linear { .. } | Page::Alloc { contents: Some(_), .. }) => {
            let marked = space.format().marks_by_fault() && outcome == Ok(FaultOutcome::Marked);
            assert!(marked || outcome == Ok(FaultOutcome::Spurious), "{outcome:?}");
        }
        Some(Page::Alloc { contents: None, .. }) => {
            let Ok(FaultOutcome::Populated(size)) = outcome else { panic!("{outcome:?}") };
            let pages = size.bytes() / PAGE_SIZE;
            let first = (BASE / PAGE_SIZE + page) / pages * pages - BASE / PAGE_SIZE;
            for page in first..first + pages {
                let Some(Page::Alloc { contents, .. }) = spec.get_mut(&page) else {
                    panic!("{page} populated")
                };
                assert_eq!(*contents, None, "a leaf over a page that was there");
                *contents = Some(0);
            }
        }
    }
    if let (Some(Page::Alloc { contents: Some(contents), .. }), Some(frame)) =
        (spec.get_mut(&page), space.translate(at(page)))
    {
        *contents = random.next();
        hal.write(frame, &contents.to_le_bytes());
    }
}

fn check<F: Format>(space: &Space<'_, F>, spec: &BTreeMap<u64, Page>, hal: &HeapHal) {
    let mut owned = 0;
    for page in 0..WINDOW {
        let query = space.query(at(page)).ok();
        let frame = space.translate(at(page));
        match spec.get(&page) {
            None => assert_eq!((query, frame), (None, None), "page {page}"),
            Some(Page::Linear { hpa: wanted, flags }) => {
                let flags = told(space.format(), *flags);
                let accessible = flags.is_accessible();
                assert_eq!(frame, accessible.then_some(hpa(*wanted)), "page {page}");
                assert_eq!(query.map(|mapping| mapping.flags), accessible.then_some(flags), "page {page}");
            }
            Some(Page::Alloc { flags, contents }) => {
                let flags = told(space.format(), *flags);
                owned += u64::from(contents.is_some());
                let there = contents.is_some() && flags.is_accessible();
                assert_eq!(query.map(|mapping| mapping.flags), there.then_some(flags), "page {page}");
                if let (Some(contents), Some(frame)) = (contents, frame) {
                    assert_eq!(hal.read(frame, 8), contents.to_le_bytes(), "page {page}");
                }
            }
        }
    }
    let stats = space.stats();
    assert_eq!(stats.table.owned_frames, owned);
    let counted = stats.table.owned_frames + stats.table.table_frames + stats.region_frames as u64;
    assert_eq!(hal.in_use() as u64, counted, "frames taken = guest memory + tables + regions");
}

fn random_operations_match<F: Format>(formats: impl IntoIterator<Item = F>) {
    for (index, format) in formats.into_iter().enumerate() {
        for seed in 1..=cases(6) as u64 {
            let hal = HeapHal::new();
            let mut random = Random(seed * 0x9e37_79b9 + index as u64);
            let mut space = Space::with_format(&hal, format, gpa(0), 4 * GIB1, 0).expect("a root");
            let mut spec = BTreeMap::new();
            for _ in 0..cases(60).max(20) {
                step(&mut space, &mut spec, &hal, &mut random);
                check(&space, &spec, &hal);
            }
            drop(space);
            assert_eq!(hal.in_use(), 0);
        }
    }
}

#[test]
fn random_operations_match_the_naive_model_stage2() {
    random_operations_match(formats());
}

#[test]
fn random_operations_match_the_naive_model_ept() {
    random_operations_match(ept_formats());
}

#[test]
fn random_operations_match_the_naive_model_npt() {
    random_operations_match(npt_formats());
}

#[test]
fn random_operations_match_the_naive_model_gstage() {
    random_operations_match(gstage_formats());
}
