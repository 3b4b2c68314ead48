//! Writes random sequences as cases for the fuzzer to begin with: `seeds DIRECTORY COUNT`.

use slat_check::operation::{self, Command};
use slat_check::random::Random;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let count: u8 = arguments.next().ok_or("how many?")?.parse()?;
    for seed in 0..count {
        let mut random = Random::new(seed.into());
        let commands: Vec<Command> = (0..20).map(|_| operation::random(&mut random)).collect();
        // Format, shape and settings (see `slat_check::fuzz::operations`), then the commands.
        let header = [seed, seed, seed.wrapping_mul(31), seed % 16];
        let case = [&header[..], &operation::encode(&commands)].concat();
        std::fs::write(directory.join(format!("random-{seed:02}")), case)?;
    }
    Ok(())
}
