//! Each state of a seat, and what is refused in it.

use super::{Seat, Unavailable};

#[test]
fn a_seat_goes_through_its_states() {
    let mut remains = 7_u64;
    let left = &raw mut remains;
    let seat = Seat::<u64>::new();
    assert_eq!((seat.identity(), seat.take(), seat.reap()), (None, Err(Unavailable::Off), None));
    let first = seat.turn_on(0x55).expect("it was off");
    assert_eq!((seat.identity(), seat.turn_on(0x66)), (Some(0x55), None));
    assert!(!seat.is_taken(first) && !seat.leave(first, left), "nobody sits there");
    assert_eq!(seat.take(), Ok(first));
    assert!(seat.is_taken(first));
    assert_eq!(seat.take(), Err(Unavailable::Occupied));
    assert_eq!(seat.reap(), None, "it is still alive");
    seat.free(first);
    assert_eq!(seat.take(), Ok(first));
    // Dropped elsewhere.
    assert!(seat.leave(first, left));
    assert!(!seat.leave(first, left), "once");
    assert_eq!((seat.take(), seat.identity()), (Err(Unavailable::Occupied), Some(0x55)));
    seat.free(first);
    assert_eq!((seat.reap(), seat.reap()), (Some(left), None));
    assert_eq!(seat.take(), Ok(first));
    // Turned off under a vCPU.
    assert_eq!(seat.turn_off(first), None);
    assert!(!seat.is_taken(first) && !seat.leave(first, left));
    let second = seat.turn_on(0x77).expect("it was off");
    assert_eq!((second == first, seat.identity()), (false, Some(0x77)));
    assert_eq!(seat.take(), Ok(second));
    // One of an earlier session has no say.
    seat.free(first);
    assert!(!seat.is_taken(first) && !seat.leave(first, left) && seat.is_taken(second));
    assert!(seat.leave(second, left));
    assert_eq!(seat.turn_off(second), Some(left));
    assert_eq!((seat.reap(), seat.identity()), (None, None));
}
