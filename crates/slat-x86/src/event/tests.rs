//! What both vendors would refuse is refused here.

use super::*;

#[test]
fn error_codes_are_where_the_manual_has_them() {
    let with: std::vec::Vec<u8> = (0..=31).filter(|&vector| Event::has_error_code(vector)).collect();
    assert_eq!(with, [8, 10, 11, 12, 13, 14, 17, 21]);
}

#[test]
fn only_what_can_be_delivered_passes() {
    let exception = |vector, error_code| Event::Exception { vector, error_code };
    let good = [
        Event::Nmi,
        Event::ExternalInterrupt(255),
        Event::UNDEFINED,
        Event::GENERAL_PROTECTION,
        Event::page_fault(7),
        exception(3, None),
        exception(31, None),
        Event::SoftwareInterrupt { vector: 0x80, length: 2 },
        Event::SoftwareException { vector: 4, length: 1 },
        Event::PrivilegedSoftwareException { length: 15 },
    ];
    good.iter().for_each(|event| assert_eq!(event.check(true), Ok(()), "{event:?}"));
    let bad = [
        (exception(2, None), BadEvent::Vector(2)),
        (exception(32, None), BadEvent::Vector(32)),
        (exception(13, None), BadEvent::ErrorCode(13, false)),
        (exception(6, Some(0)), BadEvent::ErrorCode(6, true)),
        (Event::SoftwareException { vector: 5, length: 1 }, BadEvent::Vector(5)),
        (Event::SoftwareException { vector: 3, length: 16 }, BadEvent::Length(16)),
        (Event::SoftwareInterrupt { vector: 3, length: 0 }, BadEvent::Length(0)),
        (Event::PrivilegedSoftwareException { length: 16 }, BadEvent::Length(16)),
    ];
    bad.iter().for_each(|(event, error)| assert_eq!(event.check(true), Err(*error), "{event:?}"));
    // Real mode pushes none.
    assert_eq!(exception(13, None).check(false), Ok(()));
    assert_eq!(Event::GENERAL_PROTECTION.check(false), Err(BadEvent::ErrorCode(13, true)));
}

#[test]
fn what_is_wrong_is_said() {
    assert_eq!(BadEvent::ErrorCode(13, false).to_string(), "exception 13 has an error code");
    assert_eq!(BadEvent::ErrorCode(6, true).to_string(), "exception 6 does not have an error code");
}
