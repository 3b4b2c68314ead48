//! Pieces: where they begin and end, and what they let through.

use super::*;

/// First address and length of each piece, in pages.
fn pages<F: Format>(space: &AddrSpace<&HeapHal, F>, at: u64, size: u64) -> Vec<(u64, u64)> {
    let pieces = space.translated_byte_buffer(gpa(at), size, RW);
    pieces
        .map(|piece| piece.expect("mapped"))
        .map(|piece| (piece.gpa().as_u64() / KIB4, piece.len() / KIB4))
        .collect()
}

#[test]
fn pieces_are_as_long_as_both_address_spaces_continue() {
    let hal = HeapHal::new();
    let start = hal.alloc_frames(1024, 512).expect("frames");
    let (other, behind) = (hal.alloc_frames(2, 1).expect("frames"), hal.alloc_frames(1, 1).expect("a frame"));
    {
        let at = |pages: u64| HostPhysAddr::new(start.as_u64() + pages * KIB4);
        for format in ept_formats() {
            let mut space = space_of(&hal, format);
            // 4 KiB leaves, because the addresses are not aligned alike; they go on in the next table and region.
            space.map_linear(gpa(500 * KIB4), at(1), 20 * KIB4, RW).expect("free");
            space.map_linear(gpa(520 * KIB4), at(21), 4 * KIB4, RW).expect("free");
            // Here the host's addresses jump, and here the guest's flags differ.
            space.map_linear(gpa(524 * KIB4), at(30), 2 * KIB4, RW).expect("free");
            space.map_linear(gpa(526 * KIB4), at(32), 2 * KIB4, RW | MappingFlags::EXECUTE).expect("free");
            space.map_linear(gpa(528 * KIB4), other, 2 * KIB4, RW).expect("free");
            assert_eq!(pages(&space, 500 * KIB4, 28 * KIB4), [(500, 24), (524, 4)]);
            assert_eq!(pages(&space, 505 * KIB4, 23 * KIB4), [(505, 19), (524, 4)]);
            assert_eq!(pages(&space, 505 * KIB4, 12 * KIB4), [(505, 12)]);
            assert_eq!(pages(&space, 526 * KIB4, 4 * KIB4), [(526, 2), (528, 2)]);
            let mut buffer = space.translated_byte_buffer(gpa(500 * KIB4 + 5), 10 * KIB4, READ);
            let piece = buffer.next().expect("a piece").expect("mapped");
            assert_eq!((piece.gpa(), piece.len()), (gpa(500 * KIB4 + 5), 10 * KIB4));
            assert_eq!(piece.hpa(), HostPhysAddr::new(at(1).as_u64() + 5));
            assert_eq!(piece.as_ptr(), hal.phys_to_virt(piece.hpa()));
            assert!(buffer.next().is_none());
            assert!(buffer.next().is_none());
        }
        // Two leaves of 2 MiB, and pages in the order of the frames and against it.
        let mut space = space_of(&hal, Stage2::default());
        space.map_linear(gpa(GIB1), start, 2 * MIB2, RW).expect("free");
        assert_eq!(pages(&space, GIB1 + MIB2 - KIB4, 6 * KIB4), [((GIB1 + MIB2) / KIB4 - 1, 6)]);
        space.map_linear(gpa(0), at(7), KIB4, RW).expect("free");
        space.map_linear(gpa(KIB4), at(6), KIB4, RW).expect("free");
        assert_eq!(pages(&space, 0, 2 * KIB4), [(0, 1), (1, 1)]);
        // The largest addresses of a run, one behind the other in the guest but not for the host.
        space.map_linear(gpa(2 * KIB4), behind, KIB4, RW).expect("free");
        assert_eq!(pages(&space, KIB4, 2 * KIB4), [(1, 1), (2, 1)]);
    }
    // SAFETY: taken above; the spaces that mapped them are gone.
    unsafe { hal.dealloc_frames(start, 1024) };
    // SAFETY: as above.
    unsafe { hal.dealloc_frames(other, 2) };
    // SAFETY: as above.
    unsafe { hal.dealloc_frames(behind, 1) };
}

#[test]
fn frames_of_the_host_are_joined_where_they_continue() {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, Stage2::default());
    // One leaf of 2 MiB, split into pages, then two more whose frames are elsewhere.
    space.map_alloc(gpa(0), 2 * MIB2, RW, true).expect("free");
    space.protect(gpa(0x1000), KIB4, READ).expect("mapped");
    space.protect(gpa(0x1000), KIB4, RW).expect("mapped");
    assert_eq!(space.stats().table.leaves_4k, 512);
    assert_eq!(pages(&space, 0, 2 * MIB2), [(0, 512), (512, 512)]);
    assert_eq!(pages(&space, 3 * KIB4, 5 * KIB4), [(3, 5)]);
    // The same frames for reading, but one page is read-only: the pieces of a write end there.
    space.protect(gpa(8 * KIB4), KIB4, READ).expect("mapped");
    let read: Vec<_> =
        space.translated_byte_buffer(gpa(0), MIB2, READ).map(|piece| piece.expect("mapped").len()).collect();
    assert_eq!(read, [MIB2], "joined over regions");
    let mut write = space.translated_byte_buffer(gpa(0), MIB2, WRITE);
    assert_eq!(write.next().expect("a piece").expect("writable").len(), 8 * KIB4);
    let refused = write.next().expect("an error").expect_err("read-only");
    assert_eq!((refused.gpa, refused.done), (gpa(8 * KIB4), 8 * KIB4));
    assert!(write.next().is_none());
}

