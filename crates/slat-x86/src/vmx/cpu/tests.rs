use super::{OnError, VmxCpu};
use crate::HostCpus;
use crate::vmx::VmxError;
use crate::vmx::capabilities::tests::TIGERLAKE;
use crate::vmx::double::{Double, Executed};
use crate::vmx::{Capabilities, Instructions, InveptType};
use slat::test_util::HeapHal;

type TestCpus<'a> = HostCpus<&'a HeapHal>;
type TestCpu<'h, 'c> = VmxCpu<&'h HeapHal, &'c Double>;

#[expect(unsafe_code, reason = "the double has no privilege levels")]
fn on<'h, 'c>(hal: &'h HeapHal, cpu: &'c Double, cpus: &TestCpus<'h>) -> Result<TestCpu<'h, 'c>, OnError> {
    // SAFETY: nothing is executed.
    unsafe { VmxCpu::on(hal, cpu, &cpu.capabilities(), cpus, 0) }
}

#[test]
fn on_and_off_leave_the_cpu_as_it_was() {
    let (hal, cpu) = (HeapHal::new(), Double::new(TIGERLAKE));
    let cpus = HostCpus::new(&hal, 1).expect("a frame");
    let before = ((&cpu).cr0(), (&cpu).cr4());
    let vmx = on(&hal, &cpu, &cpus).expect("VMX");
    assert!(cpu.is_on() && cpu.feature_control() == 5 && hal.in_use() == 2);
    // The region begins with the revision.
    assert_eq!(hal.read(vmx.region(), 8), 4u64.to_le_bytes());
    assert_eq!((&cpu).cr4(), before.1 | 1 << 13);
    assert_eq!(on(&hal, &cpu, &cpus).err(), Some(OnError::AlreadyOn));
    drop(vmx);
    assert!(!cpu.is_on() && hal.in_use() == 1);
    assert_eq!(((&cpu).cr0(), (&cpu).cr4()), before);
    assert_eq!(
        cpu.executed(),
        [Executed::Vmxon, Executed::Invept(InveptType::AllContexts), Executed::Vmxoff]
    );
    // A second time the register is locked, as it should be.
    drop(on(&hal, &cpu, &cpus).expect("VMX again"));
}

#[test]
fn what_is_in_the_way_is_named_and_nothing_lost() {
    let (hal, cpu) = (HeapHal::new(), Double::new(TIGERLAKE));
    let cpus = HostCpus::new(&hal, 1).expect("a frame");
    cpu.set_feature_control(1);
    assert_eq!(on(&hal, &cpu, &cpus).err(), Some(OnError::LockedOff(1)));
    cpu.set_feature_control(0);
    cpu.refuse(Some(VmxError::Invalid));
    assert_eq!(on(&hal, &cpu, &cpus).err(), Some(OnError::Refused(VmxError::Invalid)));
    assert_eq!((&cpu).cr4() & 1 << 13, 0);
    cpu.refuse(None);
    hal.fail_after(Some(0));
    assert_eq!(on(&hal, &cpu, &cpus).err(), Some(OnError::OutOfMemory));
    hal.fail_after(None);
    assert_eq!(hal.in_use(), 1);
    // The number of another CPU that is on, or of none.
    let other = Double::new(TIGERLAKE);
    let vmx = on(&hal, &other, &cpus).expect("VMX");
    assert_eq!(on(&hal, &cpu, &cpus).err(), Some(OnError::Number(0)));
    drop(vmx);
    let none = HostCpus::new(&hal, 0).expect("a frame");
    assert_eq!(on(&hal, &cpu, &none).err(), Some(OnError::Number(0)));
    assert_eq!((&cpu).cr4() & 1 << 13, 0);
    // CR0 that the CPU does not take in VMX operation, or CR4 without VMXE.
    let mut raw = TIGERLAKE;
    raw.cr0_fixed0 |= 1 << 16;
    let strict = Double::new(raw);
    assert!(matches!(on(&hal, &strict, &cpus).err(), Some(OnError::ControlRegisters { .. })));
    let mut raw = TIGERLAKE;
    raw.cr4_fixed1 &= !(1 << 13);
    let without = Double::new(raw);
    assert!(matches!(on(&hal, &without, &cpus).err(), Some(OnError::ControlRegisters { .. })));
}

#[test]
fn regions_stay_below_4_gib_where_they_must() {
    use slat::HostPhysAddr;
    let mut raw = TIGERLAKE;
    let anywhere = Capabilities::new(&raw).expect("EPT");
    raw.basic |= 1 << 48;
    let below = Capabilities::new(&raw).expect("EPT");
    let (low, high) = (HostPhysAddr::new(0xffff_f000), HostPhysAddr::new(0x1_0000_0000));
    assert_eq!(super::check_region(&anywhere, high), Ok(()));
    assert_eq!(super::check_region(&below, high), Err(high));
    assert_eq!(super::check_region(&below, low), Ok(()));
}
