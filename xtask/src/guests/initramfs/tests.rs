use super::{INIT, PAYLOAD_SIZE, TO_UART, build};
use crate::platform::Platform;
use cpio::newc::Reader;
use std::io::{Cursor, Read};

#[test]
fn the_archive_reads_back() {
    let built = build(b"not really busybox", 1, Platform::Arm).unwrap();
    let mut rest = Cursor::new(built.archive.as_slice());
    let mut entries = Vec::new();
    loop {
        let mut reader = Reader::new(rest).unwrap();
        if reader.entry().is_trailer() {
            break;
        }
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        let entry = reader.entry();
        entries.push((
            entry.name().to_owned(),
            entry.mode(),
            entry.rdev_major(),
            entry.rdev_minor(),
            content.len(),
        ));
        rest = reader.finish().unwrap();
    }
    assert_eq!(entries.len(), 10);
    assert!(entries.contains(&("dev/ttyAMA1".to_owned(), 0o020_600, 204, 65, 0)));
    assert!(entries.contains(&("dev/ttyS0".to_owned(), 0o020_600, 4, 64, 0)));
    assert!(INIT.contains(TO_UART));
    assert!(entries.contains(&("dev/console".to_owned(), 0o020_600, 5, 1, 0)));
    assert!(entries.contains(&("dev/kmsg".to_owned(), 0o020_600, 1, 11, 0)));
    assert!(entries.contains(&("bin/busybox".to_owned(), 0o100_755, 0, 0, 18)));
    assert!(entries.contains(&("payload".to_owned(), 0o100_644, 0, 0, PAYLOAD_SIZE)));
    assert_eq!(built.archive.len() % 512, 0);
}

#[test]
fn the_checksum_follows_the_seed() {
    let sum = |seed| build(b"", seed, Platform::Amd).unwrap().sha256;
    assert_eq!(sum(1).len(), 64);
    assert_eq!(sum(1), sum(1));
    assert_ne!(sum(1), sum(2));
}
