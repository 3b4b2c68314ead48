use super::{MEMTEST_BOOTARGS, SMALL, check, of};
use crate::guests::image::{Image, Program};
use crate::platform::Platform;

fn linux() -> Image {
    Image { bootargs_max: 2047, ..Image::default() }
}

#[test]
fn the_command_line_is_appended_to() {
    let arm = |append: &str, memory| of(Platform::Arm, &linux(), memory, append);
    assert_eq!(arm("", SMALL).unwrap(), "earlycon console=ttyAMA0 panic=-1");
    assert_eq!(arm("quiet x=1", SMALL).unwrap(), "earlycon console=ttyAMA0 panic=-1 quiet x=1");
    assert!(arm("", SMALL - 1).unwrap().ends_with("panic=-1 lockdown=confidentiality"));
    assert!(arm("a\nb", SMALL).is_err());
    let amd = of(Platform::Amd, &linux(), SMALL - 1, "quiet").unwrap();
    assert!(
        amd.starts_with("console=ttyS0,115200 acpi=off")
            && amd.ends_with(" panic=-1 cryptomgr.notests quiet")
    );
}

#[test]
fn what_a_kernel_would_cut_off_is_refused() {
    assert!(check(&"x".repeat(4000)).is_err());
    assert!(of(Platform::Arm, &linux(), SMALL, &"x".repeat(2000)).is_ok());
    let error = of(Platform::Arm, &linux(), SMALL, &"x".repeat(2040)).unwrap_err().to_string();
    assert!(error.contains("this kernel takes 2047"), "{error}");
    let memtest = Image { program: Program::Memtest, bootargs_max: 255, ..Image::default() };
    assert_eq!(of(Platform::Intel, &memtest, SMALL, "").unwrap(), MEMTEST_BOOTARGS);
    assert!(of(Platform::Intel, &memtest, SMALL, &"x".repeat(250)).is_err());
}
