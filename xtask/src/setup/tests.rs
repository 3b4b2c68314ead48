use super::{Needs, out_of_reach};
use crate::guests::cache::{Cache, Kernel};
use crate::host::{Host, OsRelease};
use crate::missing::MissingThings;
use crate::platform::Platform;
use crate::toolchain::{Plan, Toolchain};

fn everything(platform: Platform) -> Needs {
    Needs { platform, kernel: Some(platform.default_kernel()), busybox: true }
}

fn bare_host(id: &str) -> Host {
    Host { path: Vec::new(), os: OsRelease { id: id.to_owned(), ..OsRelease::default() }, root: false }
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let empty = tempfile::tempdir().unwrap();
    let cache = Cache::new(empty.path(), Platform::Arm);
    let missing =
        out_of_reach(&bare_host("fedora"), &cache, Some(&Plan::Impossible), &everything(Platform::Arm));
    let lines: Vec<_> = missing.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(
        lines[0],
        "missing: the emulator qemu-system-aarch64: sudo dnf install qemu-system-aarch64-core"
    );
    assert_eq!(
        lines[1],
        "missing: Rust target aarch64-unknown-none-softfloat: rustup target add aarch64-unknown-none-softfloat"
    );
    assert!(lines[2].starts_with("missing: a guest kernel: --guest IMAGE"));
    assert!(lines[3].starts_with("missing: a guest user space (busybox): --initrd FILE"));
    let error = MissingThings::check(missing).unwrap_err();
    assert!(error.to_string().starts_with("4 things are missing"));
    assert_eq!(error.downcast_ref::<MissingThings>().unwrap().hint_line(), None);
    let hinted = MissingThings::hint(error, "there is another way");
    let hint = hinted.downcast_ref::<MissingThings>().unwrap().hint_line();
    assert_eq!(hint.as_deref(), Some("hint: there is another way"));
}

#[test]
fn on_x86_everything_is_named_for_x86() {
    let empty = tempfile::tempdir().unwrap();
    let lines = |id: &str, needs: &Needs| {
        let cache = Cache::new(empty.path(), needs.platform);
        let missing = out_of_reach(&bare_host(id), &cache, Some(&Plan::Impossible), needs);
        missing.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let intel = lines("debian", &everything(Platform::Intel));
    assert_eq!(intel[0], "missing: the emulator bochs: sudo apt-get install bochs bochs-term");
    assert!(intel[1].starts_with("missing: Rust target x86_64-unknown-none: "));
    assert!(intel[2].ends_with("--guest IMAGE (any x86 bzImage)"));
    assert!(intel[3].ends_with("--initrd FILE (any initial RAM disk for amd64)"));
    let riscv = lines("fedora", &everything(Platform::Riscv));
    assert_eq!(
        riscv[0],
        "missing: the emulator qemu-system-riscv64: sudo dnf install qemu-system-riscv-core"
    );
    assert!(riscv[1].starts_with("missing: Rust target riscv64imac-unknown-none-elf: "));
    assert!(riscv[2].ends_with("--guest IMAGE (any RISC-V Linux Image)"));
    assert!(riscv[3].ends_with("--initrd FILE (any initial RAM disk for riscv64)"));
    let memtest = Needs { platform: Platform::Amd, kernel: Some(Kernel::Memtest), busybox: false };
    let amd = lines("arch", &memtest);
    assert_eq!(amd[0], "missing: the emulator qemu-system-x86_64: sudo pacman -S qemu-system-x86");
    assert_eq!(amd[2..], ["missing: memtest86+: --guest FILE (memtest86+x64.bin)"]);
}

#[test]
fn what_the_user_gives_is_not_missing() {
    let empty = tempfile::tempdir().unwrap();
    let cache = Cache::new(empty.path(), Platform::Arm);
    let needs = Needs { platform: Platform::Arm, kernel: None, busybox: false };
    let plan = Plan::Ready(Toolchain::InUse);
    let missing = out_of_reach(&bare_host("debian"), &cache, Some(&plan), &needs);
    assert_eq!(missing.len(), 1, "the emulator alone: {missing:?}");
}

#[test]
fn cached_files_are_not_missing() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path(), Platform::Amd);
    let needs = everything(Platform::Amd);
    for file in [cache.kernel_path(needs.kernel.unwrap()), cache.busybox_path()] {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, b"x").unwrap();
    }
    let missing = out_of_reach(&bare_host("fedora"), &cache, Some(&Plan::Ready(Toolchain::InUse)), &needs);
    assert_eq!(missing.len(), 1, "the emulator alone: {missing:?}");
}

#[test]
fn a_missing_counter_is_named_with_the_command_that_gets_it() {
    let error = super::counter(&bare_host("debian")).unwrap_err();
    let things = error.downcast_ref::<MissingThings>().unwrap().things();
    assert_eq!(things.len(), 1);
    assert_eq!(things[0].to_string(), "missing: valgrind: sudo apt-get install valgrind");
}
