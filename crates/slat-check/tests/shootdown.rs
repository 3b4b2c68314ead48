//! slat-x86's protocol across CPUs, with slat above it and below it CPUs of the model, which keep everything until the right
//! invalidation reaches them: nobody uses what an operation has taken away once it has returned, on EPT and NPT. Each mistake that
//! a hypervisor could make is found.

#![expect(unsafe_code, reason = "a Hal on the model's RAM")]

#[path = "shootdown/machine.rs"]
mod machine;

use machine::{CPUS, Host, Mistake, Settings, gpa};
use slat::format::Format;
use slat::format::ept::{self, Ept};
use slat::format::npt::{self, Npt};
use slat::{AddrSpace, FaultError, MappingFlags, PAGE_SIZE};
use slat_check::platform::Platform;
use slat_model::Access;

/// Small pages, and a range that a large leaf maps, of which some pages are used.
const SMALL: u64 = 6;
const LARGE: u64 = 2 << 20;
const STEPS: usize = 250;

/// What a run has shown.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    complaint: Option<String>,
    entries: u64,
    flushes: u64,
    kicks: u64,
    invalidations: u64,
}

fn pages() -> Vec<u64> {
    let small = (0..SMALL).map(|page| page * PAGE_SIZE);
    small.chain([0, 1, 2, 511].map(|page| LARGE + page * PAGE_SIZE)).collect()
}

type Space<'h, P> = AddrSpace<&'h Host<P>, P>;

fn run<P: Platform + Format>(platform: P, settings: Settings) -> Outcome {
    let host = &Host::new(platform, settings, pages());
    let mut space: Space<'_, P> = AddrSpace::with_format(host, platform, gpa(0), 1 << 30, 0).expect("a root");
    let all = MappingFlags::PERMISSIONS;
    space.map_alloc(gpa(0), SMALL * PAGE_SIZE, all, true).expect("frames");
    space.map_alloc(gpa(LARGE), LARGE, all, true).expect("frames");
    host.open(space.root_register());
    for _ in 0..STEPS {
        let cpu = host.random.borrow_mut().below(CPUS as u64) as usize;
        let changes = host.random.borrow_mut().one_in(6);
        if changes {
            host.operate(cpu, || change(host, &mut space));
        } else if let Some((address, access)) = host.step(cpu) {
            host.operate(cpu, || answer(&space, address, access));
        }
        if host.complaint().is_some() {
            break;
        }
    }
    host.close();
    drop(space);
    assert_eq!(host.in_use(), 0);
    Outcome {
        complaint: host.complaint(),
        entries: host.entries.get(),
        flushes: host.flushes.get(),
        kicks: host.kicks.get(),
        invalidations: host.invalidations(),
    }
}

/// A page that was write-protected stays so: the guest gives up.
fn answer<P: Platform + Format>(space: &Space<'_, P>, address: u64, access: Access) {
    let wanted = if access == Access::WRITE {
        MappingFlags::WRITE
    } else if access == Access::EXECUTE {
        MappingFlags::EXECUTE
    } else {
        MappingFlags::READ
    };
    match space.handle_page_fault(gpa(address), wanted) {
        Ok(_) | Err(FaultError::Permission { .. } | FaultError::NoRegion(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Any change of the space.
fn change<P: Platform + Format>(host: &Host<P>, space: &mut Space<'_, P>) {
    let draw = |bound| host.random.borrow_mut().below(bound);
    let pages = pages();
    let page = gpa(pages[draw(pages.len() as u64) as usize]);
    let (all, read) = (MappingFlags::PERMISSIONS, MappingFlags::READ);
    match draw(8) {
        0 | 1 => {
            space.unmap(page, PAGE_SIZE).expect("it is mapped");
            // Back by another frame, now or at the first access.
            space.map_alloc(page, PAGE_SIZE, all, draw(2) == 0).expect("frames");
        }
        2 | 3 => _ = space.migrate(page, PAGE_SIZE).expect("frames"),
        4 => space.protect(page, PAGE_SIZE, read).expect("it is mapped"),
        5 => space.protect(page, PAGE_SIZE, all).expect("it is mapped"),
        6 => {
            let other = gpa(pages[draw(SMALL) as usize]);
            let mut debt = space.defer();
            debt.unmap(page, PAGE_SIZE).expect("it is mapped");
            debt.protect(other, PAGE_SIZE, read)
                .or_else(|error| if other == page { Ok(()) } else { Err(error) })
                .expect("it is mapped");
            debt.discharge();
            space.map_alloc(page, PAGE_SIZE, all, true).expect("frames");
        }
        _ => {
            space.clear().expect("nothing is pinned");
            space.map_alloc(gpa(0), SMALL * PAGE_SIZE, all, false).expect("frames");
            space.map_alloc(gpa(LARGE), LARGE, all, draw(2) == 0).expect("frames");
        }
    }
}

fn intel(accessed_dirty: bool) -> Ept {
    let ept_vpid_cap = 0x0f01_0633_41c1;
    let capabilities =
        ept::Capabilities { ept_vpid_cap, physical_bits: 46, mode_based_execute: false, accessed_dirty };
    Ept::new(capabilities, 4).expect("offered")
}

fn amd() -> Npt {
    let capabilities = npt::Capabilities {
        physical_bits: 48,
        leaf_1g: false,
        no_execute: true,
        asids: 64,
        accessed_dirty: false,
    };
    Npt::new(capabilities, 4).expect("in range")
}

/// The first runs, by seed, on every kind of CPU that the mistake can be made on.
fn runs(seeds: u64, mistake: Option<Mistake>, two_tags: bool) -> Vec<(&'static str, Vec<Outcome>)> {
    let settings = |seed| Settings { seed, mistake, two_tags };
    let suits = |table| mistake.is_none_or(|mistake| mistake.suits(table));
    let mut all = Vec::new();
    if suits(Ept::TABLE) {
        all.push(("EPT", (1..=seeds).map(|seed| run(intel(false), settings(seed))).collect()));
        all.push(("EPT with marks", (1..=seeds).map(|seed| run(intel(true), settings(seed))).collect()));
    }
    if suits(Npt::TABLE) {
        all.push(("NPT", (1..=seeds).map(|seed| run(amd(), settings(seed))).collect()));
    }
    all
}

#[test]
fn nobody_uses_what_was_taken_away() {
    for two_tags in [false, true] {
        for (name, outcomes) in runs(8, None, two_tags) {
            for (seed, outcome) in (1..).zip(outcomes) {
                assert_eq!(outcome.complaint, None, "{name}, seed {seed}, two tags: {two_tags}");
                let Outcome { entries, flushes, kicks, invalidations, .. } = outcome;
                // Something happens; and whoever owes nothing flushes nothing.
                assert!(kicks > 5 && invalidations > 15, "{name}, seed {seed}: {outcome:?}");
                assert!(flushes >= CPUS as u64 && flushes < entries, "{name}, seed {seed}: {outcome:?}");
            }
        }
    }
}

#[test]
fn every_mistake_is_found() {
    for mistake in Mistake::ALL {
        let two_tags = mistake == Mistake::OneAsidOfTwo;
        for (name, outcomes) in runs(4, Some(mistake), two_tags) {
            for (seed, outcome) in (1..).zip(outcomes) {
                assert!(outcome.complaint.is_some(), "{mistake:?} on {name}, seed {seed}: {outcome:?}");
            }
        }
    }
}
