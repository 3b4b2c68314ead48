//! The axis of a picture. Address spaces are mostly holes, and what is mapped comes in sizes from 4 KiB to terabytes; on a straight
//! axis nobody would see any of it. So large holes are folded, and the pieces between them get places that grow with the logarithm
//! of their sizes. Within a piece the axis is straight.

use std::collections::BTreeMap;

/// Folded holes at most.
const MOST_FOLDS: usize = 40;

/// Holes that are looked at, largest first.
const MOST_TRIED: usize = 4000;

/// A hole is folded if it is not smaller than this part of the piece on either side: smaller ones are seen as what they are.
const PART: u64 = 12;

/// A part of the axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Piece {
    /// The first page.
    pub(crate) start: u64,
    /// The page behind the last one.
    pub(crate) end: u64,
    /// How much of the picture it gets, beside those of the others.
    pub(crate) weight: f64,
}

impl Piece {
    fn new(start: u64, end: u64) -> Self {
        let pages = (end - start) as f64;
        Self { start, end, weight: (4.0 + pages.log2()).powf(1.5) }
    }
}

/// The pieces of an axis for these ranges of pages, which are in order and not empty.
pub(crate) fn pieces(ranges: impl Iterator<Item = (u64, u64)>) -> Vec<Piece> {
    let mut holes = Vec::new();
    let (mut first, mut behind) = (None, 0);
    for (start, end) in ranges {
        match first {
            None => first = Some(start),
            Some(_) if start > behind => holes.push((behind, start)),
            Some(_) => {}
        }
        behind = end;
    }
    let Some(first) = first else { return Vec::new() };
    holes.sort_unstable_by_key(|(start, end)| (std::cmp::Reverse(end - start), *start));
    // Pieces by their first pages.
    let mut cut = BTreeMap::from([(first, behind)]);
    for (start, end) in holes.into_iter().take(MOST_TRIED) {
        if cut.len() > MOST_FOLDS {
            break;
        }
        let Some((&piece_start, &piece_end)) = cut.range(..=start).next_back() else { continue };
        let smaller = (start - piece_start).min(piece_end - end);
        if (end - start).saturating_mul(PART) >= smaller {
            cut.insert(piece_start, start);
            cut.insert(end, piece_end);
        }
    }
    cut.into_iter().map(|(start, end)| Piece::new(start, end)).collect()
}
