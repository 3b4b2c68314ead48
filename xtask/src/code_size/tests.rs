use super::is_defined_by;

fn is_slat(symbol: &str) -> bool {
    is_defined_by(&format!("{:#}", rustc_demangle::demangle(symbol)), "slat")
}

#[test]
fn what_the_crate_defines_is_told_by_its_name() {
    for symbol in [
        "_ZN4slat3isa7aarch643run17hbf0b8dd1edc3c024E",
        "_ZN4slat5table3map49_$LT$impl$u20$slat..table..Table$LT$H$C$F$GT$$GT$7fill_in17h09eaefbeeeb2ca12E.llvm.107",
        "_ZN70_$LT$slat..space..change..AllocOptions$u20$as$u20$core..fmt..Debug$GT$3fmt17h6b004d941c83ee22E",
        "_ZN4core3ptr44drop_in_place$LT$slat..frame..FrameStack$GT$17hd98f64ebf5362b80E",
        "_RNvNtNtNtCs7Wqpt6dgTwD_4slat6format6stage24tlbi12instructions",
        "_RNvMNtNtNtCs7Wqpt6dgTwD_4slat5space7regions4treeINtB2_4TreeKjaa_Kjff_E5pruneCsd0NrK6xaVav_7slat_hv",
        "_RNvXs0_NtCs7Wqpt6dgTwD_4slat4addrNtB5_14GuestPhysRangeNtNtCs3g5Gb6bJpu0_4core3fmt7Display3fmt",
        "_RINvNtCs3g5Gb6bJpu0_4core3ptr13drop_in_placeNtNtCs7Wqpt6dgTwD_4slat5flags8LeafSizeECsd0NrK6xaVav_7slat_hv",
    ] {
        assert!(is_slat(symbol), "{:#}", rustc_demangle::demangle(symbol));
    }
}

#[test]
fn what_merely_mentions_the_crate_does_not_count() {
    for symbol in [
        "_ZN7slat_hv5churn5Churn4draw17h815fd657d83669e3E",
        "_ZN16slat_hv_protocol14encode_message17hecd28ccb311ca726E",
        "_ZN63_$LT$slat_hv..pool..Pool$LT$M$GT$$u20$as$u20$slat..hal..Hal$GT$12alloc_frames17h3471e35a4613b171E",
        "_ZN4core3ptr45drop_in_place$LT$slat_hv_protocol..Params$GT$17hd98f64ebf5362b80E",
        "_RNvXs1i_NtCs3g5Gb6bJpu0_4core3fmtRNtNtCs7Wqpt6dgTwD_4slat5flags12MappingFlagsNtB6_7Display3fmtBA_",
        "_RINvNtCs3g5Gb6bJpu0_4core3ptr13drop_in_placeNtCsb8OEMxZL7WS_16slat_hv_protocol6ParamsECsd0NrK6xaVav_7slat_hv",
        "memcpy",
        "slat",
    ] {
        assert!(!is_slat(symbol), "{:#}", rustc_demangle::demangle(symbol));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_is_measured() {
    let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let ours = super::of_crate(&elf, "xtask").unwrap();
    assert!(ours.functions > 50, "{ours}");
    assert!((10_000..ours.text).contains(&ours.bytes), "{ours}");
    let core = super::of_crate(&elf, "core").unwrap();
    assert!(ours.bytes + core.bytes <= ours.text, "{ours}; {core}");
    assert!(super::of_crate(&elf, "no_such_crate").unwrap_err().to_string().contains("stripped"));
    assert!(super::of_crate(b"not an ELF file", "xtask").is_err());
}
