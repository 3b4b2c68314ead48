//! Numbers, as people write them: addresses and sizes.

use std::fmt;

/// The number that `text` is: decimal or with `0x`, with underlines anywhere between the digits, and with a suffix `K`, `M`, `G`
/// or `T` where it is decimal.
///
/// # Errors
///
/// What is wrong with it, in a sentence.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number (such as 0x8000_0000, 4096 or 16M)");
    let digits: String = text.chars().filter(|character| *character != '_').collect();
    if let Some(digits) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        // `from_str_radix` would take a sign.
        let is_hex = !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_hexdigit());
        if !is_hex {
            return Err(wrong());
        }
        return u64::from_str_radix(digits, 16).map_err(|_| format!("{text} has more than 64 bits"));
    }
    let shift = match digits.chars().last() {
        Some('K' | 'k') => 10,
        Some('M' | 'm') => 20,
        Some('G' | 'g') => 30,
        Some('T' | 't') => 40,
        _ => 0,
    };
    let number = if shift > 0 { &digits[..digits.len() - 1] } else { &digits };
    if number.is_empty() || !number.chars().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: Option<u64> = number.parse().ok();
    let number = number.and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| format!("{text} has more than 64 bits"))
}

/// A range of addresses `FIRST-END` or `FIRST+SIZE`: the first address, and the last one.
///
/// # Errors
///
/// What is wrong with it, in a sentence.
pub(crate) fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("{text:?} is no range (such as 0x1000-0x2000, its end left out, or 0x1000+4K)");
    let (first, last) = if let Some((first, size)) = text.split_once('+') {
        let first = parse(first)?;
        (first, parse(size)?.checked_sub(1).and_then(|most| first.checked_add(most)).ok_or_else(wrong)?)
    } else {
        let (first, end) = text.split_once('-').ok_or_else(wrong)?;
        (parse(first)?, parse(end)?.checked_sub(1).ok_or_else(wrong)?)
    };
    if first > last { Err(wrong()) } else { Ok((first, last)) }
}

/// A number of bytes, in the largest unit of which it is a multiple.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u128);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut unit = 0;
        let mut size = self.0;
        while size >= 1024 && size % 1024 == 0 && unit + 1 < UNITS.len() {
            size /= 1024;
            unit += 1;
        }
        if size < 10240 || unit + 1 == UNITS.len() {
            return f.pad(&format!("{size} {}", UNITS[unit]));
        }
        // A tenth of the next unit up is as much as anybody can take in.
        let mut size = size as f64;
        while size >= 1024.0 && unit + 1 < UNITS.len() {
            size /= 1024.0;
            unit += 1;
        }
        f.pad(&format!("{size:.1} {}", UNITS[unit]))
    }
}

#[cfg(test)]
mod tests;
