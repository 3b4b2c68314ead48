use super::*;

#[test]
fn the_extension_is_what_cpuid_says() {
    assert_eq!(Extension::of(1 << 5, 0), Some(Extension::Vmx));
    assert_eq!(Extension::of(!(1 << 5), 1 << 2), Some(Extension::Svm));
    assert_eq!(Extension::of(!(1 << 5), !(1 << 2)), None);
}

#[test]
fn devices_lie_above_all_memory() {
    for device in [LOCAL_APIC, IO_APIC, HPET] {
        assert!(device.address >= slat_hv_protocol::MemoryMap::X86_64.end, "{}", device.name);
        assert_eq!((device.address % 4096, device.size), (0, 4096), "{}", device.name);
    }
}
