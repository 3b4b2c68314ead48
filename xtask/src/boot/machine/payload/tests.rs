use super::write;
use crate::boot::layout::Layout;
use crate::boot::machine::Files;
use slat_hv_protocol::MemoryMap;

#[test]
fn everything_lies_where_the_layout_says() {
    let directory = tempfile::tempdir().unwrap();
    let [params, kernel, initrd, payload] =
        ["params", "kernel", "initrd", "payload"].map(|name| directory.path().join(name));
    std::fs::write(&params, b"parameters").unwrap();
    std::fs::write(&kernel, vec![7; 0x2_0001]).unwrap();
    std::fs::write(&initrd, b"disk").unwrap();
    let map = MemoryMap::X86_64;
    let layout = Layout::new(&map, 0x2_0001, 4, 2 << 20);
    let files = Files { params: &params, kernel: Some(&kernel), initrd: Some(&initrd), snapshot: None };
    write(&payload, &files, &layout, &map).unwrap();
    let bytes = std::fs::read(&payload).unwrap();
    let at = |address: u64, length: usize| {
        let start = usize::try_from(address - map.params).unwrap();
        &bytes[start..start + length]
    };
    assert_eq!(at(map.params, 11), b"parameters\0");
    assert_eq!(at(layout.kernel.address, 0x2_0001), vec![7; 0x2_0001]);
    assert_eq!(at(layout.initrd.address, 5), b"disk\0");
    assert_eq!(bytes.len() as u64, layout.pool.address - map.params);

    // The parameters are the hypervisor's alone.
    let unit = Files { kernel: None, initrd: None, ..files };
    write(&payload, &unit, &Layout::new(&map, 0, 0, 2 << 20), &map).unwrap();
    assert!(std::fs::read(&payload).unwrap().starts_with(b"parameters\0"));
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let [params, payload] = ["params", "payload"].map(|name| directory.path().join(name));
    std::fs::write(&params, vec![1; 0x1_0001]).unwrap();
    let map = MemoryMap::X86_64;
    let layout = Layout::new(&map, 1, 0, 2 << 20);
    let files = Files { params: &params, kernel: Some(&params), initrd: None, snapshot: None };
    let error = write(&payload, &files, &layout, &map).unwrap_err().to_string();
    assert!(error.contains("lie on what is before it"), "{error}");
}
