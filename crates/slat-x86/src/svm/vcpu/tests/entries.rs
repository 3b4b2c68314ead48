//! ASIDs, TLB_CONTROL, clean bits, and entries that fail.

use super::*;

const CPUID: u64 = code::CPUID;

fn run(vcpu: &mut TestVcpu<'_, '_>, flush: bool) -> LastEntry {
    vcpu.instructions.exit(CPUID);
    assert_eq!(vcpu.run(flush), Ok(Exit::Cpuid));
    vcpu.last_entry()
}

#[test]
fn with_flush_by_asid_only_the_guests_own_translations_go() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 2), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &rome(), &tags, &script);
    vcpu.bind(0).expect("free");
    let entry = |tlb_control| LastEntry { asid: 1, tlb_control };
    assert_eq!(run(&mut vcpu, false), entry(TlbControl::Everything), "who knows what was before");
    assert_eq!(run(&mut vcpu, false), entry(TlbControl::Nothing));
    assert_eq!(run(&mut vcpu, true), entry(TlbControl::ThisAsid));
    assert_eq!(run(&mut vcpu, false), entry(TlbControl::Nothing), "written anew for every entry");
    vcpu.set_root(0x2000).expect("a good root");
    assert_eq!(run(&mut vcpu, false), entry(TlbControl::ThisAsid));
    // Another CPU, and back.
    vcpu.unbind();
    script.go_to(1);
    vcpu.bind(1).expect("free");
    assert_eq!(run(&mut vcpu, false), entry(TlbControl::Everything));
    vcpu.unbind();
    script.go_to(0);
    vcpu.bind(0).expect("free");
    assert_eq!(run(&mut vcpu, false), entry(TlbControl::ThisAsid));
    vcpu.unbind();
    vcpu.bind(0).expect("free");
    let again = "another vCPU of the space may have been told meanwhile";
    assert_eq!(run(&mut vcpu, false), entry(TlbControl::ThisAsid), "{again}");
    assert_eq!(run(&mut vcpu, false), entry(TlbControl::Nothing));
    // What is asked for in vain is owed.
    vcpu.unbind();
    assert_eq!(vcpu.run(true), Err(RunError::NotBound));
    assert!(vcpu.owes_flush);
}

#[test]
fn without_flush_by_asid_a_fresh_one_is_taken() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.bind(0).expect("free");
    assert_eq!(run(&mut vcpu, false).tlb_control, TlbControl::Everything);
    let mut last = vcpu.last_entry().asid;
    let mut everything = 0;
    for _ in 0..100 {
        let kept = run(&mut vcpu, false);
        assert_eq!(kept, LastEntry { asid: last, tlb_control: TlbControl::Nothing });
        let fresh = run(&mut vcpu, true);
        assert_ne!((fresh.asid, fresh.asid), (last, 0));
        everything += u32::from(fresh.tlb_control == TlbControl::Everything);
        last = fresh.asid;
    }
    // 15 ASIDs in the first generation, and 14 in each further one, which keeps the one that is active.
    assert!((6..=8).contains(&everything), "{everything}");
}

#[test]
fn with_a_single_asid_everything_is_dropped() {
    let hal = HeapHal::new();
    let script = Script::new(&hal);
    let tags = TagPool::new(&hal, 1, 1).expect("memory");
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.bind(0).expect("free");
    for (flush, tlb_control) in
        [(false, TlbControl::Everything), (false, TlbControl::Nothing), (true, TlbControl::Everything)]
    {
        assert_eq!(run(&mut vcpu, flush), LastEntry { asid: 1, tlb_control });
    }
}

#[test]
fn the_vmcb_has_what_the_report_says() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &rome(), &tags, &script);
    vcpu.bind(0).expect("free");
    for (flush, control, clean) in [(false, 1, 0), (true, 3, 0x7ff), (false, 0, 0x7ff)] {
        script.then(move |view| {
            assert_eq!((view.get(fields::ASID), view.get(fields::TLB_CONTROL)), (1, control));
            assert_eq!(view.get(fields::CLEAN), clean);
            assert_eq!((view.get(fields::NESTED_CR3), view.get(fields::NESTED_CONTROL)), (0x1000, 1));
            assert_eq!(view.get(fields::EFER), EFER_SVME, "without it no entry succeeds");
            view.exit(CPUID);
        });
        assert_eq!(vcpu.run(flush), Ok(Exit::Cpuid));
    }
}

#[test]
fn another_cpu_has_kept_nothing() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 2), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &rome(), &tags, &script);
    for (cpu, clean) in [(0, 0), (0, 0x7ff), (1, 0), (1, 0x7ff), (0, 0)] {
        script.go_to(cpu);
        vcpu.bind(cpu).expect("free");
        script.then(move |view| {
            assert_eq!(view.get(fields::CLEAN), clean, "on CPU {cpu}");
            view.exit(CPUID);
        });
        assert_eq!(vcpu.run(false), Ok(Exit::Cpuid));
        vcpu.unbind();
    }
}

#[test]
fn a_cpu_without_clean_bits_is_told_of_none() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &epyc(), &tags, &script);
    vcpu.bind(0).expect("free");
    for _ in 0..2 {
        script.then(|view| {
            assert_eq!(view.get(fields::CLEAN), 0);
            view.exit(CPUID);
        });
        assert_eq!(vcpu.run(false), Ok(Exit::Cpuid));
    }
}

