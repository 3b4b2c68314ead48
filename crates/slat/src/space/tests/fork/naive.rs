//! Random operations on a family of spaces, each with a specification of its own: what each page holds.

use super::*;
use crate::addr::PAGE_SIZE;
use crate::audit::{Audit, AuditRecord, AuditedSpace};
use crate::test_util::cases;
use std::collections::BTreeMap;

/// A small generator: xorshift64*, any seed but zero.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// Three blocks of 2 MiB around a boundary of 1 GiB.
const WINDOW: u64 = 3 * 512;
const BASE: u64 = (GIB1 - MIB2) / PAGE_SIZE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    flags: MappingFlags,
    value: u64,
    pinned: bool,
}

type Pages = BTreeMap<u64, Page>;

struct Member<'h, F: Format> {
    space: Space<'h, F>,
    pages: Pages,
    snapshot: Option<(crate::Snapshot<&'h HeapHal, F, NoBackend>, Pages)>,
}

fn at(page: u64) -> GuestPhysAddr {
    gpa((BASE + page) * PAGE_SIZE)
}

fn step<F: Format>(family: &mut Vec<Member<'_, F>>, random: &mut Random) {
    let which = random.below(family.len() as u64) as usize;
    let lengths = [1, 1, 2, 3, 17, 511, 512, 700];
    let length = lengths[random.below(8) as usize];
    let mut first = random.below(WINDOW - length + 1);
    if random.below(3) == 0 {
        first = first / 512 * 512;
    }
    let (range, size) = (first..first + length, length * PAGE_SIZE);
    let (room, several) = (family.len() < 4, family.len() > 1);
    let member = &mut family[which];
    let covered = member.pages.range(range.clone()).count() as u64 == length;
    let free = member.pages.range(range.clone()).next().is_none();
    let pinned = member.pages.range(range.clone()).any(|(_, page)| page.pinned);
    match random.below(22) {
        0..3 if room => {
            let space = member.space.fork(9).expect("memory");
            let pages =
                member.pages.iter().map(|(at, page)| (*at, Page { pinned: false, ..*page })).collect();
            family.push(Member { space, pages, snapshot: None });
        }
        3 if several => drop(family.swap_remove(which)),
        4 => {
            let pages =
                member.pages.iter().map(|(at, page)| (*at, Page { pinned: false, ..*page })).collect();
            member.snapshot = Some((member.space.snapshot().expect("memory"), pages));
        }
        5 => {
            if let Some((snapshot, pages)) = &member.snapshot {
                let any_pinned = member.pages.values().any(|page| page.pinned);
                assert_eq!(member.space.reset(snapshot).is_ok(), !any_pinned);
                if !any_pinned {
                    member.pages.clone_from(pages);
                }
            }
        }
        6 => _ = member.space.consolidate(),
        7 => member.snapshot = None,
        8 | 9 => {
            let largest_leaf = LeafSize::ALL[random.below(2) as usize];
            let options = AllocOptions { populate: random.below(2) == 0, largest_leaf, ..SMALL };
            assert_eq!(member.space.map_alloc_with(at(first), size, RW, options).is_ok(), free);
            if free {
                let fresh = Page { flags: RW, value: 0, pinned: false };
                member.pages.extend(range.map(|page| (page, fresh)));
            }
        }
        10 => {
            assert_eq!(member.space.unmap(at(first), size).is_ok(), covered && !pinned);
            if covered && !pinned {
                member.pages.retain(|page, _| !range.contains(page));
            }
        }
        11 | 12 => {
            let flags = [READ, RW, RWX, MappingFlags::empty()][random.below(4) as usize];
            assert_eq!(member.space.protect(at(first), size, flags).is_ok(), covered);
            if covered {
                member.pages.range_mut(range).for_each(|(_, page)| page.flags = flags);
            }
        }
        13 => {
            assert_eq!(member.space.discard(at(first), size).is_ok(), covered && !pinned);
            if covered && !pinned {
                member.pages.range_mut(range).for_each(|(_, page)| page.value = 0);
            }
        }
        14 => assert_eq!(member.space.migrate(at(first), size).is_ok(), covered && !pinned),
        15 => assert_eq!(member.space.collapse(at(first), size).is_ok(), covered),
        16 => {
            let accessible = member.pages.range(range.clone()).all(|(_, page)| page.flags.is_accessible());
            if covered && !pinned && accessible {
                member.space.pin(at(first), size).expect("memory");
                member.pages.range_mut(range).for_each(|(_, page)| page.pinned = true);
            } else if covered && member.pages.range(range.clone()).all(|(_, page)| page.pinned) {
                member.space.unpin(at(first), size).expect("pinned");
                member.pages.range_mut(range).for_each(|(_, page)| page.pinned = false);
            }
        }
        _ => {
            for page in range.take(40) {
                touch(member, page, random);
            }
        }
    }
}

