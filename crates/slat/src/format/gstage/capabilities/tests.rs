//! Names as device trees have them, and what becomes of them.

use super::*;
use Extensions as E;

#[test]
fn an_isa_string_names_its_extensions() {
    let cases = [
        // QEMU 7.2, -cpu rv64,h=true.
        ("rv64imafdch_zicsr_zifencei_zihintpause_zba_zbb_zbc_zbs_sstc", E::H | E::SSTC),
        ("rv64imafdc_zicsr_svadu", E::SVADU),
        ("RV64IMAFDCH_SVINVAL_SvPbmt", E::H | E::SVINVAL | E::SVPBMT),
        ("rv64i2p1m2p0h1p0_svnapot1p0_svade1", E::H | E::SVNAPOT | E::SVADE),
        // The first name of several letters may follow at once, and only the ones of one letter hide in each other.
        ("rv64imacsvinval_h", E::SVINVAL | E::H),
        ("rv64imach", E::H),
        ("rv64imac_zhinx_xhart", E::empty()),
        ("rv64imacxh", E::empty()),
        ("rv64imaczhs", E::empty()),
        ("rv32ih", E::H),
        ("rv128ih_svvptc", E::H | E::SVVPTC),
        ("rv64i_svvptc_", E::SVVPTC),
        ("rv64", E::empty()),
        // Near misses.
        ("rv64i_svpbmtx_svinva_svadu_p1_xsvade", E::SVADU),
        ("rv64i_svadup_svade1p_svinvalp1_svnapot1p0p0_sstcq", E::empty()),
        // No ISA string.
        ("h_svinval", E::empty()),
        ("rv16ih", E::empty()),
        ("", E::empty()),
        ("r\u{fc}64h", E::empty()),
    ];
    for (isa, wanted) in cases {
        assert_eq!(Extensions::from_isa_string(isa), wanted, "{isa}");
    }
}

#[test]
fn a_list_of_names_names_them() {
    let list = b"i\0m\0a\0c\0h\0zicsr\0svinval\0svpbmt\0svnapot\0svade\0svadu\0svvptc\0sstc\0";
    assert_eq!(Extensions::from_names(list), Extensions::all());
    assert_eq!(Extensions::from_names(b"zhinx\0svinval"), E::SVINVAL, "without the last zero");
    assert_eq!(Extensions::from_names(b"\xff\0H\0"), E::H, "what is no text is passed over");
    assert_eq!(Extensions::from_names(b""), E::empty());
    assert_eq!(Extensions::from_names(b"h_svinval\0"), E::empty(), "a list and no ISA string");
}

#[test]
fn only_what_m_mode_turned_on_is_in_effect() {
    let probe = HgatpProbe { modes: Modes::SV39X4 | Modes::SV48X4, vmid_bits: 7 };
    let named = E::all();
    let cases = [
        (0, E::all() - E::SVPBMT - E::SVADU - E::SSTC),
        (1 << 61, E::all() - E::SVPBMT - E::SSTC),
        (1 << 62, E::all() - E::SVADU - E::SSTC),
        (7 << 61, E::all()),
        (!(3 << 61), E::all() - E::SVPBMT - E::SVADU),
    ];
    for (henvcfg, wanted) in cases {
        let found = Capabilities::new(probe, named, henvcfg);
        assert_eq!(
            found,
            Capabilities { modes: probe.modes, vmid_bits: 7, extensions: wanted, ..Capabilities::BASELINE }
        );
    }
    let few = Capabilities::new(probe, E::H | E::SVINVAL, u64::MAX);
    assert_eq!(few.extensions, E::H | E::SVINVAL, "what is not named is not there");
    assert!(few.has(E::H) && few.has(E::SVINVAL | E::H) && !few.has(E::SVPBMT | E::H));
}

#[test]
fn modes_are_as_wide_as_the_manual_says() {
    let widths = Mode::ALL.map(|mode| (mode.levels(), mode.gpa_bits()));
    assert_eq!(widths, [(3, 41), (4, 50), (5, 59)]);
    let all = Mode::ALL.iter().fold(Modes::empty(), |all, mode| all | mode.only());
    assert_eq!(all, Modes::all());
    assert_eq!(Mode::ALL.map(|mode| mode.only().bits()), [1, 2, 4]);
}
