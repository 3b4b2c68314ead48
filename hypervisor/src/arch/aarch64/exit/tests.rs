use super::*;

fn esr(class: u64, iss: u64) -> u64 {
    class << 26 | 1 << 25 | iss
}

#[test]
fn each_class_has_its_cause() {
    for (raw, cause) in [
        (esr(0x24, 0x47), Cause::Abort),
        (esr(0x20, 0x07), Cause::Abort),
        (esr(0x16, 0), Cause::Hvc(0)),
        (esr(0x16, 0xffff), Cause::Hvc(0xffff)),
        (esr(0x17, 3), Cause::Smc(3)),
        (esr(0x01, 0), Cause::Wait),
        (esr(0x07, 0), Cause::Trapped),
        (esr(0x18, 0), Cause::Trapped),
        (esr(0x19, 0), Cause::Trapped),
        (esr(0x3f, 0), Cause::Trapped),
    ] {
        assert_eq!(decode(Vector::Synchronous, raw), cause, "{raw:#x}");
    }
}

#[test]
fn other_vectors_do_not_look_at_the_syndrome() {
    for raw in [0, esr(0x24, 0), u64::MAX] {
        assert_eq!(decode(Vector::from_index(1), raw), Cause::Unexpected);
        assert_eq!(decode(Vector::from_index(6), raw), Cause::Unexpected);
        assert_eq!(decode(Vector::from_index(7), raw), Cause::SystemError);
    }
}
