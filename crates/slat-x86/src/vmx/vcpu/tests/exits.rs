use super::{HLT, INTERRUPTIBILITY, set, unbound, with_vcpu, with_vcpu_of};
use crate::exit::Exit;
use crate::frame::Frames;
use crate::port::Intercepted;
use crate::state::{CpuState, General};
use crate::vcpu::{RunError, Vcpu};
use crate::vmx::capabilities::tests::{HASWELL, TIGERLAKE};
use crate::vmx::double::Double;
use crate::vmx::vcpu::bitmaps::{fill_msrs, fill_ports};
use crate::vmx::vcpu::log::first_written;
use crate::vmx::{LogError, field};
use slat::GuestPhysAddr;
use slat::device::{Port, PortRange};
use slat::guest::GuestPaging;
use slat::test_util::HeapHal;

const RIP: u32 = field::GUEST_RIP.encoding();
const LENGTH: u32 = field::EXIT_INSTRUCTION_LENGTH.encoding();
const CPUID: u64 = 10;

#[test]
fn the_guest_goes_on_behind_the_instruction() {
    with_vcpu(|cpu, vcpu| {
        set(cpu, INTERRUPTIBILITY, 0b1011);
        cpu.exit(CPUID, &[(RIP, 0xffff_ffff_ffff), (LENGTH, 2)]);
        assert_eq!(vcpu.run(false), Ok(Exit::Cpuid));
        vcpu.advance();
        assert_eq!(vcpu.rip(), 0x1_0000_0000_0001);
        assert_eq!(cpu.field(INTERRUPTIBILITY), 8, "the shadow is over, NMIs stay blocked");
        assert_eq!(cpu.field(field::GUEST_PENDING_DEBUG.encoding()), 0);
        set(cpu, field::GUEST_RFLAGS.encoding(), 0x102);
        vcpu.advance();
        assert_eq!(cpu.field(field::GUEST_PENDING_DEBUG.encoding()), 1 << 14, "a single step is over");
        cpu.exit(HLT, &[(RIP, 5)]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(vcpu.rip(), 5);
    });
    with_vcpu_of(TIGERLAKE, &CpuState::protected_mode(0), |cpu, vcpu| {
        cpu.exit(CPUID, &[(RIP, 0xffff_ffff), (LENGTH, 2)]);
        assert_eq!(vcpu.run(false), Ok(Exit::Cpuid));
        vcpu.advance();
        assert_eq!(vcpu.rip(), 1, "32 bits");
    });
}

#[test]
fn what_the_host_sets_is_what_the_guest_has() {
    with_vcpu(|cpu, vcpu| {
        vcpu.set_rip(0x7777);
        vcpu.general_mut().set(General::Rsp, 0x8888);
        cpu.exit(HLT, &[(field::GUEST_RSP.encoding(), 0x9999)]);
        assert_eq!(vcpu.run(false), Ok(Exit::Halt));
        assert_eq!(vcpu.rip(), 0x7777);
        assert_eq!(vcpu.general().get(General::Rsp), 0x9999);
        vcpu.set_xcr0(7);
        assert_eq!(vcpu.xcr0(), 7);
    });
}

#[test]
fn every_msr_exits_but_those_that_pass() {
    let hal = HeapHal::new();
    let mut page = Frames::zeroed(&hal, 1).expect("a frame");
    fill_msrs(&mut page, |index, write| matches!((index, write), (0x10, false) | (0xc000_0102, true)));
    let exits = |part: usize, index: usize| page.word(part * 1024 + index / 64 * 8) >> (index % 64) & 1 == 1;
    for index in 0..0x2000 {
        assert_eq!(!exits(0, index), index == 0x10);
        assert!(exits(1, index));
        assert!(exits(2, index));
        assert_eq!(!exits(3, index), index == 0x102);
    }
}

#[test]
fn every_port_has_its_bit() {
    let hal = HeapHal::new();
    let mut pages = Frames::zeroed(&hal, 2).expect("frames");
    let last = PortRange::inclusive(Port(0xfff8), Port(0xffff)).expect("a range");
    let one = PortRange::inclusive(Port(0x604), Port(0x604)).expect("a range");
    let ports = Intercepted::NONE.with(last).and_then(|ports| ports.with(one)).expect("room");
    fill_ports(&mut pages, &ports);
    for port in 0..=u16::MAX {
        let exits = pages.word(usize::from(port) / 64 * 8) >> (port % 64) & 1 == 1;
        assert_eq!(exits, port >= 0xfff8 || port == 0x604, "{port:#x}");
    }
}

#[test]
fn the_log_is_told_from_the_latest_entry_on() {
    assert_eq!(
        [first_written(511), first_written(510), first_written(0), first_written(0xffff)],
        [512, 511, 1, 0]
    );
    let (hal, cpu) = (HeapHal::new(), Double::new(TIGERLAKE));
    let haswell = Double::new(HASWELL);
    let cpus = super::cpus(&hal);
    let vmx = super::on(&hal, &cpu, &cpus);
    let mut vcpu = super::bound(&hal, &cpu, &cpus, &CpuState::long_mode(0, 0));
    assert_eq!(vcpu.drain_log().map(Iterator::count), Ok(0), "there is none");
    vcpu.enable_log(&hal).expect("offered");
    vcpu.enable_log(&hal).expect("twice is once");
    assert_ne!(cpu.field(field::SECONDARY_CONTROLS.encoding()) & 1 << 17, 0);
    let log = slat::HostPhysAddr::new(cpu.field(field::PML_ADDRESS.encoding()));
    let index = field::PML_INDEX.encoding();
    assert_eq!(cpu.field(index), 511);
    let tell = |number: u64, gpa: u64| {
        hal.write(slat::HostPhysAddr::new(log.as_u64() + 8 * number), &gpa.to_le_bytes());
    };
    tell(511, 0x1000);
    tell(510, 0x2fff);
    set(&cpu, index, 509);
    let pages: Vec<_> = vcpu.drain_log().expect("bound").collect();
    assert_eq!(pages, [GuestPhysAddr::new(0x2000), GuestPhysAddr::new(0x1000)]);
    assert_eq!(cpu.field(index), 511);
    assert_eq!(vcpu.drain_log().map(Iterator::count), Ok(0));
    set(&cpu, index, 0xffff);
    assert_eq!(vcpu.drain_log().map(|log| log.len()), Ok(512));
    // Tables without flags do not go with a log: the entry would fail.
    vcpu.set_root(0x901e).expect("a root");
    assert_eq!(vcpu.run(false), Err(RunError::BadRoot(0x901e)));
    drop(vcpu);
    drop(vmx);
    assert_eq!(hal.in_use(), 1);
    assert_eq!(unbound(&hal, &haswell, &cpus).enable_log(&hal), Err(LogError::NotOffered));
    let mut vcpu = unbound(&hal, &cpu, &cpus);
    hal.fail_after(Some(0));
    assert_eq!(vcpu.enable_log(&hal), Err(LogError::OutOfMemory));
}

#[test]
fn the_guests_paging_is_told_with_everything_that_counts() {
    let paging = |vcpu: &super::TestVcpu<'_>| match vcpu.paging().paging {
        GuestPaging::X86(paging) => paging,
        other => panic!("{other:?}"),
    };
    with_vcpu(|cpu, vcpu| {
        set(cpu, field::GUEST_RFLAGS.encoding(), 1 << 18 | 2);
        let found = paging(vcpu);
        assert_eq!((found.cr0, found.cr3, found.cr4, found.efer), (0x8000_0011, 0x2000, 0x20, 0x500));
        assert!(found.ac && found.page_1g && found.pdptes.is_none());
        assert_eq!(found.physical_bits, 40);
    });
    // PAE: the CPU keeps the PDPTEs.
    let mut state = CpuState::protected_mode(0);
    state.cr0 |= 1 << 31;
    state.cr4 = 0x20;
    with_vcpu_of(TIGERLAKE, &state, |_, vcpu| {
        vcpu.set_pdptes([0x1001, 0x2001, 0, 0x4001]).expect("bound");
        assert_eq!(paging(vcpu).pdptes, Some([0x1001, 0x2001, 0, 0x4001]));
    });
}
