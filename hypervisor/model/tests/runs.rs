//! Runs in which all must be well, and runs with a mistake, which has to be noticed.

use slat::trace::{FaultAnswer, Ring, What};
use slat_check::mistakes::Mistaken;
use slat_hv_model::{Checks, Cpu, Observed, Settings, cpu, run, run_on};
use slat_hv_protocol::{Churn, End, Leaf, Mistake};
use slat_model::Policy;
use std::sync::atomic::AtomicU64;

fn settings() -> Settings {
    Settings {
        cpus: 2,
        guests: 1,
        harts: None,
        pool: None,
        memory: 16 << 20,
        leaf: Leaf::Auto,
        churn: Some(Churn { seed: 1, per_exit: 6, limit: 600 }),
        mistake: Mistake::None,
        keeps_old_tags: false,
        trace: false,
        seed: 1,
        policy: Policy::Everything,
    }
}

/// A run in which everything must be as it should.
fn good(cpu: Cpu, settings: Settings) -> Observed {
    let observed = run(cpu, settings).expect("the run begins");
    assert_eq!(observed.checks.verdict(), Ok(()), "{cpu:?}, {settings:?}");
    let report = observed.report.as_ref().expect("everybody leaves");
    assert_eq!(report.end, End::PowerOff, "{cpu:?}, {settings:?}");
    assert_eq!(report.frames.taken, report.frames.returned);
    assert_eq!(observed.image, observed.image_read);
    assert!(observed.seconds_to_up.is_some());
    // All that the guest did to the emulated port has arrived: first it was turned on.
    let uart = &report.uart;
    assert!(uart.text.starts_with("emulated\n"), "{uart:?}");
    assert_eq!((uart.accesses, uart.bytes, uart.refused), (observed.emulated_stores, uart.accesses - 1, 0));
    assert!(observed.console.ends_with(b"goes off\n"), "{:?}", String::from_utf8_lossy(&observed.console));
    observed
}

#[test]
fn all_is_well_on_every_cpu() {
    for cpu in Cpu::ALL {
        for (cpus, leaf, policy) in [
            (1, Leaf::Size4K, Policy::Everything),
            (2, Leaf::Size2M, Policy::Seeded(7)),
            (4, Leaf::Auto, Policy::Everything),
        ] {
            let report = good(cpu, Settings { cpus, leaf, policy, ..settings() }).report.expect("seen above");
            let churn = report.churn.expect("churn ran");
            assert_eq!(churn.unmapped + churn.moved + churn.write_protected, 600);
            assert!(report.faults.restored > 0 && report.faults.unanswered == 0, "{:?}", report.faults);
            // Every CPU has run the guest.
            assert!(report.exits_by_cpu.len() == cpus && report.exits_by_cpu.iter().all(|exits| *exits > 0));
        }
    }
}

#[test]
fn a_run_is_a_function_of_its_settings() {
    let same = |settings| {
        let [first, second] = [(); 2].map(|()| good(Cpu::Riscv, settings).report);
        assert_eq!(first, second);
        first
    };
    let settings = Settings { cpus: 3, ..settings() };
    assert_ne!(same(settings), same(Settings { seed: 2, ..settings }));
}

#[test]
fn without_churn_every_page_is_populated_once() {
    for cpu in Cpu::ALL {
        let report = good(cpu, Settings { churn: None, leaf: Leaf::Size2M, ..settings() }).report;
        let report = report.expect("seen above");
        assert_eq!((report.faults.populated, report.leaves.size_2m), (8, 8), "{cpu:?}");
        assert_eq!((report.churn, report.faults.restored), (None, 0));
        // The console's page.
        assert_eq!(report.leaves.size_4k, 1);
    }
}

/// What the checks found in a run with a mistake, or that the guest made no progress.
fn bad(cpu: Cpu, settings: Settings) -> Checks {
    let observed = run(cpu, settings).expect("the run begins");
    let stuck = observed.report.as_ref().is_ok_and(|report| report.end != End::PowerOff);
    assert!(stuck || observed.checks.verdict().is_err(), "{cpu:?}, {settings:?}: nothing was noticed");
    observed.checks
}

