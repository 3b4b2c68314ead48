//! Linux stopped in the middle of its user space: forked, and each goes on with something else; written away, and it goes on in
//! another run; moved while it works.

use super::several::frames_came_back;
use super::{Bench, Slot, step};
use crate::boot::session::{Goal, Guest, Observed};
use crate::boot::verdict;
use crate::guests::commands;
use crate::task_run::PAYLOAD_SEED;
use crate::task_test::command_line;
use crate::task_test::linux::MEMORY;
use crate::task_test::step::Step;
use anyhow::{Context as _, Result, ensure};
use slat_hv_protocol::Mistake;
use slat_hv_protocol::pause::Then;
use std::time::Duration;

/// How long all of them have together on one hart of a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

const FORK: Then = Then::Fork { children: 3 };

/// Frames that a fork takes at most before anybody writes: a root, what is known of the regions, and a version.
const FRAMES_OF_A_FORK: u64 = 8;

/// All of them.
pub(super) fn steps(slot: &Slot) -> Vec<Step> {
    vec![
        step(slot, "a guest is forked three times", forked),
        step(slot, "a guest is written away and goes on in another run", restored),
        step(slot, "a guest moves while it works", moved),
        step(slot, "a dirty page that is left out of a move is seen by what the guest prints", moved_badly),
        step(slot, "a page that a fork shares is seen by what the guests print", forked_badly),
    ]
}

/// The guest that waits for a command, stopped and treated so.
fn boot(bench: &Bench, then: Then, mistake: Mistake, output: &mut String) -> Result<(Guest, Observed)> {
    let linux = &bench.linux;
    let mut guest = linux.linux(&linux.kernel, MEMORY)?;
    guest.bootargs = format!("{} {}", guest.bootargs, commands::VARIABLE);
    guest.results = commands::pause(then, PAYLOAD_SEED).1;
    match then {
        Then::Snapshot => guest.goal = Goal::Saved,
        Then::Migrate => guest.goal = Goal::Moved,
        Then::Fork { .. } | Then::Restore => {}
    }
    run(bench, guest, then, mistake, output)
}

fn run(
    bench: &Bench,
    guest: Guest,
    then: Then,
    mistake: Mistake,
    output: &mut String,
) -> Result<(Guest, Observed)> {
    let linux = &bench.linux;
    let mut boot = linux.usual();
    (boot.choices.pause, boot.choices.mistake) = (Some(then), mistake);
    let machine = linux.machine(boot.cpu, 1, boot.pace);
    let seen = linux.run(&guest, &machine, &boot.choices, PATIENCE, output)?;
    Ok((guest, seen))
}

/// Each guest prints what it has to, and has few pages of its own.
fn forked(bench: &Bench, output: &mut String) -> Result<String> {
    let (guest, seen) = boot(bench, FORK, Mistake::None, output)?;
    verdict::under_slat(&guest, &seen).map_err(anyhow::Error::msg)?;
    let report = seen.report.as_ref().context("there is no report")?;
    frames_came_back(report)?;
    let forked = seen.forked.as_ref().context("it was not forked")?;
    ensure!(forked.forks.len() == FORK.more_guests() as usize, "there are {} forks", forked.forks.len());
    let memory = forked.parent.memory;
    for fork in &forked.forks {
        ensure!(fork.frames <= FRAMES_OF_A_FORK && fork.ticks >= fork.space_ticks, "it cost {fork:?}");
    }
    for one in &report.guests {
        ensure!(one.faults.copied > 0, "guest {} shares everything", one.guest);
        ensure!(
            one.own.memory < memory / 4,
            "guest {} has {} pages of {memory} alone",
            one.guest,
            one.own.memory
        );
    }
    ensure!(report.frames.peak < 2 * memory, "{} frames were in use, for {memory} pages", report.frames.peak);
    let own: Vec<_> = report.guests.iter().map(|one| one.own.memory).collect();
    let frames: Vec<_> = forked.forks.iter().map(|fork| fork.frames).collect();
    Ok(format!("of {memory} pages {own:?} became each one's own; the forks took {frames:?} frames"))
}

