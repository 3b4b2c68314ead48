//! The monitor in a boot that is tested anyway: asked when the guest's user space begins, and its answers looked at.

use crate::boot::session::{Asking, Observed};
use crate::platform::Platform;
use anyhow::{Context as _, Result, ensure};

/// The commands, with the address of the kernel's first page in the middle.
macro_rules! commands {
    ($kernel:literal) => {
        concat!(
            "regs; map; query ",
            $kernel,
            "; query 0xffffffffffffffff; dump; stats; faults; audit; flushes; help; continue"
        )
    };
}

/// The address of the kernel's first page.
const fn kernel(platform: Platform) -> &'static str {
    match platform {
        Platform::Arm => "0x40200000",
        Platform::Riscv => "0x80200000",
        Platform::Intel | Platform::Amd => "0x1000000",
    }
}

/// Who asks the monitor of a guest on `platform`.
pub(super) const fn asking(platform: Platform) -> Asking {
    Asking::Script(match platform {
        Platform::Arm => commands!("0x40200000"),
        Platform::Riscv => commands!("0x80200000"),
        Platform::Intel | Platform::Amd => commands!("0x1000000"),
    })
}

/// Looks at the answers; a few words on them.
pub(super) fn answered(platform: Platform, seen: &Observed) -> Result<String> {
    let started = seen.started.as_ref().context("the hypervisor did not say what it chose")?;
    let [stopped, regs, map, query, outside, dump, stats, faults, audit, flushes, help, goes_on] =
        &seen.monitor[..]
    else {
        anyhow::bail!("the monitor said {:?}", seen.monitor)
    };
    let has = |text: &String, words: &[&str]| {
        let missing = words.iter().find(|word| !text.contains(**word));
        ensure!(missing.is_none(), "`{}` is missing in: {text}", missing.unwrap_or(&""));
        Ok(())
    };
    let register = match platform {
        Platform::Arm => "ttbr1_el1",
        Platform::Riscv => "vsatp",
        Platform::Intel | Platform::Amd => "cr3",
    };
    has(stopped, &["vCPU 0 is stopped at PC 0x", "`continue`"])?;
    has(regs, &[register])?;
    has(map, &["alloc, leaves up to", " x "])?;
    let kernel = kernel(platform);
    has(query, &[&format!("PA {kernel}: -> 0x"), " page at 0x", "\nregion 0x"])?;
    // A line for each entry on the way, unless a large leaf ends it; the result; the region.
    let levels = query.lines().count().saturating_sub(2);
    let all = started.levels as usize;
    ensure!(levels == all || levels == all - 1, "{levels} of {all} levels: {query}");
    has(outside, &["wider than the root table translates", "in no region"])?;
    has(dump, &["root table at 0x", " table at 0x"])?;
    has(stats, &["firmware calls", "leaves: "])?;
    let count = |text: &String, name: &str| -> Result<u64> {
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let number = line.and_then(|line| line.split_whitespace().next_back());
        number.and_then(|number| number.parse().ok()).with_context(|| format!("no {name} in: {text}"))
    };
    let of_run = count(stats, "faults")?;
    ensure!(of_run > 0, "{stats}");
    has(faults, &["vCPU 0 PC 0x", " of GPA 0x", ": populated, a leaf of "])?;
    has(audit, &["no violation in "])?;
    count(flushes, "all")?;
    has(help, &["query GPA", "continue"])?;
    ensure!(goes_on == "the guest goes on\n", "at last it said {goes_on}");
    Ok(format!("stopped after {of_run} faults, {levels} levels to the kernel"))
}
