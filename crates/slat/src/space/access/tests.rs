//! The host's access to guest memory: what is read and written, where it stops, and what it leaves in the table.

mod effects;
mod pieces;
mod refusals;
mod threads;

use super::*;
use crate::addr::HostPhysAddr;
use crate::error::FaultError;
use crate::flags::LeafSize;
use crate::format::ept::Ept;
use crate::format::stage2::Stage2;
use crate::space::AllocOptions;
use crate::space::tests::*;
use crate::test_util::HeapHal;

/// Lazily, in pages of 4 KiB.
const SMALL: AllocOptions =
    AllocOptions { populate: false, largest_leaf: LeafSize::Size4K, fault_around: LeafSize::Size4K };
const READ: MappingFlags = MappingFlags::READ;
const WRITE: MappingFlags = MappingFlags::WRITE;

/// A space of 8 GiB from zero on.
fn space_of<F: Format>(hal: &HeapHal, format: F) -> AddrSpace<&HeapHal, F> {
    AddrSpace::with_format(hal, format, gpa(0), 8 * GIB1, 1).expect("a root")
}

/// Different bytes, also at the same place of different pages.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index ^ index >> 8) as u8).collect()
}

fn error(at: u64, done: u64, reason: impl Into<AccessRefusal>) -> AccessError {
    AccessError { gpa: gpa(at), done, reason: reason.into() }
}

fn read_back<F: Format>(space: &AddrSpace<&HeapHal, F>, at: u64, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    space.read(gpa(at), &mut read).expect("readable");
    read
}

/// Accesses of all kinds and lengths around the edges of pages, leaves and regions.
fn what_is_written_is_read<F: Format>(format: F) {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, format);
    // Pages, then a large leaf, then pages again; what the host populates and what it finds.
    space.map_alloc_with(gpa(MIB2 - 4 * KIB4), 4 * KIB4, RW, SMALL).expect("free");
    space.map_alloc(gpa(MIB2), MIB2, RW, false).expect("free");
    space
        .map_alloc_with(gpa(2 * MIB2), 4 * KIB4, RW, AllocOptions { populate: true, ..SMALL })
        .expect("free");
    assert_eq!(read_back(&space, MIB2 - 5, 10), [0; 10], "fresh pages are zero");
    for (at, bytes) in [
        (MIB2 - 4 * KIB4, 1),
        (MIB2 - 3 * KIB4 - 1, 2),
        (MIB2 - 2 * KIB4 + 7, 5000),
        (MIB2 - 3, 7),
        (MIB2 + 0x123, 4096),
        (2 * MIB2 - 4096, 3 * 4096),
        (2 * MIB2 + 8, 8),
        (2 * MIB2 + 13, 8),
    ] {
        let written = pattern(bytes);
        space.write(gpa(at), &written).expect("writable");
        assert_eq!(read_back(&space, at, bytes), written, "{bytes} bytes at {at:#x}");
        // Where the hardware would find them.
        for (offset, byte) in written.iter().enumerate() {
            let frame = space.translate(gpa(at + offset as u64)).expect("populated");
            assert_eq!(hal.read(frame, 1), [*byte]);
            // Every byte of a word and of the edges, but not each of thousands, because a lookup costs.
            if offset > 20 {
                break;
            }
        }
        let memory = space.memory();
        memory.fill(gpa(at + 1), bytes as u64 - 1, 0xee).expect("writable");
        let mut expected = vec![0xee; bytes];
        expected[0] = written[0];
        assert_eq!(read_back(&space, at, bytes), expected);
        assert_ne!(read_back(&space, at + bytes as u64, 1), [0xee], "not a byte more");
        memory.fill(gpa(at), bytes as u64, 0).expect("writable");
    }
}

#[test]
fn what_is_written_is_read_back_on_every_format() {
    for format in formats().into_iter().filter(|format| format.geometry().gpa_bits > 34) {
        what_is_written_is_read(format);
    }
    ept_formats().into_iter().for_each(what_is_written_is_read);
    npt_formats().into_iter().for_each(what_is_written_is_read);
    gstage_formats().into_iter().for_each(what_is_written_is_read);
}