#[test]
fn an_entry_that_fails_pays_no_debts() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let mut vcpu = vcpu(&hal, &rome(), &tags, &script);
    vcpu.bind(0).expect("free");
    vcpu.inject(Event::Nmi).expect("an event");
    // QEMU writes the lower half.
    for code in [u64::MAX, 0xffff_ffff] {
        script.exit(code);
        assert_eq!(vcpu.run(false), Err(RunError::InvalidState { reason: code, qualification: 0 }));
        assert_eq!(vcpu.last_entry().tlb_control, TlbControl::Everything);
    }
    // Hardware that does nothing at all.
    script.then(|_| {});
    assert_eq!(vcpu.run(false), Err(RunError::InvalidState { reason: u64::MAX, qualification: 0 }));
    script.then(|view| {
        assert_eq!(view.get(fields::TLB_CONTROL), 1);
        assert_eq!(view.get(fields::CLEAN), 0);
        assert_eq!(view.get(fields::EVENT_INJECTION), 0x8000_0202);
        view.exit(CPUID);
    });
    assert_eq!(vcpu.run(false), Ok(Exit::Cpuid));
    script.then(|view| {
        assert_eq!((view.get(fields::TLB_CONTROL), view.get(fields::EVENT_INJECTION)), (0, 0));
        view.exit(u64::MAX);
    });
    assert!(vcpu.run(false).is_err());
    assert_eq!(run(&mut vcpu, false).tlb_control, TlbControl::Nothing);
    // A flush of its own ASID that was not carried out.
    script.exit(u64::MAX);
    assert!(vcpu.run(true).is_err());
    assert_eq!(run(&mut vcpu, false).tlb_control, TlbControl::ThisAsid);
}

#[test]
fn a_vcpu_runs_only_where_it_is_bound() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 2), Script::new(&hal));
    let configuration =
        Configuration { capabilities: &rome(), intercepts: Intercepts::default(), ports: &Intercepted::NONE };
    let mut vcpu =
        SvmVcpu::with_instructions(&&hal, &configuration, &script.cpus, &tags, &script).expect("frames");
    assert_eq!(vcpu.run(false), Err(RunError::NotBound));
    script.on.set(false);
    assert_eq!(vcpu.bind(0), Err(BindError::Off(0)));
    script.on.set(true);
    assert_eq!(vcpu.bind(2), Err(BindError::Tag(TagError::NoSuchCpu { cpu: 2, cpus: 2 })));
    assert_eq!(vcpu.bind(1), Err(BindError::Elsewhere(1)));
    assert_eq!(vcpu.bound_to(), None);
    script.go_to(1);
    vcpu.bind(1).expect("free");
    assert_eq!(
        (vcpu.bound_to(), vcpu.bind(0), vcpu.bind(1)),
        (Some(1), Err(BindError::Bound(1)), Err(BindError::Bound(1)))
    );
    assert_eq!(vcpu.run(false), Err(RunError::NoRoot));
    for bad in [1, 0x800, 1 << 40, !0xfff] {
        assert_eq!(vcpu.set_root(bad), Err(RunError::BadRoot(bad)));
    }
    vcpu.set_root(0x1000).expect("a good root");
    // On another CPU it can neither be used nor taken along.
    script.go_to(0);
    assert_eq!(vcpu.run(false), Err(RunError::NotBound));
    vcpu.unbind();
    assert_eq!((vcpu.bound_to(), vcpu.bind(0)), (Some(1), Err(BindError::Bound(1))));
    script.go_to(1);
    assert_eq!(run(&mut vcpu, false).asid, 1);
    // And another vCPU has to wait.
    let mut other =
        SvmVcpu::with_instructions(&&hal, &configuration, &script.cpus, &tags, &script).expect("frames");
    assert_eq!(other.bind(1), Err(BindError::Occupied(1)));
    vcpu.unbind();
    vcpu.unbind();
    assert_eq!(vcpu.bound_to(), None);
    other.bind(1).expect("free");
    drop((vcpu, other));
    drop(tags);
    assert_eq!(hal.in_use(), SCRIPT);
}

#[test]
fn every_frame_goes_back_when_one_is_missing() {
    let hal = HeapHal::new();
    let (tags, script) = (pool(&hal, 1), Script::new(&hal));
    let before = hal.in_use();
    let configuration =
        Configuration { capabilities: &rome(), intercepts: Intercepts::default(), ports: &Intercepted::NONE };
    // VMCB, host's half, maps, two areas.
    for allowed in 0..5 {
        hal.fail_after(Some(allowed));
        let refused = SvmVcpu::with_instructions(&&hal, &configuration, &script.cpus, &tags, &script);
        assert_eq!(refused.err(), Some(OutOfMemory), "{allowed}");
        assert_eq!(hal.in_use(), before);
    }
    hal.fail_after(None);
    let vcpu =
        SvmVcpu::with_instructions(&&hal, &configuration, &script.cpus, &tags, &script).expect("frames");
    assert_eq!(hal.in_use(), before + 9);
    drop(vcpu);
    assert_eq!(hal.in_use(), before);
}