/// A guest writes to a page if it may.
fn touch<F: Format>(member: &mut Member<'_, F>, page: u64, random: &mut Random) {
    let value = random.below(u64::MAX);
    let wrote = member.space.write_obj(at(page), value).is_ok();
    match member.pages.get_mut(&page) {
        Some(known) if known.flags.contains(WRITE) => {
            assert!(wrote, "page {page}");
            known.value = value;
        }
        _ => assert!(!wrote, "page {page}"),
    }
}

fn check<F: Format>(family: &[Member<'_, F>], hal: &HeapHal, random: &mut Random) {
    let mut frames: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
    for (index, member) in family.iter().enumerate() {
        for page in 0..WINDOW {
            let frame = member.space.translate(at(page));
            let Some(known) = member.pages.get(&page) else {
                assert_eq!((frame, member.space.region(at(page))), (None, None));
                continue;
            };
            if let Some(frame) = frame {
                let value = hal.read(frame, 8);
                assert_eq!(value, known.value.to_le_bytes(), "page {page} of space {index}");
                let flags = member.space.query(at(page)).expect("there").flags;
                let writable = flags.contains(WRITE);
                assert!(!writable || known.flags.contains(WRITE));
                let (other, shared_writable) = *frames.entry(frame.as_u64()).or_insert((index, writable));
                let alone = other == index || !writable && !shared_writable;
                assert!(alone, "a frame that one can write and another can read");
                assert!(!known.pinned || !known.flags.contains(WRITE) || writable, "no fault moves a pin");
            }
            // Reading by the host, now and then: it finds the same, and unshares tables.
            if random.below(200) == 0 && known.flags.contains(READ) {
                assert_eq!(member.space.read_obj::<u64>(at(page)), Ok(known.value));
            }
        }
        if let Some((snapshot, pages)) = &member.snapshot {
            for (page, known) in pages {
                if let Some(frame) = snapshot.space().translate(at(*page)) {
                    assert_eq!(hal.read(frame, 8), known.value.to_le_bytes(), "page {page} of a snapshot");
                }
            }
        }
    }
    let spaces: Vec<_> =
        family.iter().map(|member| AuditedSpace { space: &member.space, write_xor_execute: false }).collect();
    let audit = Audit { spaces: &spaces, reserved: &[], shared: &[] };
    let mut scratch = std::vec![AuditRecord::default(); audit.records()];
    let found = audit.run(&mut scratch, |violation| panic!("{violation}"));
    assert_eq!(found, Ok(0));
}

fn families<F: Format>(formats: impl IntoIterator<Item = F>) {
    for (index, format) in formats.into_iter().enumerate() {
        for seed in 1..=cases(5) as u64 {
            let hal = HeapHal::new();
            let mut random = Random(seed * 0x9e37_79b9 + index as u64);
            let space = Space::with_format(&hal, format, gpa(0), 4 * GIB1, 0).expect("a root");
            let mut family = std::vec![Member { space, pages: Pages::new(), snapshot: None }];
            for _ in 0..cases(150).max(20) {
                step(&mut family, &mut random);
                check(&family, &hal, &mut random);
            }
            // Alone again, nothing but its own is left of all that.
            let mut member = family.pop().expect("never empty");
            (family, member.snapshot) = (std::vec![], None);
            drop(family);
            member.space.consolidate();
            let stats = member.space.stats();
            let counted = stats.table.owned_frames + stats.table.table_frames + stats.region_frames as u64;
            assert_eq!((stats.versions, hal.in_use() as u64), (0, counted), "{format:?} seed {seed}");
            drop(member);
            assert_eq!(hal.in_use(), 0);
        }
    }
}

#[test]
fn families_of_spaces_match_the_naive_model_stage2() {
    families(formats());
}

#[test]
fn families_of_spaces_match_the_naive_model_ept() {
    families(ept_formats());
}

#[test]
fn families_of_spaces_match_the_naive_model_npt() {
    families(npt_formats());
}

#[test]
fn families_of_spaces_match_the_naive_model_gstage() {
    families(gstage_formats());
}
