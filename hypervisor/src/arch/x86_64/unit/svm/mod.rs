//! Unit guests on SVM with nested page tables.

use super::UnitGuest;
use super::context::Context;
use crate::arch::x86_64::bare::Svm;

/// All of them.
pub(in crate::arch::x86_64) const GUESTS: &[UnitGuest<Context<Svm>>] = &[];
