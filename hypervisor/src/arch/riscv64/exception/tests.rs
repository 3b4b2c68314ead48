use super::*;

const BEFORE: Before = Before { pc: 0x8020_1234, sstatus: SPP, vsstatus: 1 << 18 | SIE, vstvec: 0xffff_f001 };

#[test]
fn the_guests_kernel_sees_what_it_did_itself() {
    let entry = enter(BEFORE, Exception::illegal_instruction(0x6200_0073));
    let vsstatus = 1 << 18 | SPIE | SPP;
    let (pc, vsepc) = (0xffff_f000, 0x8020_1234);
    assert_eq!(entry, Entry { pc, sstatus: SPP, vsstatus, vsepc, vscause: 2, vstval: 0x6200_0073 });
}

#[test]
fn from_user_mode_with_interrupts_off() {
    let before = Before { sstatus: 0, vsstatus: SPP | SPIE, ..BEFORE };
    let entry = enter(before, Exception { code: 5, value: 0x1000 });
    assert_eq!((entry.vsstatus, entry.sstatus), (0, SPP));
    assert_eq!((entry.vscause, entry.vstval), (5, 0x1000));
}

#[test]
fn an_access_fault_is_of_the_kind_of_the_access() {
    for (scause, code) in [(20, 1), (21, 5), (23, 7)] {
        assert_eq!(Exception::access_fault(scause, 0x42), Exception { code, value: 0x42 });
    }
}
