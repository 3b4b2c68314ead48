use super::*;
use slat_hv_protocol::MemoryMap;
use slat_hv_protocol::recording::Operation;

pub(super) fn recording() -> Recording {
    let pool = Span { address: 0x4400_0000, size: 1 << 20 };
    let events = vec![
        (0, Event::Take { start: 0x4400_0000, count: 2 }),
        (1, Event::Store { entry: 0x4400_0008, value: 0x4400_1003 }),
        (0, Event::Maintenance { operation: Operation::Vmalls12e1is, operand: 0 }),
    ];
    Recording::new(2, pool, Started::default(), events)
}

fn bytes(recording: &Recording) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    recording.write(file.path()).expect("it can be written");
    std::fs::read(file.path()).expect("it can be read")
}

fn complaint(bytes: &[u8]) -> String {
    format!("{:#}", Recording::read_from(bytes).expect_err("this is no recording"))
}

#[test]
fn a_file_comes_back_as_it_was_written() {
    let recording = recording();
    let file = tempfile::NamedTempFile::new().expect("a file");
    recording.write(file.path()).expect("it can be written");
    assert_eq!(Recording::read(file.path()).expect("it can be read"), recording);
}

#[test]
fn what_is_no_recording_is_refused() {
    let good = bytes(&recording());
    let text =
        String::from_utf8_lossy(&good[..good.iter().position(|byte| *byte == b'\n').expect("a line") + 1]);
    let line = text.into_owned();
    let with = |from: &str, to: &str| {
        assert!(line.contains(from), "{line}");
        [line.replace(from, to).as_bytes(), &good[line.len()..]].concat()
    };
    assert!(complaint(b"").contains("no header"));
    assert!(complaint(b"ELF and so on").contains("no header"));
    assert!(complaint(&vec![b'{'; 1 << 20]).contains("no header"));
    assert!(complaint(&good[..good.len() - 1]).contains("ends before event 2"));
    assert!(complaint(&[&good[..], b"x"].concat()).contains("follows the last event"));
    assert!(complaint(&with("recording 1", "recording 2")).contains("`slat recording 2`"));
    assert!(complaint(&with("aarch64", "riscv64")).contains("it is of riscv64"));
    assert!(complaint(&with("\"stage2\"", "\"npt\"")).contains("with a table of x86_64"));
    assert!(complaint(&with("\"cpus\":2", "\"cpus\":1")).contains("of CPU 1, of 1"));
    assert!(complaint(&with("\"cpus\":2", "\"cpus\":0")).contains("0 CPUs"));
    assert!(complaint(&with("\"events\":3", "\"events\":18446744073709551615")).contains("before event 3"));
    assert!(complaint(&with("\"size\":1048576", "\"size\":18446744073709547520")).contains("pool"));
    let mut damaged = good.clone();
    damaged[line.len() + 1] ^= 0xf0;
    assert!(complaint(&damaged).contains("of CPU 240"), "{}", complaint(&damaged));
    damaged[line.len()] = 0xff;
    assert!(complaint(&damaged).contains("event 0 stands for nothing"));
}

#[test]
fn a_machine_s_memory_is_read_where_the_layout_says() {
    let layout = Layout::new(&MemoryMap::AARCH64, 1 << 20, 0, 2 << 20).with_recording();
    let mut memory = tempfile::tempfile().expect("a file");
    memory.set_len(layout.machine_memory).expect("a sparse file");
    let put = |memory: &mut File, words: &[u64]| {
        memory.seek(SeekFrom::Start(layout.offset(layout.recording))).expect("inside");
        words.iter().for_each(|word| memory.write_all(&word.to_le_bytes()).expect("written"));
    };
    let offset = layout.offset(layout.recording);
    let event = Event::Fault { gpa: 0x8000_0000, access: 2 };
    put(&mut memory, &[&[1], &event.encode(0)[..]].concat());
    let started = Started { vtcr: 7, ..Started::default() };
    let found = Recording::from_memory(&mut memory, offset, &layout, &started, 1).expect("a recording");
    assert_eq!((found.events, found.header.pool), (vec![(0, event)], layout.pool));
    // A place that was claimed and not written: the machine was stopped in between.
    put(&mut memory, &[2]);
    assert!(Recording::from_memory(&mut memory, offset, &layout, &started, 1).is_err());
    put(&mut memory, &[capacity(layout.recording.size) + 1]);
    let error = Recording::from_memory(&mut memory, offset, &layout, &started, 1).expect_err("it overflowed");
    assert!(error.to_string().contains("there was room for"), "{error}");
}
