//! The table, and JSON.

use super::limits::{self, Limit};
use super::{COLUMNS, Outcome, Outcomes, Row};
use crate::report::aligned;

/// Three digits and a unit.
fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        value if value >= 999_500.0 => (value / 1e6, "ms"),
        value if value >= 999.5 => (value / 1e3, "us"),
        value => (value, "ns"),
    };
    format!("{} {unit}", crate::report::short(value))
}

/// What is said of a limit.
fn words(limit: &Limit) -> String {
    let ratio = limit.ratio.map(|ratio| format!("{ratio} x {}", limit.against));
    let most = limit.nanoseconds.map(time);
    let parts: Vec<String> = ratio.into_iter().chain(most).collect();
    if parts.is_empty() { String::from("-") } else { parts.join(", ") }
}

/// The rows of the table, one per row and column.
fn each(outcomes: &Outcomes) -> impl Iterator<Item = (&Outcome, Limit)> {
    let slat = outcomes.0.iter().filter(|outcome| !outcome.floor);
    slat.map(|outcome| (outcome, limits::of(outcomes, outcome.row, outcome.column)))
}

/// The table, and what has to be said with it.
pub(crate) fn text(outcomes: &Outcomes, rounds: usize) -> String {
    let heading = ["what", "format", "slat", "median", "against", "that", "ratio", "limit", "met"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    let (mut met, mut missed) = (0, 0);
    for (outcome, limit) in each(outcomes) {
        let dash = || String::from("-");
        let verdict = match limit.is_met(outcome.min) {
            Some(true) => {
                met += 1;
                String::from("yes")
            }
            Some(false) => {
                missed += 1;
                String::from("NO")
            }
            None => dash(),
        };
        let first = outcome.column == 0;
        rows.push(vec![
            if first { outcome.row.names().1.to_owned() } else { String::new() },
            COLUMNS[outcome.column].name.to_owned(),
            time(outcome.min),
            time(outcome.median),
            if limit.against.is_empty() { dash() } else { limit.against.to_owned() },
            limit.reference.map_or_else(dash, time),
            limit.reference.map_or_else(dash, |reference| format!("{:.2}", outcome.min / reference)),
            words(&limit),
            verdict,
        ]);
    }
    let mut text = format!("Sharing, minimum of {rounds} rounds:\n\n{}\n", aligned(&rows));
    for (index, column) in COLUMNS.iter().enumerate().filter(|(_, column)| column.levels == 2) {
        if let Some(slope) = slope(outcomes, index) {
            let name = column.name;
            text.push_str(&format!(
                "A fork on {name} takes {} for each further entry of the root.\n",
                time(slope)
            ));
        }
    }
    text.push_str(&format!("\n{met} figures are within their limits, {missed} are not.\n\n"));
    REMARKS.iter().for_each(|remark| text.push_str(&format!("*  {remark}\n")));
    text
}

/// Nanoseconds for an entry of the root.
fn slope(outcomes: &Outcomes, column: usize) -> Option<f64> {
    let time = |row| outcomes.find(row, column, false).map(|outcome| outcome.min);
    Some((time(Row::Fork1t)? - time(Row::Fork1g)?) / 1023.0)
}

const REMARKS: [&str; 8] = [
    "Per fork, per page, per reset; the 1,000 forks are the time of all. The hook for invalidations counts and does \
     nothing else.",
    "After each run frames, invalidations and the contents of both sides were compared, exactly; a fork took one \
     invalidation and, on EPT and NPT, at most three frames: root, version, region.",
    "4 KiB leaves and all tables are frames of the arena, in scattered order. Leaves of 2 MiB are addresses behind which \
     there is memory only where a work writes.",
    "ept and npt have 4 levels, stage2 40 bits (3 levels, a root of two tables), gstage Sv39x4 (3 levels, a root of four): \
     there 1 GiB is one entry of the root and 1 TiB are 1,024, and a fork takes a frame for each 250.",
    "The floor of a first write is the walk, a page copied by memcpy, and a compare-exchange; with all tables \
     shared, a copy of 512 entries and 512 atomic increments of a count for each level below the root.",
    "Between two writes stands a fence, as an entry and an exit of the guest would. Back to back there is none: the CPU then \
     begins the next copy of the floor, whose fault is short, while the last one is still under way, which no guest can have.",
    "The floor of the log is a fetch_and of each leaf; of a collection, a load of each, and a fetch_and of those that are \
     dirty. Before the log of 1 GiB starts all pages were written to. Of a collection and of large \
     leaves no table is in the caches, which hold those of a small guest and not those of a large one. The limit for a clean leaf is the time of all, the \
     dirty ones included.",
    "The line between: what a fork of 64 entries would take if the time were linear from 1 to 1,024.",
];

/// A list of objects, one per figure.
pub(crate) fn json(outcomes: &Outcomes) -> String {
    let number =
        |value: Option<f64>| value.map_or_else(|| String::from("null"), |value| format!("{value:.3}"));
    let objects: Vec<String> = each(outcomes)
        .map(|(outcome, limit)| {
            let met = limit.is_met(outcome.min).map_or_else(|| String::from("null"), |met| met.to_string());
            format!(
                "  {{\"work\": \"{}\", \"format\": \"{}\", \"min_ns\": {:.3}, \"median_ns\": {:.3}, \
                 \"against\": \"{}\", \"against_ns\": {}, \"limit_ratio\": {}, \"limit_ns\": {}, \"met\": {met}}}",
                outcome.row.names().0,
                COLUMNS[outcome.column].name,
                outcome.min,
                outcome.median,
                limit.against,
                number(limit.reference),
                number(limit.ratio),
                number(limit.nanoseconds),
            )
        })
        .collect();
    format!("[\n{}\n]\n", objects.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Column 0 is EPT, column 2 stage 2.
    fn outcome(row: Row, column: usize, floor: bool, min: f64) -> Outcome {
        Outcome { row, column, floor, min, median: min }
    }

    fn verdicts(outcomes: Vec<Outcome>) -> Vec<Option<bool>> {
        let outcomes = Outcomes(outcomes);
        each(&outcomes).map(|(outcome, limit)| limit.is_met(outcome.min)).collect()
    }

    #[test]
    fn what_is_beyond_a_ratio_a_time_or_a_line_says_so() {
        let ratio =
            |min| vec![outcome(Row::WriteMean, 0, false, min), outcome(Row::WriteMean, 0, true, 100.0)];
        assert_eq!(verdicts(ratio(130.0)), [Some(true)]);
        assert_eq!(verdicts(ratio(130.1)), [Some(false)]);
        let time = |min| vec![outcome(Row::ForkSmall, 0, false, min), outcome(Row::ForkSmall, 2, false, min)];
        assert_eq!(verdicts(time(5000.0)), [Some(true), None]);
        assert_eq!(verdicts(time(5000.1)), [Some(false), None], "stage 2 is linear");
        let line = |min| {
            let rows = [
                (Row::ForkSmall, 1000.0),
                (Row::Fork1g, 1000.0),
                (Row::Fork64g, min),
                (Row::Fork1t, 11230.0),
            ];
            verdicts(rows.map(|(row, min)| outcome(row, 2, false, min)).to_vec())
        };
        assert_eq!(line(1.2 * 1630.0)[2], Some(true));
        assert_eq!(line(1.2 * 1630.0 + 0.1)[2], Some(false));
        let text = text(&Outcomes(ratio(130.1)), 1);
        assert!(
            text.contains("1.3 x floor   NO")
                && text.contains("0 figures are within their limits, 1 are not.")
        );
    }
}