#[test]
fn a_missing_invalidation_is_noticed() {
    for cpu in Cpu::ALL {
        for cpus in [1, 4] {
            let checks = bad(cpu, Settings { cpus, mistake: Mistake::NoTlbi, ..settings() });
            // Where a CPU remembers that there was nothing, it comes to a stop before it can read anything else.
            let read = checks.stale_reads > 0 || cpu == Cpu::Riscv;
            assert!(read && checks.reachable_frames > 0, "{cpu:?}: {checks:?}");
        }
    }
}

#[test]
fn an_invalidation_of_one_cpu_alone_is_noticed_where_there_are_two() {
    for cpu in Cpu::ALL {
        good(cpu, Settings { cpus: 1, mistake: Mistake::LocalTlbi, ..settings() });
        let checks = bad(cpu, Settings { mistake: Mistake::LocalTlbi, ..settings() });
        assert!(checks.stale_translations > 0, "{cpu:?}: {checks:?}");
    }
}

#[test]
fn what_the_emulator_notices_is_noticed_here() {
    for mistake in
        [Mistake::Ipas2Alone, Mistake::Vmalle1Alone, Mistake::WrongAddress, Mistake::El2Instruction]
    {
        let checks = bad(Cpu::Arm, Settings { mistake, ..settings() });
        assert!(checks.reachable_frames > 0 && checks.stale_translations > 0, "{mistake:?}: {checks:?}");
    }
}

#[test]
fn a_missing_break_is_noticed() {
    use slat_check::mistakes::Mistake::{BreakMissing, UserBitMissing};
    let platform = Mistaken { inner: cpu::stage2().expect("a width that exists"), mistake: BreakMissing };
    let observed = run_on(platform, Settings { leaf: Leaf::Size2M, ..settings() }).expect("the run begins");
    assert!(observed.checks.rules_broken > 0, "{:?}", observed.checks);
    let platform = Mistaken { inner: cpu::gstage().unwrap(), mistake: UserBitMissing };
    let observed = run_on(platform, settings()).expect("the run begins");
    let end = observed.report.expect("everybody leaves").end;
    assert!(matches!(end, End::Unsupported { .. }), "{end:?}");
}

#[test]
fn what_the_model_cannot_hold_is_refused() {
    for wrong in [
        Settings { cpus: 0, ..settings() },
        Settings { cpus: 9, ..settings() },
        Settings { memory: 14 << 20, ..settings() },
        Settings { memory: (16 << 20) + 4096, ..settings() },
        Settings { memory: 1 << 40, ..settings() },
        Settings { guests: 0, ..settings() },
        Settings { guests: 9, ..settings() },
        Settings { guests: 8, memory: 128 << 20, ..settings() },
        Settings { harts: Some(0), ..settings() },
        Settings { pool: Some(0), ..settings() },
        Settings { pool: Some(u64::MAX), ..settings() },
    ] {
        assert!(run(Cpu::Amd, wrong).is_err(), "{wrong:?}");
    }
}

fn several() -> Settings {
    Settings { guests: 3, harts: Some(2), cpus: 2, ..settings() }
}

/// A run of several guests in which everything must be as it should.
fn all_good(cpu: Cpu, settings: Settings) -> Observed {
    let observed = run(cpu, settings).expect("the run begins");
    assert_eq!(observed.checks.verdict(), Ok(()), "{cpu:?}, {settings:?}");
    let report = observed.report.as_ref().expect("everybody leaves");
    assert_eq!(report.end, End::PowerOff, "{cpu:?}, {settings:?}");
    assert_eq!(report.frames.taken, report.frames.returned);
    assert_eq!(observed.image, observed.image_read);
    assert_eq!(observed.images_right, vec![true; settings.guests]);
    let console = String::from_utf8_lossy(&observed.console);
    for guest in 0..settings.guests {
        let last = format!("[{guest}] it has read everything again, and goes off\r\n");
        assert!(settings.guests == 1 || console.contains(&last), "{console}");
    }
    assert_eq!(report.uart.accesses, observed.emulated_stores);
    observed
}

