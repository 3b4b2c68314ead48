//! Unit guests on VMX with EPT.

use super::UnitGuest;
use super::context::Context;
use crate::arch::x86_64::bare::Vmx;

/// All of them.
pub(in crate::arch::x86_64) const GUESTS: &[UnitGuest<Context<Vmx>>] = &[];
