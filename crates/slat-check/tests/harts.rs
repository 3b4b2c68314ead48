//! Which harts a change has to reach, on the model: those that a `HartSet` names, by the SBI, and no others.
//!
//! Nine guests share three harts. At random a hart leaves one for another, which it may forget to be told about
//! ([`HartSet::remove`]), or a space changes. Whatever a hart could use must be what the tables of the space that it runs
//! say.

#![expect(unsafe_code, reason = "a Hal that forwards to the check's host, but for its invalidations")]

use slat::format::gstage::{Capabilities, Extensions, Gstage, Mode, Modes};
use slat::tlb::HartSet;
use slat::{
    AddrSpace, CacheMaintenance, GuestPhysAddr, Hal, HostPhysAddr, Invalidation, MappingFlags, PAGE_SIZE,
    Reach, Scope, TableKind, TagPool, TlbFeatures,
};
use slat_check::host::Host;
use slat_check::platform::Platform;
use slat_check::random::Random;
use slat_model::Access;
use std::cell::Cell;

const GUESTS: usize = 9;
const HARTS: usize = 3;
const PAGES: u64 = 4;
const STEPS: usize = 900;

/// What is done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// A hart that comes back to a space drops nothing.
    EntersAsItIs,
    /// Only the hart that changes a table forgets.
    TellsNobody,
    /// The harts of another space are told.
    TellsOthers,
    /// The hart that is told last is not.
    MissesOne,
}

/// The host of one guest: the machine's, and the harts that may remember something of the guest.
struct OneGuest<'h> {
    host: &'h Host<Gstage>,
    hart: &'h Cell<usize>,
    sets: &'h [HartSet; GUESTS],
    guest: usize,
    flaw: Option<Flaw>,
    told: &'h Cell<u64>,
    spared: &'h Cell<u64>,
}

// SAFETY: all is the host's, whose RAM is a model; what is not invalidated leads no real CPU astray.
unsafe impl Hal for OneGuest<'_> {
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
        let here = self.hart.get();
        let platform = self.host.platform();
        platform.maintenance(invalidation).into_iter().for_each(|one| self.host.execute(here, one));
        if invalidation.reach == Reach::ThisCpu || self.flaw == Some(Flaw::TellsNobody) {
            return;
        }
        let other = (self.guest + 1) % GUESTS;
        let set = if self.flaw == Some(Flaw::TellsOthers) { other } else { self.guest };
        let harts = self.sets[set].harts();
        let each = harts
            .flat_map(|(first, bits)| (0..64).filter(move |n| bits >> n & 1 == 1).map(move |n| first + n));
        let mut others: Vec<usize> = each.filter(|hart| *hart != here).collect();
        self.spared.set(self.spared.get() + (HARTS - 1 - others.len()) as u64);
        if self.flaw == Some(Flaw::MissesOne) {
            others.pop();
        }
        for hart in others {
            self.told.set(self.told.get() + 1);
            platform
                .remote_maintenance(invalidation)
                .into_iter()
                .for_each(|one| self.host.execute(hart, one));
        }
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

type Space<'h> = AddrSpace<OneGuest<'h>, Gstage>;

/// What is wrong with what a hart could use of the space that it runs.
fn foreign(host: &Host<Gstage>, hart: usize, space: &Space<'_>) -> Option<String> {
    (0..PAGES).map(|page| page * PAGE_SIZE).find_map(|gpa| {
        let mapped = space.translate(GuestPhysAddr::new(gpa)).map(HostPhysAddr::as_u64);
        let outcomes = host.possible(hart, gpa, Access::READ);
        let seen =
            outcomes.into_iter().find(|seen| seen.result.is_ok_and(|seen| Some(seen.hpa) != mapped))?;
        Some(format!("hart {hart} sees {seen:x?} at {gpa:#x}, which is mapped to {mapped:x?}"))
    })
}

/// What went by.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    changes: u64,
    told: u64,
    spared: u64,
    dropped: u64,
}

