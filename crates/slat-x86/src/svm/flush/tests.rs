//! All cases.

use super::*;

#[test]
fn nothing_is_dropped_that_need_not_be() {
    for flush_by_asid in [false, true] {
        for shared in [false, true] {
            assert_eq!(plan(false, flush_by_asid, shared), Plan::Keep(TlbControl::Nothing));
        }
    }
    assert_eq!(plan(true, true, false), Plan::Keep(TlbControl::ThisAsid));
    assert_eq!(plan(true, true, true), Plan::Keep(TlbControl::ThisAsid));
    assert_eq!(plan(true, false, false), Plan::Fresh);
    assert_eq!(plan(true, false, true), Plan::Keep(TlbControl::Everything));
    // As the field has them.
    assert_eq!(
        [TlbControl::Nothing, TlbControl::Everything, TlbControl::ThisAsid].map(|control| control as u8),
        [0, 1, 3]
    );
}
