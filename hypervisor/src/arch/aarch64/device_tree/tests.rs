use super::*;

fn description() -> Description<'static> {
    Description {
        memory: 128 << 20,
        bootargs: "console=ttyAMA0 scenario=ok",
        initrd: Span { address: 0x4700_0000, size: 0x1234 },
        cpus: 1,
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn the_blob_has_a_header_and_the_guests_facts() {
    let blob = build(&description()).expect("a valid tree");
    assert_eq!(blob[..4], 0xd00d_feed_u32.to_be_bytes());
    assert_eq!(blob[4..8], u32::try_from(blob.len()).expect("small").to_be_bytes());
    assert!(contains(&blob, b"console=ttyAMA0 scenario=ok\0"));
    assert!(contains(&blob, &0x4700_1234_u64.to_be_bytes()));
    let mut memory = 0x4000_0000_u64.to_be_bytes().to_vec();
    memory.extend((128_u64 << 20).to_be_bytes());
    assert!(contains(&blob, &memory));
}

#[test]
fn without_an_initrd_there_is_no_word_of_it() {
    let blob = build(&Description { initrd: Span::default(), ..description() }).expect("a valid tree");
    assert!(!contains(&blob, b"linux,initrd-start"));
}

#[test]
fn a_command_line_with_a_nul_is_an_error() {
    assert!(build(&Description { bootargs: "a\0b", ..description() }).is_err());
}

#[test]
fn every_cpu_has_a_node_and_a_redistributor() {
    for (cpus, redistributors) in [(1, 0x2_0000_u64), (2, 0x4_0000)] {
        let blob = build(&Description { cpus, ..description() }).expect("a valid tree");
        assert_eq!([contains(&blob, b"cpu@0\0"), contains(&blob, b"cpu@1\0")], [true, cpus == 2]);
        let mut gic = 0x080a_0000_u64.to_be_bytes().to_vec();
        gic.extend(redistributors.to_be_bytes());
        assert!(contains(&blob, &gic));
    }
}

#[test]
fn both_serial_ports_are_there_and_numbered() {
    let blob = build(&description()).expect("a valid tree");
    for name in [&b"pl011@9000000\0"[..], b"pl011@9040000\0", b"serial0\0", b"serial1\0"] {
        assert!(contains(&blob, name), "{:?}", String::from_utf8_lossy(name));
    }
    assert!(contains(&blob, b"/pl011@9040000\0"));
    let registers = [0x0904_0000_u64, 0x1000].map(u64::to_be_bytes).concat();
    assert!(contains(&blob, &registers));
}
