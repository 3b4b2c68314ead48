//! On x86 all that the hypervisor is given is one file in memory: the parameters and the blobs, each where the layout says.

use super::Files;
use crate::boot::layout::Layout;
use anyhow::{Context, Result, ensure};
use slat_hv_protocol::MemoryMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::Path;

/// Writes the file, which goes up to where the pool begins.
pub(super) fn write(payload: &Path, files: &Files<'_>, layout: &Layout, map: &MemoryMap) -> Result<()> {
    let mut file = File::create(payload).context("cannot write a temporary file")?;
    let parts = [
        (Some(files.params), map.params),
        (files.kernel, layout.kernel.address),
        (files.initrd, layout.initrd.address),
    ];
    let mut end = map.params;
    for (part, address) in parts {
        let Some(part) = part else { continue };
        ensure!(address >= end, "{} would lie on what is before it", part.display());
        let mut part = File::open(part).with_context(|| format!("cannot read {}", part.display()))?;
        file.seek(SeekFrom::Start(address - map.params)).context("cannot write a temporary file")?;
        end = address + std::io::copy(&mut part, &mut file).context("cannot write a temporary file")?;
    }
    ensure!(end <= layout.pool.address, "a file has grown since it was looked at");
    file.set_len(layout.pool.address - map.params).context("cannot write a temporary file")
}

#[cfg(test)]
mod tests;
