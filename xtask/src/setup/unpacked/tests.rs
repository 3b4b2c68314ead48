use super::{find, script, to_be_installed};
use crate::platform::Platform;
use crate::setup::emulators::Emulator;

#[test]
fn the_packages_are_those_that_would_be_installed() {
    let simulated = "Reading package lists...\nRemv qemu-utils [1:10.0]\n\
        Inst libfdt1 (1.6.1 Debian:12 [amd64])\nInst qemu-system-arm (1:7.2 Debian:12 [amd64]) []\n\
        Conf libfdt1 (1.6.1 Debian:12 [amd64])\n";
    assert_eq!(to_be_installed(simulated), ["libfdt1", "qemu-system-arm"]);
    assert!(to_be_installed("E: Unable to locate package\n").is_empty());
}

#[test]
fn the_program_finds_what_lies_beside_it() {
    let qemu = script(Emulator::of(Platform::Arm));
    let lines: Vec<_> = qemu.lines().collect();
    assert_eq!((lines[0], lines[1]), ("#!/bin/sh", "root=$(dirname \"$0\")/root"));
    assert!(lines.last().unwrap().starts_with(
        "exec \"$root/usr/bin/qemu-system-aarch64\" -L \"$root/usr/share/qemu\" -L \"$root/usr/share/seabios\""
    ));
    let bochs = script(Emulator::of(Platform::Intel));
    for line in [
        "    export LTDL_LIBRARY_PATH=$directory",
        "export BXSHARE=\"$root/usr/share/bochs\"",
        "exec \"$root/usr/bin/bochs-bin\" -q \"$@\"",
    ] {
        assert!(bochs.lines().any(|found| found == line), "{line} is missing in {bochs}");
    }
}

#[test]
fn nothing_is_found_before_it_was_unpacked() {
    let target = tempfile::tempdir().expect("a directory");
    let bochs = Emulator::of(Platform::Intel);
    assert_eq!(find(target.path(), bochs), None);
    let directory = target.path().join("slat-unpacked/bochs");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("bochs"), "").expect("a file");
    assert_eq!(find(target.path(), bochs), Some(directory.join("bochs")));
    assert_eq!(find(target.path(), Emulator::of(Platform::Amd)), None);
}
