//! `draw`: the address space as a picture: an SVG, or a page that zooms.
//!
//! Both have a lane for each leaf size and the axis of [`layout`]. The page is one file that needs nothing else: its data is JSON
//! in which a range is five numbers.

mod layout;
mod svg;

use super::dump::Opener;
use super::input::{Bounds, Input};
use super::number::Size;
use super::output::{Output, Text};
use super::runs::{self, Troubles};
use super::{Finding, words};
use crate::{Cacheability, Permissions, Run, Tables, TypeOnly};
use anyhow::{Context, Result, bail};
use layout::{Piece, pieces};
use serde::Serialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Ranges of a picture at most. Where there are more, neighbours that differ only in where they are mapped to become one.
const MOST_DRAWN: usize = 1 << 17;

/// Draw the address space: an SVG, or an HTML page that zooms
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    input: Input,

    #[command(flatten)]
    bounds: Bounds,

    /// The file to write: its name ends with .html or .svg
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// What the picture is called
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,

    /// What an SVG is coloured by; a page lets its reader choose
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Colour::Permissions)]
    colour: Colour,
}

/// What is told apart by colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Colour {
    /// What is allowed.
    Permissions,
    /// Leaf sizes.
    Size,
    /// Memory types.
    Memory,
}

/// What is drawn.
pub(crate) struct Picture {
    pub(crate) title: String,
    pub(crate) summary: String,
    pub(crate) tables: Tables,
    pub(crate) ranges: Vec<Range>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) troubles: Troubles,
}

/// A range of pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// The first page, counted from the lowest that the tables translate.
    pub(crate) start: u64,
    /// The page behind the last one.
    pub(crate) end: u64,
    /// Whether the range is mapped to frames in a row.
    pub(crate) in_a_row: bool,
    /// What it is.
    pub(crate) run: Run,
}

#[derive(Serialize)]
struct Written {
    output: String,
    ranges: usize,
}

pub(crate) fn run(options: &Options, opener: Opener, output: &mut Output<'_>) -> Result<Finding> {
    let extension = options.output.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let is_page = match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => true,
        "svg" => false,
        _ => bail!("--output: {} ends neither with .html nor with .svg", options.output.display()),
    };
    let (dump, tables) = options.input.open(opener)?;
    let (range, limit) = (options.bounds.range()?, options.bounds.limit);
    let (runs, troubles) = runs::collect((&dump, &tables), range, limit, false)?;
    let title = options.title.clone().unwrap_or_else(|| options.input.name().to_owned());
    let picture = Picture::new(title, tables, &runs, troubles)?;
    write(&options.output, |file| {
        if is_page { picture.write_page(file) } else { picture.write_svg(options.colour, file) }
    })?;
    let written = Written { output: options.output.display().to_string(), ranges: picture.ranges.len() };
    if output.json {
        output.json(&written)?;
    } else {
        output.line(format_args!("{}: {} ranges", written.output, written.ranges))?;
    }
    Ok(Finding::Usual)
}

/// Writes a file, which is whole or not there.
fn write(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(cannot)?);
    let written = content(&mut file).and_then(|()| Ok(file.flush()?));
    if written.is_err() {
        // Half a picture is none; the error is what matters.
        let _ = std::fs::remove_file(path);
    }
    written.with_context(cannot)
}

impl Picture {
    pub(crate) fn new(title: String, tables: Tables, runs: &[Run], troubles: Troubles) -> Result<Self> {
        let root = *tables.root();
        let page = |address: u64| root.offset(address).unwrap_or(0) >> 12;
        let ranges = runs.iter().map(|run| {
            let start = page(run.address);
            Range { start, end: start + (run.size() >> 12), in_a_row: true, run: *run }
        });
        let mut ranges: Vec<_> = ranges.collect();
        if ranges.len() > MOST_DRAWN {
            ranges = coarser(&ranges);
        }
        if ranges.len() > MOST_DRAWN {
            bail!(
                "there are {} ranges, which nobody could see; --from and --to draw a part of them",
                ranges.len()
            );
        }
        let mapped: u128 = ranges.iter().map(|range| u128::from(range.end - range.start) << 12).sum();
        let summary = format!(
            "{} tables, {} levels, {} bits, root at {:#x}: {} mapped in {} ranges",
            root.format(),
            root.level() + 1,
            root.input_bits(),
            root.table(),
            Size(mapped),
            ranges.len()
        );
        let pieces = pieces(ranges.iter().map(|range| (range.start, range.end)));
        Ok(Self { title, summary, tables, ranges, pieces, troubles })
    }

    /// Writes the page.
    pub(crate) fn write_page(&self, out: &mut dyn Write) -> Result<()> {
        page(self, out)
    }

    /// Writes the SVG.
    pub(crate) fn write_svg(&self, colour: Colour, out: &mut dyn Write) -> Result<()> {
        Ok(svg::write(self, colour, out)?)
    }
}

