use super::*;
use vm_fdt::FdtWriter;

fn tree(isa: &[(&str, &[u8])]) -> Vec<u8> {
    let mut fdt = FdtWriter::new().expect("a writer");
    let root = fdt.begin_node("").expect("the root");
    let cpus = fdt.begin_node("cpus").expect("a node");
    fdt.property_u32("timebase-frequency", 10_000_000).expect("a property");
    let cpu = fdt.begin_node("cpu@0").expect("a node");
    fdt.property_string("mmu-type", "riscv,sv48").expect("a property");
    fdt.property_u32("riscv,cboz-block-size", 64).expect("a property");
    for (name, value) in isa {
        fdt.property(name, value).expect("a property");
    }
    for node in [cpu, cpus, root] {
        fdt.end_node(node).expect("an end");
    }
    fdt.finish().expect("a tree")
}

#[test]
fn the_hypervisor_extension_and_vectors_are_hidden() {
    let blob = tree(&[("riscv,isa", b"rv64imafdcvh_zicsr_zifencei_zve64d_zba_sstc_svpbmt_svinval\0")]);
    let host = Host::from_tree(&FlatTree::new(&blob).expect("a tree")).expect("complete");
    assert_eq!(host.isa(), "rv64imafdc_zicsr_zifencei_zba_sstc_svinval");
    assert_eq!((host.timebase, host.mmu_type.as_deref()), (10_000_000, Some("riscv,sv48")));
    assert_eq!(host.cache_blocks, [None, Some(64)]);
    let of_gstage = Extensions::H | Extensions::SSTC | Extensions::SVPBMT | Extensions::SVINVAL;
    assert_eq!(host.of_gstage, of_gstage);
    assert!(host.has("d") && host.has("sstc") && !host.has("h") && !host.has("svpbmt"));
}

#[test]
fn the_list_is_preferred_to_the_string() {
    let blob = tree(&[("riscv,isa", b"rv64i\0"), ("riscv,isa-extensions", b"i\0m\0h\0zicsr\0smstateen\0")]);
    let host = Host::from_tree(&FlatTree::new(&blob).expect("a tree")).expect("complete");
    assert_eq!(host.isa(), "rv64im_zicsr");
}

#[test]
fn what_is_missing_is_named() {
    let blob = tree(&[]);
    let host = Host::from_tree(&FlatTree::new(&blob).expect("a tree"));
    assert_eq!(host, Err(Missing("riscv,isa")));
}
