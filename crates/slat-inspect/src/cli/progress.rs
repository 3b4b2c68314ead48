//! A progress bar on stderr, on a terminal, for what takes longer than a moment.
//!
//! The tables of the second level are counted first, which is cheap; a visit has then come as far as it has entered of those.

use crate::{Descend, Mapping, PhysicalMemory, Pointer, Summary, Tables, Trouble, Visitor};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::ops::{ControlFlow, RangeInclusive};
use std::time::{Duration, Instant};

/// How long nothing is shown.
const PATIENCE: Duration = Duration::from_millis(700);

/// Visits as [`Tables::visit`], and shows how far it has come.
pub(crate) fn visit(
    tables: &Tables,
    memory: &impl PhysicalMemory,
    range: RangeInclusive<u64>,
    limit: u64,
    visitor: &mut impl Visitor,
) -> Summary {
    if !std::io::stderr().is_terminal() {
        return tables.visit(memory, range, limit, visitor);
    }
    let mut count = Count { level: tables.root().level().saturating_sub(1), tables: 0 };
    tables.visit(memory, range.clone(), limit, &mut count);
    let mut shown =
        Shown { visitor, level: count.level, begin: Instant::now(), total: count.tables, done: 0, bar: None };
    let summary = tables.visit(memory, range, limit, &mut shown);
    if let Some(bar) = shown.bar {
        bar.finish_and_clear();
    }
    summary
}

/// Counts the pointers of a level.
struct Count {
    level: u8,
    tables: u64,
}

impl Visitor for Count {
    fn leaf(&mut self, _: &Mapping) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn table(&mut self, pointer: &Pointer) -> ControlFlow<(), Descend> {
        let is_lowest = pointer.at.level <= self.level;
        self.tables += u64::from(is_lowest);
        ControlFlow::Continue(if is_lowest { Descend::Skip } else { Descend::Yes })
    }
}

struct Shown<'a, V> {
    visitor: &'a mut V,
    level: u8,
    begin: Instant,
    total: u64,
    done: u64,
    bar: Option<ProgressBar>,
}

impl<V> Shown<'_, V> {
    fn show(&mut self) {
        if self.bar.is_none() && self.begin.elapsed() >= PATIENCE {
            let bar = ProgressBar::with_draw_target(Some(self.total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("reading tables [{bar:40}] {percent}% {eta}") {
                bar.set_style(style.progress_chars("━╸ "));
            }
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
    }
}

impl<V: Visitor> Visitor for Shown<'_, V> {
    fn leaf(&mut self, mapping: &Mapping) -> ControlFlow<()> {
        self.visitor.leaf(mapping)
    }

    fn table(&mut self, pointer: &Pointer) -> ControlFlow<(), Descend> {
        if pointer.at.level == self.level {
            self.show();
            self.done += 1;
        }
        self.visitor.table(pointer)
    }

    fn trouble(&mut self, trouble: &Trouble) -> ControlFlow<()> {
        self.visitor.trouble(trouble)
    }
}