#[test]
fn objects_have_the_bytes_of_the_guest() {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, Ept::default());
    space.map_alloc_with(gpa(0), 3 * KIB4, RW, SMALL).expect("free");
    // Absent and present, aligned and not, inside of a page and across the edge.
    for at in [0, 8, 9, 12, KIB4 - 8, KIB4 - 3, 2 * KIB4 - 1] {
        macro_rules! check {
            ($($type:ty)*) => {
                $(
                    let bytes: Vec<u8> = pattern(size_of::<$type>()).iter().map(|byte| byte + 0x81).collect();
                    let object = <$type>::from_ne_bytes(bytes.clone().try_into().expect("as many"));
                    assert_eq!(space.write_obj(gpa(at), object), Ok(()));
                    assert_eq!(read_back(&space, at, bytes.len()), bytes);
                    assert_eq!(space.read_obj::<$type>(gpa(at)), Ok(object), "{at:#x}");
                    space.write(gpa(at), &[0; size_of::<$type>()]).expect("writable");
                    assert_eq!(space.read_obj::<$type>(gpa(at)), Ok(0));
                )*
            };
        }
        check!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);
        let array = [1u16, 2, 3, 4, 5];
        assert_eq!(space.write_obj(gpa(at), array), Ok(()));
        assert_eq!(space.read_obj(gpa(at)), Ok(array));
        assert_eq!(space.read_obj(gpa(at)), Ok([[1u8, 0], [2, 0]]));
    }
    assert_eq!(space.read_obj::<[u64; 0]>(gpa(u64::MAX)), Ok([]), "nothing can be read anywhere");
    assert_eq!(space.write_obj::<[u64; 0]>(gpa(u64::MAX), []), Ok(()));
}

#[test]
fn atomics_do_what_their_names_say() {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, Ept::default());
    space.map_alloc_with(gpa(0), 2 * KIB4, RW, SMALL).expect("free");
    let memory = space.memory();
    macro_rules! check {
        ($($type:ty)*) => {
            $(
                for at in [0x40, KIB4 + 0x40] {
                    assert_eq!(memory.atomic_load::<$type>(gpa(at)), Ok(0));
                    assert_eq!(memory.atomic_store::<$type>(gpa(at), 7), Ok(()));
                    assert_eq!(memory.atomic_load::<$type>(gpa(at)), Ok(7));
                    assert_eq!(memory.atomic_swap::<$type>(gpa(at), <$type>::MAX), Ok(7));
                    let exchange = |expected, new| memory.atomic_compare_exchange::<$type>(gpa(at), expected, new);
                    assert_eq!(exchange(7, 8), Ok(Err(<$type>::MAX)));
                    assert_eq!(memory.atomic_load::<$type>(gpa(at)), Ok(<$type>::MAX));
                    assert_eq!(exchange(<$type>::MAX, 9), Ok(Ok(<$type>::MAX)));
                    assert_eq!(read_back(&space, at, size_of::<$type>()), (9 as $type).to_ne_bytes());
                    assert_eq!(read_back(&space, at + size_of::<$type>() as u64, 1), [0], "not a byte more");
                    assert_eq!(memory.atomic_swap::<$type>(gpa(at), 0), Ok(9));
                    let odd = size_of::<$type>() as u64 / 2;
                    if odd > 0 {
                        let unaligned = error(at + odd, 0, AccessRefusal::Unaligned);
                        assert_eq!(memory.atomic_load::<$type>(gpa(at + odd)), Err(unaligned));
                        assert_eq!(memory.atomic_store::<$type>(gpa(at + odd), 1), Err(unaligned));
                        assert_eq!(memory.atomic_swap::<$type>(gpa(at + odd), 1), Err(unaligned));
                        assert_eq!(memory.atomic_compare_exchange::<$type>(gpa(at + odd), 0, 1), Err(unaligned));
                    }
                }
            )*
        };
    }
    check!(u8 u16 u32 u64);
}

