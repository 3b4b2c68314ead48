//! What each figure is to be at the most.

use super::{COLUMNS, Outcomes, Row};
use crate::measure::GIB;

/// What a figure is compared with, and how large it may be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limit {
    /// What it is compared with, in words.
    pub(super) against: &'static str,
    /// Nanoseconds of that.
    pub(super) reference: Option<f64>,
    /// How many times that it may be.
    pub(super) ratio: Option<f64>,
    /// Nanoseconds that it may be.
    pub(super) nanoseconds: Option<f64>,
}

impl Limit {
    /// Whether `min` is within it; `None` if there is no limit.
    pub(super) fn is_met(&self, min: f64) -> Option<bool> {
        let by_ratio = self.ratio.zip(self.reference).map(|(ratio, reference)| min <= ratio * reference);
        let by_time = self.nanoseconds.map(|most| min <= most);
        match (by_ratio, by_time) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(true) && other.unwrap_or(true)),
        }
    }
}

/// The limit of `row` in `column`.
pub(super) fn of(outcomes: &Outcomes, row: Row, column: usize) -> Limit {
    let time = |row: Row| outcomes.find(row, column, false).map(|outcome| outcome.min);
    let floor = || outcomes.find(row, column, true).map(|outcome| outcome.min);
    let limit = |against, reference, ratio, nanoseconds| Limit { against, reference, ratio, nanoseconds };
    // Where an entry of the root has all of the guest's memory below it, a fork is one of the same root.
    let whole = COLUMNS[column].per_root_entry > GIB;
    let five_us = whole.then_some(5_000.0);
    match row {
        Row::ForkSmall => limit("floor", floor(), None, five_us),
        Row::Fork1g => limit("fork-1g-4k", time(Row::ForkSmall), Some(1.2), five_us),
        Row::Fork64g if whole => limit("fork-1g-4k", time(Row::ForkSmall), Some(1.2), five_us),
        Row::Fork64g => limit("the line between", line(outcomes, column), Some(1.2), None),
        Row::Fork64gSparse => limit("fork-64g", time(Row::Fork64g), Some(1.2), five_us),
        Row::Fork1t if whole => limit("fork-1g-4k", time(Row::ForkSmall), Some(1.2), five_us),
        Row::Fork1t => limit("fork-1g-4k", time(Row::ForkSmall), None, None),
        Row::Children => limit("floor", floor(), None, Some(10e6)),
        Row::ChildrenAfterWrites => limit("children", time(Row::Children), None, Some(10e6)),
        Row::WritePrivate | Row::WriteMean => limit("floor", floor(), Some(1.3), None),
        Row::WriteBackToBack => limit("floor", floor(), None, None),
        Row::WriteCold => limit("floor", floor(), Some(1.0), None),
        Row::Reset1g => limit("", None, None, None),
        Row::Reset64g => limit("reset-1g", time(Row::Reset1g), Some(1.2), None),
        Row::Reset1t if whole => limit("reset-1g", time(Row::Reset1g), Some(1.2), None),
        Row::Reset1t => limit("reset-1g", time(Row::Reset1g), None, None),
        Row::LogSmall => limit("floor", floor(), Some(1.3), None),
        Row::Log64g => limit("", None, None, None),
        Row::Log1t => limit("log-start-64g", time(Row::Log64g), Some(1.2), None),
        Row::Collect256m => limit("floor", floor(), None, Some(2.0)),
        Row::Collect1g => limit("collect-256m", time(Row::Collect256m), Some(1.2), Some(2.0)),
    }
}

/// Nanoseconds that a fork of 64 GiB would take if it were linear in the entries of the root between 1 GiB and 1 TiB.
fn line(outcomes: &Outcomes, column: usize) -> Option<f64> {
    let time = |row: Row| outcomes.find(row, column, false).map(|outcome| outcome.min);
    let (one, all) = (time(Row::Fork1g)?, time(Row::Fork1t)?);
    Some(one + (all - one) * 63.0 / 1023.0)
}
