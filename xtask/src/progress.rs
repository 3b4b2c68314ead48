//! Progress on stderr: a moving bar or spinner on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// One step of the set-up, shown from its construction to [`Step::done`].
pub(crate) struct Step {
    bar: Option<ProgressBar>,
    title: String,
    begin: Instant,
}

impl Step {
    /// A step of unknown length.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self::with_style(title.into(), None, "{spinner} {msg} ({elapsed})")
    }

    /// A download of `size` bytes.
    pub(crate) fn download(title: impl Into<String>, size: u64) -> Self {
        let style = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        Self::with_style(title.into(), Some(size), style)
    }

    /// Work on `count` things.
    pub(crate) fn counted(title: impl Into<String>, count: u64) -> Self {
        Self::with_style(title.into(), Some(count), "{msg} [{bar:30}] {pos}/{len} {eta}")
    }

    fn with_style(title: String, size: Option<u64>, style: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = size.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("━╸ "));
            }
            bar.set_message(title.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{title} …");
        }
        Self { bar, title, begin: Instant::now() }
    }

    /// Moves the bar.
    pub(crate) fn position(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    /// Ends the step with `result` behind its title.
    pub(crate) fn done(self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{}: {result} ({:.1} s)", self.title, self.begin.elapsed().as_secs_f64());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
