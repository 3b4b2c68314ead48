use super::*;

const GUESTS: u32 = 2;
const PAGES: u64 = 16;

/// A store with so many slots.
fn store(slots: usize, mistake: Mistake) -> Store {
    let bytes = PAGES as usize * GUESTS as usize * ENTRY + slots * PAGE;
    // What lay there before is no page of anybody's.
    let area = Vec::leak(std::vec![0xff; bytes]);
    Store::new(area, GUESTS, PAGES * PAGE_SIZE, mistake).expect("it is large enough")
}

/// A page whose words differ.
fn page(seed: u8) -> [u8; PAGE] {
    core::array::from_fn(|at| seed ^ (at / 8) as u8)
}

fn get(store: &Store, guest: u16, number: u64) -> Result<Option<[u8; PAGE]>, BackendError> {
    let mut bytes = [0; PAGE];
    store.get(guest, number, &mut bytes).map(|found| found.then_some(bytes))
}

#[test]
fn what_was_given_at_last_is_found_by_each_guest() {
    let store = store(8, Mistake::None);
    for (guest, number, seed) in [(0, 3, 1), (1, 3, 2), (0, 3, 3), (0, PAGES - 1, 4)] {
        assert_eq!(store.put(guest, number, &page(seed)), Ok(()));
    }
    assert_eq!(get(&store, 0, 3), Ok(Some(page(3))));
    assert_eq!(get(&store, 1, 3), Ok(Some(page(2))));
    assert_eq!(get(&store, 0, PAGES - 1), Ok(Some(page(4))));
    assert_eq!(get(&store, 1, PAGES - 1), Ok(None), "it was given nothing");
    assert_eq!(store.slots(), (8, 3), "one was given twice");
    assert_eq!(store.counts(0), StoreCounts { given: 3, same: 0, read: 2, damaged: 0 });
}

#[test]
fn pages_of_one_word_take_no_slot_and_give_theirs_up() {
    let store = store(1, Mistake::None);
    assert_eq!(store.put(0, 0, &page(1)), Ok(()));
    assert_eq!(store.put(0, 1, &[7; PAGE]), Ok(()));
    assert_eq!(store.put(0, 2, &page(2)), Err(BackendError::OutOfMemory));
    assert_eq!(get(&store, 0, 2), Ok(None), "a page that was refused is not there");
    assert_eq!(store.put(0, 0, &[0; PAGE]), Ok(()));
    assert_eq!(store.put(0, 2, &page(2)), Ok(()));
    assert_eq!(get(&store, 0, 0), Ok(Some([0; PAGE])));
    assert_eq!(get(&store, 0, 1), Ok(Some([7; PAGE])));
    assert_eq!(get(&store, 0, 2), Ok(Some(page(2))));
    assert_eq!(store.slots(), (1, 1));
    assert_eq!(store.counts(0).same, 2);
}

#[test]
fn there_is_no_page_beyond_the_end_and_no_guest_beyond_the_last() {
    let store = store(1, Mistake::None);
    for (guest, number) in [(0, PAGES), (2, 0), (u16::MAX, u64::MAX), (0, u64::MAX)] {
        assert_eq!(store.put(guest, number, &page(1)), Err(BackendError::NoSuchPage));
        assert_eq!(get(&store, guest, number), Err(BackendError::NoSuchPage));
    }
}

#[test]
fn a_store_without_room_is_refused() {
    let needed = PAGES * u64::from(GUESTS) * ENTRY as u64 + PAGE_SIZE;
    let given = needed - 1;
    let area = Vec::leak(std::vec![0; given as usize]);
    let refused = Store::new(area, GUESTS, PAGES * PAGE_SIZE, Mistake::None).err();
    assert_eq!(refused, Some(StoreError::TooSmall { needed, given }));
    let refused = Store::new(&mut [], u32::MAX, u64::MAX, Mistake::None).err();
    assert!(matches!(refused, Some(StoreError::TooSmall { .. })));
}

