//! The results as a picture: one panel per work, one bar per contender, logarithmic.

use crate::contenders::{Entry, FLOOR, SLAT};
use crate::report::short;
use crate::rounds::Outcome;
use crate::work::Work;
use std::fmt::Write as _;

const COLUMNS: usize = 3;
const PANEL: f64 = 330.0;
const GAP: f64 = 24.0;
const NAMES: f64 = 84.0;
const FIGURES: f64 = 54.0;
const BAR: f64 = 14.0;
const TITLE: f64 = 22.0;
const TOP: f64 = 46.0;

fn colour(contender: &str) -> &'static str {
    match contender {
        FLOOR => "#9aa0a6",
        SLAT => "#0b6e4f",
        other if other.starts_with(SLAT) => "#5fae8f",
        _ => "#d08c3f",
    }
}

/// An SVG of the minima.
pub(crate) fn svg(outcomes: &[Outcome], works: &[Work], contenders: &[Entry]) -> String {
    let rows = works.len().div_ceil(COLUMNS);
    let height = TITLE + contenders.len() as f64 * BAR + GAP;
    let columns = COLUMNS.min(works.len().max(1)) as f64;
    let size = (GAP + columns * (PANEL + GAP), TOP + rows as f64 * height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#202124\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{GAP}\" y=\"24\" font-size=\"15\" font-weight=\"bold\">Nanoseconds per unit, minimum of the \
         rounds; shorter is better, each panel logarithmic</text>\n",
        size.0, size.1
    );
    for (panel, &work) in works.iter().enumerate() {
        let left = GAP + (panel % COLUMNS) as f64 * (PANEL + GAP);
        let top = TOP + (panel / COLUMNS) as f64 * height;
        let _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>",
            top + 12.0,
            work.name()
        );
        let minimum = |entry: &Entry| {
            outcomes
                .iter()
                .find(|outcome| outcome.work == work && outcome.contender == entry.name)
                .map(|o| o.min)
        };
        let present = || contenders.iter().filter_map(minimum);
        // Bars begin at half of the smallest value: a logarithmic scale has no zero.
        let low = present().fold(f64::INFINITY, f64::min).max(1e-6) / 2.0;
        let high = present().fold(0.0, f64::max).max(low * 4.0);
        for (line, entry) in contenders.iter().enumerate() {
            let y = top + TITLE + line as f64 * BAR;
            let text = y + BAR - 4.0;
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>",
                left + NAMES - 6.0,
                entry.short
            );
            let Some(value) = minimum(entry) else {
                let _ = writeln!(svg, "<text x=\"{}\" y=\"{text}\" fill=\"#80868b\">-</text>", left + NAMES);
                continue;
            };
            let width = (value / low).ln() / (high / low).ln() * (PANEL - NAMES - FIGURES);
            let width = width.max(1.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{text}\">{}</text>",
                left + NAMES,
                BAR - 3.0,
                colour(entry.name),
                left + NAMES + width + 4.0,
                short(value)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