#[test]
fn several_guests_share_cpus_and_tags_on_every_cpu() {
    for cpu in Cpu::ALL {
        let all = [(4, 2, 1, true), (2, 2, 2, true), (3, 1, 1, false), (1, 1, 3, true)];
        // What neither tags nor formats have a part in is looked at once.
        for (guests, harts, cpus, churn) in all.into_iter().take(if cpu == Cpu::Riscv { 4 } else { 2 }) {
            let churn = settings().churn.filter(|_| churn);
            let settings = Settings { guests, harts: Some(harts), cpus, churn, ..settings() };
            let report = all_good(cpu, settings).report.expect("seen above");
            assert_eq!(report.guests.len(), if guests > 1 { guests } else { 0 });
            let ends = report.guests.iter().all(|guest| guest.end == End::PowerOff);
            assert!(ends && report.exits_by_cpu.len() == cpus, "{report:?}");
            let drawn = report.churn.map(|churn| churn.unmapped + churn.moved + churn.write_protected);
            assert_eq!(drawn, churn.map(|_| 600 * guests as u64));
        }
    }
}

#[test]
fn a_run_of_several_guests_is_a_function_of_its_settings_too() {
    let same = |settings| {
        let [first, second] = [(); 2].map(|()| all_good(Cpu::Arm, settings).report);
        assert_eq!(first, second);
        first
    };
    let settings = Settings { guests: 2, ..several() };
    assert_ne!(same(settings), same(Settings { seed: 2, ..settings }));
}

#[test]
fn of_guests_with_more_memory_than_there_is_some_end_and_nobody_else_is_touched() {
    // The policy knows no format.
    for cpu in [Cpu::Arm, Cpu::Riscv] {
        // Each of them touches one page in each 2 MiB at least, and its image; with 2 MiB at a time, all of its memory.
        let settings = Settings { pool: Some(41 << 20), leaf: Leaf::Size2M, ..several() };
        let observed = run(cpu, settings).expect("the run begins");
        assert_eq!(observed.checks.verdict(), Ok(()), "{cpu:?}");
        let report = observed.report.expect("everybody leaves");
        assert_eq!(report.frames.taken, report.frames.returned);
        let (well, starved): (Vec<_>, Vec<_>) =
            report.guests.iter().partition(|guest| guest.end == End::PowerOff);
        assert!(well.len() == 2 && starved.len() == 1, "{:?}", report.guests);
        let End::OutOfMemory { description } = &starved[0].end else { panic!("{:?}", starved[0].end) };
        assert!(description.starts_with(&format!("guest {}: ", starved[0].guest)), "{description}");
        assert_eq!(report.end, starved[0].end);
        assert!(well.iter().all(|guest| observed.images_right[guest.guest as usize]));
    }
}

#[test]
fn what_several_guests_see_of_each_other_by_a_mistake_is_noticed() {
    for cpu in Cpu::ALL {
        bad(cpu, Settings { mistake: Mistake::LocalTlbi, guests: 2, ..several() });
        let settings = Settings { keeps_old_tags: true, guests: 4, cpus: 1, ..several() };
        if cpu == Cpu::Intel {
            // What comes from EPT is told apart by the table's address, not by a tag.
            all_good(cpu, settings);
            continue;
        }
        let checks = bad(cpu, settings);
        let seen = checks.stale_reads + checks.stale_translations;
        assert!(seen > 0, "{cpu:?}: {checks:?}");
    }
}

#[test]
fn a_trace_changes_nothing_and_tells_every_fault() {
    for (cpu, guests) in Cpu::ALL.into_iter().flat_map(|cpu| [(cpu, 1), (cpu, 2)]) {
        let settings = Settings { churn: None, guests, harts: (guests > 1).then_some(2), ..settings() };
        let plain = run(cpu, settings).expect("the run begins");
        let traced = run(cpu, Settings { trace: true, ..settings }).expect("the run begins");
        assert_eq!((&plain.report, &plain.console, plain.trace.len()), (&traced.report, &traced.console, 0));
        let words: Vec<_> = traced.trace.iter().map(|word| AtomicU64::new(*word)).collect();
        let ring = Ring::new(&words);
        assert_eq!((ring.dropped(), ring.events().count() as u64), (0, ring.recorded()));
        let faults = ring.events().filter(
            |(_, event)| matches!(event.what, What::Fault { answer, .. } if answer != FaultAnswer::Trap),
        );
        let report = traced.report.expect("everybody leaves");
        // By the last ones CPUs leave at the end.
        let (told, counted) = (faults.count() as u64, report.faults.total);
        assert!(told >= counted && told <= counted + 8, "{cpu:?}: {told} of {counted}");
        assert!(ring.events().all(|(_, event)| event.begin <= event.end && event.cpu < 2));
    }
}
