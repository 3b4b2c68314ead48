//! What a guest has done with pieces of its memory, by hypercall: printed, or filled with a text about the run.
//!
//! The guest names any address and any length. Nothing of it is believed: the library accesses the memory as the guest
//! itself could, and says where it stopped. **Bounds:** a call is about [`LENGTH_MAX`] bytes at most, moved through a
//! buffer of [`CHUNK`] bytes, and populates only what the guest could have populated by touching it.

use super::{Machine, Stop};
use crate::pool::Host;
use crate::transcript::Transcript;
use crate::vcpu::{BufferAnswer, BufferCall, BufferError, Vcpu};
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use slat::format::Format;
use slat::{AccessError, AccessRefusal, FaultError, GuestPhysAddr};
use slat_hv_protocol::BufferCalls;

/// Most bytes that one call may be about.
pub const LENGTH_MAX: u64 = 64 << 10;

/// Bytes that are moved at a time. While they are, no structural operation of another CPU can go on.
const CHUNK: usize = 256;

/// How often a chunk is tried again because churn had taken one of its pages.
const RETRIES: u32 = 16;

/// What the guest has printed, and what has become of its calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    printed: Transcript,
    done: u64,
    refused: u64,
}

impl Calls {
    /// What the report says about them.
    pub(super) fn report(&self) -> BufferCalls {
        BufferCalls {
            done: self.done,
            refused: self.refused,
            bytes: self.printed.bytes(),
            text: self.printed.text(),
        }
    }
}

/// Bytes on their way out of the guest's memory, or into it.
enum Transfer<'b> {
    Read(&'b mut [u8]),
    Write(&'b [u8]),
}

impl Transfer<'_> {
    fn length(&self) -> u64 {
        match self {
            Self::Read(bytes) => bytes.len() as u64,
            Self::Write(bytes) => bytes.len() as u64,
        }
    }

    /// The part behind the first `done` bytes.
    fn rest(&mut self, done: usize) -> Transfer<'_> {
        match self {
            Self::Read(bytes) => Transfer::Read(bytes.get_mut(done..).unwrap_or_default()),
            Self::Write(bytes) => Transfer::Write(bytes.get(done..).unwrap_or_default()),
        }
    }
}

