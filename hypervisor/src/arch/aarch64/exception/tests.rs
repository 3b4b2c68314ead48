use super::*;

const EL0: u64 = 0;
const EL1T: u64 = 4;
const EL1H: u64 = 5;
const USER_AARCH32: u64 = 0x10;

fn before(pstate: u64) -> Before {
    Before { pc: 0x1234, pstate, vbar: 0x8_0800, sctlr: SCTLR_SPAN }
}

#[test]
fn the_vector_depends_on_where_the_guest_was() {
    for (pstate, offset) in [(EL1T, 0), (EL1H, 0x200), (EL0, 0x400), (USER_AARCH32, 0x600)] {
        let entry = enter(before(pstate), PstateFeatures::default(), Exception::Undefined);
        assert_eq!(entry.pc, 0x8_0800 + offset, "{pstate:#x}");
        assert_eq!((entry.elr, entry.spsr), (0x1234, pstate));
        assert_eq!((entry.esr, entry.far), (1 << 25, None));
        assert_eq!(entry.pstate & 0x3df, 0x3c5, "EL1h with DAIF masked");
    }
}

#[test]
fn reserved_bits_of_vbar_do_not_move_the_vector() {
    let unaligned = Before { vbar: 0x8_0fff, ..before(EL1H) };
    assert_eq!(enter(unaligned, PstateFeatures::default(), Exception::Undefined).pc, 0x8_0a00);
}

#[test]
fn an_abort_carries_class_direction_and_address() {
    let abort = |pstate, fetch, write| {
        let exception = Exception::ExternalAbort { address: 0xdead_b000, fetch, write };
        enter(before(pstate), PstateFeatures::default(), exception)
    };
    for (pstate, fetch, write, esr) in [
        (EL0, false, false, 0x9200_0010),
        (EL0, true, false, 0x8200_0010),
        (EL1H, false, true, 0x9600_0050),
        (EL1H, true, true, 0x8600_0010),
        (USER_AARCH32, false, true, 0x9200_0050),
    ] {
        let entry = abort(pstate, fetch, write);
        assert_eq!(entry.esr, esr, "{pstate:#x} {fetch} {write}");
        assert_eq!(entry.far, Some(0xdead_b000));
    }
}

#[test]
fn pan_follows_span_and_the_old_state() {
    let pan = |pstate, sctlr, pan| {
        let features = PstateFeatures { pan, ..Default::default() };
        enter(Before { sctlr, ..before(pstate) }, features, Exception::Undefined).pstate >> 22 & 1
    };
    assert_eq!(pan(EL0, 0, true), 1);
    assert_eq!(pan(EL0, SCTLR_SPAN, true), 0);
    assert_eq!(pan(EL1H | 1 << 22, SCTLR_SPAN, true), 1);
    assert_eq!(pan(EL0, 0, false), 0);
}

#[test]
fn flags_and_dit_survive_and_single_step_does_not() {
    let entry = enter(
        before(EL1H | 0xf << 28 | 1 << 24 | 1 << 21 | 1 << 20),
        PstateFeatures::default(),
        Exception::Undefined,
    );
    assert_eq!(entry.pstate, 0x3c5 | 0xf << 28 | 1 << 24);
    let aarch32 = enter(before(USER_AARCH32 | 1 << 21), PstateFeatures::default(), Exception::Undefined);
    assert_eq!(aarch32.pstate, 0x3c5 | 1 << 24);
}

#[test]
fn ssbs_and_tco_need_their_features() {
    let all = PstateFeatures { pan: true, ssbs: true, mte: true };
    let entry = enter(Before { sctlr: SCTLR_SPAN | SCTLR_DSSBS, ..before(EL0) }, all, Exception::Undefined);
    assert_eq!(entry.pstate, 0x3c5 | 1 << 12 | 1 << 25);
}

#[test]
fn an_abort_is_answered_in_kind() {
    let syndrome = |esr| Syndrome { esr, far: 0x1000, ..Default::default() };
    let abort = |fetch, write| Exception::ExternalAbort { address: 0x1000, fetch, write };
    assert_eq!(Exception::external_abort(&syndrome(0x9200_0047)), abort(false, true));
    assert_eq!(Exception::external_abort(&syndrome(0x9200_0007)), abort(false, false));
    assert_eq!(Exception::external_abort(&syndrome(0x8200_0007)), abort(true, false));
}

#[test]
fn skipping_wraps_and_ends_the_step() {
    assert_eq!(skip(0x1000, EL1H | 1 << 21 | 0b11 << 10, 1 << 25), (0x1004, EL1H));
    assert_eq!(skip(0x1000, USER_AARCH32 | 1 << 21, 0), (0x1002, USER_AARCH32 | 1 << 21));
    assert_eq!(skip(u64::MAX, EL0, 1 << 25).0, 3);
}
