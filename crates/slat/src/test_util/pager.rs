//! A pager on the heap.

use crate::{BackendError, BackendPage, PAGE_SIZE, Pager};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

/// A pager that keeps on the heap what it is given, by source and offset. It checks that it is given whole pages.
#[derive(Debug, Default)]
pub struct MemoryPager {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pages: BTreeMap<(u16, u64), Vec<u8>>,
    /// Whether pages that never came are zeroes, or on their way.
    waits: bool,
    refuses: Option<BackendError>,
    page_ins: usize,
    page_outs: usize,
}

impl MemoryPager {
    /// A pager of empty memory: what it was never given is zeroes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A pager of memory that arrives bit by bit (post-copy migration): what it was not given yet is
    /// [`BackendError::NotYet`].
    #[must_use]
    pub fn waiting() -> Self {
        Self { state: Mutex::new(State { waits: true, ..State::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the contents of a page: it has arrived.
    ///
    /// # Panics
    /// Unless `bytes` are 4 KiB and `offset` is a multiple of it.
    pub fn put(&self, source: u16, offset: u64, bytes: &[u8]) {
        assert_eq!((bytes.len() as u64, offset % PAGE_SIZE), (PAGE_SIZE, 0), "a page, and where one begins");
        self.lock().pages.insert((source, offset), bytes.to_vec());
    }

    /// The contents of a page, if it was given them.
    #[must_use]
    pub fn get(&self, source: u16, offset: u64) -> Option<Vec<u8>> {
        self.lock().pages.get(&(source, offset)).cloned()
    }

    /// Refuses every page that is to be paged out from now on; `None` takes them again.
    pub fn refuse(&self, error: Option<BackendError>) {
        self.lock().refuses = error;
    }

    /// How often pages were paged in.
    #[must_use]
    pub fn page_ins(&self) -> usize {
        self.lock().page_ins
    }

    /// How often pages were paged out.
    #[must_use]
    pub fn page_outs(&self) -> usize {
        self.lock().page_outs
    }
}

impl Pager for MemoryPager {
    fn page_in(&self, page: &BackendPage, bytes: &mut [u8]) -> Result<(), BackendError> {
        let mut state = self.lock();
        match state.pages.get(&(page.source, page.offset)) {
            Some(contents) => bytes.copy_from_slice(contents),
            None if state.waits => return Err(BackendError::NotYet),
            None => assert!(bytes.iter().all(|byte| *byte == 0), "a frame that was not zeroed"),
        }
        state.page_ins += 1;
        Ok(())
    }

    fn page_out(&self, page: &BackendPage, bytes: &[u8]) -> Result<(), BackendError> {
        if let Some(error) = self.lock().refuses {
            return Err(error);
        }
        self.put(page.source, page.offset, bytes);
        self.lock().page_outs += 1;
        Ok(())
    }
}
