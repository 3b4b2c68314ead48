//! The guest's user space: busybox, a payload and a script that checks it, packed as a newc cpio archive.
//!
//! Protocol: the guest prints [`UP`], then [`SHA256`] and the checksum of the payload as it sees it, then does
//! some ordinary work, then prints [`END`] (or [`ERROR`]) and powers off, or resets itself. The host knows the true checksum, so
//! a page that stage 2 mixed up shows. Where there is a second serial port, the one that the hypervisor emulates, it
//! writes [`TO_UART`] there. The lines go through the kernel's log: unlike the console they are
//! neither cut by other lines nor lost at power-off.

use super::commands;
use crate::platform::Platform;
use crate::random;
use anyhow::{Context, Result};
use cpio::newc::Builder;
use sha2::{Digest, Sha256};
use std::io::{Cursor, Write};

/// The guest's init runs.
pub(crate) const UP: &str = "slat-init: up";

/// The checksum that the guest computed follows.
pub(crate) const SHA256: &str = "slat-init: sha256 ";

/// The guest's work failed; the reason follows.
pub(crate) const ERROR: &str = "slat-init: error: ";

/// The guest reached its end.
pub(crate) const END: &str = "slat-init: end";

/// What the guest writes to its second serial port.
pub(crate) const TO_UART: &str = "slat-init: this port is emulated";

const PAYLOAD_SIZE: usize = 512 << 10;

const FIRST: &str = r#"#!/bin/busybox sh
say() { echo "<1>slat-init: $*" > /dev/kmsg || echo "slat-init: $*"; }
"#;

const INIT: &str = r#"
say up
/bin/busybox --install -s /bin
export PATH=/bin
if [ "$SLAT_COMMANDS" ]; then
    commands > /problem 2>&1 || say "error: $(cat /problem)"
fi
if [ "$SLAT_PAGES" ]; then
    pages "$SLAT_PAGES" > /problem 2>&1 || say "error: pages: $(cat /problem)"
fi
set -- $(sha256sum /payload)
say sha256 "$1"

work() {
    i=0
    while [ $i -lt 40 ]; do
        (echo "$i" > "/work/$i") & i=$((i + 1))
    done
    wait
    [ "$(cat /work/* | wc -l)" = 40 ] || { echo "files of processes are missing"; return 1; }
    tar -c /payload /work 2> /dev/null | gzip -1 > /archive.gz || { echo "tar failed"; return 1; }
    gunzip -c /archive.gz | tar -x -C /copy || { echo "untar failed"; return 1; }
    cmp /payload /copy/payload || return 1
}
# Natively there is no such port, and opening it fails.
(echo "slat-init: this port is emulated" > /dev/ttyAMA1) 2> /dev/null
mkdir /work /copy
if [ "$SLAT_COMMANDS" ]; then
    say end
elif problem=$(work 2>&1); then
    say end
else
    say "error: $problem"
fi
"#;

/// How the script ends. Without ACPI a PC has no means to power itself off.
const fn last_line(platform: Platform) -> &'static str {
    match platform {
        Platform::Arm | Platform::Riscv => "poweroff -f\n",
        Platform::Intel | Platform::Amd => "reboot -f\n",
    }
}

/// An initial RAM disk and what the guest must find in it.
pub(crate) struct Initramfs {
    /// The cpio archive.
    pub(crate) archive: Vec<u8>,
    /// The payload's checksum in hexadecimal digits.
    pub(crate) sha256: String,
}

/// Packs `busybox` for `platform` and a payload made from `seed`.
pub(crate) fn build(busybox: &[u8], seed: u64, platform: Platform) -> Result<Initramfs> {
    let payload = payload(seed);
    let mut archive = Archive { bytes: Vec::new(), inode: 0 };
    archive.add("dev", 0o040_755, (0, 0), &[])?;
    archive.add("dev/console", 0o020_600, (5, 1), &[])?;
    archive.add("dev/kmsg", 0o020_600, (1, 11), &[])?;
    archive.add("dev/null", 0o020_666, (1, 3), &[])?;
    archive.add("dev/ttyAMA1", 0o020_600, (204, 65), &[])?;
    archive.add("dev/ttyS0", 0o020_600, (4, 64), &[])?;
    archive.add("bin", 0o040_755, (0, 0), &[])?;
    archive.add("bin/busybox", 0o100_755, (0, 0), busybox)?;
    archive.add(
        "init",
        0o100_755,
        (0, 0),
        [FIRST, &commands::script(), INIT, last_line(platform)].concat().as_bytes(),
    )?;
    archive.add("payload", 0o100_644, (0, 0), &payload)?;
    let mut archive = cpio::newc::trailer(archive.bytes).context("cannot pack the initial RAM disk")?;
    archive.resize(archive.len().next_multiple_of(512), 0);
    let sha256 = sha256(&payload);
    Ok(Initramfs { archive, sha256 })
}

/// The payload that is made from `seed`.
pub(crate) fn payload(seed: u64) -> Vec<u8> {
    random::bytes(seed, PAYLOAD_SIZE)
}

struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        let entry =
            Builder::new(name).ino(self.inode).mode(mode).nlink(1).rdev_major(device.0).rdev_minor(device.1);
        let mut writer = entry.write(Cursor::new(Vec::new()), size);
        let done = writer.write_all(content).and_then(|()| writer.finish());
        self.bytes.extend(done.with_context(|| format!("cannot pack {name}"))?.into_inner());
        Ok(())
    }
}

/// The SHA-256 of `bytes` in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
