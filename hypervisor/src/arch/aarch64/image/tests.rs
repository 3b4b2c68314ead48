use super::*;
use alloc::vec;
use alloc::vec::Vec;

fn image(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
    bytes[24..32].copy_from_slice(&flags.to_le_bytes());
    bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
    bytes
}

#[test]
fn a_header_is_read() {
    let header = Header::parse(&image(0x8_0000, 0x1c9_0000, 0xa));
    assert_eq!(header, Ok(Header { text_offset: 0x8_0000, image_size: 0x1c9_0000 }));
}

#[test]
fn what_is_no_kernel_is_refused() {
    assert_eq!(Header::parse(&[]), Err(ImageError::NoMagic));
    assert_eq!(Header::parse(&image(0, 1, 0)[..0x3b]), Err(ImageError::NoMagic));
    assert_eq!(Header::parse(b"\x1f\x8b\x08"), Err(ImageError::NoMagic));
    assert_eq!(Header::parse(&image(0, 0, 0)), Err(ImageError::NoImageSize));
    assert_eq!(Header::parse(&image(0, 1, 1)), Err(ImageError::BigEndian));
}

#[test]
fn kernel_and_initrd_lie_apart() {
    let header = Header { text_offset: 0, image_size: 30 << 20 };
    let layout = Layout::new(header, 27 << 20, 1_000_001, 48 << 20).expect("48 MiB are enough");
    assert_eq!(layout.device_tree, 0x4000_0000);
    assert_eq!(layout.kernel, 0x4020_0000);
    assert_eq!(layout.initrd, 0x4300_0000 - 1_003_520);
    assert!(layout.kernel + header.image_size <= layout.initrd);
}

#[test]
fn the_last_page_is_used_and_not_one_more() {
    let header = Header { text_offset: 0, image_size: 4096 };
    assert!(Layout::new(header, 10, 1, (2 << 20) + 8192).is_ok());
    let error = Layout::new(header, 10, 1, (2 << 20) + 8191);
    assert_eq!(error, Err(ImageError::TooLittleMemory { needed: (2 << 20) + 8192, given: (2 << 20) + 8191 }));
    assert!(
        Layout::new(header, 8192, 1, (2 << 20) + 8192).is_err(),
        "the file can be longer than image_size"
    );
}

#[test]
fn absurd_headers_do_not_overflow() {
    for header in [
        Header { text_offset: u64::MAX, image_size: 1 },
        Header { text_offset: 0, image_size: u64::MAX },
        Header { text_offset: u64::MAX / 2, image_size: u64::MAX / 2 },
    ] {
        for initrd in [0, 1, u64::MAX] {
            assert!(Layout::new(header, 0, initrd, u64::MAX / 4).is_err());
        }
    }
}
