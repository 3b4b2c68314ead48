//! Invalidations: each has to drop what its manual says, and has to leave alone what it need not drop, or the model could not see
//! that a stronger one was needed.

mod arm;
mod intel_amd;
mod outside;
mod riscv;
mod stale;

use crate::access::{Access, Outcome, Source};
use crate::mmu::{Mmu, Root};
use crate::ram::Ram;
use crate::{Instruction, Machine, Policy};

/// Host physical address of the root; the tables below it, by our level.
const ROOT: u64 = 0x10_0000;
const LEVEL_2: u64 = 0x10_4000;
const LEVEL_1: u64 = 0x10_5000;
const LEVEL_0: u64 = 0x10_6000;
/// Where page 0, page 1 and the large page at 2 MiB go.
const PAGE_0: u64 = 0xaaa_0000;
const PAGE_1: u64 = 0xbbb_0000;
const LARGE: u64 = 0x4020_0000;

/// An ISA's way to write entries.
struct Isa {
    mmu: Mmu,
    /// Root register for tag 1 or 2 of the same table.
    root: fn(u16) -> Root,
    table: fn(u64) -> u64,
    page: fn(u64) -> u64,
    large: fn(u64) -> u64,
    /// The level of the root.
    top: u8,
}

/// CPUs that all run the guest: page 0 and 1, and the large page; nothing is cached.
fn started(isa: &Isa, cpus: usize) -> Machine {
    let ram = Ram::new(ROOT, 32 << 12);
    let mut machine = Machine::new(isa.mmu.clone(), ram, cpus, Policy::Everything);
    let write = |hpa, value| assert!(machine.ram().write(hpa, value));
    match isa.top {
        3 => {
            write(ROOT, (isa.table)(LEVEL_2));
            write(LEVEL_2, (isa.table)(LEVEL_1));
        }
        _ => write(ROOT, (isa.table)(LEVEL_1)),
    }
    write(LEVEL_1, (isa.table)(LEVEL_0));
    write(LEVEL_1 + 8, (isa.large)(LARGE));
    write(LEVEL_0, (isa.page)(PAGE_0));
    write(LEVEL_0 + 8, (isa.page)(PAGE_1));
    for cpu in 0..cpus {
        machine.load_root(cpu, (isa.root)(1)).unwrap();
    }
    machine
}

/// A store of CPU 0, as the software under test would make and report it.
fn store(machine: &mut Machine, hpa: u64, value: u64) {
    assert!(machine.ram().write(hpa, value));
    machine.stored(0, hpa, value);
}

fn outcomes(machine: &Machine, cpu: usize, gpa: u64) -> Vec<Outcome> {
    machine.possible(cpu, gpa, Access::READ)
}

/// Whether a CPU could still read `hpa` at this address.
fn reads(machine: &Machine, cpu: usize, gpa: u64, hpa: u64) -> bool {
    outcomes(machine, cpu, gpa).iter().any(|outcome| outcome.result.is_ok_and(|found| found.hpa == hpa))
}

/// Which of page 0, page 1 and the large page a CPU could still read.
fn left(machine: &Machine, cpu: usize) -> [bool; 3] {
    [(0, PAGE_0), (0x1000, PAGE_1), (0x20_0000, LARGE)].map(|(gpa, hpa)| reads(machine, cpu, gpa, hpa))
}

/// Takes out both pages and the large page.
fn take_out_leaves(machine: &mut Machine) {
    store(machine, LEVEL_0, 0);
    store(machine, LEVEL_0 + 8, 0);
    store(machine, LEVEL_1 + 8, 0);
}

fn run(machine: &mut Machine, cpu: usize, instructions: &[Instruction]) {
    instructions.iter().for_each(|&instruction| machine.execute(cpu, instruction));
}

