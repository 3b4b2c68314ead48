//! The trace of a run: taken out of the ring that slat-hv left in the machine's memory, and written for people and tools.

pub(crate) mod chrome;
pub(crate) mod story;

use anyhow::{Context, Result};
use slat::trace::{Event, FaultAnswer, Ring, What};
use slat_hv_protocol::trace::FRAMES;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::atomic::AtomicU64;

/// What happened, from the beginning to the end of each thing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trace {
    /// In the order in which they began; of two that began at the same time the longer one first.
    pub(crate) events: Vec<Event>,
    /// Events before the first of them, which they have overwritten.
    pub(crate) overwritten: u64,
    /// Events that found no place.
    pub(crate) dropped: u64,
    /// When the first one began, in ticks.
    begin: u64,
    ticks_per_second: f64,
    /// Whether that was measured, by the clock of this machine, because the other one does not tell.
    pub(crate) measured: bool,
}

/// The words of a ring of so many bytes in memory that is this file, or a part of one.
pub(crate) fn words(memory: &mut (impl Read + Seek), offset: u64, size: u64) -> Result<Vec<AtomicU64>> {
    memory.seek(SeekFrom::Start(offset))?;
    let mut reader = BufReader::new(memory).take(size);
    let mut words = Vec::new();
    let mut word = [0; 8];
    for _ in 0..size / 8 {
        reader.read_exact(&mut word).context("the memory ends before the trace does")?;
        words.push(AtomicU64::new(u64::from_le_bytes(word)));
    }
    Ok(words)
}

impl Trace {
    /// The trace in a ring of these words, in ticks of which there are so many in a second. If the machine does not tell how
    /// many (0), the run took `seconds`.
    pub(crate) fn new(words: Vec<AtomicU64>, ticks_per_second: u64, seconds: Option<f64>) -> Self {
        let ring = Ring::new(&words);
        let mut events: Vec<_> = ring.events().map(|(_, event)| event).collect();
        events.sort_by_key(|event| (event.begin, Reverse(event.end)));
        let begin = events.first().map_or(0, |event| event.begin);
        let end = events.iter().map(|event| event.end).max().unwrap_or(begin);
        let measured = ticks_per_second == 0;
        let per_second =
            seconds.filter(|seconds| *seconds > 0.0).map(|seconds| (end - begin) as f64 / seconds);
        Self {
            overwritten: ring.recorded().saturating_sub(ring.capacity() as u64),
            dropped: ring.dropped(),
            events,
            begin,
            ticks_per_second: if measured {
                per_second.filter(|ticks| *ticks > 0.0).unwrap_or(1e9)
            } else {
                ticks_per_second as f64
            },
            measured,
        }
    }

    /// Microseconds from the first event to this time.
    pub(crate) fn microseconds(&self, time: u64) -> f64 {
        time.saturating_sub(self.begin) as f64 * 1e6 / self.ticks_per_second
    }

    /// Microseconds that an event took.
    pub(crate) fn duration(&self, event: &Event) -> f64 {
        event.end.saturating_sub(event.begin) as f64 * 1e6 / self.ticks_per_second
    }

    /// Microseconds from the first event to the end of the last.
    pub(crate) fn length(&self) -> f64 {
        self.events.iter().map(|event| self.microseconds(event.end)).fold(0.0, f64::max)
    }

    /// The CPUs that something happened on.
    pub(crate) fn cpus(&self) -> BTreeSet<u16> {
        self.events.iter().map(|event| event.cpu).collect()
    }

    /// Faults of the guest but for accesses to devices: what the report of a run counts.
    pub(crate) fn faults(&self) -> u64 {
        let counted =
            |event: &&Event| matches!(event.what, What::Fault { answer, .. } if answer != FaultAnswer::Trap);
        self.events.iter().filter(counted).count() as u64
    }

    /// The frames in use, with the time of each number in microseconds.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.events.iter().filter_map(|event| match event.what {
            What::Host { code: FRAMES, values: [in_use, ..] } => {
                Some((self.microseconds(event.begin), in_use))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
