//! Accesses to the serial port that the hypervisor emulates: decoded by the hardware, carried out by [`Pl011`].
//!
//! What the hardware does not decode (pairs, vectors, write-back, exclusives, atomics, table walks, cache maintenance)
//! and what the port does not take is answered as a bus would: by an external abort, whatever the policy for
//! accesses that are nobody's. Nothing a guest does to the port ends its run.

use super::Machine;
use crate::pl011::Pl011;
use crate::pool::Host;
use crate::vcpu::{Event, Vcpu};
use slat::MappingFlags;
use slat::device::{DataAccess, DeviceAccess, DeviceId};
use slat::format::Format;
use slat_hv_protocol::EmulatedUart;

/// The port's number among the devices behind trap regions.
pub(super) const UART: DeviceId = DeviceId(0);

/// The port, and what has become of accesses to it.
#[derive(Debug, Default)]
pub(super) struct Uart {
    port: Pl011,
    answered: u64,
    refused: u64,
}

impl Uart {
    /// What the report says about it.
    pub(super) fn report(&self) -> EmulatedUart {
        let sent = self.port.sent();
        EmulatedUart {
            accesses: self.answered,
            refused: self.refused,
            bytes: sent.bytes(),
            text: sent.text(),
        }
    }

    /// Carries an access out between the port and a register of the guest; tells whether that was possible.
    fn carry_out<V: Vcpu>(&mut self, vcpu: &mut V, access: &DeviceAccess) -> bool {
        let done = vcpu.data_access().is_some_and(|data| {
            let DataAccess { width, register, .. } = data;
            let register = register.map(usize::from);
            if access.access.contains(MappingFlags::WRITE) {
                let value = data.stored(register.and_then(|index| vcpu.register(index)));
                return self.port.write(access.offset, width, value).is_ok();
            }
            let read = self.port.read(access.offset, width).map(|value| data.loaded(value));
            if let (Ok(value), Some(index)) = (read, register) {
                vcpu.set_register(index, value);
            }
            read.is_ok()
        });
        *(if done { &mut self.answered } else { &mut self.refused }) += 1;
        done
    }
}

impl<H: Host, F: Format> Machine<'_, H, F> {
    /// Answers an access to the port: the guest goes on behind the instruction, or with an external abort.
    pub(super) fn emulate<V: Vcpu>(&self, cpu: usize, vcpu: &mut V, access: &DeviceAccess) {
        let done = self.uart.lock().carry_out(vcpu, access);
        if done {
            vcpu.advance();
        } else {
            vcpu.inject(Event::AccessFailed);
            self.books.of(cpu, |counts| counts.injected_aborts += 1);
        }
    }
}
