//! Checking of the parameters: everything that could make the run go wrong is refused before it starts.

use slat_hv_protocol::pause::{Pause, Then};
use slat_hv_protocol::{CPUS_MAX, GUESTS_MAX, MemoryMap, Paging, Params, Span};
use thiserror::Error;

const TWO_MIB: u64 = 2 << 20;

/// What is wrong with the parameters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParamsError {
    /// The nonce is empty or could be mistaken for something else on the line.
    #[error("the nonce must be letters and digits, at least one")]
    Nonce,
    /// A span that must not be empty is.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// The trace's memory is not aligned.
    #[error("the trace must begin at a multiple of 4 KiB and be a multiple of 4 KiB long")]
    UnalignedTrace,
    /// The recording's memory is not aligned.
    #[error("the recording must begin at a multiple of 4 KiB and be a multiple of 4 KiB long")]
    UnalignedRecording,
    /// The snapshot's memory is not aligned.
    #[error("the snapshot must begin at a multiple of 4 KiB and be a multiple of 8 bytes long")]
    UnalignedImage,
    /// The pool is not aligned.
    #[error("the pool must begin at a multiple of 2 MiB and be a multiple of 4 KiB long")]
    UnalignedPool,
    /// A span reaches into the hypervisor or leaves its mapping.
    #[error("the {name} lies outside of {first:#x}..{end:#x}")]
    Outside {
        /// Where blobs may begin.
        first: u64,
        /// Where the hypervisor's own mapping of memory ends.
        end: u64,
        /// Which span.
        name: &'static str,
    },
    /// Two spans overlap.
    #[error("the {first} and the {second} overlap")]
    Overlap {
        /// One span.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// The store's memory is not aligned.
    #[error("the store of paged-out pages must begin at a multiple of 4 KiB")]
    UnalignedStore,
    /// Idle pages would never go, or all at once.
    #[error("the number of scans for which a page has been idle must be 1 to 255")]
    IdleScans,
    /// Something that paged RAM does not go with.
    #[error("RAM is not paged where {0}")]
    Paged(&'static str),
    /// Guest memory is unusable.
    #[error("guest memory must be a multiple of 2 MiB, above 0 and at most {most} GiB", most = .0 >> 30)]
    GuestMemory(u64),
    /// There are no CPUs, or too many.
    #[error("the number of CPUs must be 1 to {CPUS_MAX}")]
    Cpus,
    /// There are no guests, or too many.
    #[error("the number of guests must be 1 to {GUESTS_MAX}")]
    Guests,
    /// The machine has no CPUs, or too many.
    #[error("the number of the machine's CPUs must be 1 to {CPUS_MAX}")]
    HostCpus,
    /// Something that needs vCPUs which are not pinned to the machine's CPUs.
    #[error("{0} only on RISC-V")]
    Pinned(&'static str),
    /// A guest that is to be stopped is not the only one, or has several CPUs.
    #[error("a guest that is stopped in its work is alone at first, and has one CPU")]
    NotAlone,
    /// The monitor's guest is not the only one, or is stopped by something else.
    #[error("the monitor has one guest, which is not stopped for anything else")]
    Monitor,
    /// There is no text at which it is to be stopped.
    #[error("there is no text at which the guest is to be stopped")]
    NoText,
    /// There are no forks, or too many.
    #[error("the number of forks must be 1 to {most}", most = GUESTS_MAX - 1)]
    Forks,
    /// The command line cannot be put into a device tree.
    #[error("the command line contains a NUL")]
    CommandLine,
}

/// Checks `params` for a machine with this `map`. The guests may have more memory together than the pool.
///
/// # Errors
/// [`ParamsError`], the first that is found.
pub fn check(params: &Params, map: &MemoryMap) -> Result<(), ParamsError> {
    let Params {
        nonce,
        pool,
        recording,
        trace,
        kernel,
        initrd,
        guest_memory,
        cpus,
        guests,
        host_cpus,
        bootargs,
        ..
    } = params;
    check_nonce(nonce)?;
    let restores = params.pause.as_ref().is_some_and(|pause| pause.then == Then::Restore);
    if kernel.size == 0 && params.unit_guests.is_empty() && !restores {
        return Err(ParamsError::Empty("kernel"));
    }
    if pool.size == 0 {
        return Err(ParamsError::Empty("pool"));
    }
    if pool.address % TWO_MIB != 0 || pool.size % slat::PAGE_SIZE != 0 {
        return Err(ParamsError::UnalignedPool);
    }
    if recording.address % slat::PAGE_SIZE != 0 || recording.size % slat::PAGE_SIZE != 0 {
        return Err(ParamsError::UnalignedRecording);
    }
    if trace.address % slat::PAGE_SIZE != 0 || trace.size % slat::PAGE_SIZE != 0 {
        return Err(ParamsError::UnalignedTrace);
    }
    let image = params.pause.as_ref().map_or(Span::default(), |pause| pause.image);
    if image.address % slat::PAGE_SIZE != 0 || image.size % 8 != 0 {
        return Err(ParamsError::UnalignedImage);
    }
    let store = params.paging.map_or(Span::default(), |paging| paging.store);
    if store.address % slat::PAGE_SIZE != 0 {
        return Err(ParamsError::UnalignedStore);
    }
    let spans = [
        ("pool", *pool),
        ("kernel", *kernel),
        ("initrd", *initrd),
        ("recording", *recording),
        ("trace", *trace),
        ("snapshot", image),
        ("store of paged-out pages", store),
    ];
    for (name, span) in spans {
        if span.size != 0 && (span.address < map.blobs || end(span).is_none_or(|end| end > map.end)) {
            return Err(ParamsError::Outside { first: map.blobs, end: map.end, name });
        }
    }
    for (i, (first, a)) in spans.into_iter().enumerate() {
        for (second, b) in spans.into_iter().skip(i + 1) {
            if a.size != 0 && b.size != 0 && end(a) > Some(b.address) && end(b) > Some(a.address) {
                return Err(ParamsError::Overlap { first, second });
            }
        }
    }
    if *guest_memory == 0 || guest_memory % TWO_MIB != 0 || *guest_memory > map.guest_memory_max {
        return Err(ParamsError::GuestMemory(map.guest_memory_max));
    }
    if !(1..=CPUS_MAX).contains(&(*cpus as usize)) {
        return Err(ParamsError::Cpus);
    }
    if !(1..=GUESTS_MAX).contains(&(*guests as usize)) {
        return Err(ParamsError::Guests);
    }
    if host_cpus.is_some_and(|host_cpus| !(1..=CPUS_MAX).contains(&(host_cpus as usize))) {
        return Err(ParamsError::HostCpus);
    }
    if *map != MemoryMap::RISCV64 {
        if *guests > 1 {
            return Err(ParamsError::Pinned("there can be several guests"));
        }
        if host_cpus.is_some_and(|host_cpus| host_cpus != *cpus) {
            return Err(ParamsError::Pinned("the machine can have another number of CPUs than the guest"));
        }
    }
    if let Some(pause) = &params.pause {
        check_pause(pause, params, map)?;
    }
    if params.monitor && (*guests > 1 || params.pause.is_some()) {
        return Err(ParamsError::Monitor);
    }
    if let Some(paging) = params.paging {
        check_paging(paging, params, map)?;
    }
    if bootargs.contains('\0') {
        return Err(ParamsError::CommandLine);
    }
    Ok(())
}

fn check_paging(paging: Paging, params: &Params, map: &MemoryMap) -> Result<(), ParamsError> {
    if *map != MemoryMap::RISCV64 {
        return Err(ParamsError::Pinned("RAM can be paged"));
    }
    if paging.store.size == 0 {
        return Err(ParamsError::Empty("store of paged-out pages"));
    }
    if paging.idle_scans == 0 {
        return Err(ParamsError::IdleScans);
    }
    let others = [
        ("churn takes pages away", params.churn.is_some()),
        ("a guest is stopped in its work", params.pause.is_some()),
        ("the guest asks for changes of its pages", params.page_requests),
    ];
    match others.into_iter().find(|(_, is_so)| *is_so) {
        Some((what, _)) => Err(ParamsError::Paged(what)),
        None => Ok(()),
    }
}

fn check_pause(pause: &Pause, params: &Params, map: &MemoryMap) -> Result<(), ParamsError> {
    if *map != MemoryMap::RISCV64 {
        return Err(ParamsError::Pinned("a guest can be stopped in its work"));
    }
    if params.guests != 1 || params.cpus != 1 {
        return Err(ParamsError::NotAlone);
    }
    if pause.text.is_empty() {
        return Err(ParamsError::NoText);
    }
    match pause.then {
        Then::Fork { children } if !(1..GUESTS_MAX as u32).contains(&children) => Err(ParamsError::Forks),
        Then::Fork { .. } | Then::Migrate => Ok(()),
        Then::Snapshot | Then::Restore if pause.image.size == 0 => Err(ParamsError::Empty("snapshot")),
        Then::Snapshot | Then::Restore => Ok(()),
    }
}

fn check_nonce(nonce: &str) -> Result<(), ParamsError> {
    let ok = !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if ok { Ok(()) } else { Err(ParamsError::Nonce) }
}

fn end(span: Span) -> Option<u64> {
    span.address.checked_add(span.size)
}

#[cfg(test)]
mod tests;
