use super::{Files, Machine, Pace, qemu};
use crate::boot::layout::Layout;
use crate::platform::Platform;
use std::path::Path;

fn machine(platform: Platform, cpus: u32, pace: Pace) -> Machine {
    let cpu = platform.default_cpu().to_owned();
    Machine { platform, emulator: "qemu".into(), cpu, cpus, pace }
}

fn arguments(command: &std::process::Command) -> String {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ")
}

const FILES: (&str, &str, &str) = ("/p", "/k,1", "/i");

fn files() -> Files<'static> {
    let (params, kernel, initrd) = FILES;
    let [params, kernel, initrd] = [params, kernel, initrd].map(Path::new);
    Files { params, kernel: Some(kernel), initrd: Some(initrd), snapshot: None }
}

#[test]
fn no_machine_has_semihosting_a_network_or_a_monitor() {
    let directory = Path::new("/d");
    for platform in [Platform::Arm, Platform::Amd, Platform::Riscv] {
        let machine = machine(platform, 2, Pace::Usual);
        let layout = Layout::new(&platform.map(), 1 << 20, 1 << 20, 128 << 20);
        let under_slat = match platform {
            Platform::Arm => qemu::arm(&machine, Path::new("/hv"), &files(), &layout, None),
            Platform::Riscv => qemu::riscv(&machine, Path::new("/hv"), &files(), &layout, None),
            _ => qemu::x86(&machine, Path::new("/hv"), &directory.join("payload"), &layout, None),
        };
        let native = machine.native(&files(), 128 << 20, "console=ttyAMA0").unwrap().command;
        for line in [arguments(&under_slat), arguments(&native)] {
            assert!(!line.contains("semihosting"), "{line}");
            assert!(
                line.contains("-monitor none") && line.contains("-nic none") && line.contains("-no-reboot")
            );
            assert!(line.contains(&format!("-cpu {}", platform.default_cpu())) && line.contains("-smp 2"));
            assert!(line.contains("-accel tcg") && !line.contains("icount"));
        }
        let native = arguments(&native);
        assert!(!native.contains("virtualization"));
        assert!(native.contains("-m 131072K") && native.contains("-append console=ttyAMA0"), "{native}");
    }
}

#[test]
fn each_machine_finds_its_files_in_memory() {
    let layout = Layout::new(&Platform::Arm.map(), 1 << 20, 1 << 20, 128 << 20);
    let arm = machine(Platform::Arm, 1, Pace::Usual);
    let arm = arguments(&qemu::arm(&arm, Path::new("/hv"), &files(), &layout, None));
    assert!(arm.contains("virtualization=on"));
    assert!(arm.contains("loader,file=/k,,1,addr=0x42000000,force-raw=on"), "{arm}");
    assert!(arm.contains("loader,file=/p,addr=0x40100000,force-raw=on"), "{arm}");
    let layout = Layout::new(&Platform::Riscv.map(), 1 << 20, 1 << 20, 128 << 20);
    let riscv = machine(Platform::Riscv, 1, Pace::Counted);
    let riscv = arguments(&qemu::riscv(&riscv, Path::new("/hv"), &files(), &layout, None));
    assert!(riscv.contains("-bios default -kernel /hv") && riscv.contains("-icount shift=1,sleep=off"));
    assert!(riscv.contains("loader,file=/k,,1,addr=0x82010000,force-raw=on"), "{riscv}");
    assert!(riscv.contains("loader,file=/p,addr=0x82000000,force-raw=on"), "{riscv}");
    let layout = Layout::new(&Platform::Amd.map(), 1 << 20, 1 << 20, 128 << 20);
    let amd = machine(Platform::Amd, 1, Pace::Waiting);
    let amd = arguments(&qemu::x86(&amd, Path::new("/hv"), Path::new("/d,1/payload"), &layout, None));
    assert!(amd.contains("loader,file=/d,,1/payload,addr=0x1000000,force-raw=on"), "{amd}");
    assert!(amd.contains("isa-debug-exit,iobase=0xf4,iosize=1") && amd.contains("-icount shift=7,sleep=off"));
}

#[test]
fn a_recorded_machine_keeps_its_memory_in_a_file() {
    let memory = Some(Path::new("/m,1"));
    for platform in [Platform::Arm, Platform::Amd, Platform::Riscv] {
        let machine = machine(platform, 1, Pace::Usual);
        let layout = Layout::new(&platform.map(), 1 << 20, 0, 128 << 20).with_recording();
        let line = arguments(&match platform {
            Platform::Arm => qemu::arm(&machine, Path::new("/hv"), &files(), &layout, memory),
            Platform::Riscv => qemu::riscv(&machine, Path::new("/hv"), &files(), &layout, memory),
            _ => qemu::x86(&machine, Path::new("/hv"), Path::new("/payload"), &layout, memory),
        });
        assert!(line.contains(",memory-backend=ram "), "{line}");
        let size = layout.machine_memory >> 10;
        assert!(line.contains(&format!("id=ram,mem-path=/m,,1,size={size}K,share=on")), "{line}");
    }
}

#[test]
fn warnings_are_no_complaints() {
    let errors = "qemu: warning: TCG doesn't support requested feature\nqemu: no such CPU\n";
    assert_eq!(qemu::complaint(errors), "qemu: no such CPU");
    assert_eq!(qemu::complaint("qemu: warning: TCG\n"), "");
}