/// What holds for all: stale leaves stay on both CPUs, a table that was taken out can be walked, and `reaches` knows.
fn keeps_what_was_taken_out(isa: &Isa) {
    let mut machine = started(isa, 2);
    assert_eq!(machine.reaches(0x1000..0x2000), None);
    take_out_leaves(&mut machine);
    for cpu in 0..2 {
        assert_eq!(left(&machine, cpu), [true; 3]);
        // And the new state is possible as well.
        assert!(outcomes(&machine, cpu, 0).iter().any(|outcome| outcome.result.is_err()));
        assert_eq!(machine.access(cpu, 0x10, Access::READ).unwrap().hpa, PAGE_0 + 0x10);
    }
    assert!(machine.reaches(PAGE_0..PAGE_0 + 0x1000).is_some());
    assert!(machine.reaches(LARGE + 0x1f_f000..LARGE + 0x20_0000).is_some());
    assert_eq!(machine.reaches(PAGE_0 + 0x1000..PAGE_0 + 0x2000), None);

    // The table of the pages: by a cached pointer a CPU finds what is stored there later.
    let mut machine = started(isa, 2);
    store(&mut machine, LEVEL_1, 0);
    assert!(machine.reaches(LEVEL_0..LEVEL_0 + 0x1000).is_some());
    store(&mut machine, LEVEL_0 + 16, (isa.page)(0xccc_0000));
    let found = outcomes(&machine, 1, 0x2000);
    assert!(found.iter().any(|found| found.source == Source::CachedTable(LEVEL_0) && found.result.is_ok()));
    assert!(machine.reaches(0xccc_0000..0xccc_1000).is_some());
}

/// The seed decides what is kept and what an access gets, and the same seed decides alike.
fn seeds_explore(isa: &Isa) {
    let run = |seed| {
        let mut machine = started(isa, 1);
        machine.policy = Policy::Seeded(seed);
        machine.random = seed | 1;
        take_out_leaves(&mut machine);
        let kept = left(&machine, 0);
        let seen = [0; 8].map(|_| machine.access(0, 0, Access::READ).is_ok());
        (kept, seen)
    };
    let runs: Vec<_> = (0..64).map(|seed| run(seed << 33 | seed)).collect();
    assert!(runs.iter().any(|run| run.0[0]) && runs.iter().any(|run| !run.0[0]));
    assert!(runs.iter().any(|run| run.1.contains(&true) && run.1.contains(&false)));
    assert_eq!(run(5), run(5));
}

#[test]
fn what_was_taken_out_is_kept() {
    for isa in [intel_amd::intel(), intel_amd::amd(), arm::isa(), riscv::isa()] {
        keeps_what_was_taken_out(&isa);
        seeds_explore(&isa);
    }
}

#[test]
fn roots_and_live_tables_are_reached() {
    for isa in [intel_amd::intel(), intel_amd::amd(), arm::isa(), riscv::isa()] {
        let mut machine = started(&isa, 1);
        for frame in [ROOT, LEVEL_1, LEVEL_0, PAGE_1] {
            assert!(machine.reaches(frame..frame + 0x1000).is_some(), "{frame:#x}");
        }
        // A CPU that left keeps what it could have fetched.
        machine.unload_root(0);
        assert_eq!(machine.reaches(ROOT..ROOT + 0x1000), None);
        for frame in [LEVEL_1, LEVEL_0, PAGE_1] {
            assert!(machine.reaches(frame..frame + 0x1000).is_some(), "{frame:#x}");
        }
    }
}

#[test]
fn a_cpu_keeps_what_it_could_fetch_by_its_previous_root() {
    for isa in [intel_amd::amd(), arm::isa(), riscv::isa()] {
        let mut machine = started(&isa, 1);
        machine.load_root(0, (isa.root)(2)).unwrap();
        machine.cpus[0].root = None; // the second tag fetches nothing more
        take_out_leaves(&mut machine);
        machine.load_root(0, (isa.root)(1)).unwrap();
        assert_eq!(left(&machine, 0), [true; 3]);
    }
}

#[test]
fn tables_that_were_filled_before_they_were_linked() {
    for isa in [intel_amd::amd(), arm::isa(), riscv::isa()] {
        let mut machine = started(&isa, 1);
        let table = 0x10_7000;
        assert!(machine.ram().write(table, (isa.page)(0xccc_0000))); // nobody has reported it
        store(&mut machine, LEVEL_1 + 16, (isa.table)(table));
        store(&mut machine, table, 0);
        assert!(reads(&machine, 0, 0x40_0000, 0xccc_0000));
    }
}

#[test]
fn what_was_fetched_by_a_cached_pointer_is_kept() {
    for isa in [intel_amd::intel(), intel_amd::amd(), arm::isa(), riscv::isa()] {
        let mut machine = started(&isa, 1);
        store(&mut machine, LEVEL_1, 0);
        store(&mut machine, LEVEL_0 + 16, (isa.page)(0xccc_0000));
        store(&mut machine, LEVEL_0 + 16, 0);
        assert!(reads(&machine, 0, 0x2000, 0xccc_0000));
    }
}
