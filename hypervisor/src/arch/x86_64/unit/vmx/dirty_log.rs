//! The library's dirty log, fed by what the CPU has: its list of modified pages, else the dirty flags in the table, else faults of
//! writes that are held back.

use super::stage::{CODE, DATA, LAZY, Vcpu, format_of, map, stage};
use crate::arch::x86_64::bare::{Intercepts, Vmx};
use crate::arch::x86_64::unit::context::{Context, RAM, Space};
use crate::arch::x86_64::unit::{Failure, ensure, ensure_eq, failed, guest_code};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use slat::{GuestPhysAddr, GuestPhysRange, LogUnit, PAGE_SIZE};
use slat_x86::{Exit, General, Vcpu as _};

// Writes RCX to the beginning of RCX pages from RSI on, RDX bytes apart.
guest_code!(write_apart, "2:", "mov [rsi], rcx", "add rsi, rdx", "dec rcx", "jnz 2b", "hlt");

/// Pages that are logged; all of them are there before.
const PAGES: u64 = 1300;

/// What the CPU can note in its list before it has to be drained.
const LIST: usize = 512;

/// Which pages the guest writes to: the first one, how far apart they are, and how many.
#[derive(Clone, Copy)]
struct Writes {
    first: u64,
    apart: u64,
    count: u64,
}

impl Writes {
    fn pages(self) -> BTreeSet<u64> {
        (0..self.count).map(|number| self.first + number * self.apart).collect()
    }
}

/// More than the list holds; some of those again and others, some of them for the third time; none; a few that the second round
/// did not touch.
const ROUNDS: [Writes; 4] = [
    Writes { first: 0, apart: 2, count: 640 },
    Writes { first: 0, apart: 3, count: 400 },
    Writes { first: 0, apart: 0, count: 0 },
    Writes { first: PAGES - 3, apart: 1, count: 3 },
];

/// A guest with a log of what it writes to, and how often it left because its list was full.
struct Logged {
    space: Space<Vmx>,
    vcpu: Vcpu,
    /// Whether the CPU keeps a list; what it noted, and was not collected yet.
    list: Option<Vec<GuestPhysAddr>>,
    full: u32,
}

impl Logged {
    fn new(context: &Context<Vmx>) -> Result<Self, Failure> {
        let (mut space, state) = stage(context, format_of(context)?, write_apart())?;
        map(&mut space, DATA, PAGES * PAGE_SIZE, RAM, LAZY)?;
        let data = GuestPhysAddr::new(DATA);
        space.populate(data, PAGES * PAGE_SIZE).map_err(|error| failed("populate", error))?;
        let log = space.start_dirty_log(data, PAGES * PAGE_SIZE, LogUnit::Page);
        log.map_err(|error| failed("start", error))?;
        let has_list = context.vendor.capabilities.modification_log();
        let intercepts = Intercepts { halt: true, log_modifications: has_list, ..Intercepts::default() };
        let vcpu = context.vcpu_with(&intercepts, &space, &state)?;
        Ok(Self { space, vcpu, list: has_list.then(Vec::new), full: 0 })
    }

    /// Lets the guest write. A mistake on purpose: with `forgets`, what is drained because the list is full is forgotten.
    fn write(&mut self, writes: Writes, forgets: bool) -> Result<(), Failure> {
        if writes.count == 0 {
            return Ok(());
        }
        self.vcpu.set_rip(CODE);
        let general = self.vcpu.general_mut();
        general.set(General::Rsi, DATA + writes.first * PAGE_SIZE);
        general.set(General::Rdx, writes.apart * PAGE_SIZE);
        general.set(General::Rcx, writes.count);
        loop {
            let exit = self.space.run(&mut self.vcpu)?;
            let is_full = exit == Exit::ModificationLogFull;
            ensure!(is_full || exit == Exit::Halt, "exit: {exit:?}");
            if let Some(list) = &mut self.list {
                let drained = self.vcpu.drain_log().map_err(|error| failed("log", error))?;
                ensure!(!is_full || drained.len() == LIST, "{} entries of a full list", drained.len());
                if !(is_full && forgets) {
                    list.extend(drained);
                }
            }
            self.full += u32::from(is_full);
            if !is_full {
                return Ok(());
            }
        }
    }

    /// The pages that the library tells, each of which is told once.
    fn collect(&mut self) -> Result<BTreeSet<u64>, Failure> {
        let (mut told, mut wrong) = (BTreeSet::new(), None);
        let visit = |range: GuestPhysRange| {
            for gpa in (range.start().as_u64()..range.end().as_u64()).step_by(PAGE_SIZE as usize) {
                let page = gpa.wrapping_sub(DATA) / PAGE_SIZE;
                if page >= PAGES || !told.insert(page) {
                    wrong = Some(gpa);
                }
            }
        };
        match &mut self.list {
            Some(list) => {
                let elsewhere = list.iter().filter(|gpa| gpa.as_u64() < DATA).count() as u64;
                let passed_over = self.space.collect_logged(list.drain(..), visit);
                ensure_eq!(passed_over, elsewhere, "entries outside of what is logged");
            }
            None => {
                let collected = self.space.collect_dirty(GuestPhysAddr::new(DATA), PAGES * PAGE_SIZE, visit);
                collected.map_err(|error| failed("collect", error))?;
            }
        }
        ensure_eq!(wrong, None, "told twice, or nobody's");
        Ok(told)
    }

    /// What is dirty by what stands in the table, whatever the list had.
    fn left_dirty(&mut self) -> Result<u64, Failure> {
        let left = self.space.collect_dirty(GuestPhysAddr::new(DATA), PAGES * PAGE_SIZE, |_| {});
        left.map_err(|error| failed("collect", error))
    }
}

/// In each round exactly the pages are told that the guest wrote to since the last one, by the best means that the CPU has.
pub(super) fn exact(context: &Context<Vmx>) -> Result<(), Failure> {
    let mut guest = Logged::new(context)?;
    for (round, writes) in ROUNDS.into_iter().enumerate() {
        guest.write(writes, false)?;
        let (told, wanted) = (guest.collect()?, writes.pages());
        let missing = wanted.difference(&told).next();
        let additional = told.difference(&wanted).next();
        ensure!(
            told == wanted,
            "round {round}: {} pages instead of {}; the first that is missing is {missing:?}, the first too many {additional:?}",
            told.len(),
            wanted.len()
        );
    }
    let times = u32::from(guest.list.is_some());
    ensure!(guest.full >= times && (times == 1 || guest.full == 0), "the list was full {} times", guest.full);
    ensure_eq!(guest.left_dirty()?, 0, "pages that nobody told");
    Ok(())
}

/// The control: what was drained when the list was full goes nowhere. Those pages are not told; they are dirty still, so that a
/// collection by the flags finds each of them.
pub(super) fn without_a_drain(context: &Context<Vmx>) -> Result<(), Failure> {
    let mut guest = Logged::new(context)?;
    let [writes, ..] = ROUNDS;
    guest.write(writes, true)?;
    let told = guest.collect()?;
    ensure!(guest.full > 0 && told != writes.pages(), "nobody has noticed that a drain was left out");
    ensure!(told.is_subset(&writes.pages()), "pages were told that were not written to");
    ensure_eq!(guest.left_dirty()?, writes.count - told.len() as u64, "pages that the flags still tell");
    Ok(())
}
