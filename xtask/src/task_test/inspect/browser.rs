//! The page that `slat-inspect draw` makes, in a browser without a screen: that its script runs to its end, that the ranges of a guest
//! of one TiB are there with their colours, that an address behind `#` is found; and that a page that is broken is noticed.

use super::{Slot, Tool, optional_step, text};
use crate::process::{self, Captured};
use crate::setup;
use crate::task_test::step::{Outcome, Step};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A browser that draws nothing in this time never will; it takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

const PAGE: u64 = 4096;
const ROOT: u64 = 0x1000;
/// EPT: readable, writable, executable.
const POINTER: u64 = 7;
const RAM: u64 = 7 | (6 << 3);
const LARGE: u64 = 1 << 7;
/// Uncacheable, not executable.
const DEVICE: u64 = 3;

/// What has to be in the drawn page: rows of its table, without the marks.
const ROWS: [&str; 6] = [
    "0x000000000000-0x00000009ffff</td><td class=\"number\">640 KiB</td><td>0x4000000000</td><td>rwxu</td><td>WB",
    "0x000000100000-0x0000001fffff</td><td class=\"number\">1 MiB</td><td>0x4000100000</td><td>r-xu</td><td>WB",
    "0x000000200000-0x00003fffffff</td><td class=\"number\">1022 MiB</td><td>0x4000200000</td><td>rwxu</td><td>WB",
    "0x000040000000-0x0000bfffffff</td><td class=\"number\">2 GiB</td><td>0x4040000000</td><td>rwxu</td><td>WB",
    "0x0000fec00000-0x0000fec00fff</td><td class=\"number\">4 KiB</td><td>0xfec00000</td><td>rw--</td><td>UC",
    "0x000100000000-0x00ffffffffff</td><td class=\"number\">1020 GiB</td><td>0x4100000000</td><td>rwxu</td><td>WB",
];

pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    vec![optional_step(slot, "the page in a browser", |tool, context, output| {
        match setup::browser(&context.host) {
            Ok(browser) => Outcome::of(drawn(tool, &browser, output)),
            Err(error) => Outcome::Impossible(format!("{error:#}")),
        }
    })]
}

fn drawn(tool: &Tool, browser: &Path, output: &mut String) -> Result<String> {
    let directory = tempfile::Builder::new().prefix("slat-inspect-").tempdir();
    let directory = directory.context("no temporary directory")?;
    let directory = directory.path();
    let (dump, page) = (directory.join("dump"), directory.join("page.html"));
    fs::write(&dump, guest()).context("cannot write a dump")?;
    let root = format!("{ROOT:#x}");
    let draw = ["draw", text(&dump)?, "--format", "ept", "--root", &root, "--title", "a guest of 1 TiB"];
    tool.run(&[&draw[..], &["-o", text(&page)?]].concat(), output)?;

    let url = format!("file://{}", text(&page)?);
    let document = open(browser, directory, &format!("{url}#0xfec00123"), &["--dump-dom"])?.stdout;
    is_drawn(&document)?;
    ensure!(document.contains("data-ranges=\"6\""), "it does not have six ranges");
    ensure!(
        document.contains("GPA 0x0000fec00000 – 0x0000fec00fff") && document.contains("1 of 4 KiB"),
        "the address behind # is not looked up"
    );
    // With nothing looked up everything is in view.
    let document = open(browser, directory, &url, &["--dump-dom"])?.stdout;
    is_drawn(&document)?;
    for row in ROWS {
        ensure!(document.contains(row), "there is no row `{row}`");
    }
    let map = document.split_once("id=\"map\"").context("there is no map")?.1;
    for class in ["p-rwx", "p-rx", "p-rw"] {
        ensure!(map.contains(&format!("class=\"{class}\"")), "nothing has the colour {class}");
    }
    ensure!(map.matches("class=\"fold\"").count() >= 3, "the holes are not folded");
    let picture = directory.join("page.png");
    let screenshot = format!("--screenshot={}", text(&picture)?);
    open(browser, directory, &url, &[&screenshot, "--window-size=1280,900"])?;
    let picture = fs::read(&picture).context("there is no screenshot")?;
    ensure!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "the screenshot is empty");

    // The control that these checks can fail: a script with a mistake in it.
    let broken = fs::read_to_string(&page)
        .context("cannot read the page")?
        .replace("function layOut()", "function lay()");
    let page = directory.join("broken.html");
    fs::write(&page, broken).context("cannot write a page")?;
    let document = open(browser, directory, &format!("file://{}", text(&page)?), &["--dump-dom"])?.stdout;
    ensure!(is_drawn(&document).is_err(), "a page with a mistake in its script counts as drawn");
    Ok("6 ranges, 1 TiB; a mistake in the script is noticed".to_owned())
}

fn is_drawn(document: &str) -> Result<()> {
    if let Some((_, error)) = document.split_once("data-error=\"") {
        anyhow::bail!("the page's script failed: {}", error.split('"').next().unwrap_or_default());
    }
    ensure!(document.contains("data-state=\"drawn\""), "the page's script did not come to its end");
    Ok(())
}

/// Opens a page and does what is wanted with it.
fn open(browser: &Path, directory: &Path, url: &str, wanted: &[&str]) -> Result<Captured> {
    let mut command = Command::new(browser);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ]);
    command.args(["--no-first-run", "--disable-background-networking", "--virtual-time-budget=4000"]);
    command.arg(format!("--user-data-dir={}", directory.join("profile").display()));
    command.args(wanted).arg(url);
    let captured = process::capture_within(&mut command, PATIENCE)?;
    ensure!(captured.success, "the browser failed: {}", captured.complaint());
    Ok(captured)
}

/// A guest with a hole for the screen, one for devices, an I/O APIC, and RAM up to 1 TiB in pages of all sizes.
fn guest() -> Vec<u8> {
    let table = |index: u64| ROOT + index * PAGE;
    let mut words = vec![0_u64; 512 * 8];
    let mut set = |table: u64, index: u64, value: u64| words[(512 * (table + 1) + index) as usize] = value;
    // Root, two tables of 512 GiB, one of 1 GiB for the beginning and one for devices, their tables of 2 MiB.
    set(0, 0, table(1) | POINTER);
    set(0, 1, table(2) | POINTER);
    set(1, 0, table(3) | POINTER);
    set(1, 3, table(5) | POINTER);
    set(3, 0, table(4) | POINTER);
    set(5, (0xfec0_0000 >> 21) & 511, table(6) | POINTER);
    let host = |guest: u64| (0x40 << 32) + guest;
    for gib in (1..3).chain(4..512) {
        set(1, gib, host(gib << 30) | RAM | LARGE);
    }
    for gib in 512..1024 {
        set(2, gib - 512, host(gib << 30) | RAM | LARGE);
    }
    for mib in (2..1024).step_by(2) {
        set(3, mib / 2, host(mib << 20) | RAM | LARGE);
    }
    for page in 0..0xa0 {
        set(4, page, host(page * PAGE) | RAM);
    }
    for page in 0x100..0x200 {
        set(4, page, host(page * PAGE) | (RAM & !2));
    }
    set(6, (0xfec0_0000 >> 12) & 511, 0xfec0_0000 | DEVICE);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
