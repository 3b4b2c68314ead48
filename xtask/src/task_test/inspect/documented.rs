//! The lines of the documents that begin with `slat-inspect`, executed where there are dumps of the names that they use.

use super::Tool;
use crate::process;
use crate::task_test::{Context, commands, tidy};
use anyhow::{Context as _, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

pub(super) fn executed(tool: &Tool, context: &Context, output: &mut String) -> Result<String> {
    let directory = tempfile::Builder::new().prefix("slat-inspect-").tempdir();
    let directory = directory.context("no temporary directory")?;
    dumps(directory.path()).context("cannot write dumps")?;
    let mut count = 0;
    for path in tidy::files(context)?.iter().filter(|path| path.ends_with(".md")) {
        let text = fs::read_to_string(context.workspace.root.join(path)).unwrap_or_default();
        for line in commands::commands_of(&text) {
            let words = commands::words(&line)?;
            let Some(("slat-inspect", arguments)) = words.split_first().map(|(first, rest)| (*first, rest))
            else {
                continue;
            };
            let mut command = Command::new(&tool.program);
            let captured = process::capture(command.args(arguments).current_dir(directory.path()))?;
            output.push_str(&format!("$ {line}\n{}{}\n", captured.stdout, captured.stderr));
            // That something is found is no failure, and has the code 1; errors have words.
            ensure!(captured.stderr.is_empty(), "{path}: `{line}`: {}", captured.complaint());
            ensure!(!captured.stdout.is_empty(), "{path}: `{line}` says nothing");
            count += 1;
        }
    }
    ensure!(count >= 10, "the documents show {count} commands");
    Ok(format!("{count} commands"))
}

/// Raw memory and core files with the tables that the documents speak of.
fn dumps(directory: &Path) -> std::io::Result<()> {
    let ram = File::create(directory.join("ram.bin"))?;
    ram.set_len(128 << 20)?;
    let word = |address: u64, word: u64| ram.write_all_at(&word.to_le_bytes(), address);
    // EPT at 1 MiB: a page of RAM, an APIC's, and the page that is looked for from behind.
    for (address, entry) in [
        (0x10_0000, 0x10_1007),
        (0x10_1000, 0x10_2007),
        (0x10_1018, 0x10_4007),
        (0x10_2000, 0x10_3007),
        (0x10_3008, 0x7f00_0037),
        (0x10_4000 + 8 * 0x1f6, 0x10_5007),
        (0x10_4000 + 8 * 0x1f7, 0x10_6007),
        (0x10_5000, 0xfec0_0033),
        (0x10_6000, 0xfee0_0003),
    ] {
        word(address, entry)?;
    }
    // Sv57 at 64 MiB, where RAM begins at 2 GiB; each table points to the next one, and the last one to a page.
    for level in 0..4 {
        word(0x400_0000 + 0x1000 * level + if level == 2 { 16 } else { 0 }, ((0x8_4001 + level) << 10) | 1)?;
    }
    word(0x400_4000, (0x8_0200 << 10) | 0xcf)?;
    for (name, permissions) in [("guest.core", 7), ("before.core", 7), ("after.core", 5)] {
        fs::write(directory.join(name), core_file(permissions))?;
    }
    Ok(())
}

/// A core file of x86-64 with a page at 4 KiB that allows this.
fn core_file(permissions: u64) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const NOTES: u64 = 20 + 440;
    const MEMORY: u64 = 0x6000;
    let mut bytes = vec![0; (HEADERS + NOTES + MEMORY) as usize];
    let mut put =
        |at: u64, value: &[u8]| bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[4, 0, 62, 0, 1]);
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 2]);
    for (index, kind, offset, size) in [(0, 4_u32, HEADERS, NOTES), (1, 1, HEADERS + NOTES, MEMORY)] {
        let at = 64 + 56 * index;
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 32, &size.to_le_bytes());
        put(at + 40, &size.to_le_bytes());
    }
    put(HEADERS, &[5, 0, 0, 0, 0xb8, 1]);
    put(HEADERS + 12, b"QEMU");
    let state = HEADERS + 20;
    put(state, &[1, 0, 0, 0, 0xb8, 1]);
    // CR0, CR3 and CR4: paging, the root table, PAE.
    for (offset, register) in [(392, 0x8000_0011_u64), (416, 0x1000), (424, 0x20)] {
        put(state + offset, &register.to_le_bytes());
    }
    for (address, entry) in
        [(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007), (0x4008, 0x5000 | permissions)]
    {
        put(HEADERS + NOTES + address, &u64::to_le_bytes(entry));
    }
    bytes
}
