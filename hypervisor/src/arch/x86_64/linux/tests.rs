use super::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

/// The header of a kernel as distributions ship them: relocatable, protocol 2.15, prefers 16 MiB.
fn kernel() -> Vec<u8> {
    let mut image = vec![0; 512 * 5 + 16 * 100];
    let mut set = |offset: usize, value: u64, length: usize| {
        image[offset..offset + length].copy_from_slice(&value.to_le_bytes()[..length]);
    };
    let fields = [
        (0x1f1, 4, 1),
        (0x1f4, 100, 4),
        (0x1fe, 0xaa55, 2),
        (0x200, 0x6aeb, 2),
        (0x206, 0x20f, 2),
        (0x211, 0x81, 1),
        (0x214, 0x10_0000, 4),
        (0x22c, 0x7fff_ffff, 4),
        (0x230, 0x20_0000, 4),
        (0x234, 1, 1),
        (0x238, 2047, 4),
        (0x258, 0x100_0000, 8),
        (0x260, 0x337_8000, 4),
    ];
    fields.into_iter().for_each(|(offset, value, length)| set(offset, value, length));
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[512 * 5..].fill(0xcc);
    image
}

fn with(offset: usize, bytes: &[u8]) -> Result<Header, LinuxError> {
    let mut image = kernel();
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
    Header::parse(&image)
}

#[test]
fn a_distributions_kernel_is_taken() {
    let header = Header::parse(&kernel()).expect("a header");
    assert_eq!((header.code, header.code_size, header.address), (512 * 5, 1600, 0x100_0000));
    assert_eq!((header.init_size, header.initrd_max), (0x337_8000, 0x7fff_ffff));
    assert_eq!((header.command_line_max, header.end), (2047, 0x26c));
    assert!(header.code(&kernel()).iter().all(|byte| *byte == 0xcc));
    assert_eq!(header.code(&kernel()).len(), 1600);
}

#[test]
fn one_that_cannot_be_moved_stays_at_1_mib() {
    let mut image = kernel();
    image[0x234] = 0;
    image[0x1f1] = 0;
    let header = Header::parse(&image).expect("as memtest86+");
    assert_eq!((header.address, header.code), (0x10_0000, 512 * 5));
}

#[test]
fn each_defect_has_its_own_error() {
    assert_eq!(with(0x1fe, &[0]), Err(LinuxError::NoHeader("boot flag 0xaa55")));
    assert_eq!(with(0x203, &[0]), Err(LinuxError::NoHeader("magic number HdrS")));
    assert_eq!(with(0x206, &[9, 2]), Err(LinuxError::TooOld(0x209)));
    assert_eq!(with(0x211, &[0x80]), Err(LinuxError::LoadedLow));
    let given = kernel().len() as u64;
    assert_eq!(with(0x1f4, &[101]), Err(LinuxError::Truncated { needed: given + 1, given }));
    assert_eq!(with(0x1f4, &[0]), Err(LinuxError::Truncated { needed: 512 * 5 + 1, given }));
    assert_eq!(
        with(0x1f4, &[0xff; 4]),
        Err(LinuxError::Truncated { needed: 512 * 5 + 0xf_ffff_ffe1, given })
    );
    assert_eq!(with(0x1f1, &[5]), Err(LinuxError::Truncated { needed: given + 512 - 15, given }));
    let old = LinuxError::TooOld(0x209).to_string();
    assert_eq!(old, "the kernel's boot protocol 2.09 is older than 2.10");
}