/// A life of all guests with so many bits of VMID; the first thing that goes wrong.
fn live(platform: Gstage, seed: u64, flaw: Option<Flaw>) -> (Option<String>, Counts) {
    let host = &Host::new(platform, 400, HARTS, None, seed);
    let (hart, told, spared) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let sets = core::array::from_fn(|_| HartSet::new());
    let pool = TagPool::new(host, platform.capabilities().vmid_bits, HARTS).expect("frames");
    let (start, all) = (GuestPhysAddr::new(0), MappingFlags::PERMISSIONS);
    let mut spaces: Vec<Space<'_>> = (0..GUESTS)
        .map(|guest| {
            let of_guest =
                OneGuest { host, hart: &hart, sets: &sets, guest, flaw, told: &told, spared: &spared };
            let mut space = AddrSpace::with_format(of_guest, platform, start, 1 << 30, 0).expect("a root");
            space.map_alloc(start, PAGES * PAGE_SIZE, all, true).expect("frames");
            space
        })
        .collect();
    let mut running: [Option<usize>; HARTS] = [None; HARTS];
    let mut random = Random::new(seed);
    let mut counts = Counts::default();
    for _ in 0..STEPS {
        let cpu = random.below(HARTS as u64) as usize;
        let chosen = random.below(GUESTS as u64) as usize;
        host.begin(cpu);
        hart.set(cpu);
        if random.one_in(3) {
            counts.changes += 1;
            let page = GuestPhysAddr::new(random.below(PAGES) * PAGE_SIZE);
            let space = &mut spaces[chosen];
            if random.one_in(2) {
                space.unmap(page, PAGE_SIZE).expect("it can be");
                space.map_alloc(page, PAGE_SIZE, all, true).expect("frames");
            } else {
                space.migrate(page, PAGE_SIZE).expect("frames");
            }
        } else if running[cpu] != Some(chosen) {
            host.machine.borrow_mut().unload_root(cpu);
            if let Some(last) = running[cpu].filter(|_| random.one_in(2)) {
                sets[last].remove(cpu).expect("one of the set");
            }
            let register = spaces[chosen].activate(&pool, cpu).expect("a hart that exists");
            let drops = sets[chosen].enter(cpu).expect("one of the set");
            let root = platform.root(register, spaces[chosen].tag());
            host.machine.borrow_mut().load_root(cpu, root).expect("a good root");
            if drops && flaw != Some(Flaw::EntersAsItIs) {
                counts.dropped += 1;
                let (reach, table, features) = (Reach::ThisCpu, TableKind::Gstage, TlbFeatures::empty());
                let whole = Invalidation { root: register, scope: Scope::Space, reach, table, features };
                platform.maintenance(&whole).into_iter().for_each(|one| host.execute(cpu, one));
            }
            running[cpu] = Some(chosen);
        }
        for (cpu, runs) in running.iter().enumerate() {
            let Some(guest) = *runs else { continue };
            if let Some(complaint) = foreign(host, cpu, &spaces[guest]) {
                return (Some(complaint), counts);
            }
            let _ = host.machine.borrow_mut().access(cpu, random.below(PAGES) * PAGE_SIZE, Access::WRITE);
        }
    }
    (counts.told, counts.spared) = (told.get(), spared.get());
    (None, counts)
}

fn platforms() -> [(&'static str, Gstage); 3] {
    let made = |vmid_bits, extensions| {
        let capabilities =
            Capabilities { modes: Modes::all(), vmid_bits, extensions, ..Capabilities::BASELINE };
        Gstage::new(Mode::Sv39x4, capabilities).expect("offered")
    };
    [
        ("14 bits", made(14, Extensions::SVINVAL)),
        // Seven tags for nine guests: they have new owners all the time.
        ("3 bits", made(3, Extensions::empty())),
        ("no bits", made(0, Extensions::empty())),
    ]
}

#[test]
fn whoever_is_not_told_has_dropped_everything_before_it_comes_back() {
    for (name, platform) in platforms() {
        for seed in 1..=6 {
            let (complaint, counts) = live(platform, seed, None);
            assert_eq!(complaint, None, "{name}, seed {seed}");
            let Counts { changes, told, spared, dropped } = counts;
            assert!(changes > 200 && dropped > 30, "{name}, seed {seed}: {counts:?}");
            // Harts were told, and harts that had been removed were not: without a removal 35 were spared, before they came.
            assert!(told > 50 && spared > 100, "{name}, seed {seed}: {counts:?}");
        }
    }
}

#[test]
fn every_flaw_is_seen() {
    for flaw in [Flaw::EntersAsItIs, Flaw::TellsNobody, Flaw::TellsOthers, Flaw::MissesOne] {
        for (name, platform) in platforms() {
            // Without VMIDs every change of guests drops everything anyway.
            let expected = flaw != Flaw::EntersAsItIs || platform.capabilities().vmid_bits != 0;
            let seen = (1..=6).filter(|seed| live(platform, *seed, Some(flaw)).0.is_some()).count();
            assert_eq!(seen > 0, expected, "{flaw:?} with {name}: seen {seen} times");
        }
    }
}