#[test]
fn a_piece_lets_through_what_it_was_made_for_and_no_more() {
    let hal = HeapHal::new();
    let mut space = space_of(&hal, Ept::default());
    space.map_alloc_with(gpa(KIB4), KIB4, RW | MappingFlags::EXECUTE, SMALL).expect("free");
    let piece = |access| {
        let mut buffer = space.translated_byte_buffer(gpa(KIB4 + 4), 20, access);
        buffer.next().expect("a piece").expect("mapped")
    };
    let both = piece(RW);
    assert_eq!(both.len(), 20);
    both.write(3, b"guest").expect("inside");
    let mut read = [0; 7];
    both.read(2, &mut read).expect("inside");
    assert_eq!(&read, b"\0guest\0");
    assert_eq!(read_back(&space, KIB4 + 7, 5), b"guest");
    both.write_volatile(12, 0x1122_3344u32).expect("inside");
    assert_eq!(both.read_volatile(12), Ok(0x1122_3344u32));
    assert_eq!(read_back(&space, KIB4 + 16, 4), 0x1122_3344u32.to_ne_bytes());
    // The last bytes, and those behind.
    assert_eq!(both.write(19, &[9]), Ok(()));
    assert_eq!(both.read(20, &mut []), Ok(()));
    let outside = |offset| Err(error(KIB4 + 4 + offset, 0, AccessRefusal::OutsidePiece));
    assert_eq!(both.read(19, &mut [0; 2]), outside(19));
    assert_eq!(both.write(20, &[0]), outside(20));
    assert_eq!(both.read(21, &mut []), outside(21));
    assert_eq!(both.read_volatile::<u64>(20), outside(20).map(|()| 0));
    assert_eq!(both.write_volatile(16, 0u64), outside(16));
    let far = AccessError { gpa: gpa(u64::MAX), done: 0, reason: AccessRefusal::OutsidePiece };
    assert_eq!(both.write(u64::MAX, &[0; 2]), Err(far));
    // A word is aligned in the guest.
    let unaligned = Err(error(KIB4 + 4, 0, AccessRefusal::Unaligned));
    assert_eq!(both.read_volatile::<u64>(0), unaligned.map(|()| 0));
    assert_eq!(both.write_volatile(0, 0u64), unaligned);
    assert_eq!(both.read_volatile::<u64>(4), Ok(u64::from_ne_bytes(*b"uest\0\0\0\0")));
    // Made for one of them only, or for what counts as reading.
    let wrong = |offset| Err(error(KIB4 + 4 + offset, 0, AccessRefusal::WrongPiece));
    for access in [READ, MappingFlags::empty(), MappingFlags::USER] {
        let reading = piece(access);
        assert_eq!(reading.read_volatile(3), Ok(b'g'));
        assert_eq!(reading.write(1, &[]), wrong(1));
        assert_eq!(reading.write_volatile(1, 0u8), wrong(1));
    }
    let writing = piece(WRITE);
    assert_eq!(writing.read(2, &mut [0]), wrong(2));
    assert_eq!(writing.read_volatile::<u8>(2), wrong(2).map(|()| 0));
    assert_eq!(writing.write_volatile(3, b'G'), Ok(()));
    // To look at code wants the permission to execute, and no other.
    let code = piece(MappingFlags::EXECUTE);
    assert_eq!(code.read_volatile(3), Ok(b'G'));
    assert_eq!(code.write(1, &[0]), wrong(1));
    let text = format!("{code:?}");
    assert!(text.contains("GuestPhysAddr(0x1004)") && text.contains("len: 20"), "{text}");
    assert_eq!(space.translated_byte_buffer(gpa(u64::MAX), 0, READ).count(), 0);
}

#[test]
fn code_that_can_only_be_executed_can_be_looked_at() {
    let hal = HeapHal::new();
    let [format, ..] = ept_formats();
    let mut space = space_of(&hal, format);
    space.map_alloc_with(gpa(0), KIB4, MappingFlags::EXECUTE, SMALL).expect("free");
    let piece = space.translated_byte_buffer(gpa(8), 4, MappingFlags::EXECUTE).next().expect("a piece");
    assert_eq!(piece.expect("executable").read(0, &mut [0; 4]), Ok(()));
    let refused =
        space.translated_byte_buffer(gpa(8), 4, READ).next().expect("an error").expect_err("not readable");
    assert!(matches!(refused.reason, AccessRefusal::Fault(FaultError::Permission { access: READ, .. })));
}

