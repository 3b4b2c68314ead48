//! Accesses to the serial port that the hypervisor emulates: decoded by the hardware, carried out by a [`Port`].
//!
//! Where the hardware leaves the decoding to the hypervisor the instruction is read from the guest's memory. What neither
//! decodes (pairs, vectors, write-back, exclusives, atomics, table walks, cache maintenance) and what the port does not take is answered as a bus would: by an external abort, whatever the policy for
//! accesses that are nobody's. Nothing a guest does to the port ends its run.

use super::shared_port::SHARED;
use super::{Machine, Stop};
use crate::pl011::{BusError, Pl011};
use crate::pool::Host;
use crate::uart16550::Uart16550;
use crate::vcpu::{Event, Vcpu};
use alloc::format;
use alloc::string::String;
use slat::device::AccessWidth;
use slat::device::{DataAccess, DeviceAccess, DeviceId};
use slat::format::Format;
use slat::guest::FetchError;
use slat::{GuestVirtAddr, GuestWalkError, MappingFlags, NestedPageFaultInfo};
use slat_hv_protocol::EmulatedUart;

/// The port's number among the devices behind trap regions.
pub(super) const UART: DeviceId = DeviceId(0);

/// The kinds of serial ports that can be emulated.
#[derive(Clone, Debug)]
pub enum Port {
    /// Arm's, whose text goes into the report.
    Pl011(Pl011),
    /// That of PCs, whose text goes to the guest's console.
    Uart16550(Uart16550),
}

impl Default for Port {
    fn default() -> Self {
        Self::Pl011(Pl011::default())
    }
}

impl Port {
    fn read(&mut self, offset: u64, width: AccessWidth) -> Result<u64, BusError> {
        match self {
            Self::Pl011(port) => port.read(offset, width),
            Self::Uart16550(port) => port.read(offset, width),
        }
    }

    /// The byte that goes to the console, if one does.
    fn write(&mut self, offset: u64, width: AccessWidth, value: u64) -> Result<Option<u8>, BusError> {
        match self {
            Self::Pl011(port) => port.write(offset, width, value).map(|()| None),
            Self::Uart16550(port) => port.write(offset, width, value),
        }
    }
}

/// The port, and what has become of accesses to it.
#[derive(Debug, Default)]
pub(super) struct Uart {
    port: Port,
    /// Bytes that went to the console.
    printed: u64,
    answered: u64,
    refused: u64,
}

impl Uart {
    /// The port as after a reset.
    pub(super) fn new(port: Port) -> Self {
        Self { port, ..Self::default() }
    }

    /// The port itself.
    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// The port receives `bytes`, if it can.
    pub(super) fn type_in(&mut self, bytes: &[u8]) {
        match &mut self.port {
            Port::Pl011(_) => {}
            Port::Uart16550(port) => port.receive(bytes),
        }
    }

    /// What the report says about it.
    pub(super) fn report(&self) -> EmulatedUart {
        let (bytes, text) = match &self.port {
            Port::Pl011(port) => (port.sent().bytes(), port.sent().text()),
            Port::Uart16550(_) => (self.printed, String::new()),
        };
        EmulatedUart { accesses: self.answered, refused: self.refused, bytes, text }
    }

    /// Carries an access out between the port and a register of the guest; tells whether that was possible.
    fn carry_out<V: Vcpu>(&mut self, vcpu: &mut V, access: &DeviceAccess) -> bool {
        let done = vcpu.data_access().is_some_and(|data| {
            let DataAccess { width, register, .. } = data;
            let register = register.map(usize::from);
            if access.access.contains(MappingFlags::WRITE) {
                let value = data.stored(register.and_then(|index| vcpu.register(index)));
                let written = self.port.write(access.offset, width, value);
                if let Ok(Some(byte)) = written {
                    self.printed += 1;
                    vcpu.write_console(&[byte]);
                }
                return written.is_ok();
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
    pub(super) fn emulate<V: Vcpu>(
        &self,
        cpu: usize,
        vcpu: &mut V,
        info: &NestedPageFaultInfo,
        access: &DeviceAccess,
    ) -> Result<(), Stop> {
        if !self.decode(vcpu, info)? {
            return self.nothing_done(cpu, vcpu, &format!("{info}, by an instruction that is gone"));
        }
        let done = match (access.device, self.job.shared_port) {
            (SHARED, Some(port)) => port.carry_out(vcpu, access),
            _ => self.uart.lock().carry_out(vcpu, access),
        };
        if done {
            vcpu.advance();
        } else {
            vcpu.inject(Event::AccessFailed);
            self.books.of(cpu, |counts| counts.injected_aborts += 1);
        }
        Ok(())
    }

    /// Reads the instruction of the access for the vCPU, if that asks for it. `false` if the guest's own tables do not lead to
    /// it any more, or not to the device: then the access has to be repeated.
    fn decode<V: Vcpu>(&self, vcpu: &mut V, info: &NestedPageFaultInfo) -> Result<bool, Stop> {
        let Some((tables, is_user)) = vcpu.wants_instruction() else { return Ok(true) };
        let user = if is_user { MappingFlags::USER } else { MappingFlags::empty() };
        let pc = GuestVirtAddr::new(vcpu.program_counter());
        let bytes = {
            let space = self.space.read();
            let space = space.as_ref().filter(|_| !self.cpus.is_ending()).ok_or(Stop::Stopped)?;
            // Without an instruction from the hardware nothing has told a walk of the guest's tables from the access itself.
            let located = info.gva.map(|gva| space.locate_fault(&tables, gva, info.access | user));
            match located {
                Some(Ok(located)) if located.walk => return Ok(true),
                Some(Err(GuestWalkError::Guest(_))) => return Ok(false),
                _ => space.fetch_instruction(&tables, pc, is_user),
            }
        };
        match bytes {
            Ok(bytes) => vcpu.give_instruction(bytes.as_slice()),
            Err(FetchError::Walk(GuestWalkError::Guest(_))) => return Ok(false),
            // Nothing is decoded then.
            Err(_) => {}
        }
        Ok(true)
    }
}
