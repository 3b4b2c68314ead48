//! RAM that is paged: the options for that, and what they do not go with.

use super::{Options, check_pool, refuse};
use crate::boot::layout::BLOCK;
use crate::boot::session::Paged;
use crate::guests::cache::Kernel;
use crate::platform::Platform;
use anyhow::{Result, ensure};

/// Scans for which a page is idle before it goes.
pub(crate) const IDLE_SCANS: u8 = 3;

/// Of all pages of a guest our own user space fills one of so many, and looks at them later.
const FILLED: u64 = 16;

/// Bytes that the store takes for each page of a guest to know where it is.
const ENTRY: u64 = 24;

/// Whether, and where to.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct PagingOptions {
    /// Page the guests' memory: what they have not used for a while goes to a store apart from the pool when that gets low, and
    /// comes back when it is used; with --arch riscv64
    #[arg(long)]
    pub(crate) page_out: bool,

    /// Memory of the machine for what is paged out [default: as much as all guests have]
    #[arg(long, value_name = "SIZE", value_parser = super::parse_size, requires = "page_out")]
    pub(crate) store: Option<u64>,
}

impl PagingOptions {
    /// The options, by their names, and whether they were given.
    pub(super) fn given(&self) -> [(&'static str, bool); 2] {
        [("--page-out", self.page_out), ("--store", self.store.is_some())]
    }
}

impl Options {
    /// How RAM is paged, if it is.
    pub(super) fn paged(&self) -> Option<Paged> {
        let all = self.memory * u64::from(self.guests);
        // The entries of all pages, and a slot for each.
        let enough = all + all / 4096 * ENTRY;
        self.paging
            .page_out
            .then(|| Paged { store: self.paging.store.unwrap_or(enough), idle_scans: IDLE_SCANS })
    }

    /// Bytes of the pool, where that is not as large as can be needed.
    pub(crate) fn pool(&self) -> Option<u64> {
        let all = self.memory * u64::from(self.guests);
        let less = (all / 8 * 3).next_multiple_of(BLOCK);
        self.pool.or(self.paging.page_out.then_some(less))
    }

    /// Pages that our own user space fills and looks at, so that there is something to be paged out.
    pub(crate) fn filled_pages(&self) -> Option<u64> {
        let ours = self.initrd.is_none() && self.fetched().is_none_or(|kernel| kernel != Kernel::UBoot);
        (self.paging.page_out && ours).then(|| filled_pages(self.memory))
    }

    /// Whether paging goes with everything else.
    pub(super) fn check_paging(&self, platform: Platform) -> Result<()> {
        if !self.paging.page_out {
            return Ok(());
        }
        ensure!(platform == Platform::Riscv, "--page-out: with --arch riscv64 only");
        let pause = self.pause.given().into_iter().find(|(_, given)| *given);
        if let Some((name, _)) = pause {
            refuse("--page-out", &[(name, true)])?;
        }
        refuse("--page-out", &[("--churn", self.churn), ("--compare", self.compare)])?;
        check_pool(self.paging.store)
            .map_err(|error| anyhow::anyhow!("{}", error.to_string().replacen("--pool", "--store", 1)))
    }
}

/// The same for a guest with so much memory.
pub(crate) const fn filled_pages(memory: u64) -> u64 {
    memory / 4096 / FILLED
}
