//! Recordings of runs: taken from the emulated machine's memory, kept in files.
//!
//! A file is one line of JSON, the [`Header`], and then three little-endian words for each event, as
//! `slat_hv_protocol::recording` defines them. **Invariant:** a [`Recording`] is complete and every event of it decodes: what is cut
//! off, damaged or of another version is refused.

mod flushes;

use crate::boot::layout::Layout;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use slat_hv_protocol::recording::{EVENT_WORDS, Event, capacity};
use slat_hv_protocol::{CPUS_MAX, Mechanism, Span, Started};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// What the first line of a file says it is.
const FORMAT: &str = "slat recording 1";

/// Bytes of a page.
const PAGE: u64 = 4096;

const EVENT_BYTES: usize = 8 * EVENT_WORDS;

/// The machine on which a recording was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    format: String,
    /// The architecture of host and guest.
    pub(crate) arch: String,
    /// CPUs of the guest.
    pub(crate) cpus: u32,
    /// The memory that tables and guest pages are taken from.
    pub(crate) pool: Span,
    /// What the hypervisor found and chose.
    pub(crate) started: Started,
    /// How many events follow.
    events: u64,
}

/// A recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recording {
    /// The machine.
    pub(crate) header: Header,
    /// What happened on which CPU, in order.
    pub(crate) events: Vec<(usize, Event)>,
}

impl Recording {
    /// A recording of these events.
    pub(crate) fn new(cpus: u32, pool: Span, started: Started, events: Vec<(usize, Event)>) -> Self {
        let format = FORMAT.to_owned();
        let arch = arch(started.mechanism).to_owned();
        let header = Header { format, arch, cpus, pool, started, events: events.len() as u64 };
        Self { header, events }
    }

    /// Takes the recording from `memory`, RAM of a machine with this layout that has stopped; it begins at `offset`.
    pub(crate) fn from_memory(
        memory: &mut File,
        offset: u64,
        layout: &Layout,
        started: &Started,
        cpus: u32,
    ) -> Result<Self> {
        memory.seek(SeekFrom::Start(offset))?;
        let mut reader = BufReader::new(memory);
        let mut count = [0; 8];
        reader.read_exact(&mut count)?;
        let (count, room) = (u64::from_le_bytes(count), capacity(layout.recording.size));
        ensure!(count <= room, "{count} events were recorded, and there was room for {room}");
        let events = read_events(&mut reader, count)?;
        Ok(Self::new(cpus, layout.pool, started.clone(), events))
    }

    /// Writes the recording to `file`.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let cannot = || format!("cannot write the recording {}", file.display());
        let mut writer = BufWriter::new(File::create(file).with_context(cannot)?);
        let header = serde_json::to_string(&self.header).with_context(cannot)?;
        writeln!(writer, "{header}").with_context(cannot)?;
        for (cpu, event) in &self.events {
            for word in event.encode(*cpu) {
                writer.write_all(&word.to_le_bytes()).with_context(cannot)?;
            }
        }
        writer.flush().with_context(cannot)
    }

    /// Reads the recording in `file`.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let name = file.display();
        let opened = File::open(file).with_context(|| format!("cannot read the recording {name}"))?;
        Self::read_from(BufReader::new(opened)).with_context(|| format!("{name} is no good recording"))
    }

    fn read_from(mut reader: impl BufRead) -> Result<Self> {
        /// No header is longer.
        const LINE_MAX: u64 = 1 << 16;
        let mut line = Vec::new();
        reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)?;
        let header: Header = serde_json::from_slice(&line).ok().context("its first line is no header")?;
        ensure!(header.format == FORMAT, "it is a `{}`, not a `{FORMAT}`", header.format);
        let arch = arch(header.started.mechanism);
        ensure!(header.arch == arch, "it is of {}, with a table of {arch}", header.arch);
        ensure!((1..=CPUS_MAX as u32).contains(&header.cpus), "it has {} CPUs", header.cpus);
        let Span { address, size } = header.pool;
        let fits = address % PAGE == 0 && size % PAGE == 0 && size <= 1 << 36;
        ensure!(
            fits && address.checked_add(size).is_some_and(|end| end <= 1 << 48),
            "its pool is impossible"
        );
        let events = read_events(&mut reader, header.events)?;
        ensure!(reader.fill_buf()?.is_empty(), "something follows the last event");
        if let Some((cpu, _)) = events.iter().find(|(cpu, _)| *cpu >= header.cpus as usize) {
            bail!("an event is of CPU {cpu}, of {}", header.cpus);
        }
        Ok(Self { header, events })
    }
}

/// The architecture with this kind of table.
fn arch(mechanism: Mechanism) -> &'static str {
    match mechanism {
        Mechanism::Stage2 => "aarch64",
        Mechanism::Ept | Mechanism::Npt => "x86_64",
        Mechanism::Gstage => "riscv64",
    }
}

fn read_events(reader: &mut impl Read, count: u64) -> Result<Vec<(usize, Event)>> {
    let mut events = Vec::new();
    let mut bytes = [0; EVENT_BYTES];
    for number in 0..count {
        reader.read_exact(&mut bytes).ok().with_context(|| format!("it ends before event {number}"))?;
        let mut words = [0; EVENT_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        events.push(Event::decode(words).with_context(|| format!("event {number} stands for nothing"))?);
    }
    Ok(events)
}

#[cfg(test)]
mod tests;
