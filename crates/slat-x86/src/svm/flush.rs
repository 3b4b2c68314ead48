//! What the CPU has to forget at an entry, and how it is told (APM vol. 2, "TLB Control" and "ASIDs").

/// TLB_CONTROL at one VMRUN. The CPU does not change the field, so it is written before every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TlbControl {
    /// Nothing is dropped.
    Nothing = 0,
    /// Every translation of every ASID, the host's included.
    Everything = 1,
    /// Every translation of the ASID that is entered.
    ThisAsid = 3,
}

/// How one entry makes the CPU forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Enter under the ASID that the guest has.
    Keep(TlbControl),
    /// Enter under an ASID that it never had in this generation: nobody remembers anything under it.
    Fresh,
}

/// The plan if `wanted` says that what the CPU remembers of this guest has to go. Without FlushByAsid the guest gets another
/// ASID: that drops nothing of anybody else's, and a generation ends, with everything dropped, once in as many entries as
/// there are ASIDs. With a single ASID for all guests (`shared`) nothing is left but to drop everything.
pub(super) const fn plan(wanted: bool, flush_by_asid: bool, shared: bool) -> Plan {
    match (wanted, flush_by_asid, shared) {
        (false, ..) => Plan::Keep(TlbControl::Nothing),
        (true, true, _) => Plan::Keep(TlbControl::ThisAsid),
        (true, false, true) => Plan::Keep(TlbControl::Everything),
        (true, false, false) => Plan::Fresh,
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
