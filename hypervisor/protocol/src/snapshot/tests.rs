use super::*;
use alloc::string::ToString;
use alloc::vec;

fn state() -> State {
    let ram = Span { address: 0x8000_0000, size: 4 * PAGE as u64 };
    let region = Region { range: ram, flags: 7, kind: "memory".to_string() };
    let (arch, isa) = ("riscv64".to_string(), "rv64imac".to_string());
    State {
        arch,
        mode: "Sv39x4".to_string(),
        isa,
        ram,
        regions: vec![region],
        cpu: vec![1, u64::MAX],
        port: vec![0, 255],
    }
}

fn page(value: u8) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[PAGE - 1] = value;
    page
}

/// A snapshot of four pages, two of which are zero, in more room than it takes.
fn snapshot() -> Vec<u8> {
    let mut area = vec![0xaa; most_bytes(4 * PAGE as u64) as usize];
    let mut writer = Writer::new(&mut area, &state()).expect("room");
    for (index, value) in [0, 5, 0, 6].into_iter().enumerate() {
        writer.add(0x8000_0000 + (index * PAGE) as u64, &page(value)).expect("room");
    }
    let (length, pages) = writer.finish().expect("room");
    assert_eq!((length, pages), (3 * PAGE as u64 + 16, 2));
    area.truncate(length as usize);
    area
}

#[test]
fn what_was_written_is_read_again() {
    let bytes = snapshot();
    let read = Snapshot::read(&bytes).expect("a snapshot");
    assert_eq!(read.state, state());
    let pages: Vec<_> = read.pages().map(|(gpa, page)| (gpa, page[PAGE - 1], page.len())).collect();
    assert_eq!(pages, [(0x8000_1000, 5, PAGE), (0x8000_3000, 6, PAGE)]);
}

#[test]
fn no_byte_may_change() {
    let bytes = snapshot();
    for at in 0..bytes.len() {
        for flip in [1, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            assert!(Snapshot::read(&damaged).is_err(), "byte {at}");
        }
    }
    let error = |change: fn(&mut Vec<u8>)| {
        let mut damaged = snapshot();
        change(&mut damaged);
        Snapshot::read(&damaged).expect_err("it is damaged").to_string()
    };
    assert!(error(|bytes| bytes[0] = 0).contains("no snapshot"));
    assert!(error(|bytes| bytes[8] = 2).contains("version 2"));
    assert!(error(|bytes| bytes[100] ^= 1).contains("damaged"));
    assert!(error(|bytes| bytes.push(0)).contains("something follows"));
    // Words that change places, too: the last ones of both pages.
    assert!(error(|bytes| bytes.swap(2 * PAGE - 1, 3 * PAGE - 1)).contains("damaged"));
}

#[test]
fn no_byte_may_be_missing() {
    let bytes = snapshot();
    for length in (0..8).chain([47, 48, 100, bytes.len() - 1]) {
        let error = Snapshot::read(&bytes[..length]).expect_err("it is cut off");
        let wanted = if length < 8 { "no snapshot" } else { "cut off" };
        assert!(error.to_string().contains(wanted), "{length}: {error}");
    }
}

/// The same with something else in it, and a checksum that is right.
fn rewritten(change: impl FnOnce(&mut Vec<u8>)) -> SnapshotError {
    let mut bytes = snapshot();
    change(&mut bytes);
    let sum = Checksum::of(&bytes).to_le_bytes();
    bytes[24..32].copy_from_slice(&sum);
    Snapshot::read(&bytes).expect_err("it makes no sense")
}

#[test]
fn what_makes_no_sense_is_refused_whatever_its_checksum() {
    assert_eq!(rewritten(|bytes| bytes[32] ^= 8), SnapshotError::Nonsense("header"));
    assert_eq!(rewritten(|bytes| bytes[40..48].fill(0xff)), SnapshotError::Nonsense("header"));
    assert_eq!(rewritten(|bytes| bytes[48] = b'x'), SnapshotError::Nonsense("state"));
    let last = snapshot().len() - 8;
    for gpa in [0x8000_1000_u64, 0x8000_4000, 0x8000_3008, 0, u64::MAX] {
        let wrong = rewritten(|bytes| bytes[last..].copy_from_slice(&gpa.to_le_bytes()));
        assert_eq!(wrong, SnapshotError::Nonsense("list of pages"), "{gpa:#x}");
    }
}

#[test]
fn without_room_nothing_is_written_beyond() {
    let length = snapshot().len();
    for room in [0, 40, PAGE - 1, PAGE, length - 1] {
        let mut area = vec![0; room];
        let written = Writer::new(&mut area, &state()).and_then(|mut writer| {
            writer.add(0x8000_1000, &page(5))?;
            writer.add(0x8000_3000, &page(6))?;
            writer.finish()
        });
        assert_eq!(written, Err(SnapshotError::NoRoom), "{room}");
    }
}