/// The control: with one page in common a guest finds there what another one wrote.
fn forked_badly(bench: &Bench, output: &mut String) -> Result<String> {
    let (guest, seen) = boot(bench, FORK, Mistake::SharedFrame, output)?;
    ensure!(seen.forked.is_some(), "it was not forked: {:?}", seen.failed);
    let reason = verdict::under_slat(&guest, &seen).err().context("nobody has noticed")?;
    ensure!(reason.contains("what it was told to do came to"), "it was noticed by something else: {reason}");
    Ok(reason)
}

/// Only what is not zero is written away; the guest goes on from it, and from nothing else.
fn restored(bench: &Bench, output: &mut String) -> Result<String> {
    let (mut guest, seen) = boot(bench, Then::Snapshot, Mistake::None, output)?;
    verdict::under_slat(&guest, &seen).map_err(anyhow::Error::msg)?;
    frames_came_back(seen.report.as_ref().context("there is no report")?)?;
    let saved = seen.saved.context("it was not written away")?;
    let snapshot = seen.snapshot.context("there is no snapshot")?;
    ensure!(saved.pages < saved.of_pages / 2 && saved.bytes == snapshot.len() as u64, "it is {saved:?}");

    let directory = tempfile::tempdir().context("no temporary directory")?;
    let file = directory.path().join("snapshot");
    guest.kernel.clone_from(&file);
    (guest.initrd, guest.goal) = (None, Goal::PowerOff);
    std::fs::write(&file, &snapshot).context("cannot write the snapshot")?;
    let (guest, seen) = run(bench, guest, Then::Restore, Mistake::None, output)?;
    verdict::under_slat(&guest, &seen).map_err(anyhow::Error::msg)?;
    frames_came_back(seen.report.as_ref().context("there is no report")?)?;

    let (middle, end) = (snapshot.len() / 2, snapshot.len() - 8);
    let mut damaged = snapshot.clone();
    damaged[middle] ^= 4;
    let others = [
        (damaged, "it is damaged"),
        (snapshot[..end].to_vec(), "it is cut off"),
        (vec![b'x'; 4096], "it is no snapshot of a guest"),
    ];
    let program = std::env::current_exe().context("this program has no path")?;
    for (bytes, words) in others {
        std::fs::write(&file, bytes).context("cannot write the snapshot")?;
        let arguments = ["--arch", "riscv64", "--restore", &file.to_string_lossy()].map(str::to_owned);
        command_line::check(&program, &arguments, words).context("xtask")?;
        // It is asked itself, without xtask in between.
        let (guest, seen) = run(bench, guest.clone(), Then::Restore, Mistake::None, output)?;
        let reason = verdict::under_slat(&guest, &seen).err().context("slat-hv takes anything")?;
        ensure!(reason.contains(words) && seen.started.is_none(), "`{words}` is missing in: {reason}");
    }
    Ok(format!("{} of {} pages, {} KiB", saved.pages, saved.of_pages, saved.bytes >> 10))
}

/// Everything is copied once, then less and less; the guest finds what it wrote and goes on with it.
fn moved(bench: &Bench, output: &mut String) -> Result<String> {
    let (guest, seen) = boot(bench, Then::Migrate, Mistake::None, output)?;
    verdict::under_slat(&guest, &seen).map_err(anyhow::Error::msg)?;
    let report = seen.report.as_ref().context("there is no report")?;
    frames_came_back(report)?;
    let moved = seen.moved.as_ref().context("it has not moved")?;
    let pages: Vec<_> = moved.rounds.iter().map(|round| round.pages).collect();
    let [first, others @ .., last] = &pages[..] else { anyhow::bail!("the rounds are {pages:?}") };
    ensure!(*last > 0 && others.iter().chain([last]).all(|pages| pages < &(first / 4)), "{pages:?}");
    Ok(format!("pages {pages:?}"))
}

/// The control: one page that the guest wrote to at last is not copied.
fn moved_badly(bench: &Bench, output: &mut String) -> Result<String> {
    let (guest, seen) = boot(bench, Then::Migrate, Mistake::LostDirtyPage, output)?;
    ensure!(seen.moved.is_some(), "it has not moved: {:?} {:?}", seen.failed, seen.report);
    let reason = verdict::under_slat(&guest, &seen).err().context("it has not noticed")?;
    ensure!(reason.contains("wrong, then"), "it was noticed by something else: {reason}");
    Ok(reason)
}
