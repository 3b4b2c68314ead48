use super::*;

#[test]
fn causes_are_told_apart() {
    let interrupt = |code| INTERRUPT | code;
    for (scause, cause) in [
        (20, Cause::GuestPageFault),
        (21, Cause::GuestPageFault),
        (23, Cause::GuestPageFault),
        (10, Cause::Call),
        (22, Cause::VirtualInstruction),
        (2, Cause::IllegalInstruction),
        (0, Cause::ForGuest(0)),
        (13, Cause::ForGuest(13)),
        (18, Cause::ForGuest(18)),
        (interrupt(1), Cause::Software),
        (interrupt(5), Cause::Timer),
        // Calls of other modes, a hardware error, interrupts that nobody has enabled, and what is reserved.
        (9, Cause::Unexpected),
        (11, Cause::Unexpected),
        (19, Cause::Unexpected),
        (24, Cause::Unexpected),
        (u64::MAX >> 1, Cause::Unexpected),
        (interrupt(9), Cause::Unexpected),
        (interrupt(2), Cause::Unexpected),
        (u64::MAX, Cause::Unexpected),
    ] {
        assert_eq!(decode(scause), cause, "{scause:#x}");
    }
}

#[test]
fn only_a_kernel_waits_by_wfi() {
    assert!(is_wait(0x1050_0073, true));
    assert!(!is_wait(0x1050_0073, false));
    // HFENCE.GVMA x0, x0.
    assert!(!is_wait(0x6200_0073, true));
    assert!(!is_wait(0, true));
}

#[test]
fn lengths_are_those_of_the_encoding() {
    assert_eq!(length(0x1050_0073), 4);
    // C.NOP, with garbage behind it.
    assert_eq!(length(0xffff_0001), 2);
}
