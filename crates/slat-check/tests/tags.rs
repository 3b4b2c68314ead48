//! More spaces than tags, on the model: a tag that gets a new owner must not bring the old one's translations along.
//!
//! Five guests share three tags on two CPUs. At random a CPU enters one of them (which rolls the generation over again and again),
//! leaves, or a space changes. Whatever a CPU could use must be what the tables of the space that it runs say.

#![expect(unsafe_code, reason = "a Hal that forwards to the check's host, but for what it is to forget")]

use slat::format::Format;
use slat::{
    AddrSpace, CacheMaintenance, GuestPhysAddr, Hal, HostPhysAddr, Invalidation, MappingFlags, PAGE_SIZE,
    Scope, TableKind, TagPool,
};
use slat_check::host::Host;
use slat_check::platform::Platform;
use slat_check::random::Random;
use slat_check::run::{AnyPlatform, platforms};
use slat_model::{Access, Instruction};
use std::cell::Cell;

const GUESTS: usize = 5;
const CPUS: usize = 2;
const PAGES: u64 = 4;
const STEPS: usize = 600;

/// The host, and whether it forgets the flush that a new generation asks for.
struct Forgetful<P: Platform> {
    host: Host<P>,
    forgets: bool,
    flushes: Cell<u64>,
}

// SAFETY: all is the host's, whose RAM is a model; what is not invalidated leads no real CPU astray.
unsafe impl<P: Platform> Hal for Forgetful<P> {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        self.host.alloc_frames(count, align)
    }
    unsafe fn dealloc_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.host.dealloc_frames(start, count) }
    }
    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        self.host.phys_to_virt(hpa)
    }
    fn invalidate(&self, invalidation: &Invalidation<'_>) {
        if invalidation.scope == Scope::AllSpaces {
            self.flushes.set(self.flushes.get() + 1);
            if self.forgets {
                return;
            }
        }
        self.host.invalidate(invalidation);
    }
    fn maintain_cache(&self, maintenance: &CacheMaintenance) {
        self.host.maintain_cache(maintenance);
    }
    fn publish(&self) {
        self.host.publish();
    }
    fn table_stored(&self, entry: HostPhysAddr, value: u64) {
        self.host.table_stored(entry, value);
    }
    unsafe fn zero_frames(&self, start: HostPhysAddr, count: usize) {
        // SAFETY: the same contract.
        unsafe { self.host.zero_frames(start, count) }
    }
}

type Space<'h, P> = AddrSpace<&'h Forgetful<P>, P>;

/// What is wrong with what a CPU could use of the space that it runs.
fn foreign<P: Platform>(hal: &Forgetful<P>, cpu: usize, space: &Space<'_, P>) -> Option<String> {
    (0..PAGES).map(|page| page * PAGE_SIZE).find_map(|gpa| {
        let mapped = space.translate(GuestPhysAddr::new(gpa)).map(HostPhysAddr::as_u64);
        let outcomes = hal.host.possible(cpu, gpa, Access::READ);
        let seen =
            outcomes.into_iter().find(|seen| seen.result.is_ok_and(|seen| Some(seen.hpa) != mapped))?;
        Some(format!("CPU {cpu} sees {seen:x?} at {gpa:#x}, which is mapped to {mapped:x?}"))
    })
}

/// A life of five guests; the first thing that goes wrong, and how often tags had new owners.
fn live<P: Platform + Format>(platform: P, seed: u64, forgets: bool) -> (Option<String>, u64) {
    let hal = &Forgetful { host: Host::new(platform, 400, CPUS, None, seed), forgets, flushes: Cell::new(0) };
    let pool = TagPool::new(hal, 2, CPUS).expect("frames");
    let (start, all) = (GuestPhysAddr::new(0), MappingFlags::PERMISSIONS);
    let mut spaces: Vec<Space<'_, P>> = (0..GUESTS)
        .map(|_| {
            let mut space = AddrSpace::with_format(hal, platform, start, 1 << 30, 0).expect("a root");
            space.map_alloc(start, PAGES * PAGE_SIZE, all, true).expect("frames");
            space
        })
        .collect();
    let mut running = [None; CPUS];
    let mut random = Random::new(seed);
    for _ in 0..STEPS {
        let cpu = random.below(CPUS as u64) as usize;
        let chosen = random.below(GUESTS as u64) as usize;
        hal.host.begin(cpu);
        match random.below(10) {
            0 => {
                hal.host.machine.borrow_mut().unload_root(cpu);
                pool.deactivate(cpu).expect("a CPU that exists");
                running[cpu] = None;
            }
            1..=3 => {
                let page = GuestPhysAddr::new(random.below(PAGES) * PAGE_SIZE);
                let space = &mut spaces[chosen];
                // Away and back by another frame, or moved.
                if random.one_in(2) {
                    space.unmap(page, PAGE_SIZE).expect("it can be");
                    space.map_alloc(page, PAGE_SIZE, all, true).expect("frames");
                } else {
                    space.migrate(page, PAGE_SIZE).expect("frames");
                }
            }
            _ => {
                // The CPU leaves what it runs before the next one gets its tag.
                hal.host.machine.borrow_mut().unload_root(cpu);
                let register = spaces[chosen].activate(&pool, cpu).expect("a CPU that exists");
                let root = platform.root(register, spaces[chosen].tag());
                hal.host.machine.borrow_mut().load_root(cpu, root).expect("a good root");
                if P::TABLE == TableKind::Stage2 {
                    hal.host.execute(cpu, Instruction::Isb);
                }
                running[cpu] = Some(chosen);
            }
        }
        for (cpu, runs) in running.iter().enumerate() {
            let Some(guest) = *runs else { continue };
            if let Some(complaint) = foreign(hal, cpu, &spaces[guest]) {
                return (Some(complaint), hal.flushes.get());
            }
            let gpa = random.below(PAGES) * PAGE_SIZE;
            let refused = hal.host.machine.borrow_mut().access(cpu, gpa, Access::WRITE).is_err();
            if refused {
                hal.host.begin(cpu);
                let answered = spaces[guest].handle_page_fault(GuestPhysAddr::new(gpa), MappingFlags::WRITE);
                answered.expect("every page is there");
            }
        }
    }
    (None, hal.flushes.get())
}

fn live_on(platform: &AnyPlatform, seed: u64, forgets: bool) -> (Option<String>, u64) {
    match *platform {
        AnyPlatform::Ept(platform) => live(platform, seed, forgets),
        AnyPlatform::Npt(platform) => live(platform, seed, forgets),
        AnyPlatform::Stage2(platform) => live(platform, seed, forgets),
        AnyPlatform::Gstage(platform) => live(platform, seed, forgets),
    }
}

#[test]
fn a_tag_with_a_new_owner_brings_nothing_along() {
    for (name, platform) in platforms() {
        for seed in 1..=4 {
            let (complaint, flushes) = live_on(&platform, seed, false);
            assert_eq!(complaint, None, "{name}, seed {seed}");
            assert!(flushes > 20, "{name}, seed {seed}: {flushes} flushes are too few to see anything");
        }
    }
}

/// Intel's second level is tagged by its root's address and not by a number that could get a new owner.
#[test]
fn a_forgotten_flush_is_seen_wherever_tags_are_all_that_tells_guests_apart() {
    for (name, platform) in platforms() {
        let seen = (1..=4).filter(|seed| live_on(&platform, *seed, true).0.is_some()).count();
        let expected = if matches!(platform, AnyPlatform::Ept(_)) { 0 } else { 4 };
        assert_eq!(seen, expected, "{name}");
    }
}
