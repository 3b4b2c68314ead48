//! A dump of 64 GiB that is mostly holes, all of it mapped in leaves of 4 KiB: what listing it takes.

use super::{Tool, text};
use crate::task_test::Context;
use anyhow::{Context as _, Result, ensure};
use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Instant;

const SIZE: u64 = 64 << 30;
const PAGE: u64 = 4096;
/// Where the tables lie, one behind the other from the root down; the rest of the file takes no place on the disk.
const TABLES: u64 = 1 << 30;
/// EPT: readable, writable, executable; write-back.
const POINTER: u64 = 7;
const LEAF: u64 = 7 | (6 << 3);
const WRITE: u64 = 2;
/// Every so many leaves there is a hole, and one that is read-only half-way to it.
const EVERY: u64 = 1000;

pub(super) fn listed(tool: &Tool, _: &Context, output: &mut String) -> Result<String> {
    let directory = tempfile::Builder::new().prefix("slat-inspect-").tempdir();
    let directory = directory.context("no temporary directory")?;
    let dump = directory.path().join("dump");
    write(&dump).context("cannot write a dump")?;
    let begin = Instant::now();
    let root = format!("{TABLES:#x}");
    let listed = tool.run(&["list", text(&dump)?, "--format", "ept", "--root", &root], output)?;
    let seconds = begin.elapsed().as_secs_f64();

    // Nothing, writable leaves, a read-only one, writable ones, and so on.
    let leaves = SIZE / PAGE;
    let read_only = (0..leaves).filter(|leaf| leaf % EVERY == EVERY / 2).count() as u64;
    let holes = (0..leaves).filter(|leaf| leaf % EVERY == 0).count() as u64;
    let lines: Vec<_> = listed.stdout.lines().collect();
    ensure!(lines.len() as u64 == holes + 2 * read_only, "{} ranges are listed", lines.len());
    let third = "0x00000000001f5000-0x00000000003e7fff";
    ensure!(lines[2].starts_with(third), "the third range is {}", lines[2]);
    Ok(format!("{} ranges of {} leaves in {seconds:.2} s", lines.len(), leaves - holes))
}

fn write(dump: &Path) -> std::io::Result<()> {
    let mut file = File::create(dump)?;
    file.set_len(SIZE)?;
    file.seek(SeekFrom::Start(TABLES))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    // Tables of each level lie behind all of the level above.
    let counts = [1, 1, SIZE >> 30, SIZE >> 21];
    let mut below = TABLES;
    for (depth, count) in counts.into_iter().enumerate() {
        below += count * PAGE;
        let used = counts.get(depth + 1).copied().unwrap_or(SIZE / PAGE);
        for index in 0..count * 512 {
            let entry = match index {
                _ if index >= used => 0,
                _ if depth < 3 => (below + index * PAGE) | POINTER,
                _ if index % EVERY == 0 => 0,
                _ if index % EVERY == EVERY / 2 => (index * PAGE) | (LEAF & !WRITE),
                _ => (index * PAGE) | LEAF,
            };
            file.write_all(&entry.to_le_bytes())?;
        }
    }
    file.flush()
}
