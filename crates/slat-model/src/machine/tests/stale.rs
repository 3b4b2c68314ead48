//! What is stale is found on every ISA, and only what is.

use super::*;

fn isas() -> [Isa; 4] {
    [intel_amd::intel(), intel_amd::amd(), arm::isa(), riscv::isa()]
}

/// CPU and address of everything stale.
fn stale(machine: &Machine) -> Vec<(usize, u64)> {
    machine.stale().iter().map(|stale| (stale.cpu, stale.gpa)).collect()
}

#[test]
fn leaves_that_were_taken_out_are_stale_on_every_cpu_that_has_them() {
    for isa in isas() {
        let mut machine = started(&isa, 2);
        assert_eq!(stale(&machine), []);
        take_out_leaves(&mut machine);
        let each = |cpu| [0, 0x1000, 0x20_0000].map(|gpa| (cpu, gpa));
        assert_eq!(stale(&machine), [each(0), each(1)].concat());
        machine.unload_root(1);
        assert_eq!(stale(&machine), each(0));
        machine.load_root(1, (isa.root)(2)).unwrap();
        if !matches!(isa.mmu, Mmu::Ept(_)) {
            // On Intel the tag of the second level is the EPTP, which is the same.
            assert_eq!(stale(&machine), each(0), "under another tag");
        }
        machine.load_root(1, (isa.root)(1)).unwrap();
        assert_eq!(stale(&machine), [each(0), each(1)].concat());
    }
}

#[test]
fn another_frame_is_stale_and_another_permission_only_for_what_it_took_away() {
    for isa in isas() {
        let mut machine = started(&isa, 1);
        store(&mut machine, LEVEL_0, (isa.page)(PAGE_1));
        let found = machine.stale();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].cached.hpa, PAGE_0);
        assert_eq!(found[0].walked.map(|walked| walked.hpa), Ok(PAGE_1));
        let text = found[0].to_string();
        assert!(text.contains("0xaaa0000") && text.contains("0xbbb0000"), "{text}");
    }
    // EPT: write permission is bit 1. Taken away, writes are stale; given, nothing is.
    let isa = intel_amd::intel();
    let mut machine = started(&isa, 1);
    store(&mut machine, LEVEL_0, (isa.page)(PAGE_0) & !2);
    assert_eq!(machine.stale().iter().map(|stale| stale.access).collect::<Vec<_>>(), [Access::WRITE]);
    machine.execute(0, Instruction::Invept { kind: 2, eptp: 0 });
    assert_eq!(machine.stale(), []);
    store(&mut machine, LEVEL_0, (isa.page)(PAGE_0));
    assert_eq!(machine.stale(), []);
}

#[test]
fn a_table_that_was_taken_out_is_stale_in_all_that_it_maps_later_too() {
    for isa in isas() {
        let mut machine = started(&isa, 1);
        store(&mut machine, LEVEL_1, 0);
        assert_eq!(stale(&machine), [(0, 0), (0, 0x1000)]);
        store(&mut machine, LEVEL_0 + 16, (isa.page)(0xccc_0000));
        assert!(stale(&machine).contains(&(0, 0x2000)));
    }
}

fn changes(machine: &mut Machine) -> Vec<(u64, u64)> {
    machine.take_changes().into_iter().map(|gpas| (gpas.start, gpas.end)).collect()
}

#[test]
fn what_is_stale_lies_in_what_changed() {
    for isa in isas() {
        let mut machine = started(&isa, 1);
        assert_eq!(changes(&mut machine), []);
        store(&mut machine, LEVEL_0 + 16, (isa.page)(PAGE_1)); // was absent
        assert_eq!(changes(&mut machine), []);
        store(&mut machine, LEVEL_0 + 8, 0);
        assert_eq!(changes(&mut machine), [(0x1000, 0x2000)]);
        assert_eq!(changes(&mut machine), []);
        store(&mut machine, LEVEL_1 + 8, 0);
        assert_eq!(changes(&mut machine), [(0x20_0000, 0x40_0000)]);
        let found = |gpas| machine.stale_within(0, gpas).iter().map(|stale| stale.gpa).collect::<Vec<_>>();
        assert_eq!(found(0..0x1000), []);
        assert_eq!(found(0x1000..0x2000), [0x1000]);
        assert_eq!(found(0..u64::MAX), [0x1000, 0x20_0000]);
        // A piece of a large leaf, which begins before it.
        assert_eq!(found(0x30_0000..0x30_1000), [0x30_0000]);
        assert_eq!(found(0x40_0000..0x50_0000), []);
    }
}

#[test]
fn a_large_leaf_is_stale_only_where_its_pages_have_changed() {
    for isa in isas() {
        let mut machine = started(&isa, 1);
        let table = LEVEL_0 + 0x1000;
        for page in 0..512 {
            let frame = if page == 300 { PAGE_0 } else { LARGE + page * 0x1000 };
            assert!(machine.ram().write(table + 8 * page, (isa.page)(frame)));
        }
        store(&mut machine, LEVEL_1 + 8, (isa.table)(table));
        assert_eq!(stale(&machine), [(0, 0x20_0000 + 300 * 0x1000)]);
    }
}
