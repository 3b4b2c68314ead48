use super::*;
use AccessWidth::{Byte, Dword, Qword, Word};

const ON: u64 = (UARTEN | TXE) as u64;

fn enabled() -> Pl011 {
    let mut port = Pl011::default();
    assert_eq!(port.write(0x30, Word, ON), Ok(()));
    port
}

#[test]
fn a_driver_finds_a_pl011() {
    let port = Pl011::default();
    // As the AMBA bus puts it together: part 0x011, designer 0x41, revision 3; the cell's identification.
    let id = |first: u64| {
        (0..4)
            .fold(0, |id, index| id | port.read(first + 4 * index, Dword).expect("a register") << (8 * index))
    };
    assert_eq!((id(0xfe0), id(0xff0)), (0x0034_1011, 0xb105_f00d));
    let reset = [0x00, 0x04, 0x18, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x38, 0x3c, 0x40, 0x48]
        .map(|offset| port.read(offset, Word));
    assert_eq!(reset, [0, 0, 0x90, 0, 0, 0, 0x300, 0x12, 0, 0, 0, 0].map(Ok));
}

#[test]
fn registers_hold_the_bits_that_they_have() {
    let mut port = Pl011::default();
    for (offset, bits) in [
        (0x20, 0xff),
        (0x24, 0xffff),
        (0x28, 0x3f),
        (0x2c, 0xff),
        (0x30, 0xff87),
        (0x34, 0x3f),
        (0x38, 0x7ff),
        (0x48, 7),
    ] {
        assert_eq!(port.write(offset, Dword, u64::MAX), Ok(()));
        assert_eq!(port.read(offset, Dword), Ok(bits), "{offset:#x}");
        assert_eq!(port.read(offset, Byte), Ok(bits & 0xff), "{offset:#x}");
        // A narrow write fills up with zeroes.
        assert_eq!(port.write(offset, Byte, 0xff05), Ok(()));
        assert_eq!(port.read(offset, Dword), Ok(5), "{offset:#x}");
    }
    for offset in [0x08, 0x14, 0x1c, 0x44, 0x4c, 0x800, 0xfdc, 0x3c, 0x40, 0x18, 0x04] {
        let before = port.read(offset, Dword);
        assert_eq!(port.write(offset, Dword, u64::MAX), Ok(()));
        assert_eq!(port.read(offset, Dword), before, "{offset:#x} is read-only or reserved");
    }
    for offset in (0xfe0..0x1000).step_by(4) {
        let before = port.read(offset, Dword);
        assert_eq!(port.write(offset, Dword, 0), Ok(()));
        assert_eq!(port.read(offset, Dword), before);
    }
}

#[test]
fn what_is_written_is_sent_in_order_whatever_the_width() {
    let mut port = enabled();
    for (byte, width) in b"ok\n".iter().zip([Byte, Word, Dword]) {
        assert_eq!(port.write(0, width, 0xffff_0100 | u64::from(*byte)), Ok(()));
        assert_eq!(port.read(0x18, Word), Ok(0x90));
    }
    assert_eq!((port.sent().text().as_str(), port.sent().bytes()), ("ok\n", 3));
}

#[test]
fn the_transmit_interrupt_is_raised_masked_and_cleared() {
    let mut port = enabled();
    let of = |port: &Pl011| (port.read(0x3c, Word), port.read(0x40, Word));
    assert_eq!(of(&port), (Ok(0), Ok(0)));
    assert_eq!(port.write(0, Byte, b'x'.into()), Ok(()));
    assert_eq!(of(&port), (Ok(0x20), Ok(0)));
    assert_eq!(port.write(0x38, Word, 0x20), Ok(()));
    assert_eq!(of(&port), (Ok(0x20), Ok(0x20)));
    assert_eq!(port.write(0x44, Word, 0x7df), Ok(()));
    assert_eq!(of(&port), (Ok(0x20), Ok(0x20)), "the others");
    assert_eq!(port.write(0x44, Word, 0x20), Ok(()));
    assert_eq!(of(&port), (Ok(0), Ok(0)));
}

#[test]
fn a_port_that_is_off_keeps_what_it_has_room_for() {
    for off in [0, u64::from(UARTEN), u64::from(TXE)] {
        for (line_control, room) in [(0, 1), (u64::from(FEN), 32)] {
            let mut port = Pl011::default();
            assert_eq!(port.write(0x30, Word, off), Ok(()));
            assert_eq!(port.write(0x2c, Word, line_control), Ok(()));
            for index in 0..40_u64 {
                let flags = if index == 0 {
                    0x90
                } else if index < room {
                    0x10
                } else {
                    0x30
                };
                assert_eq!(port.read(0x18, Word), Ok(flags), "after {index} bytes");
                assert_eq!(port.write(0, Byte, u64::from(b'0') + index), Ok(()));
            }
            assert_eq!((port.sent().bytes(), port.read(0x3c, Word)), (0, Ok(0)));
            assert_eq!(port.write(0x30, Word, ON), Ok(()));
            assert_eq!((port.sent().bytes(), port.read(0x18, Word)), (room, Ok(0x90)));
            assert!("0123456789:;<=>?@ABCDEFGHIJKLMNO".starts_with(&port.sent().text()));
        }
    }
}

#[test]
fn fewer_fit_once_the_fifo_is_turned_off() {
    let mut port = Pl011::default();
    assert_eq!(port.write(0x2c, Word, u64::from(FEN)), Ok(()));
    (0..5).for_each(|_| assert_eq!(port.write(0, Byte, b'x'.into()), Ok(())));
    assert_eq!(port.write(0x2c, Word, 0), Ok(()));
    assert_eq!(port.write(0, Byte, b'y'.into()), Ok(()));
    assert_eq!(port.read(0x18, Word), Ok(0x30));
    assert_eq!(port.write(0x30, Word, ON), Ok(()));
    assert_eq!(port.sent().text(), "xxxxx");
}

#[test]
fn what_is_no_register_is_a_bus_error_and_changes_nothing() {
    let mut port = enabled();
    let before = std::format!("{port:?}");
    for width in AccessWidth::ALL {
        for offset in [1, 2, 3, 0x1a, 0x31, 0x1000, 0x1004, u64::MAX, u64::MAX - 3, 1 << 63] {
            assert_eq!(port.read(offset, width), Err(BusError), "{offset:#x}");
            assert_eq!(port.write(offset, width, u64::MAX), Err(BusError), "{offset:#x}");
        }
    }
    for offset in (0..0x1000).step_by(4) {
        assert_eq!(port.read(offset, Qword), Err(BusError));
        assert_eq!(port.write(offset, Qword, 0), Err(BusError));
    }
    assert_eq!(std::format!("{port:?}"), before);
}
