//! The host as the pager of its spaces.

use super::{Host, contents};
use crate::mistakes::Mistake;
use crate::platform::Platform;
use slat::{BackendError, BackendPage, PAGE_SIZE, Pager};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Contents of pages, by number and offset.
pub(crate) type Pages = BTreeMap<(u16, u64), Vec<u8>>;

/// What the pager keeps, and is told to do.
#[derive(Debug, Default)]
pub(crate) struct State {
    pages: RefCell<Pages>,
    /// Selects the pages that it refuses in this operation.
    pub(crate) refuses: Cell<u8>,
    pub(crate) refused: Cell<u64>,
    /// Pages are being paged out.
    pub(crate) at_work: Cell<bool>,
    /// What a mistake has saved too early.
    pub(crate) early: RefCell<Pages>,
}

impl State {
    /// Whether it refuses a page, if it is asked.
    pub(crate) fn refuses(&self, offset: u64) -> bool {
        offset / PAGE_SIZE % 3 == u64::from(self.refuses.get())
    }

    /// What it has of a page.
    pub(crate) fn get(&self, source: u16, offset: u64) -> Vec<u8> {
        let pages = self.pages.borrow();
        pages.get(&(source, offset)).cloned().unwrap_or_else(|| initial(source, offset))
    }
}

/// What a page holds that was never paged out.
pub(crate) fn initial(source: u16, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE as usize];
    bytes[..8].copy_from_slice(&contents(source, offset).to_le_bytes());
    bytes
}

impl<P: Platform> Pager for Host<P> {
    fn page_in(&self, page: &BackendPage, bytes: &mut [u8]) -> Result<(), BackendError> {
        let shift = if self.mistake == Some(Mistake::BackendPageMixedUp) { PAGE_SIZE } else { 0 };
        bytes.copy_from_slice(&self.pager.get(page.source, page.offset + shift));
        Ok(())
    }

    fn page_out(&self, page: &BackendPage, bytes: &[u8]) -> Result<(), BackendError> {
        if self.pager.refuses(page.offset) {
            self.pager.refused.set(self.pager.refused.get() + 1);
            return Err(BackendError::OutOfMemory);
        }
        let key = (page.source, page.offset);
        let early = self.pager.early.borrow_mut().remove(&key);
        if self.mistake != Some(Mistake::WrittenDropped) {
            self.pager.pages.borrow_mut().insert(key, early.unwrap_or_else(|| bytes.to_vec()));
        }
        Ok(())
    }
}
