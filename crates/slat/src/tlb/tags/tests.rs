//! The pool against CPUs that remember everything until they are told to drop it.

use super::*;
use crate::test_util::{HeapHal, cases};
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::vec::Vec;

/// A CPU: which space it remembers under which tag.
#[derive(Default)]
struct Cpu {
    remembers: BTreeMap<u16, usize>,
    entered: Option<(usize, u16)>,
}

impl Cpu {
    fn enter(&mut self, pool: &TagPool<&HeapHal>, cpu: usize, space: usize, tag: &Tag) {
        let Activation { tag: number, flush } = pool.activate(cpu, tag).expect("a CPU of the pool");
        if flush {
            self.remembers.clear();
        }
        let other = self.remembers.insert(number, space).filter(|other| *other != space);
        assert_eq!(
            other, None,
            "CPU {cpu} enters space {space} under tag {number}, where it remembers another"
        );
        self.entered = Some((space, number));
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

#[test]
fn no_cpu_mixes_two_spaces_up_and_invalidations_reach_all_that_run_one() {
    let hal = HeapHal::new();
    let mut generations = 0;
    for (bits, cpus, spaces) in
        [(0, 2, 3), (1, 1, 3), (2, 2, 9), (3, 2, 4), (3, 6, 40), (8, 4, 600), (16, 3, 5)]
    {
        let pool = TagPool::new(&hal, bits, cpus).expect("memory");
        let tags: Vec<Tag> = (0..spaces).map(|_| Tag::new()).collect();
        let mut machine: Vec<Cpu> = (0..cpus).map(|_| Cpu::default()).collect();
        let mut random = Random(bits.into());
        for _ in 0..4000 {
            let (cpu, space) = (random.below(cpus), random.below(spaces));
            if random.below(16) == 0 {
                pool.deactivate(cpu).expect("a CPU of the pool");
                machine[cpu].entered = None;
            } else {
                machine[cpu].enter(&pool, cpu, space, &tags[space]);
            }
            for (space, number) in machine.iter().filter_map(|cpu| cpu.entered) {
                assert_eq!(
                    tags[space].number(),
                    number,
                    "an invalidation would miss a CPU that runs {space}"
                );
            }
        }
        assert!(
            bits == 0
                || tags
                    .iter()
                    .filter(|tag| tag.0.load(Ordering::Relaxed) != 0)
                    .all(|tag| tag.number() > 0 || pool.tags == 1)
        );
        generations += pool.generation.load(Ordering::Relaxed) / GENERATION - 1;
    }
    assert!(generations > 1000, "{generations} generations");
}

#[test]
fn cpus_that_activate_at_once_are_told_apart_too() {
    const CPUS: usize = 4;
    let hal = HeapHal::new();
    for round in 0..cases(20) {
        let pool = TagPool::new(&hal, 3, CPUS).expect("memory");
        let tags: Vec<Tag> = (0..12).map(|_| Tag::new()).collect();
        let start = Barrier::new(CPUS);
        std::thread::scope(|scope| {
            for cpu in 0..CPUS {
                let (pool, tags, start) = (&pool, &tags, &start);
                scope.spawn(move || {
                    let (mut state, mut random) = (Cpu::default(), Random((round * CPUS + cpu) as u64));
                    start.wait();
                    for _ in 0..5000 {
                        let space = random.below(tags.len());
                        state.enter(pool, cpu, space, &tags[space]);
                        // While the guest runs, others may begin a generation or two.
                        (0..random.below(20)).for_each(|_| std::hint::spin_loop());
                        assert_eq!(state.entered, Some((space, tags[space].number())));
                    }
                });
            }
        });
        assert!(pool.generation.load(Ordering::Relaxed) > 10 * GENERATION, "{pool:?}");
    }
}

#[test]
fn the_same_space_again_costs_nothing() {
    let hal = HeapHal::new();
    let pool = TagPool::new(&hal, 8, 2).expect("memory");
    let (one, other) = (Tag::new(), Tag::new());
    let activate = |cpu, tag| pool.activate(cpu, tag).expect("a CPU of the pool");
    assert_eq!(activate(0, &one), Activation { tag: 1, flush: true }, "who knows what was before the pool");
    assert_eq!(activate(0, &one), Activation { tag: 1, flush: false });
    assert_eq!(activate(0, &other), Activation { tag: 2, flush: false });
    assert_eq!(activate(1, &one), Activation { tag: 1, flush: true });
    assert_eq!(activate(0, &one), Activation { tag: 1, flush: false });
}

#[test]
fn without_enough_tags_every_change_drops_everything() {
    let hal = HeapHal::new();
    // One bit has tag 1 alone beside 0: not more than there are CPUs.
    for bits in [0, 1] {
        let pool = TagPool::new(&hal, bits, 1).expect("memory");
        let (one, other) = (Tag::new(), Tag::new());
        let flushes = [&one, &one, &other, &one, &one]
            .map(|tag| pool.activate(0, tag).map(|done| (done.tag, done.flush)));
        let expected = [true, false, true, true, false].map(|flush| Ok((0, flush)));
        assert_eq!(flushes, expected, "{bits} bits");
    }
}

#[test]
fn wrong_arguments_and_missing_memory_are_errors() {
    let hal = HeapHal::new();
    assert_eq!(TagPool::new(&hal, 17, 1).map(drop), Err(TagError::TooWide(17)));
    assert_eq!(TagPool::new(&hal, 8, 0).map(drop), Err(TagError::NoSuchCpu { cpu: 0, cpus: 0 }));
    assert_eq!(TagPool::new(&hal, 8, usize::MAX / 3).map(drop), Err(TagError::OutOfMemory));
    hal.fail_after(Some(0));
    assert_eq!(TagPool::new(&hal, 8, 1).map(drop), Err(TagError::OutOfMemory));
    hal.fail_after(None);
    let pool = TagPool::new(&hal, 8, 2).expect("memory");
    assert_eq!(pool.cpus(), 2);
    assert_eq!(std::format!("{pool:?}"), "TagPool { tags: 256, cpus: 2, generation: 1 }");
    let error = TagError::NoSuchCpu { cpu: 2, cpus: 2 };
    assert_eq!((pool.activate(2, &Tag::new()), pool.deactivate(2)), (Err(error), Err(error)));
    assert_eq!(hal.in_use(), 1);
    drop(pool);
    assert_eq!(hal.in_use(), 0);
}

#[test]
fn a_flush_that_was_not_carried_out_is_asked_for_again() {
    let hal = HeapHal::new();
    let pool = TagPool::new(&hal, 4, 2).expect("memory");
    let tag = Tag::new();
    let flush = |cpu| pool.activate(cpu, &tag).expect("a CPU of the pool").flush;
    assert_eq!([flush(0), flush(0), flush(1), flush(1)], [true, false, true, false]);
    pool.owe_flush(0).expect("a CPU of the pool");
    assert_eq!([flush(1), flush(0), flush(0)], [false, true, false]);
    assert_eq!(pool.owe_flush(2), Err(TagError::NoSuchCpu { cpu: 2, cpus: 2 }));
}
