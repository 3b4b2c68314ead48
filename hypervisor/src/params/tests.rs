use super::*;
use alloc::string::ToString;
use alloc::vec::Vec;
use slat_hv_protocol::{FaultPolicy, Leaf, Mistake};

const MAP: MemoryMap = MemoryMap::AARCH64;

fn params() -> Params {
    Params {
        nonce: "a1b2".to_string(),
        pool: Span { address: 0x5000_0000, size: 0x1000_0000 },
        recording: Span { address: 0x6000_0000, size: 0x1000 },
        trace: Span::default(),
        kernel: Span { address: 0x4200_0000, size: 27 << 20 },
        initrd: Span { address: 0x4400_0000, size: 12345 },
        guest_memory: 128 << 20,
        cpus: 1,
        guests: 1,
        host_cpus: None,
        gpa_bits: None,
        bootargs: "console=ttyAMA0".to_string(),
        leaf: Leaf::Auto,
        on_fault: FaultPolicy::Stop,
        churn: None,
        mistake: Mistake::None,
        page_requests: false,
        unit_guests: Vec::new(),
        until_screen: None,
        until_console: None,
        pause: None,
        monitor: false,
        paging: None,
    }
}

fn refused(change: impl FnOnce(&mut Params)) -> ParamsError {
    let mut params = params();
    change(&mut params);
    check(&params, &MAP).expect_err("this must be refused")
}

#[test]
fn good_parameters_pass_with_and_without_initrd() {
    assert_eq!(check(&params(), &MAP), Ok(()));
    assert_eq!(check(&Params { initrd: Span::default(), ..params() }, &MAP), Ok(()));
}

#[test]
fn each_defect_has_its_own_error() {
    assert_eq!(refused(|p| p.nonce.clear()), ParamsError::Nonce);
    assert_eq!(refused(|p| p.nonce.push(' ')), ParamsError::Nonce);
    assert_eq!(refused(|p| p.kernel.size = 0), ParamsError::Empty("kernel"));
    assert_eq!(refused(|p| p.pool.size = 0), ParamsError::Empty("pool"));
    assert_eq!(refused(|p| p.pool.address += 4096), ParamsError::UnalignedPool);
    assert_eq!(refused(|p| p.pool.size += 1), ParamsError::UnalignedPool);
    assert_eq!(
        refused(|p| p.kernel.address = MAP.blobs - 1),
        ParamsError::Outside { first: MAP.blobs, end: MAP.end, name: "kernel" }
    );
    assert_eq!(
        refused(|p| p.initrd.size = u64::MAX),
        ParamsError::Outside { first: MAP.blobs, end: MAP.end, name: "initrd" }
    );
    assert_eq!(
        refused(|p| p.pool.size = 1 << 40),
        ParamsError::Outside { first: MAP.blobs, end: MAP.end, name: "pool" }
    );
    assert_eq!(refused(|p| p.guest_memory = 0), ParamsError::GuestMemory(256 << 30));
    assert_eq!(refused(|p| p.guest_memory += 4096), ParamsError::GuestMemory(256 << 30));
    assert_eq!(refused(|p| p.guest_memory = 1 << 62), ParamsError::GuestMemory(256 << 30));
    assert_eq!(refused(|p| p.cpus = 0), ParamsError::Cpus);
    assert_eq!(refused(|p| p.cpus = 3), ParamsError::Cpus);
    assert_eq!(refused(|p| p.bootargs.push('\0')), ParamsError::CommandLine);
}

#[test]
fn overlaps_are_found_in_either_order() {
    let overlap = |first, second| ParamsError::Overlap { first, second };
    assert_eq!(refused(|p| p.kernel.address = p.pool.address + 4096), overlap("pool", "kernel"));
    assert_eq!(refused(|p| p.kernel.address = p.pool.address - 4096), overlap("pool", "kernel"));
    assert_eq!(refused(|p| p.initrd.address = p.kernel.address), overlap("kernel", "initrd"));
    assert_eq!(
        refused(|p| p.initrd.address = p.kernel.address + p.kernel.size - 1),
        overlap("kernel", "initrd")
    );
}

#[test]
fn several_guests_and_other_numbers_of_cpus_are_for_riscv() {
    for number in [0, GUESTS_MAX as u32 + 1, u32::MAX] {
        assert_eq!(refused(|p| p.guests = number), ParamsError::Guests);
    }
    for number in [0, CPUS_MAX as u32 + 1, u32::MAX] {
        assert_eq!(refused(|p| p.host_cpus = Some(number)), ParamsError::HostCpus);
    }
    assert!(matches!(refused(|p| p.guests = 2), ParamsError::Pinned(_)));
    assert!(matches!(refused(|p| p.host_cpus = Some(2)), ParamsError::Pinned(_)));
    assert_eq!(check(&Params { host_cpus: Some(1), ..params() }, &MAP), Ok(()));
    let at = |offset: u64, size| Span { address: MemoryMap::RISCV64.blobs + offset, size };
    let several = Params {
        pool: at(0x1ff_0000, 64 << 20),
        recording: Span::default(),
        kernel: at(0, 27 << 20),
        initrd: Span::default(),
        guests: GUESTS_MAX as u32,
        host_cpus: Some(2),
        ..params()
    };
    // More guest memory than there is in the pool.
    assert_eq!(check(&several, &MemoryMap::RISCV64), Ok(()));
    // The monitor is for one.
    assert_eq!(check(&Params { monitor: true, ..params() }, &MAP), Ok(()));
    let monitored = Params { monitor: true, ..several };
    assert_eq!(check(&monitored, &MemoryMap::RISCV64), Err(ParamsError::Monitor));
}

#[test]
fn ram_is_paged_on_riscv_to_memory_of_its_own() {
    const RISCV: MemoryMap = MemoryMap::RISCV64;
    let at = |offset: u64, size| Span { address: RISCV.blobs + offset, size };
    let paging = Paging { store: at(0x7ff_0000, 64 << 20), idle_scans: 3 };
    let paged = || Params {
        pool: at(0x1ff_0000, 48 << 20),
        recording: Span::default(),
        kernel: at(0, 27 << 20),
        initrd: Span::default(),
        paging: Some(paging),
        ..params()
    };
    assert_eq!(check(&paged(), &RISCV), Ok(()));
    assert!(matches!(refused(|p| p.paging = Some(paging)), ParamsError::Pinned(_)), "elsewhere");
    let refused = |change: fn(&mut Params, &mut Paging)| {
        let (mut params, mut paging) = (paged(), paging);
        change(&mut params, &mut paging);
        check(&Params { paging: Some(paging), ..params }, &RISCV).expect_err("this must be refused")
    };
    let store = "store of paged-out pages";
    assert_eq!(refused(|_, paging| paging.store.address += 8), ParamsError::UnalignedStore);
    assert_eq!(refused(|_, paging| paging.store.size = 0), ParamsError::Empty(store));
    assert_eq!(refused(|_, paging| paging.idle_scans = 0), ParamsError::IdleScans);
    let overlap = ParamsError::Overlap { first: "pool", second: store };
    assert_eq!(refused(|params, paging| paging.store.address = params.pool.address), overlap);
    let churn = Some(slat_hv_protocol::Churn { seed: 1, per_exit: 1, limit: 1 });
    let with_churn = Params { churn, ..paged() };
    assert!(matches!(check(&with_churn, &RISCV), Err(ParamsError::Paged(_))));
    assert!(matches!(refused(|params, _| params.page_requests = true), ParamsError::Paged(_)));
}
