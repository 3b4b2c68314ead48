use super::*;
use alloc::vec;
use alloc::vec::Vec;

fn image(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
    bytes[24..32].copy_from_slice(&flags.to_le_bytes());
    bytes[0x38..0x3c].copy_from_slice(b"RSC\x05");
    bytes
}

#[test]
fn a_header_is_read() {
    let header = Header::parse(&image(0x20_0000, 0x1e6_c000, 0));
    assert_eq!(header, Ok(Header { text_offset: 0x20_0000, image_size: 0x1e6_c000, is_flat: false }));
}

#[test]
fn what_is_no_kernel_is_refused_by_name() {
    assert_eq!(Header::parse(&[]), Err(ImageError::TooShort));
    assert_eq!(Header::parse(&image(0, 1, 0)[..0x3b]), Err(ImageError::TooShort));
    assert_eq!(Header::parse(b"\x1f\x8b\x08"), Err(ImageError::Compressed("gzip")));
    assert_eq!(Header::parse(b"\x28\xb5\x2f\xfd\x24"), Err(ImageError::Compressed("zstd")));
    assert_eq!(Header::parse(b"MZ\0\0"), Err(ImageError::Foreign("another machine")));
    let mut arm64 = image(0, 1, 0);
    arm64[0x38..0x3c].copy_from_slice(b"ARM\x64");
    assert_eq!(Header::parse(&arm64), Err(ImageError::Foreign("arm64")));
    assert_eq!(Header::parse(b"\x7fELF\x02"), Err(ImageError::Elf));
    assert_eq!(Header::parse(&image(0, 0, 0)), Err(ImageError::NoImageSize));
    assert_eq!(Header::parse(&image(0, 1, 1)), Err(ImageError::BigEndian));
}

#[test]
fn a_flat_binary_lies_where_the_firmware_would_put_it() {
    let header = Header::parse(&[0x13; 1000]);
    assert_eq!(header, Ok(Header { text_offset: 2 << 20, image_size: 1000, is_flat: true }));
}

#[test]
fn kernel_device_tree_and_initrd_lie_apart() {
    let header = Header { text_offset: 2 << 20, image_size: 30 << 20, is_flat: false };
    let layout = Layout::new(header, 27 << 20, 1_000_001, 48 << 20).expect("48 MiB are enough");
    assert_eq!(layout.kernel, 0x8020_0000);
    assert_eq!(layout.initrd, 0x8300_0000 - 1_003_520);
    assert_eq!(layout.device_tree, layout.initrd - DEVICE_TREE_MAX);
    assert!(layout.kernel + header.image_size <= layout.device_tree);
}

#[test]
fn the_last_page_is_used_and_not_one_more() {
    let header = Header { text_offset: 0, image_size: 4096, is_flat: false };
    let needed = DEVICE_TREE_MAX + 8192;
    assert!(Layout::new(header, 10, 1, needed).is_ok());
    let error = Layout::new(header, 10, 1, needed - 1);
    assert_eq!(error, Err(ImageError::TooLittleMemory { needed, given: needed - 1 }));
    assert!(Layout::new(header, 8192, 1, needed).is_err(), "the file can be longer than image_size");
}

#[test]
fn absurd_headers_do_not_overflow() {
    for header in [
        Header { text_offset: u64::MAX, image_size: 1, is_flat: false },
        Header { text_offset: 0, image_size: u64::MAX, is_flat: false },
        Header { text_offset: u64::MAX / 2, image_size: u64::MAX / 2, is_flat: false },
    ] {
        for initrd in [0, 1, u64::MAX - 4095, u64::MAX] {
            assert!(Layout::new(header, 0, initrd, u64::MAX / 4).is_err());
        }
    }
}
