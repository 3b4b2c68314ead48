use super::*;
use crate::arch::riscv64::flat_tree::FlatTree;
use alloc::string::ToString;
use alloc::vec;
use slat::format::gstage::Extensions;

fn host() -> Host {
    Host {
        extensions: ["i", "m", "a", "f", "d", "c", "zicsr", "sstc"].map(ToString::to_string).to_vec(),
        of_gstage: Extensions::SSTC,
        timebase: 10_000_000,
        mmu_type: Some("riscv,sv48".to_string()),
        cache_blocks: [None, Some(64)],
    }
}

fn description(host: &Host) -> Description<'_> {
    Description {
        memory: 128 << 20,
        bootargs: "earlycon=sbi scenario=ok",
        initrd: Span { address: 0x8700_0000, size: 0x1234 },
        serial: Serial::None,
        cpus: 1,
        host,
    }
}

#[test]
fn the_guests_facts_are_there() {
    let host = host();
    let blob = build(&description(&host)).expect("a valid tree");
    let tree = FlatTree::new(&blob).expect("a tree");
    assert_eq!(tree.text(&["chosen"], "bootargs"), Some("earlycon=sbi scenario=ok"));
    assert_eq!(tree.property(&["chosen"], "linux,initrd-end"), Some(&0x8700_1234_u64.to_be_bytes()[..]));
    let memory = [0x8000_0000_u64, 128 << 20].map(u64::to_be_bytes).concat();
    assert_eq!(tree.property(&["memory"], "reg"), Some(&memory[..]));
    let cpu = ["cpus", "cpu@0"];
    assert_eq!(tree.text(&cpu, "riscv,isa"), Some("rv64imafdc_zicsr_sstc"));
    assert_eq!(tree.property(&cpu, "riscv,isa-extensions"), Some(&b"i\0m\0a\0f\0d\0c\0zicsr\0sstc\0"[..]));
    assert_eq!(tree.number(&cpu, "riscv,cboz-block-size"), Some(64));
    assert_eq!(tree.number(&cpu, "riscv,cbom-block-size"), None);
    assert_eq!(tree.number(&["cpus"], "timebase-frequency"), Some(10_000_000));
}

#[test]
fn a_guest_could_be_a_host_of_the_same_harts() {
    let host = host();
    let blob = build(&description(&host)).expect("a valid tree");
    assert_eq!(Host::from_tree(&FlatTree::new(&blob).expect("a tree")), Ok(host));
}

#[test]
fn without_an_initrd_there_is_no_word_of_it() {
    let host = host();
    let blob = build(&Description { initrd: Span::default(), ..description(&host) }).expect("a valid tree");
    let tree = FlatTree::new(&blob).expect("a tree");
    assert_eq!(tree.property(&["chosen"], "linux,initrd-start"), None);
}

#[test]
fn a_command_line_with_a_nul_is_an_error() {
    let host = host();
    assert!(build(&Description { bootargs: "a\0b", ..description(&host) }).is_err());
}

#[test]
fn every_cpu_has_a_node_and_an_interrupt_controller() {
    let host = host();
    for cpus in [1, 2] {
        let blob = build(&Description { cpus, ..description(&host) }).expect("a valid tree");
        let tree = FlatTree::new(&blob).expect("a tree");
        let phandle = |name| tree.number(&["cpus", name, "interrupt-controller"], "phandle");
        let found = vec![phandle("cpu@0"), phandle("cpu@1")];
        assert_eq!(found, [Some(1), (cpus == 2).then_some(2)]);
    }
}

#[test]
fn a_serial_port_is_there_where_it_is_wanted() {
    let host = host();
    for serial in [Serial::None, Serial::Quiet, Serial::Console] {
        let blob = build(&Description { serial, ..description(&host) }).expect("a valid tree");
        let tree = FlatTree::new(&blob).expect("a tree");
        let path = (serial == Serial::Console).then_some("/serial@10000000");
        assert_eq!(tree.text(&["chosen"], "stdout-path"), path);
        assert_eq!(tree.text(&["serial"], "compatible"), (serial != Serial::None).then_some("ns16550a"));
    }
}
