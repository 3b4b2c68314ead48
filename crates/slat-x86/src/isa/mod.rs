//! The instructions of VMX and SVM, and what else has no other name: the only place of this crate with assembly and
//! `cfg(target_arch)`.
