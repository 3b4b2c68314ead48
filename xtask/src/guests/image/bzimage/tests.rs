use super::check;
use crate::guests::image::{Image, Program};

/// A bzImage of protocol 2.15 that runs at 16 MiB and takes 3 MiB there.
fn image(version: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x1000];
    bytes[0x1f1] = 3;
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    bytes[0x211] = 1;
    bytes[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    bytes[0x258..0x260].copy_from_slice(&(16_u64 << 20).to_le_bytes());
    bytes[0x260..0x264].copy_from_slice(&(3_u32 << 20).to_le_bytes());
    bytes[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
    bytes
}

fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = image("6.1.0");
    change(&mut bytes);
    check(&bytes).unwrap_err().to_string()
}

#[test]
fn a_kernel_says_what_it_is_and_how_much_memory_it_takes() {
    let linux = Image {
        program: Program::Linux,
        memory: 19 << 20,
        bootargs_max: 2047,
        release: Some("6.1.0-56-cloud-amd64".to_owned()),
    };
    assert_eq!(check(&image("6.1.0-56-cloud-amd64 (debian-kernel) #1 SMP")).unwrap(), linux);
    let memtest = check(&image("Memtest86+ v6.10")).unwrap();
    assert_eq!((memtest.program, memtest.title().as_deref()), (Program::Memtest, Some("Memtest86+ 6.10")));
    assert_eq!(check(&image("")).unwrap().title(), None);
}

#[test]
fn what_cannot_be_booted_is_refused_by_its_reason() {
    assert!(refusal(|bytes| bytes[0x202] = 0).contains("not an x86 bzImage: the magic number"));
    let arm64 = |bytes: &mut Vec<u8>| {
        bytes[0x202] = 0;
        bytes[56..60].copy_from_slice(b"ARM\x64");
    };
    assert!(refusal(arm64).contains("not an x86 bzImage: it is an arm64 Image"));
    assert!(refusal(|bytes| bytes[0x206] = 9).contains("boot protocol is 2.09; 2.10 or later"));
    assert!(refusal(|bytes| bytes[0x211] = 0).contains("zImage"));
    assert!(refusal(|bytes| bytes.truncate(4 * 512)).contains("cut off"));
    assert!(refusal(|bytes| bytes[0x258..0x260].fill(0xff)).contains("wants to run at 0xffffffffffffffff"));
}

#[test]
fn a_header_that_points_outside_of_the_file_has_no_release() {
    let mut bytes = image("6.1.0");
    bytes[0x20e..0x210].copy_from_slice(&0xffff_u16.to_le_bytes());
    assert_eq!(check(&bytes).unwrap().release, None);
}
