//! The picture as an SVG that stands alone.

use super::{Colour, Picture, Range};
use crate::cli::words;
use crate::{Bytes, Cacheability, Permissions, RunLine, TypeOnly};
use std::collections::BTreeMap;
use std::io::{self, Write};

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 86.0;
const LANE: f64 = 54.0;
const GAP: f64 = 8.0;
/// Of a folded hole, beside the weights of pieces.
const FOLD: f64 = 6.0;

/// Okabe and Ito's colours, which people tell apart whatever they see of colours.
const BLUE: &str = "#0072b2";
const GREEN: &str = "#009e73";
const SKY: &str = "#56b4e9";
const VERMILION: &str = "#d55e00";
const YELLOW: &str = "#e8d53a";
const PURPLE: &str = "#cc79a7";
const ORANGE: &str = "#e69f00";
const GREY: &str = "#8c959f";
/// For leaf sizes, from the smallest up: by lightness as well.
const SIZES: [&str; 5] = ["#b5a518", "#35a26d", "#2f6c8e", "#472f7d", "#30123b"];

const STYLE: &str = "\
text{font:12px system-ui,'Liberation Sans',sans-serif;fill:#1b1f24}\
.soft{fill:#57606a;font-size:11px}.mono{font:10px ui-monospace,'DejaVu Sans Mono',monospace;fill:#57606a}\
.title{font-size:17px;font-weight:650}.lane{fill:#f3f5f7}.paper{fill:#fff}.fold{fill:#fff;stroke:#d0d7de;stroke-dasharray:3 3}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.soft,.mono{fill:#9aa5b1}.lane{fill:#1a2129}.paper{fill:#0f1419}\
.fold{fill:#0f1419;stroke:#313a44}}";

/// `text`, as it stands in XML.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // What XML does not have at all.
            control if control.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}

/// Where a part of the axis is in the picture.
struct Placed {
    start: u64,
    end: u64,
    left: f64,
    right: f64,
}

impl Placed {
    fn x(&self, page: u64) -> f64 {
        let part = page.saturating_sub(self.start) as f64 / (self.end - self.start) as f64;
        self.left + part * (self.right - self.left)
    }
}

fn place(picture: &Picture) -> Vec<Placed> {
    let pieces = &picture.pieces;
    let folds = pieces.len().saturating_sub(1) as f64;
    let total = pieces.iter().map(|piece| piece.weight).sum::<f64>() + FOLD * folds;
    let scale = (WIDTH - LEFT - RIGHT) / total;
    let mut left = LEFT;
    let placed = pieces.iter().map(|piece| {
        let right = left + piece.weight * scale;
        let placed = Placed { start: piece.start, end: piece.end, left, right };
        left = right + FOLD * scale;
        placed
    });
    placed.collect()
}

/// Writes the picture.
pub(super) fn write(picture: &Picture, colour: Colour, out: &mut dyn Write) -> io::Result<()> {
    let mut sizes: Vec<_> = picture.ranges.iter().map(|range| range.run.leaf_size).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.dedup();
    let bottom = TOP + sizes.len() as f64 * (LANE + GAP);
    let height = bottom + 96.0;
    let axis = place(picture);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"20\" y=\"32\">{title}</text>\n<text class=\"soft\" x=\"20\" y=\"52\">{}</text>",
        escape(&picture.summary),
        title = escape(&picture.title)
    )?;
    for (index, size) in sizes.iter().enumerate() {
        let y = TOP + index as f64 * (LANE + GAP);
        writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             <rect class=\"lane\" x=\"{LEFT}\" y=\"{y}\" width=\"{}\" height=\"{LANE}\" rx=\"4\"/>",
            LEFT - 10.0,
            y + LANE / 2.0 + 4.0,
            Bytes(*size),
            WIDTH - LEFT - RIGHT
        )?;
    }
    for fold in axis.windows(2) {
        let (left, right) = (fold[0].right, fold[1].left);
        writeln!(
            out,
            "<rect class=\"fold\" x=\"{left:.2}\" y=\"{TOP}\" width=\"{:.2}\" height=\"{}\"><title>a hole of {}</title></rect>",
            right - left,
            bottom - TOP - GAP,
            Bytes((fold[1].start - fold[0].end) << 12)
        )?;
    }
    let legend = ranges(picture, colour, &sizes, &axis, out)?;
    ticks(picture, &axis, bottom, out)?;
    let mut x = LEFT;
    for ((name, fill), pages) in legend {
        let text = format!("{name}: {}", crate::cli::number::Size(u128::from(pages) << 12));
        writeln!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"13\" height=\"13\" rx=\"3\" fill=\"{fill}\"/><text x=\"{}\" y=\"{}\">{text}</text>",
            bottom + 60.0,
            x + 20.0,
            bottom + 71.0
        )?;
        x += 44.0 + 6.6 * text.len() as f64;
    }
    writeln!(out, "</svg>")
}