impl<H: Host, F: Format> Machine<'_, H, F> {
    /// Carries out a call about `length` bytes at `gpa`, and answers it.
    pub(super) fn buffer_call<V: Vcpu>(
        &self,
        vcpu: &mut V,
        call: BufferCall,
        gpa: GuestPhysAddr,
        length: u64,
    ) -> Result<(), Stop> {
        let answer = match call {
            _ if length > LENGTH_MAX => BufferAnswer { done: 0, status: Err(BufferError::TooLong) },
            BufferCall::Print => {
                self.read_text(vcpu, gpa, length, |_, text| self.calls.lock().printed.add(text))?
            }
            BufferCall::Console => {
                self.read_text(vcpu, gpa, length, |vcpu, text| vcpu.write_console(text))?
            }
            BufferCall::Statistics => {
                let text = self.statistics();
                let length = usize::try_from(length).unwrap_or(usize::MAX).min(text.len());
                let bytes = text.as_bytes().get(..length).unwrap_or_default();
                self.transfer(vcpu, gpa, Transfer::Write(bytes))?
            }
        };
        if call != BufferCall::Console {
            let mut calls = self.calls.lock();
            *(if answer.status.is_ok() { &mut calls.done } else { &mut calls.refused }) += 1;
        }
        vcpu.answer_buffer_call(answer);
        Ok(())
    }

    /// Gives the text in the guest's buffer to `print`, as far as it can be read.
    fn read_text<V: Vcpu>(
        &self,
        vcpu: &mut V,
        gpa: GuestPhysAddr,
        length: u64,
        print: impl Fn(&mut V, &[u8]),
    ) -> Result<BufferAnswer, Stop> {
        let mut done = 0;
        while done < length {
            let mut chunk = [0; CHUNK];
            let wanted = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
            let chunk = chunk.get_mut(..wanted).unwrap_or_default();
            let Some(next) = gpa.checked_add(done) else {
                return Ok(BufferAnswer { done, status: Err(BufferError::NoMemory) });
            };
            let answer = self.transfer(vcpu, next, Transfer::Read(chunk))?;
            let read = usize::try_from(answer.done).unwrap_or(0);
            print(vcpu, chunk.get(..read).unwrap_or_default());
            done += answer.done;
            if answer.status.is_err() {
                return Ok(BufferAnswer { done, ..answer });
            }
        }
        Ok(BufferAnswer { done, status: Ok(()) })
    }

    /// A text about the run until now.
    pub(super) fn statistics(&self) -> String {
        let mut text = self.books.text();
        let line = |name, count| alloc::format!("{name:<20}{count}\n");
        let uart = self.uart.lock().report();
        text += &line("uart accesses", uart.accesses);
        text += &line("uart bytes", uart.bytes);
        let calls = self.calls.lock();
        text += &line("buffer calls", calls.done);
        text += &line("bytes printed", calls.printed.bytes());
        text
    }

    /// Moves bytes between the host and the guest's memory at `gpa`. Pages that churn has taken come back for it.
    fn transfer<V: Vcpu>(
        &self,
        vcpu: &V,
        gpa: GuestPhysAddr,
        mut transfer: Transfer<'_>,
    ) -> Result<BufferAnswer, Stop> {
        let mut done = 0;
        for _ in 0..RETRIES {
            let Some(next) = gpa.checked_add(done) else { break };
            let rest = transfer.rest(usize::try_from(done).unwrap_or(usize::MAX));
            let Err(AccessError { gpa: stopped, done: more, reason }) = self.transfer_once(next, rest)?
            else {
                return Ok(BufferAnswer { done: transfer.length(), status: Ok(()) });
            };
            done += more;
            if matches!(reason, AccessRefusal::Fault(FaultError::OutOfMemory(_))) && self.make_room()? {
                continue;
            }
            let taken = matches!(reason, AccessRefusal::Fault(FaultError::Permission { .. }));
            if !(taken && self.ask_churn(vcpu, stopped)?) {
                return Ok(BufferAnswer { done, status: Err(refused(reason)) });
            }
        }
        Ok(BufferAnswer { done, status: Err(BufferError::Busy) })
    }

    /// The same without churn's help, beside faults of other CPUs.
    fn transfer_once(
        &self,
        gpa: GuestPhysAddr,
        transfer: Transfer<'_>,
    ) -> Result<Result<(), AccessError>, Stop> {
        let populated = RefCell::new(Vec::new());
        let result = {
            let fill = |gpa: GuestPhysAddr, memory: &mut [u8]| {
                self.job.content.fill(gpa.as_u64(), memory);
                if self.churn.is_some() {
                    populated.borrow_mut().push((gpa.as_u64(), memory.len() as u64));
                }
            };
            let space = self.space.read();
            let space = space.as_ref().filter(|_| !self.cpus.is_ending()).ok_or(Stop::Stopped)?;
            let memory = space.memory_with(fill);
            match transfer {
                // The guest's caches may be off, and then it has written past the host's.
                Transfer::Read(bytes) => {
                    memory.clean(gpa, bytes.len() as u64).and_then(|()| memory.read(gpa, bytes))
                }
                Transfer::Write(bytes) => {
                    memory.write(gpa, bytes).and_then(|()| memory.clean(gpa, bytes.len() as u64))
                }
            }
        };
        if let Some(churn) = &self.churn {
            let mut churn = churn.lock();
            populated.into_inner().into_iter().for_each(|(gpa, bytes)| churn.populated(gpa, bytes));
        }
        Ok(result)
    }

    /// Whether churn had taken the page and has given it back.
    fn ask_churn<V: Vcpu>(&self, vcpu: &V, gpa: GuestPhysAddr) -> Result<bool, Stop> {
        let Some(churn) = &self.churn else { return Ok(false) };
        self.restore(vcpu, &mut churn.lock(), gpa)
    }
}

/// What the guest is told.
fn refused(reason: AccessRefusal) -> BufferError {
    match reason {
        AccessRefusal::Fault(FaultError::Permission { .. }) => BufferError::Denied,
        AccessRefusal::Fault(FaultError::OutOfMemory(_)) => BufferError::OutOfFrames,
        AccessRefusal::Device | AccessRefusal::Unreachable => BufferError::Device,
        AccessRefusal::NotYet => BufferError::Busy,
        // The last ones are those of atomic accesses and of pieces, which are not used here.
        AccessRefusal::Fault(_)
        | AccessRefusal::Wraps
        | AccessRefusal::Unaligned
        | AccessRefusal::NotCoherent
        | AccessRefusal::OutsidePiece
        | AccessRefusal::WrongPiece => BufferError::NoMemory,
    }
}