#[test]
fn copies_go_from_guest_to_guest_across_formats_and_hosts() {
    let (one_hal, other_hal) = (HeapHal::new(), HeapHal::new());
    let mut one = space_of(&one_hal, Ept::default());
    let mut other = space_of(&other_hal, Stage2::default());
    // Large leaves on one side, pages on the other.
    one.map_alloc(gpa(0), MIB2, RW, false).expect("free");
    other.map_alloc_with(gpa(0x1000), 16 * KIB4, RW, SMALL).expect("free");
    let bytes = pattern(20_000);
    one.write(gpa(0x777), &bytes).expect("writable");
    assert_eq!(one.memory().copy_to(gpa(0x777), &other.memory(), gpa(0x1ff8), 20_000), Ok(()));
    assert_eq!(read_back(&other, 0x1ff8, 20_000), bytes);
    assert_eq!(read_back(&other, 0x1ff0, 8), [0; 8]);
    assert_eq!(read_back(&other, 0x1ff8 + 20_000, 8), [0; 8], "not a byte more");
    // And back, to another place.
    assert_eq!(other.memory().copy_to(gpa(0x1ffa), &one.memory(), gpa(0x10_0001), 19_998), Ok(()));
    assert_eq!(read_back(&one, 0x10_0001, 19_998), bytes[2..]);
    assert_eq!(read_back(&one, 0x10_0001 + 19_998, 1), [0]);
    // Within one guest, upwards: what stands before the overlap is repeated.
    other.write(gpa(0x2000), b"abc").expect("writable");
    assert_eq!(other.memory().copy_to(gpa(0x2000), &other.memory(), gpa(0x2003), 9000), Ok(()));
    assert_eq!(read_back(&other, 0x2000, 9003), b"abc".repeat(3001));
    // Downwards it is what one would expect.
    other.write(gpa(0x2000), &bytes[..9000]).expect("writable");
    assert_eq!(other.memory().copy_to(gpa(0x2000), &other.memory(), gpa(0x1f01), 9000), Ok(()));
    assert_eq!(read_back(&other, 0x1f01, 9000), bytes[..9000]);
    assert_eq!(other.memory().copy_to(gpa(u64::MAX), &other.memory(), gpa(u64::MAX), 0), Ok(()));
}

#[test]
fn contents_come_from_the_init_of_the_view() {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, Ept::default());
    space.map_alloc_with(gpa(0), 8 * KIB4, RW, SMALL).expect("free");
    // The number of the page in all of its bytes.
    let image = space.memory_with(|start, bytes| {
        assert_eq!(bytes, [0; 4096]);
        bytes.fill((start.as_u64() / KIB4) as u8 + 1);
    });
    let mut read = [0; 4];
    image.read(gpa(KIB4 - 2), &mut read).expect("readable");
    assert_eq!(read, [1, 1, 2, 2]);
    image.write(gpa(2 * KIB4 + 1), &[0xff]).expect("writable");
    assert_eq!(read_back(&space, 2 * KIB4, 3), [3, 0xff, 3], "the rest of the page is of the image");
    assert_eq!(image.read_obj(gpa(3 * KIB4)), Ok(0x0404u16));
    assert_eq!(image.write_obj(gpa(4 * KIB4), 0u8), Ok(()));
    assert_eq!(image.atomic_load(gpa(4 * KIB4 + 2)), Ok(0x0505u16));
    image.fill(gpa(5 * KIB4), 2, 0).expect("writable");
    assert_eq!(read_back(&space, 5 * KIB4 + 1, 2), [0, 6]);
    let piece = image.translated_byte_buffer(gpa(6 * KIB4), 1, READ).next().expect("a piece").expect("lazy");
    assert_eq!(piece.read_volatile(0), Ok(7u8));
    // The shorthands of the space leave fresh pages zero.
    assert_eq!(read_back(&space, 7 * KIB4, 1), [0]);
}

#[test]
fn memory_of_the_caller_is_reached_where_the_host_says_so() {
    let hal = HeapHal::new();
    let start = hal.alloc_frames(4, 1).expect("frames");
    {
        let mut space = space_of(&hal, Ept::default());
        // Two pages more than there are: the host has a pointer to the first four only.
        space.map_linear(gpa(0x10_0000), start, 6 * KIB4, RW).expect("free");
        let bytes = pattern(4 * 4096 - 5);
        assert_eq!(space.write(gpa(0x10_0005), &bytes), Ok(()));
        assert_eq!(hal.read(HostPhysAddr::new(start.as_u64() + 5), bytes.len()), bytes);
        assert_eq!(space.write_obj(gpa(0x10_0ffe), 0x1234_5678u32), Ok(()));
        assert_eq!(hal.read(HostPhysAddr::new(start.as_u64() + 0xffe), 4), 0x1234_5678u32.to_ne_bytes());
        // It goes as far as it can.
        let end = 0x10_0000 + 4 * KIB4;
        let unreachable = |done| error(end, done, AccessRefusal::Unreachable);
        assert_eq!(space.memory().fill(gpa(0x10_0ff0), 5 * KIB4, 3), Err(unreachable(end - 0x10_0ff0)));
        assert_eq!(read_back(&space, end - 1, 1), [3]);
        assert_eq!(space.read(gpa(end), &mut [0]), Err(unreachable(0)));
        assert_eq!(space.read_obj::<u32>(gpa(end - 2)), Err(unreachable(2)));
        assert_eq!(space.memory().atomic_load::<u8>(gpa(end)), Err(unreachable(0)));
    }
    // SAFETY: taken above; the space that mapped them is gone.
    unsafe { hal.dealloc_frames(start, 4) };
}
