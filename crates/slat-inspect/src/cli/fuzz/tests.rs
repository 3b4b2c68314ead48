use super::fuzz;

/// A generator that is good enough to make noise.
fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

#[test]
fn noise_of_any_kind_has_an_end() {
    for seed in 0..600 {
        let mut next = noise(seed);
        let mut data = vec![(next() & 0xff) as u8, (next() & 0xff) as u8];
        // A root table that is in the dump, more often than not.
        let mode = [0, 0, 8, 9, 10][(next() % 5) as usize] << 60;
        data.extend((mode | ((next() % 8) << 12) | 0x1e).to_le_bytes());
        data.extend((next() & 0x7fff).to_le_bytes());
        for _ in 0..4096 {
            // Entries that are present and lead back into the dump, and any others.
            let word = if next() % 4 == 0 { next() } else { ((next() % 8) << 12) | (next() % 256) | 1 };
            data.extend(word.to_le_bytes());
        }
        fuzz(&data);
    }
}

#[test]
fn mutilated_core_files_have_an_end() {
    let core =
        crate::cli::dump::tests::core_file(&[(0, vec![7; 0x3000]), (0x8000, vec![0; 0x1000])], &[0x1000]);
    for seed in 0..2000 {
        let mut next = noise(seed);
        let mut data = vec![0x60 | ((seed & 1) as u8), 0];
        data.extend([0; 16]);
        let mut bytes = core.clone();
        for _ in 0..1 + next() % 6 {
            let at = (next() % 0x400) as usize % bytes.len();
            bytes[at] = [0, 0xff, 0x7f, 0x80, (next() & 0xff) as u8][(next() % 5) as usize];
        }
        bytes.truncate(if next() % 3 == 0 { (next() % bytes.len() as u64) as usize } else { bytes.len() });
        data.extend(bytes);
        fuzz(&data);
    }
}
