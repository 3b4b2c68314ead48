use super::*;
use alloc::vec::Vec;
use vm_fdt::FdtWriter;

fn tree() -> Vec<u8> {
    let mut fdt = FdtWriter::new().expect("a writer");
    let root = fdt.begin_node("").expect("the root");
    fdt.property_u32("timebase-frequency", 1).expect("a property");
    // A name that only begins like the one that is looked for, with a node of the right name inside.
    let other = fdt.begin_node("cpus-of-others").expect("a node");
    let inner = fdt.begin_node("cpu@0").expect("a node");
    fdt.property_string("riscv,isa", "wrong").expect("a property");
    fdt.end_node(inner).expect("an end");
    fdt.end_node(other).expect("an end");
    let cpus = fdt.begin_node("cpus").expect("a node");
    fdt.property_u32("timebase-frequency", 10_000_000).expect("a property");
    for (name, isa) in [("cpu@0", "rv64imafdch_sstc"), ("cpu@1", "rv64i")] {
        let cpu = fdt.begin_node(name).expect("a node");
        fdt.property_null("empty").expect("a property");
        fdt.property_string("riscv,isa", isa).expect("a property");
        fdt.end_node(cpu).expect("an end");
    }
    fdt.end_node(cpus).expect("an end");
    fdt.end_node(root).expect("an end");
    fdt.finish().expect("a tree")
}

#[test]
fn properties_are_found_where_they_are() {
    let blob = tree();
    let tree = FlatTree::new(&blob).expect("a tree");
    assert_eq!(tree.number(&["cpus"], "timebase-frequency"), Some(10_000_000));
    assert_eq!(tree.number(&[], "timebase-frequency"), Some(1));
    assert_eq!(tree.text(&["cpus", "cpu"], "riscv,isa"), Some("rv64imafdch_sstc"));
    assert_eq!(tree.text(&["cpus", "cpu@1"], "riscv,isa"), Some("rv64i"));
    assert_eq!(tree.property(&["cpus", "cpu"], "empty"), Some(&[][..]));
    assert_eq!(tree.number(&["cpus", "cpu"], "empty"), None);
    assert_eq!(tree.property(&["cpus"], "riscv,isa"), None);
    assert_eq!(tree.property(&["cpu"], "riscv,isa"), None);
    assert_eq!(tree.property(&["cpus", "cpu", "cpu"], "riscv,isa"), None);
}

#[test]
fn what_is_cut_off_or_no_tree_has_no_properties() {
    let blob = tree();
    assert_eq!(total_size(&blob), Some(blob.len()));
    assert_eq!(total_size(&[0; HEADER_SIZE]), None);
    for length in 0..blob.len() {
        assert!(FlatTree::new(&blob[..length]).is_none(), "{length}");
    }
}

#[test]
fn no_wrong_byte_does_more_than_hide_something() {
    let blob = tree();
    for at in 0..blob.len() {
        for wrong in [0, 1, 0x7f, 0xff] {
            let mut blob = blob.clone();
            blob[at] = wrong;
            if let Some(tree) = FlatTree::new(&blob) {
                let _ = tree.text(&["cpus", "cpu@1"], "riscv,isa");
                let _ = tree.number(&["nowhere"], "nothing");
            }
        }
    }
}
