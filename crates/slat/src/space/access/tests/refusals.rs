//! Where accesses stop, and with which error: exact to the byte, and nothing is touched behind.

use super::*;
use crate::device::DeviceId;
use crate::table::{Leaf, Soft};

/// What a guest could want to have read or written, and how far that gets.
#[derive(Clone, Copy)]
struct Case {
    at: u64,
    size: u64,
    /// Of a read, and of a write.
    expected: [Result<(), AccessError>; 2],
}

fn check<F: Format>(space: &AddrSpace<&HeapHal, F>, case: Case) {
    let Case { at, size, expected: [read, write] } = case;
    let memory = space.memory();
    let context = format!("{size:#x} bytes at {at:#x}");
    assert_eq!(memory.fill(gpa(at), size, 0x11), write, "fill {context}");
    let (from, to) = (read.map_err(CopyError::From), write.map_err(CopyError::To));
    // The other side is as large as need be only where the case is small.
    if let Ok(bytes) = usize::try_from(size.min(1 << 20)).map(|bytes| vec![0x22; bytes]) {
        if size <= 1 << 20 {
            let mut buffer = bytes.clone();
            assert_eq!(memory.read(gpa(at), &mut buffer), read, "read {context}");
            let untouched = read.map_or_else(|error| error.done, |()| size) as usize;
            assert_eq!(buffer[untouched..], bytes[untouched..], "{context}: what was not read is as it was");
            assert_eq!(memory.write(gpa(at), &bytes), write, "write {context}");
            assert_eq!(memory.copy_to(gpa(at), &memory, gpa(GIB1), size), from, "copy from {context}");
            assert_eq!(memory.copy_to(gpa(GIB1), &memory, gpa(at), size), to, "copy to {context}");
        }
    }
    for (access, expected) in [(READ, read), (WRITE, write)] {
        let mut bytes = 0;
        let mut last = Ok(());
        for piece in space.translated_byte_buffer(gpa(at), size, access) {
            assert_eq!(last, Ok(()), "nothing follows after an error");
            match piece {
                Ok(piece) => {
                    assert_eq!(piece.gpa(), gpa(at + bytes));
                    bytes += piece.len();
                }
                Err(error) => last = Err(error),
            }
        }
        assert_eq!(last, expected, "pieces {context}");
        assert_eq!(bytes, last.map_or_else(|error| error.done, |()| size));
    }
    if size == 4 {
        assert_eq!(memory.read_obj::<u32>(gpa(at)).map(|_| ()), read, "read_obj {context}");
        assert_eq!(memory.write_obj(gpa(at), 5u32), write, "write_obj {context}");
        if at % 4 == 0 {
            assert_eq!(memory.atomic_load::<u32>(gpa(at)).map(|_| ()), read);
            assert_eq!(memory.atomic_store::<u32>(gpa(at), 1), write);
            let both = if read.is_err() { read } else { write };
            let permission = |result: Result<(), AccessError>| {
                matches!(
                    result,
                    Err(AccessError { reason: AccessRefusal::Fault(FaultError::Permission { .. }), .. })
                )
            };
            let swapped = memory.atomic_swap::<u32>(gpa(at), 1).map(|_| ());
            let exchanged = memory.atomic_compare_exchange::<u32>(gpa(at), 0, 1).map(|_| ());
            if permission(both) {
                assert!(permission(swapped) && permission(exchanged), "{context}: both are wanted");
            } else {
                assert_eq!((swapped, exchanged), (both, both), "{context}");
            }
        }
    }
}

#[test]
fn errors_are_exact_on_every_format() {
    errors_are_exact(Stage2::default(), true);
    ept_formats().into_iter().for_each(|format| errors_are_exact(format, false));
    npt_formats().into_iter().for_each(|format| errors_are_exact(format, false));
    gstage_formats().into_iter().for_each(|format| errors_are_exact(format, false));
}

