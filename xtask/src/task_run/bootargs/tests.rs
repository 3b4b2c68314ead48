use super::{MEMTEST_BOOTARGS, SMALL, check, of};
use crate::guests::image::{Image, Program};
use crate::platform::Platform;

fn linux() -> Image {
    Image { bootargs_max: 2047, ..Image::default() }
}

#[test]
fn the_command_line_is_appended_to() {
    let arm = |append: &str, memory| of(Platform::Arm, &linux(), memory, 1, append);
    assert_eq!(arm("", SMALL).unwrap(), "earlycon console=ttyAMA0 panic=-1");
    assert_eq!(arm("quiet x=1", SMALL).unwrap(), "earlycon console=ttyAMA0 panic=-1 quiet x=1");
    assert!(arm("", SMALL - 1).unwrap().ends_with("panic=-1 lockdown=confidentiality"));
    assert!(arm("a\nb", SMALL).is_err());
    let amd = of(Platform::Amd, &linux(), SMALL - 1, 1, "quiet").unwrap();
    assert!(
        amd.starts_with("console=ttyS0,115200 acpi=off")
            && amd.ends_with(" panic=-1 cryptomgr.notests quiet")
    );
}

#[test]
fn a_pc_with_two_cpus_needs_its_tables_and_controllers() {
    for platform in [Platform::Intel, Platform::Amd] {
        let two = of(platform, &linux(), SMALL, 2, "quiet").unwrap();
        assert!(!two.contains("acpi=off") && !two.contains("apic") && two.ends_with(" quiet"), "{two}");
        assert_eq!(of(platform, &linux(), SMALL, 1, "").unwrap(), platform.bootargs(1));
    }
}

#[test]
fn what_a_kernel_would_cut_off_is_refused() {
    assert!(check(&"x".repeat(4000)).is_err());
    assert!(of(Platform::Arm, &linux(), SMALL, 2, &"x".repeat(2000)).is_ok());
    let error = of(Platform::Arm, &linux(), SMALL, 2, &"x".repeat(2040)).unwrap_err().to_string();
    assert!(error.contains("this kernel takes 2047"), "{error}");
    let memtest = Image { program: Program::Memtest, bootargs_max: 255, ..Image::default() };
    assert_eq!(of(Platform::Intel, &memtest, SMALL, 2, "").unwrap(), MEMTEST_BOOTARGS);
    assert!(of(Platform::Intel, &memtest, SMALL, 2, &"x".repeat(250)).is_err());
}