/// A name and a colour, and how many pages have it.
type Legend = BTreeMap<(String, &'static str), u64>;

/// All ranges. Neighbours that share a pixel and a look are one.
fn ranges(
    picture: &Picture,
    colour: Colour,
    sizes: &[u64],
    axis: &[Placed],
    out: &mut dyn Write,
) -> io::Result<Legend> {
    let mut legend = Legend::new();
    // By lane: left and right edge and look of what is not yet written, and what it is.
    let mut waiting: Vec<Option<(f64, f64, &'static str, String)>> = vec![None; sizes.len()];
    let mut shapes = Vec::new();
    let mut flush = |lane: usize, (left, right, fill, what): (f64, f64, &'static str, String)| {
        let y = TOP + lane as f64 * (LANE + GAP);
        let width = (right - left).max(0.8);
        shapes.push(format!(
            "<rect x=\"{left:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{LANE}\" fill=\"{fill}\"><title>{}</title></rect>",
            escape(&what)
        ));
    };
    let mut piece = 0;
    for range in &picture.ranges {
        while piece + 1 < axis.len() && range.start >= axis[piece].end {
            piece += 1;
        }
        let (name, fill) = look(picture, colour, range);
        *legend.entry((name, fill)).or_default() += range.end - range.start;
        let lane = sizes.iter().position(|size| *size == range.run.leaf_size).unwrap_or(0);
        let (left, right) = (axis[piece].x(range.start), axis[piece].x(range.end));
        match &mut waiting[lane] {
            Some((_, end, same, what)) if *same == fill && left - *end < 0.4 && right - left < 2.0 => {
                *end = right.max(*end);
                "several ranges".clone_into(what);
            }
            slot => {
                let line = RunLine(picture.tables.root().format(), &range.run).to_string();
                if let Some(shape) = slot.replace((left, right, fill, line)) {
                    flush(lane, shape);
                }
            }
        }
    }
    for (lane, shape) in waiting.into_iter().enumerate() {
        if let Some(shape) = shape {
            flush(lane, shape);
        }
    }
    shapes.iter().try_for_each(|shape| writeln!(out, "{shape}"))?;
    Ok(legend)
}

/// What a range is called in the legend, and its colour.
fn look(picture: &Picture, colour: Colour, range: &Range) -> (String, &'static str) {
    let run = &range.run;
    match colour {
        Colour::Permissions => {
            let execute = run.permissions.intersects(Permissions::EXECUTE | Permissions::EXECUTE_USER);
            let read = run.permissions.contains(Permissions::READ);
            let fill = match (read, run.permissions.contains(Permissions::WRITE), execute) {
                (_, true, true) => VERMILION,
                (true, true, false) => BLUE,
                (true, false, true) => GREEN,
                (true, false, false) => SKY,
                (false, false, true) => YELLOW,
                (false, true, false) => PURPLE,
                (false, false, false) => GREY,
            };
            (words::permissions(picture.tables.root().format(), run.permissions), fill)
        }
        Colour::Size => {
            let level = run.leaf_size.trailing_zeros().saturating_sub(12) / 9;
            (Bytes(run.leaf_size).to_string(), SIZES[level.min(4) as usize])
        }
        Colour::Memory => {
            let fill = match run.memory.cacheability() {
                Cacheability::Cacheable => BLUE,
                Cacheability::Uncached => ORANGE,
                Cacheability::Device => VERMILION,
                Cacheability::Elsewhere => GREY,
            };
            (TypeOnly(run.memory).to_string(), fill)
        }
    }
}

/// The first address of each piece that has room for it.
fn ticks(picture: &Picture, axis: &[Placed], bottom: f64, out: &mut dyn Write) -> io::Result<()> {
    let root = picture.tables.root();
    // Two rows, so that close ones have room.
    let mut free = [0.0; 2];
    for piece in axis {
        let text = format!("{:#x}", root.address(piece.start << 12));
        let width = 6.1 * text.len() as f64 + 8.0;
        let x = piece.left.min(WIDTH - width);
        let Some(row) = free.iter().position(|free| x >= *free) else { continue };
        free[row] = x + width;
        writeln!(
            out,
            "<line x1=\"{x:.2}\" y1=\"{}\" x2=\"{x:.2}\" y2=\"{}\" stroke=\"#9aa5b1\"/><text class=\"mono\" x=\"{:.2}\" y=\"{}\">{text}</text>",
            bottom - GAP,
            bottom + 6.0 + 14.0 * row as f64,
            x + 2.0,
            bottom + 12.0 + 14.0 * row as f64
        )?;
    }
    Ok(())
}