/// Neighbours that are alike as one, wherever they are mapped to.
fn coarser(ranges: &[Range]) -> Vec<Range> {
    let mut coarse: Vec<Range> = Vec::new();
    for range in ranges {
        match coarse.last_mut() {
            Some(last) if last.end == range.start && last.run.is_alike(&range.run) => {
                last.end = range.end;
                last.in_a_row = false;
                last.run.join_marks(&range.run);
            }
            _ => coarse.push(*range),
        }
    }
    coarse
}

/// The page's data.
#[derive(Serialize)]
struct Data<'a> {
    title: &'a str,
    summary: &'a str,
    #[serde(rename = "addressName")]
    address_name: &'static str,
    bits: u32,
    #[serde(rename = "signExtended")]
    sign_extended: bool,
    kinds: Vec<Kind>,
    /// For each range: pages since the last one, pages, the first frame (-1 for frames that are not in a row), kind, marks.
    runs: Vec<i64>,
    pieces: Vec<(u64, u64, f64)>,
    /// How many entries are wrong, and the first of them.
    wrong: u64,
    troubles: Vec<Wrong>,
}

/// What ranges can have in common.
#[derive(Serialize)]
struct Kind {
    permissions: String,
    words: String,
    r: bool,
    w: bool,
    x: bool,
    user: bool,
    memory: String,
    cacheability: &'static str,
    size: u64,
    flags: Vec<&'static str>,
}

#[derive(Serialize)]
struct Wrong {
    start: u64,
    length: u64,
    text: Text<crate::Trouble>,
}

fn page(picture: &Picture, file: &mut dyn Write) -> Result<()> {
    const PAGE: &str = include_str!("draw/page.html");
    let root = picture.tables.root();
    let (mut kinds, mut numbers) = (Vec::new(), HashMap::new());
    let mut runs = Vec::with_capacity(5 * picture.ranges.len());
    let mut behind = 0;
    for range in &picture.ranges {
        let run = &range.run;
        let key = (run.permissions, run.memory, run.leaf_size, run.flags);
        let kind = *numbers.entry(key).or_insert_with(|| {
            kinds.push(kind(picture, run));
            kinds.len() as i64 - 1
        });
        let frame = if range.in_a_row { (run.output >> 12) as i64 } else { -1 };
        let marks = 3 * run.accessed as i64 + run.dirty as i64;
        // No format has more than 2^47 pages.
        runs.extend([(range.start - behind) as i64, (range.end - range.start) as i64, frame, kind, marks]);
        behind = range.end;
    }
    let wrong = |trouble: &crate::Trouble| Wrong {
        start: root.offset(trouble.address).unwrap_or(0) >> 12,
        length: (trouble.length >> 12).max(1),
        text: Text(*trouble),
    };
    let data = Data {
        title: &picture.title,
        summary: &picture.summary,
        address_name: root.format().address_name(),
        bits: root.input_bits(),
        sign_extended: root.format().is_sign_extended(),
        kinds,
        runs,
        pieces: picture.pieces.iter().map(|piece| (piece.start, piece.end, piece.weight)).collect(),
        wrong: picture.troubles.count,
        troubles: picture.troubles.first.iter().map(wrong).collect(),
    };
    // Within a script element only this could end it.
    let data = serde_json::to_string(&data)?.replace('<', "\\u003c");
    let title = svg::escape(&picture.title);
    let parts = [
        ("{{TITLE}}", title.as_str()),
        ("{{STYLE}}", include_str!("draw/page.css")),
        ("{{DATA}}", data.as_str()),
        ("{{SCRIPT}}", include_str!("draw/page.js")),
    ];
    let mut rest = PAGE;
    // One after the other, so that nothing that was put in is looked at again.
    for (name, text) in parts {
        let (before, after) = rest.split_once(name).context("the page's template has lost a part")?;
        file.write_all(before.as_bytes())?;
        file.write_all(text.as_bytes())?;
        rest = after;
    }
    Ok(file.write_all(rest.as_bytes())?)
}

fn kind(picture: &Picture, run: &Run) -> Kind {
    let format = picture.tables.root().format();
    let allows = |permission| run.permissions.contains(permission);
    let permissions = words::permissions(format, run.permissions);
    let user = permissions.ends_with('u');
    let execute = run.permissions.intersects(Permissions::EXECUTE | Permissions::EXECUTE_USER);
    let named = [
        (allows(Permissions::READ), "read"),
        (allows(Permissions::WRITE), "write"),
        (execute, "execute"),
        (user, "user mode"),
    ];
    let named: Vec<_> = named.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect();
    Kind {
        words: format!(
            "{permissions} ({})",
            if named.is_empty() { "nothing".to_owned() } else { named.join(", ") }
        ),
        permissions,
        r: allows(Permissions::READ),
        w: allows(Permissions::WRITE),
        x: execute,
        user: user && !format.is_second_stage(),
        memory: TypeOnly(run.memory).to_string(),
        cacheability: match run.memory.cacheability() {
            Cacheability::Cacheable => "cacheable",
            Cacheability::Uncached => "uncached",
            Cacheability::Device => "device",
            Cacheability::Elsewhere => "elsewhere",
        },
        size: run.leaf_size,
        flags: run.flags.words().collect(),
    }
}

#[cfg(test)]
mod tests;
