use super::{Interruption, decode, encode};
use crate::event::Event;

#[test]
fn events_have_the_numbers_of_the_manual() {
    let table = [
        (Event::ExternalInterrupt(0x31), 0x8000_0031, 0, 0),
        (Event::Nmi, 0x8000_0202, 0, 0),
        (Event::Exception { vector: 6, error_code: None }, 0x8000_0306, 0, 0),
        (Event::page_fault(7), 0x8000_0b0e, 7, 0),
        (Event::SoftwareInterrupt { vector: 0x80, length: 2 }, 0x8000_0480, 0, 2),
        (Event::PrivilegedSoftwareException { length: 1 }, 0x8000_0501, 0, 1),
        (Event::SoftwareException { vector: 3, length: 1 }, 0x8000_0603, 0, 1),
    ];
    for (event, information, error_code, instruction_length) in table {
        let fields = Interruption { information, error_code, instruction_length };
        assert_eq!(encode(event), fields, "{event:?}");
        assert_eq!(decode(fields), Some(event));
        // Without the valid bit there is nothing.
        assert_eq!(decode(Interruption { information: information & !(1 << 31), ..fields }), None);
    }
}

#[test]
fn numbers_that_mean_nothing_are_no_event() {
    for kind in [1, 7] {
        let information = 1 << 31 | kind << 8 | 0x20;
        assert_eq!(decode(Interruption { information, ..Interruption::default() }), None);
    }
    // Bit 12, NMI unblocking, is no part of the event; the error code counts only with its bit.
    let information = 0x8000_130e;
    let fields = Interruption { information, error_code: 5, instruction_length: 9 };
    assert_eq!(decode(fields), Some(Event::Exception { vector: 14, error_code: None }));
}