fn errors_are_exact<F: Format>(format: F, write_only: bool) {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, format);
    // For the other side of copies.
    space.map_alloc(gpa(GIB1), MIB2, RW, false).expect("free");
    let (a, hole, b, fixed, device, trap, foreign) =
        (0x10000, 0x12000, 0x13000, 0x15000, 0x16000, 0x17000, 0x18000);
    space.map_alloc_with(gpa(a), 2 * KIB4, RW, SMALL).expect("free");
    space.map_alloc_with(gpa(b), 2 * KIB4, RW, SMALL).expect("free");
    space.map_alloc_with(gpa(fixed), KIB4, READ, SMALL).expect("free");
    space.map_linear(gpa(device), hpa(0x900_0000), KIB4, RW | MappingFlags::DEVICE).expect("free");
    space.map_trap(gpa(trap), KIB4, DeviceId(3)).expect("free");
    space.map_linear(gpa(foreign), hpa(0x900_1000), KIB4, RW).expect("free");
    let region = GuestPhysRange::new(gpa(fixed), KIB4).expect("a range");
    let denied = |at| FaultError::Permission { gpa: gpa(at), access: WRITE, region, allowed: READ };
    let no_region = |at| FaultError::NoRegion(gpa(at));
    let outside = |at| FaultError::OutsideSpace { gpa: gpa(at), space: space.range() };
    let same = |result| [result, result];
    let stop = |at: u64, done, reason: AccessRefusal| same(Err(error(at, done, reason)));
    let whole = 8 * GIB1;
    let cases = [
        (a, 2 * KIB4, same(Ok(()))),
        (a + 1, 4, same(Ok(()))),
        (hole, 0, same(Ok(()))),
        (u64::MAX, 0, same(Ok(()))),
        (hole - 1, 2, stop(hole, 1, no_region(hole).into())),
        (hole - 2, 4, stop(hole, 2, no_region(hole).into())),
        (hole - 4, 4, same(Ok(()))),
        (hole, 4, stop(hole, 0, no_region(hole).into())),
        (hole + 0xabc, 1, stop(hole + 0xabc, 0, no_region(hole + 0xabc).into())),
        (a + 3, 0x9000, stop(hole, hole - a - 3, no_region(hole).into())),
        (a, u64::MAX - a, stop(hole, hole - a, no_region(hole).into())),
        (a, u64::MAX - a + 1, stop(hole, hole - a, no_region(hole).into())),
        (a, u64::MAX - a + 2, stop(a, 0, AccessRefusal::Wraps)),
        (a, u64::MAX, stop(a, 0, AccessRefusal::Wraps)),
        (u64::MAX, 1, stop(u64::MAX, 0, outside(u64::MAX).into())),
        (u64::MAX, 2, stop(u64::MAX, 0, AccessRefusal::Wraps)),
        (u64::MAX - 3, 4, stop(u64::MAX - 3, 0, outside(u64::MAX - 3).into())),
        (u64::MAX - 2, 4, stop(u64::MAX - 2, 0, AccessRefusal::Wraps)),
        (u64::MAX - 7, 4, stop(u64::MAX - 7, 0, outside(u64::MAX - 7).into())),
        (fixed, 4, [Ok(()), Err(error(fixed, 0, denied(fixed)))]),
        (fixed - 2, 4, [Ok(()), Err(error(fixed, 2, denied(fixed)))]),
        (fixed + 6, 1, [Ok(()), Err(error(fixed + 6, 0, denied(fixed + 6)))]),
        (b, 0x2000, same(Ok(()))),
        (device, 4, stop(device, 0, AccessRefusal::Device)),
        (
            device - 2,
            4,
            [Err(error(device, 2, AccessRefusal::Device)), Err(error(device - 2, 0, denied(device - 2)))],
        ),
        (trap, 4, stop(trap, 0, AccessRefusal::Device)),
        (trap + 0xfff, 3, stop(trap + 0xfff, 0, AccessRefusal::Device)),
        (foreign, 4, stop(foreign, 0, AccessRefusal::Unreachable)),
        (foreign + 0xffc, 8, stop(foreign + 0xffc, 0, AccessRefusal::Unreachable)),
        (whole, 4, stop(whole, 0, outside(whole).into())),
        (whole - 4, 4, stop(whole - 4, 0, no_region(whole - 4).into())),
        (1 << 60, 4, stop(1 << 60, 0, outside(1 << 60).into())),
        // What the format would cut off leads to memory that is there.
        (a | 1 << 59, 4, stop(a | 1 << 59, 0, outside(a | 1 << 59).into())),
    ];
    for (at, size, expected) in cases {
        check(&space, Case { at, size, expected });
    }
    if write_only {
        let only = 0x1_a000;
        space.map_alloc_with(gpa(only), KIB4, WRITE, SMALL).expect("free");
        let region = GuestPhysRange::new(gpa(only), KIB4).expect("a range");
        let denied = FaultError::Permission { gpa: gpa(only), access: READ, region, allowed: WRITE };
        for _ in ["absent", "present"] {
            check(&space, Case { at: only, size: 4, expected: [Err(error(only, 0, denied)), Ok(())] });
        }
    }
    assert_eq!(
        space.stats().table.leaves_4k,
        if write_only { 8 } else { 7 },
        "no page but those of the accesses"
    );
}

