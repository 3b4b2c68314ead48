use super::{Files, Machine};
use crate::boot::layout::Layout;
use std::path::Path;

fn arguments(command: &std::process::Command) -> String {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ")
}

#[test]
fn neither_machine_has_semihosting_a_network_or_a_monitor() {
    let machine = Machine { emulator: "qemu".into(), cpu: "cortex-a72".to_owned(), cpus: 2 };
    let initrd = Some(Path::new("/i"));
    let files = Files { params: Path::new("/p"), kernel: Path::new("/k,1"), initrd, memory: None };
    let layout = Layout::new(1 << 20, 1 << 20, 128 << 20);
    let under_slat = arguments(&machine.with_hypervisor(Path::new("/hv"), &files, &layout));
    let native = arguments(&machine.native(&files, 128 << 20, "console=ttyAMA0"));
    for line in [&under_slat, &native] {
        assert!(!line.contains("semihosting"), "{line}");
        assert!(line.contains("-monitor none") && line.contains("-nic none") && line.contains("-no-reboot"));
        assert!(line.contains("-cpu cortex-a72") && line.contains("-smp 2"));
    }
    assert!(under_slat.contains("virtualization=on"));
    assert!(under_slat.contains("loader,file=/k,,1,addr=0x42000000,force-raw=on"), "{under_slat}");
    assert!(under_slat.contains("loader,file=/p,addr=0x40100000,force-raw=on"), "{under_slat}");
    assert!(!native.contains("virtualization"));
    assert!(native.contains("-m 131072K") && native.contains("-append console=ttyAMA0"), "{native}");
}

#[test]
fn a_recorded_machine_keeps_its_memory_in_a_file() {
    let machine = Machine { emulator: "qemu".into(), cpu: "cortex-a72".to_owned(), cpus: 1 };
    let memory = Some(Path::new("/m,1"));
    let files = Files { params: Path::new("/p"), kernel: Path::new("/k"), initrd: None, memory };
    let layout = Layout::new(1 << 20, 0, 128 << 20).with_recording();
    let line = arguments(&machine.with_hypervisor(Path::new("/hv"), &files, &layout));
    assert!(line.contains("its=off,memory-backend=ram"), "{line}");
    let size = layout.machine_memory >> 10;
    assert!(line.contains(&format!("id=ram,mem-path=/m,,1,size={size}K,share=on")), "{line}");
}