/// Frames one behind the other whose pointers go up or down, and no pointer to memory of the caller's but page by page.
struct Bare {
    memory: std::cell::UnsafeCell<Vec<[u64; 512]>>,
    taken: std::cell::Cell<u64>,
    down: bool,
    linear: bool,
}

impl Bare {
    const FIRST: u64 = 0x4000_0000;
    const FRAMES: u64 = 64;

    fn new(down: bool, linear: bool) -> Self {
        let memory = vec![[0; 512]; Self::FRAMES as usize + 1];
        Self { memory: memory.into(), taken: std::cell::Cell::new(0), down, linear }
    }
}

// SAFETY: each frame is handed out once, and has its own page of the vector, which never grows.
unsafe impl Hal for Bare {
    fn alloc_frames(&self, count: usize, align: usize) -> Option<HostPhysAddr> {
        let start = self.taken.get().next_multiple_of(align as u64);
        let end = start + count as u64;
        (end <= Self::FRAMES).then(|| {
            self.taken.set(end);
            HostPhysAddr::new(Self::FIRST + start * KIB4)
        })
    }

    unsafe fn dealloc_frames(&self, _start: HostPhysAddr, _count: usize) {}

    fn phys_to_virt(&self, hpa: HostPhysAddr) -> *mut u8 {
        let number = (hpa.as_u64() - Self::FIRST) / KIB4;
        let place = if self.down { Self::FRAMES - 1 - number } else { number };
        // SAFETY: nobody else reaches the vector itself.
        let first = unsafe { (*self.memory.get()).as_mut_ptr() };
        let aligned = first.cast::<u8>().wrapping_add(first.cast::<u8>().align_offset(4096));
        aligned.wrapping_add((place * KIB4 + hpa.page_offset()) as usize)
    }

    fn linear_to_virt(&self, range: crate::HostPhysRange) -> Option<*mut u8> {
        (self.linear && range.size() <= KIB4).then(|| self.phys_to_virt(range.start()))
    }
}

/// Lengths of the pieces of six pages that are in six regions, in pages.
fn six_pages(hal: &Bare, linear: bool) -> Vec<u64> {
    let mut space = AddrSpace::with_format(hal, Ept::default(), gpa(0), GIB1, 1).expect("a root");
    let first = hal.taken.get() + 8;
    if !linear {
        // The tables first, so that the pages follow each other.
        space
            .map_alloc_with(gpa(8 * KIB4), KIB4, RW, AllocOptions { populate: true, ..SMALL })
            .expect("memory");
    }
    for page in 0..6 {
        let flags = if page % 2 == 0 { RW } else { RW | MappingFlags::EXECUTE };
        if linear {
            let hpa = HostPhysAddr::new(Bare::FIRST + (first + page) * KIB4);
            space.map_linear(gpa(page * KIB4), hpa, KIB4, flags).expect("free");
        } else {
            let options = AllocOptions { populate: true, ..SMALL };
            space.map_alloc_with(gpa(page * KIB4), KIB4, flags, options).expect("memory");
        }
    }
    let frames: Vec<_> =
        (0..6).map(|page| space.translate(gpa(page * KIB4)).expect("there").as_u64()).collect();
    assert!(frames.windows(2).all(|pair| pair[0] + KIB4 == pair[1]), "{frames:x?}");
    let pieces = space.translated_byte_buffer(gpa(0), 6 * KIB4, RW);
    pieces.map(|piece| piece.expect("mapped").len() / KIB4).collect()
}

#[test]
fn frames_are_joined_by_address_and_by_pointer_and_memory_of_the_callers_if_he_says_so() {
    assert_eq!(six_pages(&Bare::new(false, false), false), [6], "whatever the host says of other memory");
    assert_eq!(six_pages(&Bare::new(true, false), false), [1; 6], "the pointers do not follow");
    assert_eq!(six_pages(&Bare::new(false, true), true), [1; 6], "no pointer to two pages");
}

#[test]
fn leaves_of_one_region_are_one_run_only_if_their_pointers_are() {
    for down in [false, true] {
        let hal = Bare::new(down, false);
        let mut space = AddrSpace::with_format(&hal, Ept::default(), gpa(0), GIB1, 1).expect("a root");
        space.map_alloc_with(gpa(0), 6 * KIB4, RW, SMALL).expect("free");
        for page in 0..6 {
            let bytes = [page as u8 + 1; KIB4 as usize];
            space.write(gpa(page * KIB4), &bytes).expect("mapped");
        }
        // The tables came after the first page.
        let frames: Vec<_> =
            (1..6).map(|page| space.translate(gpa(page * KIB4)).expect("there").as_u64()).collect();
        assert!(frames.windows(2).all(|pair| pair[0] + KIB4 == pair[1]), "{frames:x?}");
        let mut all = vec![0; 6 * KIB4 as usize];
        space.read(gpa(0), &mut all).expect("mapped");
        let right =
            all.chunks(KIB4 as usize).zip(1..).all(|(page, number)| page.iter().all(|byte| *byte == number));
        assert!(right, "each page has its own bytes");
    }
}