#[test]
fn both_sides_of_a_copy_are_checked_before_it() {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, Ept::default());
    space.map_alloc_with(gpa(0), 4 * KIB4, RW, SMALL).expect("free");
    let memory = space.memory();
    let wraps = |at| error(at, 0, AccessRefusal::Wraps);
    assert_eq!(memory.copy_to(gpa(8), &memory, gpa(0), u64::MAX), Err(CopyError::From(wraps(8))));
    assert_eq!(memory.copy_to(gpa(0), &memory, gpa(8), u64::MAX - 4), Err(CopyError::To(wraps(8))));
    assert_eq!(space.stats().table.leaves_4k, 0);
    // The source ends first, then the target.
    let no_region = |done| error(4 * KIB4, done, FaultError::NoRegion(gpa(4 * KIB4)));
    assert_eq!(
        memory.copy_to(gpa(KIB4 + 8), &memory, gpa(0), 4 * KIB4),
        Err(CopyError::From(no_region(0x2ff8)))
    );
    assert_eq!(
        memory.copy_to(gpa(0), &memory, gpa(2 * KIB4 + 8), 4 * KIB4),
        Err(CopyError::To(no_region(0x1ff8)))
    );
}

#[test]
fn without_frames_the_rest_is_not_accessed() {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, Ept::default());
    space.map_alloc_with(gpa(0), 8 * KIB4, RW, SMALL).expect("free");
    space.write_obj(gpa(0), 1u8).expect("lazy");
    hal.fail_after(Some(2));
    let out_of_memory = FaultError::OutOfMemory(gpa(3 * KIB4));
    assert_eq!(
        space.memory().fill(gpa(8), 8 * KIB4 - 8, 1),
        Err(error(3 * KIB4, 3 * KIB4 - 8, out_of_memory))
    );
    hal.fail_after(None);
    assert_eq!(space.memory().fill(gpa(8), 8 * KIB4 - 8, 1), Ok(()));
}

#[test]
fn a_page_that_is_being_replaced_is_not_waited_for() {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, Ept::default());
    space.map_alloc_with(gpa(0), 2 * KIB4, RW, SMALL).expect("free");
    space.memory().fill(gpa(0), 2 * KIB4, 5).expect("lazy");
    let (slot, entry) = space.table.walk(gpa(KIB4));
    let frame = space.translate(gpa(KIB4)).expect("populated");
    slot.store(&&hal, Soft::Broken(Leaf::new(frame, RW, true)).encode());
    let not_yet = |done| error(KIB4, done, AccessRefusal::NotYet);
    assert_eq!(space.read_obj::<u64>(gpa(KIB4 - 4)), Err(not_yet(4)));
    assert_eq!(space.memory().atomic_load::<u64>(gpa(KIB4)), Err(not_yet(0)));
    slot.store(&&hal, entry);
    assert_eq!(space.read_obj(gpa(KIB4 - 4)), Ok([5u8; 8]));
}

#[test]
fn errors_say_where_and_why() {
    let text = |reason: AccessRefusal| error(0x1234, 7, reason).to_string();
    assert_eq!(
        text(FaultError::NoRegion(gpa(0x1234)).into()),
        "access to guest memory stopped at 0x1234 after 7 bytes: address 0x1234 is in no region"
    );
    assert!(text(AccessRefusal::Device).ends_with(": it is a device"));
    let copy = CopyError::To(error(0x1000, 0, AccessRefusal::NotYet)).to_string();
    assert_eq!(
        copy,
        "copying to a guest: access to guest memory stopped at 0x1000 after 0 bytes: it is not here yet"
    );
}
