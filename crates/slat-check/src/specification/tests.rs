use super::*;
use slat::format::Format;
use slat::format::{ept, gstage, npt, stage2};

/// Two independent readings of the manuals agree on what can be expressed.
fn agree(format: impl Format, rules: Rules) {
    for bits in 0..64 {
        let flags = MappingFlags::from_bits_truncate(bits);
        if flags.is_accessible() {
            assert_eq!(format.check_flags(flags).is_ok(), rules.expressible(flags), "{flags} on {format:?}");
        }
    }
}

#[test]
fn the_rules_agree_with_the_formats() {
    let rules = |architecture, user_execute, execute_only, memory_types| Rules {
        architecture,
        user_execute,
        execute_only,
        memory_types,
        marks: false,
        marks_by_fault: false,
        fences_new_entries: false,
        force_write_back: false,
        largest: LeafSize::Size1G,
    };
    for xnx in [false, true] {
        let format = stage2::Stage2::new(stage2::Features { xnx, ..stage2::Features::BASELINE }, None);
        agree(format.unwrap(), rules(Architecture::Stage2, xnx, true, true));
    }
    for (mode_based_execute, execute_only) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut capabilities = ept::Capabilities { mode_based_execute, ..ept::Capabilities::BASELINE };
        capabilities.ept_vpid_cap |= u64::from(execute_only);
        let format = ept::Ept::new(capabilities, 4).unwrap();
        agree(format, rules(Architecture::Ept, mode_based_execute, execute_only, true));
    }
    agree(npt::Npt::default(), rules(Architecture::Npt, false, false, true));
    for svpbmt in [false, true] {
        let mut extensions = gstage::Extensions::empty();
        extensions.set(gstage::Extensions::SVPBMT, svpbmt);
        let capabilities =
            gstage::Capabilities { vmid_bits: 7, extensions, ..gstage::Capabilities::BASELINE };
        let format = gstage::Gstage::new(gstage::Mode::Sv39x4, capabilities);
        agree(format.unwrap(), rules(Architecture::Gstage, false, true, svpbmt));
    }
}
