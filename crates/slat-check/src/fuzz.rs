//! What a fuzzer drives, and what replays its corpus: any bytes are a case.

use crate::driver::Settings;
use crate::operation;
use crate::random::Random;
use crate::run::{AnyPlatform, Counts, Failure, platforms, random_shape};
use slat::HostPhysAddr;
use slat::format::{Format, Kind};

/// Bytes that choose the format, the shape and the settings; the operations follow.
const HEADER: usize = 4;

/// Most commands of a case: longer ones only cost time.
const COMMANDS: usize = 64;

/// Checks the operations that `data` stands for, on the format and in the shape that its first bytes choose.
///
/// # Errors
/// The first violation.
pub fn operations(data: &[u8]) -> Result<Counts, Box<Failure>> {
    let Some((header, commands)) = data.split_at_checked(HEADER) else { return Ok(Counts::default()) };
    let platforms = platforms();
    let platform = platforms[usize::from(header[0]) % platforms.len()].1;
    let seed = u64::from(header[1]) << 8 | u64::from(header[2]);
    let shape = random_shape(&platform, &mut Random::new(seed));
    let settings = Settings {
        cpus: [1, 2, 4][usize::from(header[3] & 3) % 3],
        spaces: 1 + usize::from(header[3] >> 2 & 1),
        failing: header[3] & 1 << 3 != 0,
        seed,
    };
    let mut commands = operation::decode(commands);
    commands.truncate(COMMANDS);
    platform.run(&shape, settings, None, &commands)
}

/// Decodes entries of any bits on every format. Panics if what is decoded contradicts itself.
pub fn codecs(data: &[u8]) {
    for chunk in data.chunks_exact(9) {
        let (level, entry) = (chunk[0] % 5, u64::from_le_bytes(chunk[1..9].try_into().expect("eight bytes")));
        for (name, platform) in platforms() {
            match platform {
                AnyPlatform::Stage2(format) => codec(name, &format, level, entry),
                AnyPlatform::Ept(format) => codec(name, &format, level, entry),
                AnyPlatform::Npt(format) => codec(name, &format, level, entry),
                AnyPlatform::Gstage(format) => codec(name, &format, level, entry),
            }
        }
    }
}

fn codec<F: Format>(name: &str, format: &F, level: u8, entry: u64) {
    if level >= format.geometry().levels {
        return;
    }
    let kind = format.kind(level, entry);
    if let Some(table) = format.next_table(entry) {
        assert!(
            level == 0 || kind == Kind::Table,
            "{name}: {entry:#x} at level {level} is {kind:?}, and a table"
        );
        assert_eq!(table, format.address(entry), "{name}: {entry:#x}");
    }
    assert!(!format.needs_break(level, entry, entry), "{name}: {entry:#x} takes the place of itself");
    if kind != Kind::Leaf || level > format.largest_leaf().level() {
        return;
    }
    // What it says can be said again, unless it is nothing that slat would say.
    let flags = format.flags(entry);
    let bytes = 4096u64 << (9 * level);
    let address = HostPhysAddr::new(format.address(entry).as_u64() & !(bytes - 1));
    if !flags.is_accessible()
        || format.check_flags(flags).is_err()
        || address.as_u64() >> format.hpa_bits() != 0
    {
        return;
    }
    let again = format.leaf(level, address, flags);
    assert_eq!(format.kind(level, again), Kind::Leaf, "{name}: {entry:#x} became {again:#x}");
    assert_eq!(
        (format.flags(again), format.address(again)),
        (flags, address),
        "{name}: {entry:#x}, {again:#x}"
    );
}
