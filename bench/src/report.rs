//! The results: two aligned tables, and JSON.

use crate::contenders::{Entry, FLOOR, SLAT};
use crate::notes;
use crate::rounds::Outcome;
use crate::work::Work;
use std::fmt::Write as _;

/// Three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value {
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value if value >= 0.9995 => format!("{value:.2}"),
        value if value >= 0.00995 => format!("{value:.3}"),
        value => format!("{value:.5}"),
    }
}

fn find<'o>(outcomes: &'o [Outcome], work: Work, contender: &str) -> Option<&'o Outcome> {
    outcomes.iter().find(|outcome| outcome.work == work && outcome.contender == contender)
}

/// Aligns cells: the first column to the left, the others to the right.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            if column == 0 {
                let _ = write!(line, "{cell:<width$}");
            } else {
                let _ = write!(line, "  {cell:>width$}");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Everything there is to say about the outcomes.
pub(crate) fn text(outcomes: &[Outcome], works: &[Work], contenders: &[Entry], rounds: usize) -> String {
    let mut marks = Vec::new();
    let mut text = format!("Nanoseconds per unit, minimum of {rounds} rounds:\n\n");
    let mut rows = vec![vec![String::from("work")]];
    rows[0].extend(contenders.iter().map(|entry| format!("{}  ", entry.short)));
    for &work in works {
        let mut row = vec![work.name()];
        for entry in contenders {
            let Some(outcome) = find(outcomes, work, entry.name) else {
                row.push(String::from("-  "));
                continue;
            };
            let notes: Vec<_> = notes::of(work, entry.name).collect();
            let letters: String = notes.iter().map(|note| note.mark).collect();
            row.push(format!("{}{letters:<2}", short(outcome.min)));
            marks.extend(notes);
        }
        rows.push(row);
    }
    text.push_str(&aligned(&rows));
    text.push('\n');
    marks.sort_by_key(|note| note.mark);
    marks.dedup_by_key(|note| note.mark);
    for note in marks {
        let _ = writeln!(text, "{}  {}", note.mark, note.text);
    }
    text.push('\n');
    for remark in notes::GENERAL {
        let _ = writeln!(text, "*  {remark}");
    }
    let names: Vec<String> = contenders
        .iter()
        .filter(|entry| entry.name != entry.short)
        .map(|entry| format!("{} = {}", entry.short, entry.name))
        .collect();
    if !names.is_empty() {
        let _ = writeln!(text, "*  {}.", names.join(", "));
    }
    let _ =
        write!(text, "\nslat in detail, ratios of the minima:\n\n{}", ratios(outcomes, works, contenders));
    if let Some(line) = scaling(outcomes, contenders) {
        let _ = write!(text, "\n{line}");
    }
    text
}

fn ratios(outcomes: &[Outcome], works: &[Work], contenders: &[Entry]) -> String {
    let heading = ["work", "min", "median", "max", "x floor", "best peer", "peer / slat", "instructions"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for &work in works {
        let Some(slat) = find(outcomes, work, SLAT) else { continue };
        let floor = find(outcomes, work, FLOOR)
            .map_or_else(|| String::from("-"), |floor| short(slat.min / floor.min));
        let peers = contenders.iter().filter(|entry| entry.is_peer());
        let best = peers
            .filter_map(|entry| find(outcomes, work, entry.name).map(|outcome| (entry.short, outcome.min)))
            .min_by(|(_, one), (_, other)| one.total_cmp(other));
        let (name, ratio) = match best {
            Some((name, min)) => (format!("{name} {}", short(min)), short(min / slat.min)),
            None => (String::from("-"), String::from("-")),
        };
        let instructions = slat.instructions.map_or_else(|| String::from("-"), short);
        let mut row = vec![work.name()];
        row.extend([slat.min, slat.median, slat.max].map(short));
        row.extend([floor, name, ratio, instructions]);
        rows.push(row);
    }
    aligned(&rows)
}

/// How throughput grows with the second thread, and the price of a page with the size of the space.
fn scaling(outcomes: &[Outcome], contenders: &[Entry]) -> Option<String> {
    let mut rows =
        vec![["", "throughput of two threads / one", "growth 1 TiB / 1 GiB"].map(String::from).to_vec()];
    for entry in contenders {
        let ratio = |over: Work, under: Work| {
            let (over, under) = (find(outcomes, over, entry.name)?, find(outcomes, under, entry.name)?);
            Some(over.min / under.min)
        };
        let threads = ratio(Work::OneThreadFault, Work::TwoThreadsFault);
        let growth = ratio(Work::Growth1t, Work::Growth1g);
        if threads.is_some() || growth.is_some() {
            let cell = |ratio: Option<f64>| ratio.map_or_else(|| String::from("-"), short);
            rows.push(vec![entry.name.to_owned(), cell(threads), cell(growth)]);
        }
    }
    (rows.len() > 1).then(|| aligned(&rows))
}

/// A list of objects, one per figure.
pub(crate) fn json(outcomes: &[Outcome]) -> String {
    let number = |value: f64| format!("{value:.6}");
    let objects: Vec<String> = outcomes
        .iter()
        .map(|outcome| {
            format!(
                "  {{\"work\": \"{}\", \"contender\": \"{}\", \"median_ns\": {}, \"min_ns\": {}, \"max_ns\": {}, \
                 \"instructions\": {}}}",
                outcome.work.name(),
                outcome.contender,
                number(outcome.median),
                number(outcome.min),
                number(outcome.max),
                outcome.instructions.map_or_else(|| String::from("null"), number),
            )
        })
        .collect();
    format!("[\n{}\n]\n", objects.join(",\n"))
}
