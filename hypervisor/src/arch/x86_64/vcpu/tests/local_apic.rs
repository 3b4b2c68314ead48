//! Stores to the local APIC, and what they do to the other CPU.

use super::*;
use crate::cpus::{Entry, Power};

/// What was done to the local APIC.
#[derive(Default)]
pub(super) struct Log {
    writes: RefCell<Vec<(u64, u32)>>,
    sent: RefCell<Vec<(u32, u32)>>,
    kicked: Cell<u64>,
    interrupted: Cell<u64>,
    /// Called by a kick.
    other: RefCell<Option<Box<dyn Fn()>>>,
}

impl Registers for &Bench {
    fn read(&self, offset: u64) -> u32 {
        0x1000_0000 | offset as u32
    }
    fn write(&self, offset: u64, value: u32) {
        self.apic.writes.borrow_mut().push((offset, value));
    }
    fn send(&self, high: u32, low: u32) {
        self.apic.sent.borrow_mut().push((high, low));
    }
    fn kick(&self, cpu: usize) {
        assert_eq!(cpu, 1);
        self.apic.kicked.set(self.apic.kicked.get() + 1);
        if let Some(other) = &*self.apic.other.borrow() {
            other();
        }
    }
    fn interrupt_others(&self, this: usize) {
        assert_eq!(this, 0);
        self.apic.interrupted.set(self.apic.interrupted.get() + 1);
    }
}

/// `mov [rdi], eax`.
const STORE_EAX: [u8; 2] = [0x89, 0x07];

fn store_fault(gpa: u64) -> Cause {
    let Cause::NestedPageFault(fault) = fault(None) else { panic!("a fault") };
    let info =
        NestedPageFaultInfo { gpa: GuestPhysAddr::new(gpa), cause: FaultCause::Permission, ..fault.info };
    Cause::NestedPageFault(NestedPageFault { info, granted: MappingFlags::READ, ..fault })
}

/// A vCPU that is about to write these values to these registers, by an instruction of 32-bit code.
fn storing<'b>(bench: &'b Bench, stores: &[u64]) -> Tested<'b> {
    *bench.code.borrow_mut() = Some(STORE_EAX.to_vec());
    vcpu(bench, stores.iter().map(|offset| store_fault(0xfee0_0000 + offset)))
}

fn store(vcpu: &mut Tested<'_>, value: u32) -> Exit {
    vcpu.set_general(General::Rax, value.into());
    vcpu.run()
}

#[test]
fn a_store_reaches_the_register_and_the_guest_goes_on_behind_it() {
    let bench = Bench::default();
    let mut vcpu = storing(&bench, &[0xb0, 0x20, 0x350]);
    assert!(matches!(store(&mut vcpu, 7), Exit::Answered));
    assert_eq!(vcpu.program_counter(), 0x10_0002);
    assert_eq!(bench.asked.take(), Some((GuestVirtAddr::new(0x10_0000), false)));
    // The ID stays, and INIT does not come by a wire.
    assert!(matches!(store(&mut vcpu, 7), Exit::Answered));
    assert!(matches!(store(&mut vcpu, 0x500), Exit::Answered));
    assert_eq!(*bench.apic.writes.borrow(), [(0xb0, 7), (0x350, 0x1_0500)]);
    assert_eq!(vcpu.exits_by_kind().get("store to the local APIC"), Some(&3));
    assert_eq!(vcpu.fault_cost().faults, 0);
}

#[test]
fn an_exchange_gives_what_was_there() {
    let bench = Bench::default();
    let mut vcpu = storing(&bench, &[0x80]);
    *bench.code.borrow_mut() = Some([0x87, 0x07].to_vec());
    assert!(matches!(store(&mut vcpu, 0x20), Exit::Answered));
    assert_eq!(vcpu.register(0), Some(0x1000_0080));
    assert_eq!(*bench.apic.writes.borrow(), [(0x80, 0x20)]);
}

#[test]
fn what_is_no_store_ends_the_run_and_what_cannot_be_read_is_repeated() {
    let bench = Bench::default();
    let mut vcpu = storing(&bench, &[0xb0, 0xb0]);
    *bench.code.borrow_mut() = Some(Vec::new());
    assert!(matches!(store(&mut vcpu, 7), Exit::RepeatAccess));
    *bench.code.borrow_mut() = Some([0x0f, 0x11, 0x06].to_vec());
    let Exit::Unsupported(what) = store(&mut vcpu, 7) else { panic!("it was carried out") };
    assert!(what.contains("local APIC") && what.contains("0f, 11, 06"), "{what}");
    assert_eq!(vcpu.program_counter(), 0x10_0000);
    assert!(bench.apic.writes.borrow().is_empty());
}