/// Each bit of an entry and of a slot, and each place that is another page's.
#[test]
fn whatever_is_damaged_or_mixed_up_is_noticed() {
    let store = store(2, Mistake::None);
    let entry = |guest: usize, number: usize| (guest * PAGES as usize + number) * ENTRY;
    assert_eq!(store.put(0, 5, &page(1)), Ok(()));
    assert_eq!(store.put(1, 5, &page(2)), Ok(()));
    assert_eq!(store.put(0, 6, &[9; PAGE]), Ok(()));
    let slot = store.0.lock().slots;
    let spoil = |at: usize, bit: usize| store.0.lock().area[at] ^= 1 << bit;
    // Slot 0 is the page's; what is behind its place and checksum is for pages of one word.
    for at in (slot..slot + PAGE).step_by(61).chain(entry(0, 5)..entry(0, 5) + 16) {
        for bit in 0..8 {
            spoil(at, bit);
            assert_eq!(get(&store, 0, 5), Err(BackendError::NoSuchPage), "bit {bit} of byte {at}");
            spoil(at, bit);
        }
    }
    for at in entry(0, 6) + 8..entry(0, 6) + ENTRY {
        spoil(at, 3);
        assert_eq!(get(&store, 0, 6), Err(BackendError::NoSuchPage), "byte {at}");
        spoil(at, 3);
    }
    assert_eq!(get(&store, 0, 5), Ok(Some(page(1))), "all of it was mended");
    // The entry of another guest's page with the same number, and of another page of the same guest.
    for other in [entry(1, 5), entry(0, 6)] {
        let mut state = store.0.lock();
        let kept: Vec<u8> = state.area[entry(0, 5)..entry(0, 5) + ENTRY].to_vec();
        state.area.copy_within(other..other + ENTRY, entry(0, 5));
        drop(state);
        assert_eq!(get(&store, 0, 5), Err(BackendError::NoSuchPage));
        store.0.lock().area[entry(0, 5)..entry(0, 5) + ENTRY].copy_from_slice(&kept);
    }
    assert!(store.counts(0).damaged > 100);
}

#[test]
fn mistakes_hit_one_page_that_the_guest_looks_at() {
    let mut pattern = page(1);
    pattern[..PATTERN.len()].copy_from_slice(PATTERN.as_bytes());
    let lossy = store(8, Mistake::LostPageOut);
    assert_eq!(lossy.put(0, 0, &page(1)), Ok(()));
    assert_eq!(lossy.put(0, 1, &pattern), Ok(()));
    assert_eq!(lossy.put(0, 2, &pattern), Ok(()));
    assert_eq!(get(&lossy, 0, 0), Ok(Some(page(1))));
    assert_eq!((get(&lossy, 0, 1), get(&lossy, 0, 2)), (Ok(None), Ok(Some(pattern))));
    let damaging = store(8, Mistake::DamagedPageOut);
    assert_eq!(damaging.put(0, 1, &pattern), Ok(()));
    assert_eq!(damaging.put(0, 2, &pattern), Ok(()));
    let found = (get(&damaging, 0, 1), get(&damaging, 0, 2));
    assert_eq!(found, (Err(BackendError::NoSuchPage), Ok(Some(pattern))));
}

#[test]
fn a_page_that_was_never_given_is_what_the_guest_begins_with() {
    let store = store(2, Mistake::None);
    let mut content = Content::default();
    content.add(0x8000_1000, b"in the beginning");
    let swap = Swap::new(&store, content);
    let page = BackendPage {
        source: 0,
        offset: 0x1000,
        gpa: slat::GuestPhysAddr::new(0x8000_1000),
        flags: slat::MappingFlags::READ,
    };
    let mut bytes = [0; PAGE];
    assert_eq!(swap.page_in(&page, &mut bytes), Ok(()));
    assert!(bytes.starts_with(b"in the beginning\0"));
    bytes[0] = b'I';
    assert_eq!(swap.page_out(&page, &bytes), Ok(()));
    let mut again = [0; PAGE];
    assert_eq!((swap.page_in(&page, &mut again), again), (Ok(()), bytes));
    let nothing = Swap::default();
    assert_eq!(nothing.page_in(&page, &mut again), Err(BackendError::NoSuchPage));
    assert_eq!(nothing.page_out(&page, &again), Err(BackendError::NoSuchPage));
}
