use super::*;

#[test]
fn only_the_calls_of_the_table_are_known() {
    assert_eq!(decode(0xc600_0001), Some(Request::Move));
    assert_eq!(decode(0xc600_0002), Some(Request::WriteProtect));
    assert_eq!(decode(0xc600_0003), Some(Request::Renew));
    assert_eq!(decode_buffer(0xc600_0010), Some(BufferCall::Print));
    assert_eq!(decode_buffer(0xc600_0011), Some(BufferCall::Statistics));
    // The identifier is w0.
    assert_eq!(decode_buffer(0xffff_ffff_c600_0010), Some(BufferCall::Print));
    for other in [0, 0xc600_0000, 0xc600_0004, 0xc600_000f, 0xc600_0012, 0x8600_0010, 0x8400_0008, u64::MAX] {
        assert_eq!((decode(other), decode_buffer(other)), (None, None), "{other:#x}");
    }
}

#[test]
fn every_error_has_a_negative_number_of_its_own() {
    use BufferError::{Busy, Denied, Device, NoMemory, OutOfFrames, TooLong};
    let numbers =
        [TooLong, Denied, NoMemory, Device, OutOfFrames, Busy].map(|error| status(Err(error)) as i64);
    assert_eq!(numbers, [-2, -3, -9, -10, -11, -12]);
    assert_eq!(status(Ok(())), 0);
    assert_eq!((answer(true), answer(false) as i64), (0, -2));
}
