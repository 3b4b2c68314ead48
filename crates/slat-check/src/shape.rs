//! Where operations fall: a few boundaries around the edges of tables, and the pages that tell all of them apart.
//!
//! Every range of an operation begins and ends at a boundary, so pages between two neighbouring boundaries share
//! their region and flags. A few of them, the pages in play, stand for all.

use slat::{GuestPhysAddr, LeafSize, PAGE_SIZE};

const MIB2: u64 = 2 << 20;
const GIB1: u64 = 1 << 30;

/// Boundaries and pages in play.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Name, for reports.
    pub name: &'static str,
    /// Where ranges begin and end, ascending.
    pub boundaries: Vec<u64>,
    /// First addresses of the pages in play, ascending.
    pub pages: Vec<u64>,
    /// Whether every page between the first and the last boundary is in play.
    pub complete: bool,
    /// The largest leaf that can occur.
    pub largest: LeafSize,
    /// Frames of guest memory and tables that the host gets.
    pub frames: usize,
}

impl Shape {
    /// Twelve pages around `edge`, a multiple of 2 MiB: two leaf tables, and more if the edge is one of larger tables.
    #[must_use]
    pub fn pages(edge: u64) -> Self {
        let start = edge - 6 * PAGE_SIZE;
        let boundaries: Vec<u64> = (0..=12).map(|page| start + page * PAGE_SIZE).collect();
        let pages = boundaries[..12].to_vec();
        Self { name: "pages", boundaries, pages, complete: true, largest: LeafSize::Size4K, frames: 192 }
    }

    /// Three pages in the middle of a leaf table.
    #[must_use]
    pub fn three_pages(edge: u64) -> Self {
        let boundaries: Vec<u64> = (0..=3).map(|page| edge + page * PAGE_SIZE).collect();
        let pages = boundaries[..3].to_vec();
        Self {
            name: "three pages",
            boundaries,
            pages,
            complete: true,
            largest: LeafSize::Size4K,
            frames: 112,
        }
    }

    /// Three blocks of 2 MiB, the first of which ends at `edge`, a multiple of 2 MiB.
    #[must_use]
    pub fn blocks(edge: u64) -> Self {
        let mut boundaries = vec![];
        let mut pages = vec![];
        for block in 0..3 {
            let start = edge - MIB2 + block * MIB2;
            boundaries.extend([0, 1, 2, 511].map(|page| start + page * PAGE_SIZE));
            pages.extend([0, 1, 2, 300, 511].map(|page| start + page * PAGE_SIZE));
        }
        boundaries.push(edge + 2 * MIB2);
        Self { name: "blocks", boundaries, pages, complete: false, largest: LeafSize::Size2M, frames: 4096 }
    }

    /// A block of 2 MiB at `edge` and a page on either side of it.
    #[must_use]
    pub fn one_block(edge: u64) -> Self {
        let boundaries = vec![edge - PAGE_SIZE, edge, edge + PAGE_SIZE, edge + MIB2, edge + MIB2 + PAGE_SIZE];
        let pages = vec![
            edge - PAGE_SIZE,
            edge,
            edge + PAGE_SIZE,
            edge + 300 * PAGE_SIZE,
            edge + 511 * PAGE_SIZE,
            edge + MIB2,
        ];
        Self {
            name: "one block",
            boundaries,
            pages,
            complete: false,
            largest: LeafSize::Size2M,
            frames: 1600,
        }
    }

    /// Two times 64 KiB on either side of `edge`, a multiple of 2 MiB, and a few pages around them.
    #[must_use]
    pub fn groups(edge: u64) -> Self {
        let start = edge - 36 * PAGE_SIZE;
        let inner = [0, 4, 5, 11, 12, 19, 20, 27, 35, 36, 37, 44, 52, 53, 67, 68, 72];
        let boundaries: Vec<u64> = inner.iter().map(|page| start + page * PAGE_SIZE).collect();
        let pages = boundaries[..inner.len() - 1].to_vec();
        Self { name: "groups", boundaries, pages, complete: false, largest: LeafSize::Size4K, frames: 256 }
    }

    /// The gigabyte that begins at `edge`, a multiple of 1 GiB, and a page on either side of it.
    #[must_use]
    pub fn gigabyte(edge: u64) -> Self {
        let inner = [0, PAGE_SIZE, MIB2, MIB2 + PAGE_SIZE, 2 * MIB2, GIB1 - MIB2, GIB1 - PAGE_SIZE, GIB1];
        let mut boundaries = vec![edge - PAGE_SIZE];
        boundaries.extend(inner.map(|offset| edge + offset));
        boundaries.push(edge + GIB1 + PAGE_SIZE);
        let mut pages = vec![];
        for pair in boundaries.windows(2) {
            pages.push(pair[0]);
            if pair[1] - pair[0] > PAGE_SIZE {
                pages.push(pair[1] - PAGE_SIZE);
            }
        }
        Self { name: "gigabyte", boundaries, pages, complete: false, largest: LeafSize::Size1G, frames: 1600 }
    }

    /// First address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.boundaries[0]
    }

    /// Address after the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.boundaries[self.boundaries.len() - 1]
    }

    /// The range that `span` names here: start and size.
    #[must_use]
    pub fn range(&self, span: Span) -> (GuestPhysAddr, u64) {
        let intervals = self.boundaries.len() - 1;
        let first = usize::from(span.first) % intervals;
        let length = 1 + usize::from(span.length) % (intervals - first);
        let (start, end) = (self.boundaries[first], self.boundaries[first + length]);
        (GuestPhysAddr::new(start), end - start)
    }

    /// The index in `pages` that `page` names here.
    #[must_use]
    pub fn page(&self, page: u8) -> usize {
        usize::from(page) % self.pages.len()
    }

    /// The indices of the pages in play that lie in a range.
    #[must_use]
    pub fn pages_in(&self, start: u64, size: u64) -> std::ops::Range<usize> {
        let first = self.pages.partition_point(|page| *page < start);
        let end = self.pages.partition_point(|page| *page < start + size);
        first..end
    }
}

/// A range, by the number of its first boundary and of the intervals after that (both taken modulo what the shape has).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The boundary at which it begins.
    pub first: u8,
    /// One less than the number of intervals.
    pub length: u8,
}
