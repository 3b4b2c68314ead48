use super::{Image, Program};
use crate::platform::Platform;

fn image(flags: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[16..24].copy_from_slice(&0x20_0000_u64.to_le_bytes());
    bytes[24..32].copy_from_slice(&flags.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes
}

fn check(bytes: &[u8]) -> anyhow::Result<Image> {
    super::check(bytes, Platform::Arm)
}

fn refusal(bytes: &[u8]) -> String {
    check(bytes).unwrap_err().to_string()
}

#[test]
fn an_image_says_how_much_memory_it_takes_and_its_release() {
    let mut bytes = image(0b1010);
    bytes[1000..1026].copy_from_slice(b"Linux version 6.1.0-x (deb");
    let release = Some("6.1.0-x".to_owned());
    let expected = Image { program: Program::Linux, memory: 0x20_0000, bootargs_max: 2047, release };
    assert_eq!(expected.title().as_deref(), Some("Linux 6.1.0-x"));
    assert_eq!(check(&bytes).unwrap(), expected);
    assert_eq!(check(&image(0)).unwrap().release, None);
}

#[test]
fn an_image_without_a_size_takes_its_own_length() {
    let mut bytes = image(0);
    bytes[16..24].fill(0);
    assert_eq!(check(&bytes).unwrap().memory, 4096);
}

#[test]
fn other_page_sizes_and_byte_orders_are_refused() {
    assert!(refusal(&image(0b001)).contains("big-endian"));
    assert!(refusal(&image(0b100)).contains("16 KiB"));
    assert!(refusal(&image(0b110)).contains("64 KiB"));
}

fn riscv_image(flags: u64) -> Vec<u8> {
    let mut bytes = image(flags);
    bytes[8..16].copy_from_slice(&0x20_0000_u64.to_le_bytes());
    bytes[48..53].copy_from_slice(b"RISCV");
    bytes[56..60].copy_from_slice(b"RSC\x05");
    bytes
}

#[test]
fn a_riscv_image_begins_above_the_firmware() {
    let check = |bytes: &[u8]| super::check(bytes, Platform::Riscv);
    let mut bytes = riscv_image(0);
    bytes[1000..1026].copy_from_slice(b"Linux version 6.12.1-x (de");
    let found = check(&bytes).unwrap();
    assert_eq!((found.program, found.memory, found.bootargs_max), (Program::Linux, 0x40_0000, 1023));
    assert_eq!(found.title().as_deref(), Some("Linux 6.12.1-x"));
    let refusal = |bytes: &[u8]| check(bytes).unwrap_err().to_string();
    assert!(refusal(&riscv_image(1)).contains("big-endian"));
    assert!(refusal(&image(0)).contains("it is not a RISC-V Linux Image: it is an arm64 Image"));
    assert!(super::check(&riscv_image(0), Platform::Arm).unwrap_err().to_string().contains("RISC-V"));
    bytes[8..16].copy_from_slice(&0x40_0000_u64.to_le_bytes());
    assert!(refusal(&bytes).contains("it begins 0x400000 bytes above"));
}

#[test]
fn u_boot_has_no_header_but_a_banner() {
    let mut bytes = vec![0; 4096];
    assert!(super::u_boot(&bytes).unwrap_err().to_string().contains("not U-Boot"));
    bytes[100..137].copy_from_slice(b"U-Boot phase U-Boot 2025.01-3 (Jun 24");
    let found = super::u_boot(&bytes).unwrap();
    assert_eq!((found.program, found.memory), (Program::UBoot, (2 << 20) + 8192));
    assert_eq!(found.title().as_deref(), Some("U-Boot 2025.01-3"));
}

#[test]
fn other_files_are_named() {
    let with = |offset: usize, magic: &[u8]| {
        let mut bytes = vec![0; 4096];
        bytes[offset..offset + magic.len()].copy_from_slice(magic);
        bytes
    };
    assert!(refusal(&[]).contains("empty"));
    assert!(refusal(b"short").contains("not an arm64 Linux Image"));
    assert!(refusal(&with(0, b"\x1f\x8b")).contains("gunzip"));
    assert!(refusal(&with(0x202, b"HdrS")).contains("x86 bzImage"));
    assert!(refusal(&with(56, b"RSC\x05")).contains("RISC-V"));
    assert!(refusal(&with(48, b"RISCV")).contains("RISC-V"));
    assert!(refusal(&with(0x24, b"\x18\x28\x6f\x01")).contains("32-bit Arm"));
    assert!(refusal(b"MZ\0\0zimg").contains("zboot"));
    assert!(refusal(b"!<arch>\ndebian-binary").contains(".deb"));
    assert!(refusal(&with(0, b"#!/bin/sh")).contains("magic number"));

    let mut elf = with(0, b"\x7fELF\x02\x01");
    elf[18] = 62;
    assert!(refusal(&elf).contains("x86-64"));
    elf[5] = 2;
    (elf[18], elf[19]) = (0, 22);
    assert!(refusal(&elf).contains("s390"));
}
