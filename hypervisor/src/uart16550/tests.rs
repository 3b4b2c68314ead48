use super::*;
use AccessWidth::{Byte, Dword, Qword, Word};

#[test]
fn what_is_sent_comes_out_and_there_is_always_room() {
    let mut port = Uart16550::default();
    assert_eq!(port.read(5, Byte), Ok(0x60));
    assert_eq!(port.write(0, Byte, 0x1_0041), Ok(Some(b'A')));
    assert_eq!(port.read(5, Byte), Ok(0x60));
    assert_eq!(port.read(0, Byte), Ok(0), "nothing was received");
}

#[test]
fn what_is_received_is_told_read_once_and_cleared_by_the_fifo() {
    let mut port = Uart16550::default();
    port.receive(b"ab");
    assert_eq!([port.read(5, Byte), port.read(2, Byte)], [Ok(0x61), Ok(1)]);
    // Room to send is told as long as it is asked for, but what was received comes first.
    assert_eq!(port.write(1, Byte, 0b11), Ok(None));
    assert_eq!([port.read(2, Byte), port.read(0, Byte), port.read(0, Byte)], [Ok(4), Ok(0x61), Ok(0x62)]);
    assert_eq!([port.read(2, Byte), port.read(2, Byte), port.read(5, Byte)], [Ok(2), Ok(2), Ok(0x60)]);
    port.receive(b"c");
    assert_eq!(port.write(2, Byte, 0b101), Ok(None), "the other FIFO");
    assert_eq!([port.read(5, Byte), port.read(2, Byte)], [Ok(0x61), Ok(0xc4)]);
    assert_eq!(port.write(2, Byte, 0b011), Ok(None));
    assert_eq!([port.read(5, Byte), port.read(0, Byte)], [Ok(0x60), Ok(0)]);
}

#[test]
fn the_divisor_hides_two_registers() {
    let mut port = Uart16550::default();
    assert_eq!(port.write(1, Byte, 0xff), Ok(None));
    assert_eq!(port.write(3, Byte, 0x83), Ok(None));
    assert_eq!(port.write(0, Byte, 0x34), Ok(None));
    assert_eq!(port.write(1, Byte, 0x12), Ok(None));
    assert_eq!([port.read(0, Byte), port.read(1, Byte), port.read(3, Byte)], [Ok(0x34), Ok(0x12), Ok(0x83)]);
    assert_eq!(port.write(3, Byte, 0x03), Ok(None));
    assert_eq!(port.read(1, Byte), Ok(0x0f), "the interrupts that were enabled");
    assert_eq!(port.write(0, Byte, 0x34), Ok(Some(0x34)));
}

#[test]
fn the_rest_keeps_what_was_written_or_does_not_change() {
    let mut port = Uart16550::default();
    assert_eq!(port.read(2, Byte), Ok(1));
    for (offset, value) in [(2, 0x07), (4, 0xff), (5, 0), (6, 0xff), (7, 0x5a)] {
        assert_eq!(port.write(offset, Byte, value), Ok(None));
    }
    let read = [2, 4, 5, 6, 7].map(|offset| port.read(offset, Byte));
    assert_eq!(read, [Ok(0xc1), Ok(0x1f), Ok(0x60), Ok(0), Ok(0x5a)]);
}

#[test]
fn only_bytes_in_the_registers_are_accesses() {
    let mut port = Uart16550::default();
    for (offset, width) in [(8, Byte), (u64::MAX, Byte), (0, Word), (0, Dword), (4, Qword)] {
        assert_eq!(port.read(offset, width), Err(BusError));
        assert_eq!(port.write(offset, width, 0x41), Err(BusError));
    }
}

#[test]
fn the_state_makes_the_same_port_again() {
    let mut port = Uart16550::default();
    for (offset, value) in [(3, 0x80), (0, 1), (1, 2), (3, 3), (1, 3), (2, 1), (4, 5), (7, 6)] {
        assert_eq!(port.write(offset, Byte, value), Ok(None));
    }
    port.receive(b"abc");
    assert_eq!(Uart16550::from_bytes(&port.to_bytes()), Some(port));
    assert_eq!(Uart16550::from_bytes(&[0; 6]), None);
}
