//! What a guest is told through the debug port, and what hardware marks tell about it.

use super::{Machine, Space, Stop};
use crate::pool::Host;
use crate::vcpu::DebugCommand;
use alloc::format;
use alloc::string::String;
use core::fmt::{self, Write as _};
use slat::format::Format;
use slat::{GuestPageWalkInfo, GuestPhysAddr, GuestPhysRange, GuestVirtAddr, InstructionBytes, PAGE_SIZE};

/// Most bytes of an answer: a guest chooses how many leaves there are to tell of.
const ANSWER_MAX: usize = 64 << 10;

/// A text that takes no more than it has room for.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > ANSWER_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

impl<H: Host, F: Format> Machine<'_, H, F> {
    /// The answer to `command`.
    pub(super) fn debug(&self, command: DebugCommand) -> Result<String, Stop> {
        let statistics = self.statistics();
        let space = self.space.read();
        let space = space.as_ref().filter(|_| !self.cpus.is_ending()).ok_or(Stop::Stopped)?;
        let mut text = Bounded(String::new());
        let written = match command {
            DebugCommand::Dump => write!(text, "{}", space.dump()),
            DebugCommand::Statistics => write!(text, "{statistics}{}", space.stats()),
            DebugCommand::Query(gpa) => match space.query(gpa) {
                Ok(mapping) => writeln!(text, "{}", query_line(gpa, &mapping)),
                Err(error) => writeln!(text, "{error}"),
            },
            DebugCommand::Unknown => writeln!(text, "dump, query GPA or stats"),
        };
        if written.is_err() {
            text.0.push_str("...\n");
        }
        Ok(text.0)
    }

    /// The bytes of the guest's instruction at `address`, under its paging registers; `user` says that it runs in user mode.
    /// `None` if its memory is not there.
    pub fn instruction(
        &self,
        paging: &GuestPageWalkInfo,
        address: GuestVirtAddr,
        user: bool,
    ) -> Option<InstructionBytes> {
        self.space.read().as_ref()?.fetch_instruction(paging, address, user).ok()
    }

    /// Pages of guest RAM in leaves that the guest has written to, where the hardware tells.
    pub(super) fn pages_written(&self, space: &Space<'_, H, F>) -> Option<u64> {
        if space.format().dirty_bit() == 0 {
            return None;
        }
        let ram = GuestPhysRange::new(GuestPhysAddr::new(self.job.ram), self.job.memory).ok()?;
        let written = space.mappings(ram).filter(|mapping| mapping.dirty);
        Some(written.map(|mapping| mapping.size.bytes() / PAGE_SIZE).sum())
    }
}

fn query_line(gpa: GuestPhysAddr, mapping: &slat::Mapping) -> String {
    let mark = |set, name| if set { name } else { "" };
    format!(
        "{gpa:#x}: leaf {} -> {:#x} {} {}{}{}",
        mapping.range(),
        mapping.hpa,
        mapping.flags,
        mapping.size,
        mark(mapping.accessed, " accessed"),
        mark(mapping.dirty, " dirty"),
    )
}
