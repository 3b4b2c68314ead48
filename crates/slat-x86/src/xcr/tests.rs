//! Every value of the low bits against the rules of the manual, written the other way round.

use super::*;

#[test]
fn only_legal_combinations_pass() {
    let legal = |value: u64| {
        let has = |bit: u32| value >> bit & 1 == 1;
        has(0)
            && (!has(2) || has(1))
            && has(3) == has(4)
            && has(5) == has(6)
            && has(6) == has(7)
            && (!has(5) || has(2))
            && has(17) == has(18)
    };
    for low in 0..1u64 << 10 {
        for high in [0, 1 << 17, 1 << 18, 3 << 17] {
            let value = low | high;
            assert_eq!(check(0, value, u64::MAX).is_ok(), legal(value), "{value:#x}");
        }
    }
}

#[test]
fn what_the_machine_lacks_is_refused() {
    assert_eq!(check(0, 7, 7), Ok(()));
    assert_eq!(check(0, 7, 3), Err(BadXcr { index: 0, value: 7 }));
    assert_eq!(check(1, 1, 7), Err(BadXcr { index: 1, value: 1 }));
    assert_eq!(
        check(0, 1 << 63 | 1, 7).expect_err("reserved").to_string(),
        "XCR0 cannot be 0x8000000000000001"
    );
}
