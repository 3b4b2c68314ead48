//! A guest's memory and serial port on their way out of the machine, and back.

use super::Machine;
use super::uart::{Port, Uart};
use crate::pool::Host;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use slat::format::Format;
use slat::{Backend, GuestPhysAddr, PAGE_SIZE};
use slat_hv_protocol::Span;
use slat_hv_protocol::snapshot::{PAGE, Region};

impl<H: Host, F: Format> Machine<'_, H, F> {
    /// Calls `visit` for each page of the guest's RAM in ascending order, with what it holds, also if nobody has touched it yet: none
    /// of it is populated for that. None of the vCPUs is on a hart.
    ///
    /// # Errors
    /// One line: the guest has ended, or the first of `visit`.
    pub fn each_page<E: ToString>(
        &self,
        mut visit: impl FnMut(u64, &[u8; PAGE]) -> Result<(), E>,
    ) -> Result<(), String> {
        let space = self.space.read();
        let space = space.as_ref().ok_or("the guest has ended")?;
        let mut bytes = [0; PAGE];
        for offset in (0..self.job.memory).step_by(PAGE_SIZE as usize) {
            let gpa = self.job.ram + offset;
            let page = GuestPhysAddr::new(gpa);
            if space.translate(page).is_some() {
                space.read(page, &mut bytes).map_err(|error| error.to_string())?;
            } else {
                bytes.fill(0);
                self.job.content.fill(gpa, &mut bytes);
            }
            visit(gpa, &bytes).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The regions of the guest's space, in ascending order.
    pub fn regions(&self) -> Vec<Region> {
        let space = self.space.read();
        let regions = space.as_ref().into_iter().flat_map(|space| space.regions());
        regions
            .map(|region| Region {
                range: Span { address: region.range.start().as_u64(), size: region.range.size() },
                flags: region.flags.bits().into(),
                kind: kind(&region.backend).to_string(),
            })
            .collect()
    }

    /// The state of the guest's serial port; empty of a kind that has none to be kept.
    pub fn port(&self) -> Vec<u8> {
        match self.uart.lock().port() {
            Port::Uart16550(port) => port.to_bytes(),
            Port::Pl011(_) => Vec::new(),
        }
    }

    /// The guest's serial port becomes one with this state; `false` if that is none.
    #[must_use]
    pub fn set_port(&self, state: &[u8]) -> bool {
        let port = crate::uart16550::Uart16550::from_bytes(state);
        port.is_some_and(|port| {
            *self.uart.lock() = Uart::new(Port::Uart16550(port));
            true
        })
    }
}

fn kind(backend: &Backend) -> &'static str {
    match backend {
        Backend::Alloc { .. } => "memory",
        Backend::Linear { .. } => "linear",
        Backend::Trap { .. } => "trap",
        _ => "other",
    }
}
