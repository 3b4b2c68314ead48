//! What a guest is made of: a kernel image, an initial RAM disk, and where both come from.

pub(crate) mod archive;
pub(crate) mod cache;
pub(crate) mod commands;
pub(crate) mod image;
pub(crate) mod initramfs;
pub(crate) mod sources;
