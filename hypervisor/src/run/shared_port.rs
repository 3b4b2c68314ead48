//! The machine's own serial port where the guest drives it through the hypervisor: so that a key can be the monitor's.
//!
//! Each access traps and is carried out as it is. The registers' owner sees what the guest reads, and keeps the key to itself.

use crate::guest::Device;
use crate::vcpu::Vcpu;
use slat::MappingFlags;
use slat::device::{AccessWidth, DeviceAccess, DeviceId};

/// The port's number among the devices behind trap regions.
pub(super) const SHARED: DeviceId = DeviceId(1);

/// The registers of the machine's port.
pub trait SharedRegisters: Sync {
    /// Reads the register at `offset`, on behalf of the guest.
    fn read(&self, offset: u64, width: AccessWidth) -> u64;

    /// Writes the register at `offset`, on behalf of the guest.
    fn write(&self, offset: u64, width: AccessWidth, value: u64);
}

/// The machine's own serial port, which is trapped.
#[derive(Clone, Copy)]
pub struct SharedPort<'a> {
    /// Where it lies.
    pub device: Device,
    /// Its registers.
    pub registers: &'a dyn SharedRegisters,
}

impl SharedPort<'_> {
    /// Carries an access out; tells whether that was possible, which it is for aligned loads and stores of up to 4 bytes.
    pub(super) fn carry_out<V: Vcpu>(&self, vcpu: &mut V, access: &DeviceAccess) -> bool {
        let Some(data) = vcpu.data_access() else { return false };
        let width = data.width;
        if width == AccessWidth::Qword || access.offset % width.bytes() != 0 {
            return false;
        }
        let register = data.register.map(usize::from);
        if access.access.contains(MappingFlags::WRITE) {
            let value = data.stored(register.and_then(|index| vcpu.register(index)));
            self.registers.write(access.offset, width, value);
        } else {
            let value = data.loaded(self.registers.read(access.offset, width));
            if let Some(index) = register {
                vcpu.set_register(index, value);
            }
        }
        true
    }
}