#[test]
fn whatever_is_in_a_header_nothing_panics() {
    for length in 0..kernel().len() - 15 {
        assert!(Header::parse(&kernel()[..length]).is_err(), "{length} bytes");
    }
    for offset in 0x1f1..0x268 {
        for value in [0, 0x7f, 0xff] {
            let Ok(header) = with(offset, &[value]) else { continue };
            let mut image = kernel();
            image[offset] = value;
            assert!(header.code(&image).len() <= image.len());
            for memory in [0, 2 << 20, 128 << 20, 3 << 30] {
                if let Ok(layout) = header.layout(5000, 100, memory) {
                    assert!(layout.initrd.address + 5000 <= memory);
                    assert!(layout.kernel + header.init_size <= layout.initrd.address);
                    let page = header.zero_page(&image, &layout, memory);
                    assert_eq!(page[0x1e8], 3);
                }
            }
        }
    }
    // All of the preferred address and of the size.
    let header = with(0x258, &[0xff; 12]).expect("a header");
    let layout = header.layout(u64::MAX, 0, 128 << 20);
    assert_eq!(layout, Err(LinuxError::TooLittleMemory { needed: u64::MAX, given: 128 << 20 }));
}

#[test]
fn the_initrd_lies_at_the_end_of_ram_where_the_kernel_reaches_it() {
    let header = Header::parse(&kernel()).expect("a header");
    let layout = |initrd, memory| header.layout(initrd, 100, memory);
    let span = |address, size| Ok(Layout { kernel: 0x100_0000, initrd: Span { address, size } });
    assert_eq!(layout(5000, 128 << 20), span((128 << 20) - 8192, 5000));
    assert_eq!(layout(0, 128 << 20), span(128 << 20, 0));
    assert_eq!(layout(4096, 3 << 30), span((2 << 30) - 4096, 4096));
    let needed = 0x437_8000 + 8192;
    assert_eq!(layout(5000, needed), span(0x437_8000, 5000));
    assert_eq!(layout(5000, needed - 1), Err(LinuxError::TooLittleMemory { needed, given: needed - 1 }));
    let low = Header { initrd_max: 0x437_8fff, ..header };
    assert_eq!(low.layout(5000, 0, 1 << 30), Err(LinuxError::InitrdOutOfReach(0x437_9000)));
}

#[test]
fn the_command_line_is_as_long_as_the_kernel_takes() {
    let header = Header::parse(&kernel()).expect("a header");
    assert!(header.layout(0, 2047, 128 << 20).is_ok());
    let long = header.layout(0, 2048, 128 << 20);
    assert_eq!(long, Err(LinuxError::CommandLine { given: 2048, most: 2047 }));
    let liar = with(0x238, &[0xff; 4]).expect("a header");
    assert!(liar.layout(0, 0x1_0000, 128 << 20).is_ok());
    assert!(COMMAND_LINE + liar.command_line_max < LOW_END);
}

#[test]
fn the_zero_page_has_the_header_and_what_the_loader_knows() {
    let image = kernel();
    let header = Header::parse(&image).expect("a header");
    let layout = header.layout(5000, 100, 128 << 20).expect("room");
    let page = header.zero_page(&image, &layout, 128 << 20);
    let number = |offset: usize, length: usize| {
        page[offset..offset + length].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    assert_eq!(page[0x1fe..0x206], image[0x1fe..0x206]);
    assert_eq!(page[0x230..0x26c], image[0x230..0x26c]);
    assert!(page[0x26c..0x2d0].iter().chain(&page[..0x1e8]).all(|byte| *byte == 0));
    assert_eq!((number(0x210, 1), number(0x211, 1)), (0xff, 1));
    assert_eq!((number(0x214, 4), number(0x218, 4), number(0x21c, 4)), (0x100_0000, 0x7ff_e000, 5000));
    assert_eq!(number(0x228, 4), 0x8000);
    let entry = |index: usize| {
        (number(0x2d0 + 20 * index, 8), number(0x2d8 + 20 * index, 8), number(0x2e0 + 20 * index, 4))
    };
    assert_eq!(number(0x1e8, 1), 3);
    assert_eq!(entry(0), (0, 0x9_f000, 1));
    assert_eq!(entry(1), (0x9_f000, 0x6_1000, 2));
    assert_eq!(entry(2), (0x10_0000, 127 << 20, 1));
    // Without an initrd there is none.
    let page = header.zero_page(&image, &header.layout(0, 0, 128 << 20).expect("room"), 128 << 20);
    assert_eq!(page[0x218..0x220], [0; 8]);
}
