//! The suite can fail: each wrong backend is told apart.

use super::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a backend does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    OneFrameForAll,
    NeverReturns,
    Unaligned,
    OtherContents,
    NoPage,
}

struct WrongBackend<'h> {
    right: FrameBackend<'h>,
    wrong: Wrong,
    first: AtomicU64,
    taken: AtomicU64,
}

// SAFETY: it does not keep its contract, which is what is tested; HeapHal tells what comes of it.
unsafe impl CustomBackend for WrongBackend<'_> {
    fn take(&self, page: &BackendPage) -> Result<HostPhysAddr, BackendError> {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let frame = match self.wrong {
            Wrong::NoPage if page.offset > 0 => return Err(BackendError::NoSuchPage),
            Wrong::OneFrameForAll => {
                let first = self.first.load(Ordering::Relaxed);
                if first != 0 {
                    return Ok(HostPhysAddr::new(first));
                }
                let frame = self.right.take(page)?;
                self.first.store(frame.as_u64(), Ordering::Relaxed);
                frame
            }
            _ => self.right.take(page)?,
        };
        if self.wrong == Wrong::OtherContents {
            self.right.hal.write(frame, &taken.to_le_bytes());
        }
        let shift = if self.wrong == Wrong::Unaligned { 0x800 } else { 0 };
        Ok(HostPhysAddr::new(frame.as_u64() + shift))
    }

    unsafe fn give_back(&self, page: &BackendPage, frame: HostPhysAddr, written: bool) {
        match self.wrong {
            Wrong::NeverReturns | Wrong::OneFrameForAll => {}
            // SAFETY: the same contract.
            _ => unsafe { self.right.give_back(page, frame.align_down(PAGE_SIZE), written) },
        }
    }
}

fn check(wrong: Wrong) -> Result<(), String> {
    let host = std::mem::ManuallyDrop::new(HeapHal::new());
    let right = FrameBackend::new(&host, 4);
    let backend = WrongBackend { right, wrong, first: AtomicU64::new(0), taken: AtomicU64::new(0) };
    check_backend(&host, backend, 3, 4)
}

#[test]
fn wrong_backends_are_told() {
    let what = |wrong| check(wrong).expect_err("it is wrong");
    assert!(what(Wrong::OneFrameForAll).contains("two pages that can be written have one frame"));
    assert!(
        what(Wrong::NeverReturns).contains("the backend is gone and kept"),
        "{}",
        what(Wrong::NeverReturns)
    );
    assert!(what(Wrong::Unaligned).contains("Refused"), "{}", what(Wrong::Unaligned));
    assert!(what(Wrong::OtherContents).contains("other contents"));
    assert!(what(Wrong::NoPage).contains("pages were populated: Err(Refused("));
}

#[test]
fn the_simplest_backend_is_right() {
    let host = HeapHal::new();
    check_backend(&host, FrameBackend::new(&host, 9), 0xffff, 9).expect("right");
    assert_eq!(host.in_use(), 0);
}

#[test]
fn it_has_so_many_pages_and_no_more() {
    let host = HeapHal::new();
    let backend = FrameBackend::new(&host, 2);
    let page = |offset| BackendPage { source: 5, offset, gpa: GuestPhysAddr::new(0), flags: RW };
    assert_eq!(backend.take(&page(2 * PAGE_SIZE)), Err(BackendError::NoSuchPage));
    let frame = backend.take(&page(PAGE_SIZE)).expect("there");
    assert_eq!(host.read(frame, 16), [5, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]);
    // SAFETY: just taken for that page.
    unsafe { backend.give_back(&page(PAGE_SIZE), frame, true) };
    host.fail_after(Some(0));
    assert_eq!(backend.take(&page(0)), Err(BackendError::OutOfMemory));
}