#[test]
fn other_faults_there_are_nobodys() {
    let bench = Bench::default();
    let Cause::NestedPageFault(fault) = store_fault(0xfee0_00b0) else { panic!("a fault") };
    let with = |info: NestedPageFaultInfo| Cause::NestedPageFault(NestedPageFault { info, ..fault });
    let delivery = Some(Delivered::Nmi);
    let faults = [
        with(NestedPageFaultInfo { walk: true, ..fault.info }),
        with(NestedPageFaultInfo { access: MappingFlags::EXECUTE, ..fault.info }),
        with(NestedPageFaultInfo { gpa: GuestPhysAddr::new(0xfee0_1000), ..fault.info }),
        with(NestedPageFaultInfo { gpa: GuestPhysAddr::new(0xfedf_ffff), ..fault.info }),
        Cause::NestedPageFault(NestedPageFault { interrupted: delivery, ..fault }),
    ];
    let mut vcpu = vcpu(&bench, faults);
    for _ in faults {
        assert!(matches!(vcpu.run(), Exit::NestedPageFault(_)));
    }
}

#[test]
fn start_up_starts_the_other_cpu_once() {
    let bench = Bench::default();
    let mut vcpu = storing(&bench, &[0x310, 0x300, 0x300, 0x300]);
    let cpus = vcpu.config.cpus;
    // It comes up when it is kicked.
    let begun = Box::leak(Box::new(RefCell::new(Vec::new())));
    *bench.apic.other.borrow_mut() = Some(Box::new(|| begun.borrow_mut().extend(cpus.begin(1))));
    store(&mut vcpu, 1 << 24);
    // INIT of one that is off, then its start, twice.
    for command in [0xc500, 0x0699, 0x0699] {
        assert!(matches!(store(&mut vcpu, command), Exit::Answered));
    }
    assert_eq!(*begun.borrow(), [Entry { address: 0x9_9000, argument: 0 }]);
    assert_eq!((cpus.power(1), bench.apic.kicked.get()), (Some(Power::On), 1));
    assert!(bench.apic.sent.borrow().is_empty() && bench.apic.writes.borrow().is_empty());
}

#[test]
fn init_turns_the_other_cpu_off_and_the_guest_over() {
    let bench = Bench::default();
    let mut vcpu = storing(&bench, &[0x310, 0x300, 0x310, 0x300]);
    let (cpus, signals) = (vcpu.config.cpus, vcpu.config.signals);
    assert!(cpus.start(1, Entry { address: 0x1000, argument: 0 }).is_ok() && cpus.begin(1).is_some());
    *bench.apic.other.borrow_mut() = Some(Box::new(|| {
        assert!(signals.take_init(1) && cpus.stop(1));
        cpus.leave(1);
    }));
    store(&mut vcpu, 1 << 24);
    assert!(matches!(store(&mut vcpu, 0xc500), Exit::Answered));
    assert_eq!(cpus.power(1), Some(Power::Off));
    // The first CPU would begin with the firmware.
    store(&mut vcpu, 0);
    assert!(matches!(store(&mut vcpu, 0xc500), Exit::Reset));
    assert!(bench.apic.sent.borrow().is_empty());
}

#[test]
fn a_cpu_that_got_init_goes_off_before_it_is_entered_again() {
    let bench = Bench::default();
    let mut vcpu = vcpu(&bench, [Cause::Cpuid]);
    let cpus = vcpu.config.cpus;
    assert!(cpus.start(1, Entry { address: 0x1000, argument: 0 }).is_ok() && cpus.begin(1).is_some());
    vcpu.config.signals.put_init(0);
    assert!(matches!(vcpu.run(), Exit::CpuOff));
    assert!(vcpu.config.vcpu.flushes.is_empty());
}

#[test]
fn an_nmi_is_delivered_by_the_cpu_itself() {
    let bench = Bench::default();
    let mut vcpu = storing(&bench, &[0x310, 0x300]);
    assert!(vcpu.config.cpus.start(1, Entry { address: 0x1000, argument: 0 }).is_ok());
    assert!(vcpu.config.cpus.begin(1).is_some());
    store(&mut vcpu, 0xff << 24);
    assert!(matches!(store(&mut vcpu, 0x4400), Exit::Answered));
    assert_eq!(bench.apic.interrupted.get(), 1);
    assert!(vcpu.config.signals.take_nmi(1));
    assert!(matches!(vcpu.run(), Exit::Unsupported(_)));
    assert_eq!(vcpu.config.vcpu.injected, [Delivered::Nmi]);
    assert!(bench.apic.sent.borrow().is_empty());
}

#[test]
fn interrupts_with_vectors_are_sent_with_both_halves() {
    let bench = Bench::default();
    let mut vcpu = storing(&bench, &[0x310, 0x300]);
    store(&mut vcpu, 1 << 24);
    assert!(bench.apic.sent.borrow().is_empty());
    store(&mut vcpu, 0xfd);
    assert_eq!(*bench.apic.sent.borrow(), [(1 << 24, 0xfd)]);
}

#[test]
fn it_begins_in_real_mode_where_the_start_up_says() {
    let bench = Bench::default();
    let mut vcpu = Tested::new(0, config(&bench));
    vcpu.start_up(0x5000, 0x9_9000);
    vcpu.bind();
    let state = vcpu.config.vcpu.state.unwrap();
    let code = state.segment(SegmentName::Cs);
    assert_eq!((code.selector, code.base, state.rip, state.cr0 & 1), (0x9900, 0x9_9000, 0, 0));
}
